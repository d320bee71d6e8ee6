"""Leadership handed over: thesis §3.10, and rows of the catalogue of failures where a test names one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.raft.cluster import Cluster
from vaultdb.errors import Busy, ChangeRefused, NotLeader
from vaultdb.raft.membership import Change, ChangeKind, enter_joint
from vaultdb.raft.messages import NOBODY, Append, AppendResponse, Heartbeat, TimeoutNow, VoteRequest, VoteResponse
from vaultdb.raft.state import Role


def led(size: int = 3, **settings: Any) -> Cluster:
    """n0 leads, and has written x at index 2."""
    cluster = Cluster(size, **settings)
    cluster.elect(0)
    cluster.propose(0, b"x")
    cluster.settle()
    return cluster


def orders(cluster: Cluster) -> list[TimeoutNow]:
    return [message for message in [*cluster.wire, *cluster.lost] if isinstance(message, TimeoutNow)]


def test_the_target_leads_the_next_term_without_a_pre_vote() -> None:
    """The others hear their leader, and support the campaign all the same: it says that the leader asked for it."""
    cluster = led(5)
    cluster.trace.clear()
    cluster.transfer(0, 3)
    assert orders(cluster) == [TimeoutNow(0, 3, term=1, index=2)]
    cluster.settle()
    assert (cluster.leaders(), cluster[3].term, cluster[0].role) == ([3], 2, Role.FOLLOWER)
    assert not any("pre-vote" in line for line in cluster.trace)
    cluster.propose(3, b"y")
    cluster.settle()
    assert [member.committed() for member in cluster.members] == [[b"x", b"y"]] * 5


def test_the_target_catches_up_first() -> None:
    """TimeoutNow leaves when it holds the whole log. Planted: it leaves at once."""
    cluster = led()
    cluster.isolate(2)
    cluster.propose(0, b"y", b"z")
    cluster.settle()
    cluster.mend()
    cluster.transfer(0, 2)
    assert (orders(cluster), cluster[0].transferring) == ([], 2)
    cluster[0].peer_unreachable(2)
    cluster.settle()
    assert cluster.leaders() == [2]
    assert cluster.members[2].committed() == [b"x", b"y", b"z"]


def test_nothing_is_proposed_meanwhile() -> None:
    """Otherwise the target would never be done. Planted: proposals taken."""
    cluster = led()
    cluster.isolate(2)
    cluster.transfer(0, 2)
    with pytest.raises(Busy, match="leadership is being handed over"):
        cluster[0].propose([b"y"])
    assert cluster[0].last_index == 2


def test_nor_is_a_joint_membership_left() -> None:
    cluster = led()
    joint = enter_joint(cluster[0].membership, [Change(ChangeKind.REMOVE, 2)], auto_leave=False)
    cluster[0]._protocol.append_membership(joint)
    cluster.settle()
    cluster.heartbeat(0)
    assert cluster[0].is_membership_committed
    cluster.isolate(1)
    cluster.transfer(0, 1)
    with pytest.raises(Busy, match="leadership is being handed over"):
        cluster[0].leave_joint()


def test_reads_go_on_meanwhile() -> None:
    """By ReadIndex: that proves leadership, whoever stands."""
    cluster = led()
    cluster.isolate(2)
    cluster.transfer(0, 2)
    cluster.read(0, 7)
    cluster.settle()
    assert cluster.members[0].reads == {7: 2}


def test_given_up_after_an_election_timeout() -> None:
    cluster = led()
    cluster.isolate(2)
    cluster.transfer(0, 2)
    for _ in range(9):
        cluster.tick(0)
        cluster.settle()
    assert cluster[0].transferring == 2
    cluster.tick(0)
    assert (cluster[0].transferring, cluster[0].role) == (NOBODY, Role.LEADER)
    cluster.propose(0, b"y")
    cluster.settle()
    assert cluster[1].commit_index == 3
    cluster.transfer(0, 1)
    cluster.settle()
    assert cluster.leaders() == [1]


def test_its_end_is_announced() -> None:
    """The driver sleeps no longer than until then."""
    cluster = led(heartbeat_ticks=50, election_ticks_min=100, election_ticks_max=200)
    cluster.isolate(2)
    cluster.tick(0, count=49)
    cluster.transfer(0, 2)
    for _ in range(2):
        cluster.tick(0, count=cluster[0].ticks_until_due())
        cluster.settle()
    assert (cluster[0].transferring, cluster[0].ticks_until_due()) == (2, 49)
    cluster.tick(0, count=49)
    assert cluster[0].transferring == NOBODY


def test_the_best_voter_is_chosen_if_none_is_named() -> None:
    """The longest log of those that are heard; learners are none of them."""
    cluster = Cluster(4, nodes=5)
    cluster.elect(0)
    cluster.change(0, Change(ChangeKind.LEARNER, 4))
    cluster.settle()
    cluster.heartbeat(0)
    cluster.isolate(1)
    cluster.propose(0, b"x")
    cluster.settle(only=lambda message: message.dst != 2 or not isinstance(message, Append))
    cluster.mend()
    cluster.transfer(0, NOBODY)
    assert cluster[0].transferring == 3
    cluster.settle()
    assert cluster.leaders() == [3]


@pytest.mark.parametrize(
    ("target", "reason"),
    [(0, "node 0 is no other voter"), (9, "node 9 is no other voter"), (3, "node 3 is no other voter")],
)
def test_only_another_voter_is_a_target(target: int, reason: str) -> None:
    """n3 is a learner."""
    cluster = Cluster(3, nodes=4)
    cluster.elect(0)
    cluster.change(0, Change(ChangeKind.LEARNER, 3))
    cluster.settle()
    cluster.heartbeat(0)
    with pytest.raises(ChangeRefused, match=reason):
        cluster[0].transfer_leadership(target)
    assert cluster[0].transferring == NOBODY


def test_only_a_node_that_is_heard_is_a_target() -> None:
    cluster = led()
    cluster.crash(2)
    for _ in range(8):
        cluster.heartbeat(0)
    with pytest.raises(ChangeRefused, match="node 2 is not heard"):
        cluster[0].transfer_leadership(2)
    alone = Cluster(1)
    alone.elect(0)
    with pytest.raises(ChangeRefused, match="no other voter is heard"):
        alone[0].transfer_leadership(NOBODY)


def test_one_at_a_time_and_only_by_a_leader() -> None:
    cluster = led()
    with pytest.raises(NotLeader):
        cluster[1].transfer_leadership(2)
    cluster[0].transfer_leadership(1)
    with pytest.raises(ChangeRefused, match="handed over to node 1 already"):
        cluster[0].transfer_leadership(2)


def test_c13_a_target_that_lacks_entries_ignores_it() -> None:
    """A TimeoutNow that overtook what it waited for, or a target that lost its log's end. Planted: no look at the
    index.
    """
    cluster = led()
    cluster[2].step(TimeoutNow(0, 2, term=1, index=3))
    assert (cluster[2].role, cluster[2].term) == (Role.FOLLOWER, 1)
    cluster[2].step(TimeoutNow(0, 2, term=1, index=2))
    assert (cluster[2].role, cluster[2].term) == (Role.CANDIDATE, 2)


def test_c13_a_late_order_of_a_former_term_does_nothing() -> None:
    """It is held up past the end of its term. Planted: TimeoutNow without regard for its term."""
    cluster = led()
    cluster.transfer(0, 2)
    (late,) = [cluster.wire.pop(0)]
    assert isinstance(late, TimeoutNow)
    cluster.tick(0, count=10)
    cluster.settle()
    cluster.elect(1)
    assert cluster[2].term == 2
    cluster.deliver(late)
    cluster.settle()
    assert (cluster.leaders(), cluster[2].role, cluster[2].term) == ([1], Role.FOLLOWER, 2)


def test_c13_a_late_order_of_this_term_only_costs_an_election() -> None:
    """The leader gave up, and went on writing: the target's log does not reach far enough, and it loses."""
    cluster = led()
    cluster.transfer(0, 2)
    late = cluster.wire.pop(0)
    cluster.tick(0, count=10)
    cluster.isolate(2)
    cluster.propose(0, b"y")
    cluster.settle()
    cluster.mend()
    cluster.wire.clear()
    cluster.deliver(late)
    cluster.settle()
    assert cluster[2].role is not Role.LEADER
    for _ in range(60):
        cluster.tick()
        cluster.settle()
    (leader,) = cluster.leaders()
    assert cluster.members[leader].committed() == [b"x", b"y"]


def test_a_late_campaign_that_was_asked_for_is_no_licence_for_later_terms() -> None:
    """Its request, delayed past the next election, meets voters that have voted and know a leader."""
    cluster = led(5)
    cluster.transfer(0, 3)
    order = cluster.wire.pop(0)
    cluster.deliver(order)
    requests = [message for message in cluster.wire if isinstance(message, VoteRequest)]
    assert [(request.term, request.transfer) for request in requests] == [(2, True)] * 4
    cluster.wire.clear()
    cluster.isolate(3)
    cluster.crash(0)
    cluster.elect(1)
    cluster.mend()
    for request in requests[1:]:
        cluster[request.dst].step(request)
        cluster.obey(request.dst)
    assert not any(isinstance(message, VoteResponse) and message.granted for message in cluster.wire)
    assert cluster[1].role is Role.LEADER


def test_the_vote_still_needs_the_longer_log() -> None:
    """Being asked by the leader is no substitute for §5.4.1."""
    cluster = led()
    cluster[1].step(VoteRequest(2, 1, 2, last_index=1, last_term=1, pre=False, transfer=True))
    cluster.obey(1)
    assert cluster.wire == [VoteResponse(1, 2, 2, granted=False, pre=False)]


def test_entries_that_wait_for_commit_are_kept() -> None:
    """The target takes them over."""
    cluster = led()
    cluster.propose(0, b"y")
    cluster.transfer(0, 1)
    cluster.settle()
    assert cluster.leaders() == [1]
    assert all(member.committed() == [b"x", b"y"] for member in cluster.members)


def test_the_target_that_dies_leaves_the_leader_in_office() -> None:
    cluster = led()
    cluster.transfer(0, 2)
    cluster.crash(2)
    for _ in range(10):
        cluster.tick(0, 1)
        cluster.settle()
    assert (cluster.leaders(), cluster[0].term, cluster[0].transferring) == ([0], 1, NOBODY)
    cluster.propose(0, b"y")
    cluster.settle()
    assert cluster[1].commit_index == 3


def test_a_transfer_ends_with_leadership() -> None:
    cluster = led()
    cluster.isolate(2)
    cluster.transfer(0, 2)
    cluster[0].step(Heartbeat(1, 0, 5, 0, 0, 0))
    assert (cluster[0].role, cluster[0].transferring) == (Role.FOLLOWER, NOBODY)


def test_an_acknowledgement_by_another_moves_nothing() -> None:
    """Only the target's match index counts."""
    cluster = led()
    cluster.isolate(2)
    cluster.propose(0, b"y")
    cluster.transfer(0, 2)
    cluster[0].step(AppendResponse(1, 0, 1, accepted=True, index=3, hint_index=0, hint_term=0))
    cluster.obey(0)
    assert orders(cluster) == []
