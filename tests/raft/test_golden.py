"""Small scenarios as readable traces, compared line by line with `golden/*.txt`.

A change of behaviour shows as a difference there, to be read and agreed to. To write the files anew:

    python -m tests.raft.test_golden
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.raft.cluster import Cluster
from vaultdb.raft.membership import Change, ChangeKind
from vaultdb.raft.messages import Append

GOLDEN = Path(__file__).parent / "golden"


def election() -> Cluster:
    """Three fresh nodes elect a leader, which commits its first entry and a client's."""
    cluster = Cluster()
    cluster.elect(0)
    cluster.propose(0, b"x")
    cluster.settle()
    return cluster


def conflict() -> Cluster:
    """A follower holds entries of a former leader that nobody else has; they give way to the new leader's."""
    cluster = Cluster(logs=[[1, 1, 3], [1, 1, 3], [1, 1, 2, 2, 2]], term=3)
    cluster.elect(0)
    return cluster


def leader_crash() -> Cluster:
    """The leader dies with an entry that only it has; its successor goes on, and the entry is gone when it returns."""
    cluster = Cluster()
    cluster.elect(0)
    cluster.propose(0, b"kept")
    cluster.settle()
    cluster.propose(0, b"lost")
    cluster.settle(only=lambda message: not isinstance(message, Append))
    cluster.crash(0)
    for node in (1, 2):
        cluster.note(f"-- n{node} sees its connection to n0 break")
        cluster[node].leader_unreachable()
    cluster.tick(1, count=3)
    cluster.settle()
    cluster.propose(1, b"new")
    cluster.settle()
    cluster.restart(0)
    cluster[1].peer_unreachable(0)
    cluster.settle()
    return cluster


def rejoin() -> Cluster:
    """A follower that was cut off asks in vain whether it may stand; it returns without disturbing anyone."""
    cluster = Cluster()
    cluster.elect(0)
    cluster.isolate(2)
    cluster.propose(0, b"x")
    cluster.settle()
    cluster.tick(2, count=20)
    cluster.mend()
    cluster.note("-- n2 stands again")
    cluster.tick(2, count=20)
    cluster.settle()
    while cluster[2].commit_index < cluster[0].commit_index:
        cluster.note("-- the next heartbeat")
        cluster.heartbeat(0)
    return cluster


def follower_read() -> Cluster:
    """Two followers and the leader are asked for reads; one round of heartbeats confirms what waits."""
    cluster = Cluster()
    cluster.elect(0)
    cluster.propose(0, b"x")
    cluster.settle()
    cluster.read(1, 101)
    cluster.read(2, 102)
    cluster.settle()
    return cluster


def led(size: int = 3, **settings: Any) -> Cluster:
    """n0 leads, and has written x; how it came to that is not shown."""
    cluster = Cluster(size, **settings)
    cluster.elect(0)
    cluster.propose(0, b"x")
    cluster.settle()
    cluster.trace[:] = ["-- n0 leads, all logs are equal"]
    return cluster


def learner_promoted() -> Cluster:
    """A node that knows of no group becomes a learner, catches up, and becomes a voter."""
    cluster = led(1, nodes=2)
    cluster.change(0, Change(ChangeKind.LEARNER, 1))
    cluster.settle()
    cluster.change(0, Change(ChangeKind.VOTER, 1))
    cluster.settle()
    return cluster


def joint_change() -> Cluster:
    """A learner takes the place of a voter by way of a joint membership, which is left as soon as it is committed."""
    cluster = led(2, nodes=3)
    cluster.change(0, Change(ChangeKind.LEARNER, 2))
    cluster.settle()
    cluster.trace[:] = ["-- n0 leads, all logs are equal, n2 is a learner"]
    cluster.change(0, Change(ChangeKind.VOTER, 2), Change(ChangeKind.REMOVE, 1))
    cluster.settle()
    return cluster


def leader_removed() -> Cluster:
    """The leader removes itself: it commits that without its own vote, and hands over."""
    cluster = led()
    cluster.change(0, Change(ChangeKind.REMOVE, 0))
    cluster.settle()
    return cluster


def transfer() -> Cluster:
    """Leadership goes to a node that lacks an entry: it catches up, and stands without a pre-vote."""
    cluster = led()
    cluster.cut = {(0, 2)}
    cluster.propose(0, b"y")
    cluster.settle()
    cluster.mend()
    cluster.transfer(0, 2)
    cluster[0].peer_unreachable(2)
    cluster.settle()
    return cluster


def snapshot() -> Cluster:
    """A follower needs what was cut off the leader's log: a snapshot, and the entries after it."""
    cluster = led()
    cluster.isolate(2)
    cluster.propose(0, b"y", b"z")
    cluster.settle()
    cluster.cut_log(0, 3)
    cluster.mend()
    cluster[0].peer_unreachable(2)
    cluster.settle()
    cluster.send_snapshot(0, 2, 3)
    cluster.settle()
    return cluster


def lease_read() -> Cluster:
    """The first read takes a round, which asks for promises too; while they last, reads need no round."""
    cluster = led(tick_us=1000, lease_us=7000)
    cluster.read(0, 1)
    cluster.settle()
    cluster.read(0, 2)
    cluster.read(2, 3)
    cluster.settle()
    cluster.note("-- 8 ticks later the promises have run out; what n0 sent meanwhile was lost")
    cluster.tick(0, count=8)
    cluster.wire.clear()
    cluster.read(0, 4)
    cluster.settle()
    return cluster


SCENARIOS: tuple[Callable[[], Cluster], ...] = (
    election,
    conflict,
    leader_crash,
    rejoin,
    follower_read,
    learner_promoted,
    joint_change,
    leader_removed,
    transfer,
    snapshot,
    lease_read,
)


def rendered(scenario: Callable[[], Cluster]) -> str:
    cluster = scenario()
    outcome = [
        f"n{member.id}: {member.core.role.value}, term {member.core.term}, commit {member.core.commit_index},"
        f" log {' '.join(f'{index}/{term}' for index, term in member.log())}"
        for member in cluster.members
    ]
    return "\n".join([f"# {scenario.__doc__}", "", *cluster.trace, "", *outcome, ""])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_trace_is_as_agreed(scenario: Callable[[], Cluster]) -> None:
    """Guards the order and content of every message. If the change is wanted, see above how to accept it."""
    wanted = (GOLDEN / f"{scenario.__name__}.txt").read_text(encoding="utf-8")
    assert rendered(scenario).splitlines() == wanted.splitlines()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in SCENARIOS:
        (GOLDEN / f"{each.__name__}.txt").write_text(rendered(each), encoding="utf-8")
