"""Snapshots as far as the core goes: who needs one, when it is safe to take, and what follows (paper §7).

The number in a test's name is the row of the catalogue of failures that it answers to. The state itself travels apart
from the core; here it is thought of as arriving with InstallSnapshot.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.raft.cluster import Cluster
from vaultdb.errors import BrokenInvariant, Busy, NotLeader
from vaultdb.raft.membership import Change, ChangeKind, Membership, decode, encode
from vaultdb.raft.messages import (
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    InstallSnapshot,
    Message,
    VoteRequest,
)
from vaultdb.raft.progress import ProgressState
from vaultdb.raft.state import Role, Snapshot

THREE = Membership((0, 1, 2))


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, first + n, EntryKind.COMMAND, b"x") for n, term in enumerate(terms)]


def behind(**settings: Any) -> Cluster:
    """n0 leads and has cut its log up to 5; n2 holds only entry 1, and has just said so."""
    cluster = Cluster(**settings)
    cluster.elect(0)
    cluster.isolate(2)
    cluster.propose(0, *[b"%d" % n for n in range(2, 8)])
    cluster.settle()
    cluster.cut_log(0, 5)
    cluster.mend()
    cluster[0].peer_unreachable(2)
    cluster.settle()
    return cluster


def answers(cluster: Cluster, node: int) -> list[int]:
    """What `node` has acknowledged and is still on the wire; taken off it."""
    found = [m.index for m in cluster.wire if isinstance(m, AppendResponse) and m.src == node and m.accepted]
    cluster.wire.clear()
    return found


def install(index: int, index_term: int, *, term: int, membership: Membership = THREE) -> InstallSnapshot:
    return InstallSnapshot(1, 0, term, index, index_term, encode(membership))


class TestLeader:
    def test_a_follower_behind_the_cut_needs_a_snapshot(self) -> None:
        """It is asked once, without entries, whether it holds what was cut; then the driver is."""
        cluster = behind()
        assert cluster.members[0].snapshots_wanted == [2]
        assert cluster[0].progress[2].state is ProgressState.SNAPSHOT
        cluster.propose(0, b"y")
        cluster.settle()
        for _ in range(5):
            cluster.heartbeat(0)
        assert cluster.members[0].snapshots_wanted == [2], "it is asked for once"
        assert not any(isinstance(message, Append) for message in cluster.wire if message.dst == 2)
        assert (cluster[1].commit_index, cluster[2].last_index) == (8, 1)

    def test_a_follower_that_holds_the_cut_part_needs_none(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"a", b"b")
        cluster.settle()
        cluster.cut_log(0, 3)
        cluster[0].peer_unreachable(2)
        cluster.propose(0, b"c")
        cluster.settle()
        assert (cluster.members[0].snapshots_wanted, cluster[2].commit_index) == ([], 4)

    def test_entries_after_it_follow(self) -> None:
        """Up to the cut by snapshot, from there by log."""
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        assert cluster.wire == [InstallSnapshot(0, 2, 1, 5, 1, encode(THREE))]
        assert cluster[0].progress[2].pending_snapshot == 5
        cluster.settle()
        assert cluster[0].progress[2].state is ProgressState.REPLICATE
        assert cluster.members[2].log() == [(6, 1), (7, 1)]
        assert (cluster[2].commit_index, cluster[2].applied_index, cluster[2].stable_index) == (7, 5, 7)
        cluster.propose(0, b"y")
        cluster.settle()
        assert cluster[2].commit_index == 8

    @pytest.mark.parametrize("index", [4, 8])
    def test_only_a_state_that_the_log_continues_is_sent(self, index: int) -> None:
        """Neither below the cut nor beyond the commit index."""
        with pytest.raises(BrokenInvariant, match=rf"a snapshot of {index} offered; the log has \(5, 7\]"):
            behind().send_snapshot(0, 2, index)

    def test_nothing_is_sent_to_who_needs_none(self) -> None:
        cluster = behind()
        for peer in (1, 7):
            cluster.send_snapshot(0, peer, 5)
            cluster[0].snapshot_failed(peer)
        cluster[1].send_snapshot(2, 1)
        cluster[1].snapshot_failed(2)
        assert cluster.wire == []
        assert not cluster[1].has_ready()

    def test_a_failed_one_is_asked_for_again_at_heartbeat_pace(self) -> None:
        cluster = behind()
        for times in range(2, 5):
            cluster[0].snapshot_failed(2)
            cluster.obey(0)
            cluster.settle()
            assert len(cluster.members[0].snapshots_wanted) == times - 1, "not before the next heartbeat is answered"
            cluster.heartbeat(0)
            assert cluster.members[0].snapshots_wanted == [2] * times
        cluster.send_snapshot(0, 2, 6)
        cluster.settle()
        assert cluster[2].commit_index == 7

    def test_a_lost_one_is_sent_again_after_the_driver_gave_it_up(self) -> None:
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        cluster.wire.clear()
        cluster[0].snapshot_failed(2)
        cluster.heartbeat(0)
        assert cluster.members[0].snapshots_wanted == [2, 2]
        cluster.send_snapshot(0, 2, 5)
        cluster.settle()
        assert cluster[2].commit_index == 7

    def test_a_lost_acknowledgement_is_made_up_for_by_a_question(self) -> None:
        """With each heartbeat the follower is asked, without entries, whether it holds the log's beginning by now."""
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        cluster.settle(only=lambda message: not isinstance(message, AppendResponse))
        cluster.heartbeat(0)
        assert (cluster.members[0].snapshots_wanted, cluster[2].commit_index) == ([2], 7)

    def test_the_question_does_not_ask_for_a_second_one(self) -> None:
        """The first is still travelling: the follower says no each time, and that is all."""
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        held = cluster.wire.pop(0)
        cluster.trace.clear()
        for _ in range(5):
            cluster.heartbeat(0)
        assert sum("refused" in line for line in cluster.trace) == 5
        assert cluster.members[0].snapshots_wanted == [2]
        cluster.deliver(held)
        cluster.settle()
        assert cluster[2].commit_index == 7

    def test_c28_a_cut_past_the_snapshot_under_way_asks_for_another(self) -> None:
        """Planted: it counts as done with the first acknowledgement at or above the cut, which never comes."""
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        cluster.cut_log(0, 7)
        cluster.settle()
        assert cluster[2].commit_index == 5
        for _ in range(2):
            cluster.heartbeat(0)
        assert cluster.members[0].snapshots_wanted == [2, 2]
        cluster.send_snapshot(0, 2, 7)
        cluster.settle()
        assert cluster[2].commit_index == 7

    def test_a_late_refusal_of_what_is_known_to_match_asks_for_none(self) -> None:
        cluster = Cluster(logs=[[1, 1, 1], [1, 1, 1], []], append_bytes_max=1)
        cluster.isolate(2)
        cluster.elect(0)
        cluster.mend()
        cluster.heartbeat(0)
        assert cluster[0].progress[2].match_index == 4
        cluster.cut_log(0, 3)
        cluster[0].peer_unreachable(2)
        cluster[0].step(AppendResponse(2, 0, 2, accepted=False, index=4, hint_index=0, hint_term=0))
        cluster.obey(0)
        assert cluster.members[0].snapshots_wanted == []
        cluster.heartbeat(0)
        assert cluster[0].progress[2].state is ProgressState.REPLICATE

    def test_a_new_leader_finds_out_by_itself(self) -> None:
        cluster = behind()
        cluster.cut_log(1, 6)
        cluster.crash(0)
        cluster.elect(1)
        cluster.heartbeat(1)
        assert cluster.members[1].snapshots_wanted == [2]
        cluster.send_snapshot(1, 2, 7)
        cluster.settle()
        assert cluster.members[2].log() == [(8, 2)]
        assert cluster[2].commit_index == 8

    def test_a_learner_is_brought_up_by_one(self) -> None:
        """And cannot be promoted before."""
        cluster = Cluster(3, nodes=4)
        cluster.elect(0)
        cluster.propose(0, b"x", b"y")
        cluster.settle()
        cluster.cut_log(0, 3)
        cluster.change(0, Change(ChangeKind.LEARNER, 3))
        cluster.settle()
        assert cluster.members[0].snapshots_wanted == [3]
        cluster.send_snapshot(0, 3, 4)
        cluster.settle()
        assert cluster[3].membership == Membership((0, 1, 2), learners=(3,))
        cluster.heartbeat(0)
        cluster.change(0, Change(ChangeKind.VOTER, 3))
        cluster.settle()
        assert cluster[3].membership == Membership((0, 1, 2, 3))

    def test_it_carries_the_membership_of_its_own_index(self) -> None:
        """Not the newest: that follows in the log."""
        cluster = behind()
        cluster.cut.add((0, 7))
        cluster.change(0, Change(ChangeKind.LEARNER, 7))
        cluster.settle()
        assert cluster[0].membership_index == 8
        for index, membership in ((7, THREE), (8, Membership((0, 1, 2), learners=(7,)))):
            cluster.send_snapshot(0, 2, index)
            message = cluster.wire.pop()
            assert isinstance(message, InstallSnapshot)
            assert decode(message.membership) == membership


class TestFollower:
    def test_nothing_is_acknowledged_before_it_is_durable(self) -> None:
        """Planted: the answer among `messages_now`."""
        cluster = behind()
        cluster.members[2].holds_writes = True
        cluster.send_snapshot(0, 2, 5)
        cluster.settle()
        assert cluster[0].progress[2].match_index == 1
        ready = cluster.members[2].readys[-1]
        assert (ready.snapshot, ready.must_sync, ready.messages_now) == (Snapshot(5, 1, THREE), True, [])
        assert ready.hard_state is not None
        assert ready.hard_state.commit == 5
        cluster.sync(2)
        assert answers(cluster, 2) == [5]

    def test_the_commit_index_of_a_ready_does_not_run_ahead_of_it(self) -> None:
        """The driver applies up to there, and has no entries. Planted: the commit index as known."""
        cluster = behind()
        cluster.members[2].holds_writes = True
        cluster.send_snapshot(0, 2, 5)
        cluster.settle()
        cluster[2].step(Heartbeat(0, 2, 1, 7, 0, 0))
        cluster.obey(2)
        assert cluster[2].commit_index == 5
        assert [ready.commit_index for ready in cluster.members[2].readys][-2:] == [1, 1]
        assert cluster[2].entries(6, 100) == []
        cluster.sync(2)
        cluster.obey(2)
        assert cluster.members[2].readys[-1].commit_index == 5

    def test_c28_a_crash_before_it_is_durable_leaves_the_old_state(self) -> None:
        cluster = behind()
        cluster.members[2].holds_writes = True
        cluster.send_snapshot(0, 2, 5)
        cluster.settle()
        cluster.crash(2)
        cluster.members[2].holds_writes = False
        cluster.restart(2)
        assert (cluster.members[2].log(), cluster[2].membership_index) == ([(1, 1)], 0)
        cluster[0].snapshot_failed(2)
        cluster.heartbeat(0)
        cluster.send_snapshot(0, 2, 6)
        cluster.settle()
        cluster.crash(2)
        cluster.restart(2)
        assert (cluster.members[2].log(), cluster[2].commit_index) == ([(7, 1)], 7)

    def test_c28_two_installations_close_together(self) -> None:
        """The second comes while the first is being written. Planted: the first one's completion
        vouches for the second.
        """
        cluster = Cluster(logs=[[1, 1], [], []], term=2)
        cluster.members[0].holds_writes = True
        for index in (5, 9):
            cluster[0].step(install(index, 2, term=2))
            cluster.obey(0)
        cluster.sync(0, count=1)
        assert cluster.members[0].readys[-1].commit_index == 0
        assert answers(cluster, 0) == [5]
        cluster.sync(0, count=1)
        assert (answers(cluster, 0), cluster[0].stable_index, cluster[0].applied_index) == ([9], 9, 9)
        assert cluster.members[0].readys[-1].commit_index == 9

    def test_c28_entries_may_follow_before_it_is_durable(self) -> None:
        cluster = Cluster(logs=[[1, 1], [], []], term=2)
        cluster[0].step(install(5, 2, term=2))
        cluster[0].step(Append(1, 0, 2, 5, 2, 6, entries(6, 2, 2)))
        ready = cluster[0].ready()
        assert (ready.snapshot, [entry.index for entry in ready.entries]) == (Snapshot(5, 2, THREE), [6, 7])
        assert [m.index for m in ready.messages_after_sync if isinstance(m, AppendResponse)] == [5, 7]
        assert (cluster[0].commit_index, ready.commit_index) == (6, 0)
        cluster[0].persisted(ready.number)
        assert cluster[0].ready().commit_index == 6

    @pytest.mark.parametrize("index", [1, 2, 3, 4])
    def test_c26_a_late_snapshot_deletes_nothing(self, index: int) -> None:
        """What is at or below the commit index is answered with it. Planted: every snapshot installed."""
        cluster = Cluster()
        cluster[0].step(Append(1, 0, 1, 0, 0, 4, entries(1, 1, 1, 1, 1, 1, 1)))
        cluster.obey(0)
        cluster.wire.clear()
        cluster[0].step(install(index, 1, term=1))
        cluster.obey(0)
        assert cluster.members[0].log() == [(n, 1) for n in range(1, 7)]
        assert (cluster[0].commit_index, answers(cluster, 0)) == (4, [4])

    def test_c26_a_snapshot_that_the_log_holds_already_only_commits(self) -> None:
        """Planted: installed although the log matches; the entries after it were acknowledged, and are lost."""
        cluster = Cluster()
        cluster[0].step(Append(1, 0, 1, 0, 0, 0, entries(1, 1, 1, 1, 1, 1, 1)))
        cluster.obey(0)
        cluster.wire.clear()
        cluster[0].step(install(5, 1, term=1))
        cluster.obey(0)
        assert cluster.members[0].log() == [(n, 1) for n in range(1, 7)]
        assert (cluster[0].commit_index, answers(cluster, 0)) == (5, [5])
        assert all(ready.snapshot is None for ready in cluster.members[0].readys)

    def test_c26_duplicates_among_appends_in_every_order(self) -> None:
        """Commit and applied never go back, and no acknowledged entry is lost."""
        messages: list[Message] = [
            install(3, 2, term=2),
            install(5, 2, term=2),
            Append(1, 0, 2, 3, 2, 4, entries(4, 2, 2)),
            Append(1, 0, 2, 5, 2, 6, entries(6, 2)),
        ]
        for order in permutations(messages):
            cluster = Cluster(logs=[[1, 1, 1, 1], [], []], term=2)
            acknowledged = commit = applied = 0
            for message in [*order, *order, *messages]:
                cluster[0].step(message)
                cluster.obey(0)
                acknowledged = max([acknowledged, *answers(cluster, 0)])
                assert cluster[0].last_index >= acknowledged
                assert cluster[0].commit_index >= commit
                assert cluster[0].applied_index >= applied
                assert cluster[0].term == 2
                commit, applied = cluster[0].commit_index, cluster[0].applied_index
            assert (cluster[0].last_index, cluster[0].commit_index) == (6, 6)
            assert all(term == 2 for term in cluster.members[0].terms())

    def test_c26_a_snapshot_of_a_former_term_is_refused(self) -> None:
        cluster = Cluster(logs=[[1, 1], [], []], term=5)
        cluster[0].step(install(9, 4, term=4))
        cluster.obey(0)
        (answer,) = cluster.wire
        assert isinstance(answer, AppendResponse)
        assert (answer.accepted, answer.term, cluster[0].last_index) == (False, 5, 2)

    def test_c27_a_conflicting_tail_past_the_snapshot_needs_one_snapshot(self) -> None:
        """n2 holds entries of a former leader at and beyond its index. Planted: the tail is kept, so that n2 refuses
        what follows, and so on for ever.
        """
        cluster = Cluster(logs=[[1, 1, 3, 3, 3, 3], [1, 1, 3, 3, 3, 3], [1, 1, *[2] * 20]], term=3)
        cluster.isolate(2)
        cluster.elect(0)
        cluster.cut_log(0, 5)
        cluster.mend()
        cluster[0].peer_unreachable(2)
        cluster.settle()
        cluster.heartbeat(0)
        cluster.send_snapshot(0, 2, 5)
        cluster.settle()
        for _ in range(10):
            cluster.heartbeat(0)
        assert cluster.members[0].snapshots_wanted == [2]
        assert cluster.members[2].log() == [(6, 3), (7, 4)]
        assert cluster[2].commit_index == 7

    def test_the_membership_comes_from_the_snapshot(self) -> None:
        """In place of all that the former log said, and what follows goes on from there."""
        cluster = behind()
        cluster.isolate(2)
        cluster.cut.add((0, 7))
        cluster.change(0, Change(ChangeKind.LEARNER, 7))
        cluster.settle()
        cluster.change(0, Change(ChangeKind.REMOVE, 7))
        cluster.settle()
        cluster.cut = {(0, 7)}
        cluster.send_snapshot(0, 2, 8)
        install = cluster.wire.pop(0)
        cluster.deliver(install)
        assert (cluster[2].membership, cluster[2].membership_index) == (Membership((0, 1, 2), learners=(7,)), 8)
        cluster.settle()
        assert (cluster[2].membership, cluster[2].membership_index) == (THREE, 9)
        cluster.crash(2)
        cluster.restart(2)
        assert cluster[2].membership == THREE

    def test_it_counts_as_hearing_the_leader(self) -> None:
        cluster = Cluster(logs=[[1], [1], [1]], term=2)
        cluster.tick(0, count=9)
        cluster[0].step(install(5, 2, term=2))
        assert (cluster[0].leader, cluster[0].role) == (1, Role.FOLLOWER)
        cluster.tick(0, count=9)
        assert cluster[0].role is Role.FOLLOWER

    def test_a_node_can_stand_with_a_log_that_begins_there(self) -> None:
        """Its last position is the snapshot's."""
        cluster = Cluster(logs=[[1], [1], [1]], term=2)
        cluster[0].step(install(5, 2, term=2))
        cluster.obey(0)
        cluster.wire.clear()
        cluster.tick(0, count=20)
        assert {(m.last_index, m.last_term) for m in cluster.wire if isinstance(m, VoteRequest)} == {(5, 2)}


class TestBounds:
    def test_c39_a_cut_off_leaders_memory_does_not_grow(self) -> None:
        """It goes on for 20 ticks at most, and holds no more than its bounds. Planted: no bound on uncommitted bytes;
        no CheckQuorum.
        """
        cluster = Cluster(uncommitted_bytes_max=1000, inflight_bytes_max=300, inflight_appends_max=10)
        cluster.elect(0)
        cluster.isolate(0)
        refused = 0
        for _ in range(20):
            for _ in range(50):
                try:
                    cluster[0].propose([b"x" * 50])
                except (Busy, NotLeader):
                    refused += 1
                cluster.obey(0)
            cluster.tick(0)
            assert cluster[0].log_memory_bytes <= 1000
            for progress in cluster[0].progress.values():
                assert progress.inflight_bytes <= 300 + 50
                assert progress.inflight_appends <= 10
        assert cluster[0].role is Role.FOLLOWER
        assert refused == 20 * 50 - 20
        for _ in range(1000):
            cluster.tick(0)
        assert (cluster[0].last_index, cluster[0].log_memory_bytes) == (21, 1000)

    def test_c29_a_follower_on_a_slow_link_is_sent_no_more_than_its_window(self) -> None:
        """Whatever is proposed meanwhile; the rest is read back from the log when it acknowledges."""
        cluster = Cluster(append_bytes_max=100, inflight_bytes_max=500, log_memory_bytes=1000)
        cluster.elect(0)
        slow: list[Message] = []
        for _ in range(200):
            cluster.propose(0, b"x" * 50)
            slow += [message for message in cluster.wire if message.dst == 2]
            cluster.wire = [message for message in cluster.wire if message.dst != 2]
            cluster.settle(only=lambda message: message.dst != 2)
        sent = sum(len(entry.payload) for m in slow if isinstance(m, Append) for entry in m.entries)
        assert 500 <= sent < 600
        assert cluster[0].log_memory_bytes <= 1000
        cluster.wire += slow
        cluster.settle()
        for _ in range(10):
            cluster.heartbeat(0)
        assert cluster[2].commit_index == cluster[0].commit_index == 201

    def test_c29_a_follower_that_is_sent_a_snapshot_holds_up_nobody(self) -> None:
        cluster = behind()
        cluster.send_snapshot(0, 2, 5)
        held = cluster.wire.pop(0)
        for index in range(8, 30):
            cluster.propose(0, b"x" * 50)
            cluster.settle()
            cluster.heartbeat(0)
            assert cluster[1].commit_index == index
        assert (cluster[0].progress[2].inflight_bytes, cluster.members[0].snapshots_wanted) == (0, [2])
        cluster.deliver(held)
        cluster.settle()
        assert cluster[2].commit_index == 29
