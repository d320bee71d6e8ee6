"""The driver's part in bringing a state to a peer that needs what the log no longer has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.cluster import Cluster, Member
from vaultdb.consensus.administration import TRANSFER
from vaultdb.consensus.peer_format import Frame
from vaultdb.consensus.surroundings import Snapshots
from vaultdb.raft.messages import NOBODY, InstallSnapshot, NodeId
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack

BIG = pack([[1, [1, [b"k", b"v" * 30_000]]]])


class BringingMember(Member):
    """Its state is the list of entries that storage was given; it is brought at once, or not at all."""

    can_make = can_carry = True
    made = carried = 0
    replaced_by = 0
    """Index of the state that was received; its storage has not said yet that it has it."""

    def snapshots(self) -> Snapshots:
        return self

    def make(self, peer: NodeId) -> bool:
        self.made += 1
        if self.can_make:
            self.driver.snapshot_made(peer, self.log.base_index)
        return self.can_make

    def carry(self, message: InstallSnapshot) -> bool:
        self.carried += 1
        receiver = self.cluster.members[message.dst]
        assert isinstance(receiver, BringingMember)
        if self.can_carry:
            receiver.entries = {n: payload for n, payload in self.entries.items() if n <= message.index}
            receiver.applies, receiver.replaced_by = False, message.index
            receiver.driver.on_frame(Frame(self.sender, message.dst, [message]), self.cluster.now_ns)
        return self.can_carry

    def turn(self) -> None:
        super().turn()
        if self.replaced_by and self.log.base_index == self.replaced_by:
            self.driver.on_storage([ipc.SUBSCRIBE, 1, self.replaced_by, self.replaced_by])
            self.applies, self.replaced_by = True, 0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    made = Cluster(3, tmp_path, member=BringingMember)
    yield made
    made.close()


def left_behind(cluster: Cluster) -> tuple[BringingMember, BringingMember]:
    """A leader whose log was cut in an earlier term, and a follower that is down and needs what was cut."""
    leader = cluster.elect()
    cluster.run(300)
    follower = cluster.follower()
    follower.propose(1)
    cluster.run(100)
    follower.kill()
    for batch in range(10, 30):
        leader.propose(batch, payload=BIG)
        cluster.step()
    leader.administer(1, TRANSFER, NOBODY)
    cluster.until(lambda: cluster.leader() not in (None, leader))
    leader = cluster.elect()
    cluster.run(100)
    leader.raft.compact(leader.log.cut(leader.raft.commit_index - 2))
    assert leader.log.base_term < leader.raft.term
    assert leader.log.base_index > follower.log.last_index
    assert isinstance(leader, BringingMember)
    assert isinstance(follower, BringingMember)
    return leader, follower


def test_a_peer_that_needs_what_was_cut_gets_a_state_and_goes_on_from_there(cluster: Cluster) -> None:
    """Planted bugs: streaming to the state before; looking for own proposals in what the snapshot replaced."""
    leader, follower = left_behind(cluster)
    follower.start()
    follower.propose(40)
    cluster.run(1_000)
    assert (leader.made, leader.carried) == (1, 1)
    assert follower.log.base_index > 0
    assert follower.log.memberships[0][1] == leader.raft.membership
    assert follower.committed_batches() == leader.committed_batches()
    assert (follower.node.id, 40) in follower.committed_batches()
    follower.kill()
    follower.start()
    leader.propose(41)
    cluster.run(500)
    assert follower.committed_batches() == leader.committed_batches()


@pytest.mark.parametrize("what", ["can_make", "can_carry"])
def test_what_cannot_be_done_now_is_tried_again(cluster: Cluster, what: str) -> None:
    """Planted bug: not telling the core, which then waits for ever."""
    leader, follower = left_behind(cluster)
    setattr(leader, what, False)
    follower.start()
    cluster.run(1_000)
    assert leader.made > 2
    assert len(follower.committed_batches()) == 1
    setattr(leader, what, True)
    cluster.run(1_000)
    assert follower.committed_batches() == leader.committed_batches()
