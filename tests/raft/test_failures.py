"""Failures that other implementations had.

The number is the row of the catalogue of failures that a test answers to.
"""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raft.cluster import Cluster
from vaultdb.errors import BrokenInvariant, Busy, IoFailed
from vaultdb.raft.membership import Change, ChangeKind, Membership, encode
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    ReadIndex,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.state import Role


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, first + n, EntryKind.COMMAND, b"%d.%d" % (term, first + n)) for n, term in enumerate(terms)]


def figure_8() -> Cluster:
    """Figure 8 (c): n0 leads term 4 and has copied index 2 of term 2 to a majority; n4 holds index 2 of term 3."""
    cluster = Cluster(logs=[[1, 2], [1, 2], [1], [1], [1, 3]], size=5, term=3)
    cluster.isolate(3, 4)
    cluster.elect(0)
    return cluster


class TestLogAndVoteSafety:
    def test_c01_old_term_entry_is_not_committed_by_counting(self) -> None:
        """Paper figure 8. Planted: committing whatever a majority holds."""
        cluster = Cluster(logs=[[1, 2], [1, 2], [1], [1], [1, 3]], size=5, term=3)
        cluster.isolate(3, 4)
        while cluster[0].role is Role.FOLLOWER:
            cluster.tick(0)
        cluster.settle(only=lambda message: not isinstance(message, Append))
        assert cluster[0].role is Role.LEADER
        # A majority holds index 2 of term 2, but not yet the first entry of term 4.
        for follower in (1, 2):
            cluster[0].step(AppendResponse(follower, 0, 4, accepted=True, index=2, hint_index=0, hint_term=0))
        assert cluster[0].commit_index == 0
        cluster[0].step(AppendResponse(1, 0, 4, accepted=True, index=3, hint_index=0, hint_term=0))
        assert cluster[0].commit_index == 0
        cluster[0].step(AppendResponse(2, 0, 4, accepted=True, index=3, hint_index=0, hint_term=0))
        assert cluster[0].commit_index == 3

    def test_c01_what_is_committed_with_the_own_term_survives(self) -> None:
        """Figure 8 (e): once an entry of term 4 is on a majority, n4 cannot win any more."""
        cluster = figure_8()
        assert cluster[0].commit_index == 3
        cluster.mend()
        cluster.crash(0)
        for node in (1, 2, 3):
            cluster[node].leader_unreachable()
        for _ in range(200):
            cluster.tick(4)
            cluster.settle()
        assert cluster[4].role is not Role.LEADER
        cluster.elect(1)
        assert cluster.members[4].terms()[:3] == [1, 2, 4]

    @pytest.mark.parametrize("node", [0, 1])
    def test_c02_nothing_is_promised_by_a_disk_that_never_syncs(self, node: int) -> None:
        """No vote, no vote request and no acknowledgement leaves. Planted: answers sent with `messages_now`."""
        cluster = Cluster()
        cluster.members[node].holds_writes = True
        cluster[1].step(VoteRequest(2, 1, 5, 0, 0, pre=False, transfer=False))
        cluster[1].step(Append(2, 1, 5, 0, 0, 0, entries(1, 5, 5)))
        cluster[1].step(Append(2, 1, 5, 0, 0, 0, entries(1, 5, 5)))
        for _ in range(50):
            cluster.tick(0)
            cluster.settle()
        promises = [
            message
            for message in [*cluster.lost, *cluster.wire]
            if message.src == node
            and (
                (isinstance(message, VoteResponse) and message.granted and not message.pre)
                or (isinstance(message, AppendResponse) and message.accepted)
                or (isinstance(message, VoteRequest) and not message.pre)
            )
        ]
        assert promises == []
        lines = [line for line in cluster.trace if line.startswith(f"n{node} →")]
        assert not any(
            "vote granted" in line or "accepted" in line or " vote?" in line for line in lines if "pre-" not in line
        )

    def test_c02_a_repeated_acknowledgement_waits_for_the_write_that_it_is_about(self) -> None:
        """The second answer carries no entries of its own, and must not overtake the first one's sync."""
        cluster = Cluster()
        cluster.members[1].holds_writes = True
        append = Append(2, 1, 5, 0, 0, 0, entries(1, 5, 5))
        for _ in range(2):
            cluster[1].step(append)
            cluster.obey(1)
        assert cluster.wire == []
        cluster.sync(1)
        assert [message.index for message in cluster.wire if isinstance(message, AppendResponse)] == [2, 2]

    def test_c02_a_vote_survives_a_restart(self) -> None:
        """Planted: a hard state without the vote."""
        cluster = Cluster()
        cluster[0].step(VoteRequest(1, 0, 5, 0, 0, pre=False, transfer=False))
        cluster.obey(0)
        cluster.crash(0)
        cluster.restart(0)
        cluster.wire.clear()
        cluster[0].step(VoteRequest(2, 0, 5, 9, 4, pre=False, transfer=False))
        cluster.obey(0)
        assert cluster.wire == [VoteResponse(0, 2, 5, granted=False, pre=False)]

    def test_c02_a_candidate_does_not_stand_twice_in_a_term(self) -> None:
        """A vote request leaves after its own vote is durable: a crash before leaves no trace of the candidacy."""
        cluster = Cluster(pre_vote=False)
        cluster.members[0].holds_writes = True
        cluster.tick(0, count=20)
        assert cluster[0].role is Role.CANDIDATE
        assert cluster.wire == []
        cluster.sync(0)
        assert [message.term for message in cluster.wire] == [1, 1]

    def test_c02_a_sole_voter_leads_in_secret_until_its_vote_is_durable(self) -> None:
        """It wins at once. After a crash it would lead the same term again, with other entries: its learner must not
        have heard of the first time. Planted: a leader's messages leave at once.
        """
        cluster = Cluster(1, nodes=2)
        cluster.elect(0)
        cluster.change(0, Change(ChangeKind.LEARNER, 1))
        cluster.settle()
        cluster.crash(0)
        cluster.restart(0)
        cluster.members[0].holds_writes = True
        cluster.tick(0, count=20)
        cluster.propose(0, b"x")
        assert (cluster[0].role, cluster[0].term, cluster.wire, cluster.lost) == (Role.LEADER, 2, [], [])
        cluster.sync(0)
        cluster.obey(0)
        assert {message.dst for message in cluster.wire} == {1}
        cluster.settle()
        assert cluster.members[1].committed() == [b"x"]

    def test_c03_a_single_node_commits_only_what_is_synced(self) -> None:
        cluster = Cluster(1)
        cluster.elect(0)
        assert cluster[0].commit_index == 1
        cluster.members[0].holds_writes = True
        cluster.propose(0, b"x")
        assert (cluster[0].commit_index, cluster.members[0].committed()) == (1, [])
        cluster.sync(0)
        assert (cluster[0].commit_index, cluster.members[0].committed()) == (2, [b"x"])

    def test_c04_an_empty_append_commits_no_unmatched_tail(self) -> None:
        """A deposed leader with an extra tail. Planted: commit = min(leader's commit, last index)."""
        cluster = Cluster(logs=[[1, 1, 1, 1], [], []])
        cluster[0].step(Append(1, 0, 2, 2, 1, 4, []))
        assert cluster[0].commit_index == 2
        cluster[0].step(Append(1, 0, 2, 2, 1, 9, entries(3, 2)))
        assert (cluster[0].commit_index, cluster.members[0].terms()) == (3, [1, 1, 2])

    def test_c04_a_heartbeat_commits_no_unmatched_tail(self) -> None:
        """Planted: a leader that sends its whole commit index, to a follower that believes it."""
        cluster = Cluster(logs=[[1, 1, 1, 1], [], []])
        cluster[0].step(Heartbeat(1, 0, 2, 4, 0, 0))
        assert cluster[0].commit_index == 0
        cluster = Cluster(logs=[[1, 2, 2], [1, 2, 2], [1, 1, 1, 1]], term=2)
        cluster.elect(0)
        cluster.cut |= {(0, 2)}
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.mend()
        cluster.tick(0, count=3)
        beats = [message for message in cluster.wire if isinstance(message, Heartbeat) and message.dst == 2]
        assert all(beat.commit <= cluster[0].progress[2].match_index for beat in beats)

    def test_c05_late_append_does_not_truncate(self) -> None:
        """Every append arrives up to three times, late, in every order. Planted: the log ends where the append does."""
        appends = [
            Append(1, 0, 3, 0, 0, 0, entries(1, 1, 1)),
            Append(1, 0, 3, 2, 1, 0, entries(3, 3)),
            Append(1, 0, 3, 2, 1, 0, entries(3, 3, 3)),
            Append(1, 0, 3, 4, 3, 0, []),
        ]
        for times in (1, 2, 3):
            for order in permutations(appends):
                cluster = Cluster()
                for append in appends:
                    cluster[0].step(append)
                for append in order * times:
                    cluster[0].step(append)
                    assert cluster.members[0].terms() == [1, 1, 3, 3]

    def test_c05_a_conflict_truncates_the_whole_tail(self) -> None:
        cluster = Cluster(logs=[[1, 1, 2, 2, 2, 2], [], []])
        cluster[0].step(Append(1, 0, 3, 2, 1, 0, entries(3, 3)))
        assert cluster.members[0].terms() == [1, 1, 3]

    def test_c05_match_never_goes_back_in_a_term(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"a", b"b")
        cluster.settle()
        cluster[0].step(AppendResponse(1, 0, 1, accepted=True, index=1, hint_index=0, hint_term=0))
        cluster[0].step(AppendResponse(1, 0, 1, accepted=False, index=2, hint_index=0, hint_term=0))
        assert cluster[0].progress[1].match_index == 3

    def test_c06_what_is_cut_off_counts_as_matching(self) -> None:
        """Planted: a missing term at prev_index taken for a conflict."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"a", b"b", b"c")
        cluster.settle()
        follower = cluster.members[1]
        late = Append(0, 1, 1, 1, 1, 1, [*follower.core.entries(2, 1), *follower.core.entries(3, 1)])
        follower.core.applied(3)
        follower.disk.cut(3)
        follower.core.compact(3)
        for append in (late, late._replace(prev_index=0, prev_term=0, entries=[])):
            follower.core.step(append)
            cluster.obey(1)
            answer = cluster.wire.pop()
            assert isinstance(answer, AppendResponse)
            assert (answer.accepted, answer.index) == (True, 4)
        assert follower.log() == [(4, 1)]
        longer = [Entry(1, index, EntryKind.COMMAND, b"x") for index in range(2, 7)]
        follower.core.step(late._replace(entries=longer))
        assert [index for index, _ in follower.log()] == [4, 5, 6]

    def test_c07_a_higher_term_is_not_a_vote(self) -> None:
        """An outdated candidate brings a new term and gets no vote for it. Planted: no check of the log."""
        cluster = Cluster(logs=[[1, 1], [1, 1], [1]], pre_vote=False)
        cluster[0].step(VoteRequest(2, 0, 8, 1, 1, pre=False, transfer=False))
        cluster.obey(0)
        assert cluster.wire == [VoteResponse(0, 2, 8, granted=False, pre=False)]
        assert cluster[0].term == 8
        for _ in range(100):
            cluster.tick(2)
            cluster.settle()
        assert cluster[2].role is not Role.LEADER

    def test_c08_a_failing_log_read_ends_the_node(self) -> None:
        """It is not answered by sending something else."""
        cluster = Cluster(logs=[[1, 1], [1, 1], []])
        cluster.isolate(2)
        cluster.elect(0)

        def broken(first: int, last: int, bytes_max: int) -> list[Entry]:
            raise IoFailed(f"[{first}, {last}] up to {bytes_max}")

        cluster.members[0].disk.entries = broken  # type: ignore[method-assign]
        cluster[0].step(AppendResponse(2, 0, 2, accepted=False, index=2, hint_index=0, hint_term=0))
        with pytest.raises(IoFailed):
            cluster[0].ready()

    @pytest.mark.parametrize(
        "append",
        [
            Append(1, 0, 3, 2, 1, 0, entries(4, 3)),
            Append(1, 0, 3, 2, 1, 0, [*entries(3, 3), *entries(5, 3)]),
            Append(1, 0, 3, 2, 1, 0, entries(3, 4)),
            Append(1, 0, 3, 2, 1, 0, [*entries(3, 3), *entries(4, 2)]),
            Append(1, 0, 3, -1, 0, 0, []),
        ],
        ids=["gap at the front", "gap inside", "term beyond the leader's", "terms go back", "negative"],
    )
    def test_c08_malformed_appends_change_nothing(self, append: Append) -> None:
        cluster = Cluster(logs=[[1, 1], [], []])
        cluster[0].step(append)
        cluster.obey(0)
        assert cluster.members[0].terms() == [1, 1]
        assert cluster.wire == []

    def test_c09_a_late_completion_does_not_vouch_for_replaced_entries(self) -> None:
        """The ABA race of asynchronous writes. Planted: marks that a truncation does not lower."""
        cluster = Cluster()
        follower = cluster.members[0]
        follower.holds_writes = True
        cluster[0].step(Append(1, 0, 1, 0, 0, 0, entries(1, 1, 1, 1)))
        cluster.obey(0)
        cluster[0].step(Append(2, 0, 2, 1, 1, 0, entries(2, 2, 2)))
        cluster.obey(0)
        assert cluster[0].stable_index == 0
        cluster.sync(0, count=1)
        assert cluster[0].stable_index == 1
        assert [
            message.index for message in cluster.wire if message.term == 2 and isinstance(message, AppendResponse)
        ] == []
        cluster.sync(0)
        assert cluster[0].stable_index == 3

    def test_c09_a_leader_does_not_count_its_unfinished_write(self) -> None:
        """Planted: the leader's last index counted as its match."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.members[0].holds_writes = True
        cluster.isolate(2)
        cluster.propose(0, b"x")
        cluster.settle()
        assert cluster[0].progress[1].match_index == 2
        assert cluster[0].commit_index == 1
        cluster.crash(0)
        assert cluster[1].commit_index == 1

    def test_c09_promises_of_a_former_term_are_void(self) -> None:
        """An acknowledgement that has not left when a newer leader replaces its entries must not leave any more."""
        cluster = Cluster()
        cluster[0].step(Append(1, 0, 1, 0, 0, 0, entries(1, 1, 1, 1)))
        cluster[0].step(Append(2, 0, 2, 0, 0, 0, entries(1, 2)))
        ready = cluster[0].ready()
        assert [(m.term, m.index) for m in ready.messages_after_sync if isinstance(m, AppendResponse)] == [(2, 1)]


class TestReads:
    def test_c10_a_new_leader_reads_only_after_its_first_commit(self) -> None:
        """Its commit index may lag behind what its predecessor acknowledged. Planted: the round starts at once."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.propose(0, b"x")
        cluster.settle(only=lambda message: not isinstance(message, Append) or bool(message.entries))
        assert (cluster[0].commit_index, cluster[1].commit_index) == (2, 1)
        cluster.crash(0)
        cluster[2].leader_unreachable()
        cluster[1].leader_unreachable()
        while cluster[1].role is Role.FOLLOWER:
            cluster.tick(1)
        cluster.settle(only=lambda message: not isinstance(message, Append))
        assert (cluster[1].role, cluster[1].commit_index) == (Role.LEADER, 1)
        cluster.read(1, 7)
        for _ in range(3):
            cluster.tick(1, count=3)
            cluster.settle(only=lambda message: not isinstance(message, Append))
        assert cluster.members[1].reads == {}
        cluster.heartbeat(1)
        assert cluster.members[1].reads == {7: 3}

    def test_c11_a_read_joins_the_next_round(self) -> None:
        """A round that began before the read arrived proves nothing about it. Planted: joining the running round."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.read(0, 1)
        early = [message for message in cluster.wire if isinstance(message, Heartbeat)]
        cluster.wire.clear()
        cluster.read(0, 2)
        cluster[0].step(HeartbeatResponse(1, 0, 1, early[0].round, 0))
        cluster.obey(0)
        assert cluster.members[0].reads == {1: 1}
        cluster.settle()
        assert cluster.members[0].reads == {1: 1, 2: 1}

    def test_c11_answers_to_former_rounds_are_ignored(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        for context in (1, 2):
            cluster.read(0, context)
            cluster.settle()
        cluster.read(0, 3)
        for number in (0, 1, 2, 99):
            cluster[0].step(HeartbeatResponse(1, 0, 1, number, 0))
        cluster.obey(0)
        assert 3 not in cluster.members[0].reads

    def test_c11_reads_are_dropped_when_the_term_changes(self) -> None:
        cluster = Cluster()
        cluster.elect(0)
        cluster.read(0, 1)
        cluster.read(1, 2)
        cluster.wire.clear()
        cluster.elect(2)
        cluster[0].step(ReadIndexResponse(2, 0, 2, 1, 0))
        cluster[1].step(ReadIndexResponse(2, 1, 2, 2, 0))
        for _ in range(3):
            cluster.heartbeat(2)
        assert (cluster.members[0].reads, cluster.members[1].reads) == ({}, {})

    def test_c11_a_paused_leader_confirms_nothing(self) -> None:
        """Its round is answered in a newer term."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.isolate(0)
        cluster[0].request_read(1)
        cluster.elect(1)
        cluster.propose(1, b"x")
        cluster.settle()
        cluster.mend()
        cluster.settle()
        cluster.tick(0, count=3)
        cluster.settle()
        assert cluster.members[0].reads == {}
        assert cluster[0].role is Role.FOLLOWER


class TestLiveness:
    @pytest.mark.parametrize("cut", ["from the leader", "to the leader"])
    @pytest.mark.parametrize("size", [3, 5])
    def test_c15_a_one_way_partition_ends_with_a_leader_and_steady_terms(self, cut: str, size: int) -> None:
        """A fully connected quorum remains: it leads, and the cut-off node raises no terms."""
        cluster = Cluster(size)
        cluster.elect(0)
        others = range(1, size)
        cluster.cut = {(0, other) if cut == "from the leader" else (other, 0) for other in others}
        for _ in range(10 * 20):
            cluster.tick()
            cluster.settle()
        (leader,) = [node for node in cluster.leaders() if node != 0]
        term = cluster[leader].term
        cluster.propose(leader, b"x")
        for _ in range(10 * 20):
            cluster.tick()
            cluster.settle()
        assert (cluster[leader].role, cluster[leader].term) == (Role.LEADER, term)
        assert all(cluster[node].commit_index == cluster[leader].commit_index for node in others)

    def test_c15_a_bridge_partition_keeps_a_leader(self) -> None:
        """0-1 and 3-4 see each other and the bridge 2, which sees all: a majority exists through it only."""
        cluster = Cluster(5)
        cluster.elect(0)
        cluster.cut = {(a, b) for a in (0, 1) for b in (3, 4)} | {(b, a) for a in (0, 1) for b in (3, 4)}
        for _ in range(20 * 20):
            cluster.tick()
            cluster.settle()
        leaders = cluster.leaders()
        assert len(leaders) == 1
        term = cluster[leaders[0]].term
        for _ in range(20 * 20):
            cluster.tick()
            cluster.settle()
        assert (cluster.leaders(), cluster[leaders[0]].term) == (leaders, term)

    def test_c16_a_node_stuck_in_a_higher_term_is_freed(self) -> None:
        """It neither wins (log behind) nor follows (term ahead), and the others hear their leader:

        its answers free it.
        """
        cluster = Cluster(logs=[[1, 1], [1, 1], [1]], term=1)
        cluster.elect(0)
        cluster.members[2].disk.hard_state = cluster.members[2].disk.hard_state._replace(term=9)
        cluster.restart(2)
        for _ in range(5 * 20):
            cluster.tick()
            cluster.settle()
        (leader,) = cluster.leaders()
        assert all(cluster[node].leader == leader for node in range(3))
        assert cluster[leader].term >= 9
        cluster.propose(leader, b"x")
        cluster.settle()
        assert cluster[2].commit_index == cluster[leader].last_index

    def test_c16_a_leader_that_steps_down_silently_is_replaced(self) -> None:
        """Logs are unequal: only one of the two others can win."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.isolate(2)
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.mend()
        cluster.isolate(0)
        for _ in range(5 * 20):
            cluster.tick()
            cluster.settle()
        assert cluster.leaders() == [1]

    def test_c17_rejoining_node_does_not_depose(self) -> None:
        """A follower cut off for 100 election timeouts comes back. Planted: no pre-vote, no stickiness."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.isolate(2)
        for _ in range(100 * 20):
            cluster.tick()
            cluster.settle()
        cluster.mend()
        for _ in range(5 * 20):
            cluster.tick()
            cluster.settle()
        assert (cluster.leaders(), cluster[0].term, cluster[2].leader) == ([0], 1, 0)


class TestOverload:
    def test_c39_inflight_is_bounded_in_bytes_and_count(self) -> None:
        cluster = Cluster(append_bytes_max=100, inflight_bytes_max=1000, inflight_appends_max=50)
        cluster.elect(0)
        cluster.isolate(2)
        for _ in range(100):
            cluster.propose(0, b"x" * 60)
            cluster.settle()
        progress = cluster[0].progress[2]
        assert 1000 <= progress.inflight_bytes < 1100
        cluster = Cluster(inflight_appends_max=50)
        cluster.elect(0)
        cluster.isolate(2)
        for _ in range(100):
            cluster.propose(0, b"x")
            cluster.settle()
        assert cluster[0].progress[2].inflight_appends == 50

    @pytest.mark.parametrize("size", [40, 100, 101, 250])
    def test_c39_an_append_holds_its_limit_or_one_entry(self, size: int) -> None:
        cluster = Cluster(append_bytes_max=100)
        cluster.elect(0)
        cluster.propose(0, *[b"x" * size] * 7)
        appends = [message for message in cluster.wire if isinstance(message, Append)]
        assert all(sum(len(e.payload) for e in a.entries) <= 100 or len(a.entries) == 1 for a in appends)
        assert sum(len(append.entries) for append in appends) == 14
        cluster.settle()
        assert cluster[1].commit_index == 8

    def test_c39_uncommitted_bytes_are_bounded(self) -> None:
        cluster = Cluster(uncommitted_bytes_max=100)
        cluster.elect(0)
        cluster.isolate(0)
        cluster.propose(0, b"x" * 60)
        cluster.propose(0, b"x" * 40)
        with pytest.raises(Busy, match="100 bytes wait for commit; the limit is 100"):
            cluster.propose(0, b"x")
        assert cluster[0].last_index == 3
        cluster.mend()
        for _ in range(5):
            cluster.heartbeat(0)
        assert (cluster[0].commit_index, cluster[0].uncommitted_bytes) == (3, 0)

    def test_c39_one_proposal_of_any_size_passes_when_nothing_waits(self) -> None:
        cluster = Cluster(uncommitted_bytes_max=100)
        cluster.elect(0)
        cluster.propose(0, b"x" * 101)
        with pytest.raises(Busy):
            cluster.propose(0, b"")
        cluster.settle()
        assert cluster[1].commit_index == 2


indices = st.integers(-1, 8)
term_numbers = st.integers(-1, 5)
nodes = st.integers(-1, 4)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, nodes, nodes, term_numbers, indices, term_numbers, st.booleans(), st.booleans()),
    st.builds(VoteResponse, nodes, nodes, term_numbers, st.booleans(), st.booleans()),
    st.builds(
        Append,
        nodes,
        nodes,
        term_numbers,
        indices,
        term_numbers,
        indices,
        st.lists(st.builds(Entry, term_numbers, indices, st.integers(0, 1), st.just(b"x")), max_size=3),
    ),
    st.builds(AppendResponse, nodes, nodes, term_numbers, st.booleans(), indices, indices, term_numbers),
    st.builds(Heartbeat, nodes, nodes, term_numbers, indices, st.integers(0, 3), st.integers(0, 9)),
    st.builds(HeartbeatResponse, nodes, nodes, term_numbers, st.integers(0, 3), st.integers(0, 9)),
    st.builds(ReadIndex, nodes, nodes, term_numbers, st.integers(0, 3)),
    st.builds(ReadIndexResponse, nodes, nodes, term_numbers, st.integers(0, 3), indices),
    st.builds(TimeoutNow, nodes, nodes, term_numbers, indices),
    st.builds(
        InstallSnapshot, nodes, nodes, term_numbers, indices, term_numbers, st.just(encode(Membership((0, 1, 2))))
    ),
)


@settings(max_examples=300, deadline=None)
@given(incoming=st.lists(messages, max_size=12), leads=st.booleans())
def test_odd_messages_do_no_harm(incoming: list[Message], leads: bool) -> None:
    """Whatever arrives, `step` raises nothing but BrokenInvariant (two leaders in a term, a committed entry
    replaced).
    """
    cluster = Cluster()
    if leads:
        cluster.elect(0)
    rng = random.Random(1)
    for message in incoming:
        term, commit = cluster[0].term, cluster[0].commit_index
        try:
            cluster[0].step(message._replace(dst=0) if rng.random() < 0.9 else message)
        except BrokenInvariant:
            return
        cluster.obey(0)
        assert cluster[0].term >= term
        assert commit <= cluster[0].commit_index <= cluster[0].last_index


@pytest.mark.parametrize("src", [NOBODY, 0])
def test_misaddressed_messages_are_ignored(src: int) -> None:
    cluster = Cluster()
    cluster[0].step(Heartbeat(src, 0, 9, 0, 0, 0))
    cluster[0].step(Heartbeat(1, 2, 9, 0, 0, 0))
    assert cluster[0].term == 0


class TestStrangers:
    """Whom to listen to is the driver's business. What a node that is no member says counts for nothing anyhow."""

    def test_a_strangers_votes_count_for_nothing(self) -> None:
        """Planted: all grants are counted; all refusals are."""
        cluster = Cluster(5)
        while cluster[0].role is Role.FOLLOWER:
            cluster.tick(0)

        def role_after(voters: range, *, granted: bool, pre: bool) -> Role:
            for voter in voters:
                cluster[0].step(VoteResponse(voter, 0, 1, granted, pre))
            return cluster[0].role

        assert role_after(range(7, 12), granted=True, pre=True) is Role.PRE_CANDIDATE
        assert role_after(range(1, 3), granted=True, pre=True) is Role.CANDIDATE
        assert role_after(range(7, 12), granted=True, pre=False) is Role.CANDIDATE
        assert role_after(range(12, 17), granted=False, pre=False) is Role.CANDIDATE, "nor do their refusals"
        assert role_after(range(1, 3), granted=True, pre=False) is Role.LEADER

    def test_a_strangers_acknowledgements_commit_nothing(self) -> None:
        """Planted: progress kept for whoever answers."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.isolate(0)
        cluster.propose(0, b"x")
        for stranger in (7, 8, 9):
            cluster[0].step(AppendResponse(stranger, 0, 1, accepted=True, index=2, hint_index=0, hint_term=0))
            cluster[0].step(AppendResponse(stranger, 0, 1, accepted=False, index=1, hint_index=0, hint_term=0))
        cluster.obey(0)
        assert (cluster[0].commit_index, sorted(cluster[0].progress)) == (1, [1, 2])

    def test_a_stranger_confirms_no_read_and_no_lease(self) -> None:
        """Planted: all answers to a round are counted."""
        cluster = Cluster(tick_us=1000, lease_us=8000)
        cluster.elect(0)
        cluster.isolate(0)
        cluster.read(0, 7)
        for stranger in (7, 8, 9):
            cluster[0].step(HeartbeatResponse(stranger, 0, 1, 1, cluster.members[0].now_us))
        cluster.obey(0)
        assert (cluster.members[0].reads, cluster[0].has_lease) == ({}, False)

    def test_a_stranger_keeps_no_leader_in_office(self) -> None:
        """CheckQuorum looks at members."""
        cluster = Cluster()
        cluster.elect(0)
        cluster.isolate(0)
        for _ in range(20):
            for stranger in (7, 8, 9):
                cluster[0].step(HeartbeatResponse(stranger, 0, 1, 0, 0))
            cluster.tick(0)
        assert cluster[0].role is Role.FOLLOWER

    def test_a_stranger_may_ask_for_a_vote(self) -> None:
        """It may be a member that this node does not know yet (see row 22)."""
        cluster = Cluster()
        cluster[0].step(VoteRequest(9, 0, 1, 0, 0, pre=False, transfer=False))
        cluster.obey(0)
        assert cluster.wire == [VoteResponse(0, 9, 1, granted=True, pre=False)]


def test_two_leaders_in_a_term_are_a_broken_invariant() -> None:
    cluster = Cluster()
    cluster[0].step(Heartbeat(1, 0, 1, 0, 0, 0))
    with pytest.raises(BrokenInvariant, match="term 1 has two leaders, 1 and 2"):
        cluster[0].step(Heartbeat(2, 0, 1, 0, 0, 0))


def test_a_leader_that_lacks_a_committed_entry_is_a_broken_invariant() -> None:
    cluster = Cluster()
    cluster[0].step(Append(1, 0, 1, 0, 0, 2, entries(1, 1, 1)))
    with pytest.raises(BrokenInvariant, match="has term 2 at 2, where term 1 is committed"):
        cluster[0].step(Append(2, 0, 2, 0, 0, 0, entries(1, 1, 2)))
