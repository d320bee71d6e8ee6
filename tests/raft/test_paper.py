"""The rules of the Raft paper (Ongaro, Ousterhout 2014, extended version) and of the thesis, one test each.

Here: terms, elections, replication, durability, CheckQuorum, PreVote, ReadIndex. Elsewhere: membership (paper §6,
thesis §4) in test_membership and test_changes, snapshots (paper §7) in test_snapshots, transfer (thesis §3.10) in
test_transfer, leases (thesis §6.4.1) in test_leases.
"""

from __future__ import annotations

import random

import pytest

from tests.raft.cluster import Cluster
from tests.raft.disk import SimulatedDisk
from vaultdb.errors import Busy, NotLeader
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    ReadIndex,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import HardState, RaftConfig, Role, fresh

FIGURE_7 = {
    "leader": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def entry(term: int, index: int, payload: bytes = b"x") -> Entry:
    return Entry(term, index, EntryKind.COMMAND, payload)


class TestTerms:
    """§5.1"""

    @pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
    def test_a_higher_term_makes_anyone_a_follower(self, role: Role) -> None:
        cluster = Cluster(pre_vote=role is not Role.CANDIDATE)
        if role is Role.LEADER:
            cluster.elect(0)
        elif role is not Role.FOLLOWER:
            cluster.tick(0, count=20)
        assert cluster[0].role is role
        cluster[0].step(Append(1, 0, 9, 0, 0, 0, []))
        assert (cluster[0].role, cluster[0].term, cluster[0].leader) == (Role.FOLLOWER, 9, 1)

    def test_a_stale_term_is_rejected_and_told_the_current_one(self) -> None:
        cluster = Cluster(term=5, logs=[[], [], []])
        for message in (Append(1, 0, 4, 0, 0, 0, [entry(4, 1)]), Heartbeat(1, 0, 4, 0, 0, 0)):
            cluster[0].step(message)
        cluster[0].step(VoteRequest(2, 0, 4, 9, 4, pre=False, transfer=False))
        cluster.obey(0)
        assert cluster.wire == [
            AppendResponse(0, 1, 5, accepted=False, index=0, hint_index=0, hint_term=0),
            HeartbeatResponse(0, 1, 5, 0, 0),
            VoteResponse(0, 2, 5, granted=False, pre=False),
        ]
        assert cluster[0].last_index == 0

    def test_a_stale_leader_steps_down_when_told(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster[0].step(HeartbeatResponse(1, 0, 4, 0, 0))
        assert (cluster[0].role, cluster[0].term, cluster[0].leader) == (Role.FOLLOWER, 4, NOBODY)


class TestElection:
    """§5.2"""

    def test_everyone_starts_as_a_follower(self) -> None:
        assert all(Cluster()[node].role is Role.FOLLOWER for node in range(3))

    def test_a_follower_stands_when_it_hears_nobody_for_an_election_timeout(self) -> None:
        cluster = Cluster(pre_vote=False)
        cluster.tick(0, count=9)
        assert cluster[0].role is Role.FOLLOWER
        cluster.tick(0, count=11)
        assert (cluster[0].role, cluster[0].term) == (Role.CANDIDATE, 1)
        assert cluster.members[0].disk.hard_state.vote == 0
        assert {message.dst for message in cluster.wire if isinstance(message, VoteRequest)} == {1, 2}

    @pytest.mark.parametrize("message", [Heartbeat(1, 0, 1, 0, 0, 0), Append(1, 0, 1, 0, 0, 0, [])])
    def test_a_follower_that_hears_its_leader_does_not_stand(self, message: Heartbeat | Append) -> None:
        cluster = Cluster()
        for _ in range(50):
            cluster[0].step(message)
            cluster.tick(0, count=9)
        assert cluster[0].role is Role.FOLLOWER

    def test_a_candidate_with_a_majority_leads(self) -> None:
        cluster = Cluster(5, pre_vote=False)
        cluster.tick(0, count=20)
        cluster[0].step(VoteResponse(1, 0, 1, granted=True, pre=False))
        cluster[0].step(VoteResponse(1, 0, 1, granted=True, pre=False))
        assert cluster[0].role is Role.CANDIDATE, "one voter has one vote"
        cluster[0].step(VoteResponse(2, 0, 1, granted=True, pre=False))
        assert (cluster[0].role, cluster[0].leader) == (Role.LEADER, 0)

    def test_a_candidate_without_a_majority_goes_back(self) -> None:
        cluster = Cluster(pre_vote=False)
        cluster.tick(0, count=20)
        cluster[0].step(VoteResponse(1, 0, 1, granted=False, pre=False))
        assert cluster[0].role is Role.CANDIDATE
        cluster[0].step(VoteResponse(2, 0, 1, granted=False, pre=False))
        assert (cluster[0].role, cluster[0].term) == (Role.FOLLOWER, 1)

    def test_a_candidate_concedes_to_the_leader_of_its_term(self) -> None:
        cluster = Cluster(pre_vote=False)
        cluster.tick(0, count=20)
        cluster[0].step(Heartbeat(2, 0, 1, 0, 0, 0))
        assert (cluster[0].role, cluster[0].leader, cluster[0].term) == (Role.FOLLOWER, 2, 1)

    def test_one_vote_per_term_first_come_first_served(self) -> None:
        cluster = Cluster()
        for candidate in (1, 2, 1):
            cluster[0].step(VoteRequest(candidate, 0, 1, 0, 0, pre=False, transfer=False))
        cluster.obey(0)
        granted = {(message.dst, message.granted) for message in cluster.wire if isinstance(message, VoteResponse)}
        assert granted == {(1, True), (2, False)}

    def test_a_split_vote_is_followed_by_another_election(self) -> None:
        cluster = Cluster(4, pre_vote=False)
        for node in (0, 1):
            while cluster[node].role is Role.FOLLOWER:
                cluster.tick(node)
        split = {(0, 2), (2, 0), (1, 3), (3, 1), (0, 1), (1, 0)}
        cluster.settle(only=lambda message: (message.src, message.dst) in split)
        assert cluster.leaders() == []
        for _ in range(100):
            cluster.tick()
            cluster.settle()
        assert len(cluster.leaders()) == 1

    def test_timeouts_are_random_within_the_interval_and_drawn_anew(self) -> None:
        """§9.3: randomness is what ends split votes."""
        cluster = Cluster(pre_vote=False)
        drawn = set()
        for _ in range(200):
            before = cluster[0].term
            ticks = 0
            while cluster[0].term == before:
                cluster[0].tick()
                ticks += 1
            drawn.add(ticks)
        assert drawn == set(range(10, 20))


class TestElectionRestriction:
    """§5.4.1"""

    @pytest.mark.parametrize(
        ("last_index", "last_term", "granted"),
        [(3, 2, True), (4, 2, True), (2, 2, False), (1, 3, True), (9, 1, False), (3, 1, False)],
    )
    @pytest.mark.parametrize("pre", [False, True])
    def test_a_vote_goes_only_to_a_log_as_complete_as_the_voters(
        self, last_index: int, last_term: int, granted: bool, pre: bool
    ) -> None:
        cluster = Cluster(logs=[[1, 1, 2], [], []])
        cluster[0].step(VoteRequest(1, 0, 7, last_index, last_term, pre, transfer=False))
        cluster.obey(0)
        (answer,) = cluster.wire
        assert isinstance(answer, VoteResponse)
        assert answer.granted is granted


class TestReplication:
    """§5.3"""

    def test_entries_are_committed_on_a_majority_and_then_everywhere(self) -> None:
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.isolate(3, 4)
        assert cluster.propose(0, b"x", b"y") == (1, 2)
        cluster.settle()
        assert [cluster[node].commit_index for node in range(5)] == [3, 3, 3, 1, 1]
        cluster.mend()
        for _ in range(4):
            cluster.heartbeat(0)
        assert [member.committed() for member in cluster.members] == [[b"x", b"y"]] * 5

    def test_without_a_majority_nothing_is_committed(self) -> None:
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.isolate(0, 1)
        cluster.propose(0, b"x")
        cluster.settle()
        assert [cluster[node].commit_index for node in (0, 1)] == [1, 1]
        assert [cluster[node].last_index for node in (0, 1)] == [2, 2]

    @pytest.mark.parametrize("follower", ["a", "b", "c", "d", "e", "f"])
    def test_figure_7_the_leader_makes_every_log_equal_to_its_own(self, follower: str) -> None:
        """The figure's leader of term 8 meets each of its followers; a third node holds the same log and votes."""
        cluster = Cluster(logs=[FIGURE_7["leader"], FIGURE_7["leader"], FIGURE_7[follower]], term=7)
        cluster.isolate(2)
        cluster.elect(0)
        cluster.mend()
        cluster.heartbeat(0)
        assert cluster.members[2].log() == cluster.members[0].log()
        assert cluster.members[0].terms() == [*FIGURE_7["leader"], 8]
        assert cluster[2].commit_index == 11

    def test_back_tracking_skips_whole_terms(self) -> None:
        """End of §5.3: one refusal per term that differs, not one per entry."""
        cluster = Cluster(logs=[[1] + [5] * 50, [1] + [5] * 50, [1] + [2] * 40 + [3] * 40], term=5)
        cluster.isolate(2)
        cluster.elect(0)
        cluster.mend()
        cluster.trace.clear()
        cluster.heartbeat(0)
        assert cluster.members[2].log() == cluster.members[0].log()
        assert sum("refused" in line for line in cluster.trace) <= 3

    @pytest.mark.parametrize(
        ("prev_index", "prev_term", "accepted"), [(0, 0, True), (2, 1, True), (3, 1, False), (5, 2, False)]
    )
    def test_the_consistency_check(self, prev_index: int, prev_term: int, accepted: bool) -> None:
        cluster = Cluster(logs=[[1, 1, 2], [], []])
        cluster[0].step(Append(1, 0, 3, prev_index, prev_term, 0, []))
        cluster.obey(0)
        (answer,) = cluster.wire
        assert isinstance(answer, AppendResponse)
        assert answer.accepted is accepted

    def test_followers_learn_of_a_commit_at_once(self) -> None:
        """No heartbeat is needed: an empty append tells them."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"x")
        cluster.settle()
        assert [cluster[node].commit_index for node in range(3)] == [2, 2, 2]

    def test_a_leader_never_changes_its_own_log(self) -> None:
        cluster = Cluster(logs=[[1, 1], [1], [1]])
        cluster.elect(0)
        before = cluster.members[0].log()
        cluster.propose(0, b"x")
        cluster.settle()
        assert cluster.members[0].log()[: len(before)] == before

    def test_lost_appends_are_sent_again(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        for payload in (b"a", b"b", b"c"):
            cluster.propose(0, payload)
            cluster.settle(only=lambda message: not (isinstance(message, Append) and message.dst == 1))
        assert cluster[1].last_index == 1
        for _ in range(5):
            cluster.heartbeat(0)
        assert cluster[1].commit_index == 4

    def test_a_full_window_of_lost_appends_is_sent_again(self) -> None:
        cluster = Cluster(inflight_appends_max=2)
        cluster.elect(0)
        for payload in (b"a", b"b", b"c", b"d"):
            cluster.propose(0, payload)
            cluster.settle(only=lambda message: not (isinstance(message, Append) and message.dst == 1))
        for _ in range(6):
            cluster.heartbeat(0)
        assert cluster[1].commit_index == 5


class TestDurability:
    """Figure 2: state is on stable storage before an answer leaves."""

    def test_a_leader_counts_itself_only_when_its_disk_has_the_entry(self) -> None:
        """Thesis §10.2.1: sync and replication overlap, and the leader may even commit before its own sync."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.members[0].holds_writes = True
        cluster.propose(0, b"x")
        cluster.settle(only=lambda message: 2 not in (message.src, message.dst))
        assert cluster[0].commit_index == 1
        cluster.sync(0)
        assert cluster[0].commit_index == 2
        cluster.propose(0, b"y")
        cluster.settle()
        assert (cluster[0].commit_index, cluster.members[0].readys[-1].commit_index) == (3, 2)

    def test_hard_state_accompanies_entries_and_changes_of_term_or_vote_only(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"x")
        cluster.settle()
        for member in cluster.members:
            for ready in member.readys:
                assert not ready.entries or ready.hard_state is not None
                assert ready.must_sync or ready.hard_state is None
        assert not cluster.members[0].readys[-1].must_sync, "a commit alone needs no disk"

    def test_a_ready_gives_everything_once(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster[0].propose([b"x"])
        assert cluster[0].has_ready()
        assert [entry.payload for entry in cluster[0].ready().entries] == [b"x"]
        assert not cluster[0].has_ready()
        empty = cluster[0].ready()
        assert (empty.entries, empty.messages_now, empty.messages_after_sync, empty.must_sync) == ([], [], [], False)


class TestCheckQuorum:
    """§8 and thesis §6.2"""

    def test_a_leader_without_a_quorum_steps_down(self) -> None:
        """Between one and two times election_ticks_min after it last heard one."""
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.heartbeat(0)
        cluster.isolate(0, 1)
        ticks = 0
        while cluster[0].role is Role.LEADER:
            cluster.tick(0)
            cluster.settle()
            ticks += 1
        assert 10 <= ticks <= 20
        assert (cluster[0].role, cluster[0].leader, cluster[0].term) == (Role.FOLLOWER, NOBODY, 1)

    def test_a_leader_with_a_quorum_stays(self) -> None:
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.isolate(3, 4)
        for _ in range(100):
            cluster.tick(0, 1, 2)
            cluster.settle()
        assert (cluster[0].role, cluster[0].term) == (Role.LEADER, 1)


class TestPreVote:
    """Thesis §9.6"""

    def test_a_pre_vote_changes_neither_term_nor_vote(self) -> None:
        cluster = Cluster()
        cluster.isolate(0)
        for _ in range(100):
            cluster.tick(0)
            cluster.settle()
        assert cluster[0].role is Role.PRE_CANDIDATE
        assert (cluster[0].term, cluster.members[0].disk.hard_state) == (0, HardState(0, NOBODY, 0))
        cluster[1].step(VoteRequest(0, 1, 1, 0, 0, pre=True, transfer=False))
        ready = cluster[1].ready()
        assert ready.messages_now == [VoteResponse(1, 0, 1, granted=True, pre=True)]
        assert not ready.must_sync

    @pytest.mark.parametrize("silence_ticks", [0, 9, 10])
    def test_who_hears_a_leader_refuses(self, silence_ticks: int) -> None:
        cluster = Cluster(election_ticks_max=40, seed=3)
        cluster[0].step(Heartbeat(2, 0, 1, 0, 0, 0))
        cluster.tick(0, count=silence_ticks)
        assert cluster[0].role is Role.FOLLOWER
        cluster.wire.clear()
        cluster[0].step(VoteRequest(1, 0, 2, 5, 5, pre=True, transfer=False))
        cluster.obey(0)
        answer = cluster.wire[-1]
        assert isinstance(answer, VoteResponse)
        assert answer.granted is (silence_ticks >= 10)

    def test_a_real_request_does_not_disturb_who_hears_a_leader(self) -> None:
        """Thesis §4.2.3"""
        cluster = Cluster()
        cluster.elect(0)
        for node in (0, 1):
            cluster[node].step(VoteRequest(2, node, 9, 9, 9, pre=False, transfer=False))
            assert (cluster[node].term, cluster[node].leader) == (1, 0)

    def test_a_broken_connection_to_the_leader_hurries_the_election(self) -> None:
        for seed in range(20):
            cluster = Cluster(unreachable_ticks_max=3, seed=seed)
            cluster.elect(0)
            cluster.crash(0)
            for node in (1, 2):
                cluster[node].leader_unreachable()
            assert cluster[1].ticks_until_due() <= 3
            cluster.tick(1, count=3)
            cluster.settle()
            assert cluster[1].role is Role.LEADER

    def test_hearing_the_leader_again_restores_the_timeout(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster[1].leader_unreachable()
        cluster[1].step(Heartbeat(0, 1, 1, 0, 0, 0))
        cluster.tick(1, count=9)
        assert cluster[1].role is Role.FOLLOWER
        cluster[1].step(VoteRequest(2, 1, 2, 9, 9, pre=True, transfer=False))
        assert cluster[1].ticks_until_due() >= 1
        assert cluster[1].leader == 0

    def test_an_unreachable_stranger_changes_nothing(self) -> None:
        """Only followers with a leader react."""
        cluster = Cluster(seed=5)
        before = cluster[0].ticks_until_due()
        cluster[0].leader_unreachable()
        assert cluster[0].ticks_until_due() == before


class TestReads:
    """Thesis §6.4"""

    @pytest.mark.parametrize("node", [0, 1, 2])
    def test_a_read_index_is_confirmed_by_one_round(self, node: int) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.read(node, 7)
        cluster.settle()
        assert cluster.members[node].reads == {7: 2}

    def test_all_reads_that_wait_share_a_round(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        for context in range(100):
            cluster[0].request_read(context)
        cluster.obey(0)
        assert sum(isinstance(message, Heartbeat) for message in cluster.wire) == 2
        cluster.settle()
        assert cluster.members[0].reads == dict.fromkeys(range(100), 1)

    def test_a_minority_confirms_nothing(self) -> None:
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.isolate(0, 1)
        cluster.read(0, 7)
        cluster.read(1, 8)
        for _ in range(50):
            cluster.tick(0, 1)
            cluster.settle()
        assert (cluster.members[0].reads, cluster.members[1].reads) == ({}, {})

    def test_a_lost_round_is_tried_again_with_the_next_heartbeat(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.read(0, 7)
        cluster.wire.clear()
        cluster.heartbeat(0)
        assert cluster.members[0].reads == {7: 1}

    def test_a_cluster_of_one_confirms_at_once(self) -> None:
        cluster = Cluster(1)
        cluster.elect(0)
        cluster.read(0, 7)
        assert cluster.members[0].reads == {7: 1}

    def test_without_a_known_leader_reads_are_refused(self) -> None:
        with pytest.raises(NotLeader):
            Cluster()[0].request_read(7)

    @pytest.mark.parametrize("node", [0, 1])
    def test_waiting_reads_are_bounded(self, node: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vaultdb.limits.READS_WAITING_MAX", 3)
        cluster = Cluster()
        cluster.elect(0)
        for context in range(3):
            cluster[node].request_read(context)
        with pytest.raises(Busy):
            cluster[node].request_read(3)
        cluster.settle()
        assert cluster.members[node].reads == {0: 1, 1: 1, 2: 1}
        cluster.read(node, 4)

    def test_a_followers_lost_questions_make_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vaultdb.limits.READS_WAITING_MAX", 3)
        cluster = Cluster()
        cluster.elect(0)
        for context in range(3):
            cluster.read(1, context)
        cluster.wire.clear()
        for _ in range(7):
            cluster.heartbeat(0)
            cluster.tick(1, count=3)
        cluster.read(1, 3)
        cluster.settle()
        assert cluster.members[1].reads == {3: 1}

    def test_too_many_questions_of_followers_are_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = Cluster()
        cluster.elect(0)
        monkeypatch.setattr("vaultdb.limits.READS_WAITING_MAX", 3)
        for context in range(5):
            cluster[0].step(ReadIndex(1, 0, 1, context))
        cluster.obey(0)
        cluster.settle()
        assert cluster[0].role is Role.LEADER


class TestClients:
    """§8"""

    def test_only_a_leader_takes_proposals(self) -> None:
        cluster = Cluster()
        with pytest.raises(NotLeader):
            cluster[0].propose([b"x"])

    def test_a_leader_begins_with_a_no_op(self) -> None:
        cluster = Cluster(logs=[[1], [1], [1]])
        cluster.elect(0)
        assert [entry.kind for entry in cluster[1].entries(1, 100)] == [EntryKind.COMMAND]
        assert [entry.kind for entry in cluster[1].entries(2, 100)] == [EntryKind.NOOP]

    def test_state_is_forwarded_in_order_and_by_size(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"aaaa", b"bbbb", b"cccc")
        cluster.settle()
        assert [entry.payload for entry in cluster[1].entries(2, 8)] == [b"aaaa", b"bbbb"]
        assert [entry.payload for entry in cluster[1].entries(2, 1)] == [b"aaaa"]
        assert cluster[1].entries(5, 8) == []


class TestTicks:
    @pytest.mark.parametrize("role", [Role.FOLLOWER, Role.LEADER])
    def test_nothing_happens_before_the_tick_that_is_announced(self, role: Role) -> None:
        cluster = Cluster()
        if role is Role.LEADER:
            cluster.elect(0)
        cluster.settle()
        for _ in range(20):
            due = cluster[0].ticks_until_due()
            assert due >= 1
            for _ in range(due - 1):
                cluster[0].tick()
                assert not cluster[0].has_ready()
            cluster[0].tick()
            if role is Role.FOLLOWER:
                break
            cluster.settle()
        assert cluster[0].role is (Role.PRE_CANDIDATE if role is Role.FOLLOWER else Role.LEADER)


def test_the_same_seed_gives_the_same_timeouts() -> None:
    def timeouts(seed: int) -> list[int]:
        core = RaftNode(RaftConfig(id=0), fresh((0, 1, 2)), SimulatedDisk(), random.Random(seed))
        drawn = []
        for _ in range(20):
            drawn.append(core.ticks_until_due())
            for _ in range(drawn[-1]):
                core.tick()
        return drawn

    assert timeouts(1) == timeouts(1) != timeouts(2)
