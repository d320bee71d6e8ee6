"""Changes of the membership in a running group: thesis §4, with its erratum, and what failed elsewhere.

The number in a test's name is the row of the catalogue of failures that it answers to.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from tests.raft.cluster import Cluster
from vaultdb.errors import Busy, ChangeRefused, NotLeader
from vaultdb.raft.membership import NOBODY_YET, Change, ChangeKind, Membership, enter_joint
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    EntryKind,
    HeartbeatResponse,
    Message,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.progress import ProgressState
from vaultdb.raft.state import Role


def voter(node: int) -> Change:
    return Change(ChangeKind.VOTER, node)


def learner(node: int) -> Change:
    return Change(ChangeKind.LEARNER, node)


def remove(node: int) -> Change:
    return Change(ChangeKind.REMOVE, node)


def led(size: int = 3, *, nodes: int = 0, **settings: Any) -> Cluster:
    """n0 leads."""
    cluster = Cluster(size, nodes=nodes, **settings)
    cluster.elect(0)
    return cluster


def not_append(message: Message) -> bool:
    return not isinstance(message, Append)


def memberships(cluster: Cluster, *nodes: int) -> set[tuple[int, ...]]:
    return {cluster[node].membership.voters for node in nodes}


class TestWhenAChangeMayBegin:
    def test_only_a_leader_changes_members(self) -> None:
        with pytest.raises(NotLeader):
            Cluster()[0].propose_membership([learner(3)])
        with pytest.raises(NotLeader):
            Cluster()[0].leave_joint()

    def test_c20_not_before_a_commit_in_the_leaders_term(self) -> None:
        """The thesis' erratum: two leaders that each change what the other does not know have majorities that do not
        meet. Planted: a change taken at once.
        """
        cluster = Cluster()
        while cluster[0].role is Role.FOLLOWER:
            cluster.tick(0)
        cluster.settle(only=not_append)
        assert (cluster[0].role, cluster[0].commit_index) == (Role.LEADER, 0)
        with pytest.raises(ChangeRefused, match="committed nothing in its term yet"):
            cluster[0].propose_membership([remove(2)])
        cluster.heartbeat(0)
        cluster.change(0, remove(2))

    @staticmethod
    def two_leaders_with_a_change_each(first: Change, second: Change) -> Cluster:
        """The erratum's traces, over 0 1 2 3 with learners 4 5. n0 makes a change that reaches n4 alone; n1 leads, and
        tries one before anything of its term is committed, which reaches n2 and n5; then n0 returns with n3 and n4.
        """
        cluster = led(4, nodes=6)
        cluster.change(0, learner(4), learner(5))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.change(0, first)
        cluster.settle(only=lambda message: (message.src, message.dst) == (0, 4))
        cluster.isolate(0, 4)
        for node in (1, 2, 3):
            cluster[node].leader_unreachable()
        while cluster[1].role is Role.FOLLOWER:
            cluster.tick(1)
        cluster.settle(only=not_append)
        cluster.tick(1, count=3)
        cluster.settle(only=not_append)
        assert (cluster[1].role, cluster[1].progress[2].is_alive) == (Role.LEADER, True)
        cluster.cut |= {(1, 3), (1, 0), (1, 4)}
        with suppress(ChangeRefused):
            cluster[1].propose_membership([second])
        for _ in range(3):
            cluster.heartbeat(1)
        cluster.cut.clear()
        cluster.isolate(0, 3, 4)
        for _ in range(100):
            cluster.tick(0, 3, 4)
            cluster.settle()
        return cluster

    @pytest.mark.parametrize(
        ("first", "second"),
        [(voter(4), voter(5)), (voter(4), remove(3)), (remove(2), voter(5)), (remove(2), remove(3))],
        ids=["add, add", "add, remove", "remove, add", "remove, remove"],
    )
    def test_c20_the_traces_of_the_erratum(self, first: Change, second: Change) -> None:
        """What n1 has committed, whoever leads the others holds. Planted: a change taken at once (where n1 adds, a
        learner that has not been heard in its term is refused all the same).
        """
        cluster = self.two_leaders_with_a_change_each(first, second)
        committed = cluster.members[1].log()[: cluster[1].commit_index]
        for node in (0, 3, 4):
            if cluster[node].role is Role.LEADER:
                assert cluster.members[node].log()[: len(committed)] == committed

    def test_c20_c25_one_change_at_a_time(self) -> None:
        """Two operators at once: the second is told. Planted: no check of the commit index."""
        cluster = led(5)
        cluster.isolate(0, 1)
        cluster.change(0, remove(4))
        for changes in ([remove(3)], [learner(7)], [], [voter(4)]):
            with pytest.raises(ChangeRefused, match="the change at index 2 is not committed yet"):
                cluster[0].propose_membership(changes, context="new")
        cluster.mend()
        for _ in range(5):
            cluster.heartbeat(0)
        cluster.change(0, remove(3))

    def test_c25_no_second_change_while_joint(self) -> None:
        """Nor between the commit of the joint membership and its end."""
        cluster = led(3, nodes=5)
        cluster.change(0, learner(3), learner(4))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.change(0, voter(3), voter(4))
        assert cluster[0].membership.is_joint
        with pytest.raises(ChangeRefused, match="not committed yet"):
            cluster[0].propose_membership([remove(1)])
        for follower in (1, 2, 3, 4):
            cluster[0].step(AppendResponse(follower, 0, 1, accepted=True, index=3, hint_index=0, hint_term=0))
        assert cluster[0].is_membership_committed
        for joint in (False, True):
            with pytest.raises(ChangeRefused, match="the membership is joint"):
                cluster[0].propose_membership([remove(1)], joint=joint)
        cluster.obey(0)
        cluster.settle()
        assert cluster[0].membership == Membership((0, 1, 2, 3, 4))

    def test_not_while_leadership_is_handed_over(self) -> None:
        cluster = led()
        cluster[0].transfer_leadership(1)
        with pytest.raises(Busy, match="handed over"):
            cluster[0].propose_membership([remove(2)])

    def test_a_refused_change_leaves_no_trace(self) -> None:
        cluster = led()
        before = cluster[0].last_index
        for changes in ([voter(7)], [remove(0), remove(1), remove(2)]):
            with pytest.raises(ChangeRefused):
                cluster[0].propose_membership(changes)
        assert (cluster[0].last_index, cluster[0].has_ready()) == (before, False)

    def test_the_context_alone_can_be_rewritten(self) -> None:
        cluster = led()
        assert cluster[0].propose_membership([], context="addresses") == (1, 2)
        cluster.settle()
        for node in range(3):
            assert cluster[node].membership == Membership((0, 1, 2), context="addresses")
        cluster[0].propose_membership([remove(2)])
        assert cluster[0].membership.context == "addresses"


class TestLearners:
    """Thesis §4.2.1"""

    def test_a_learner_gets_the_log_and_counts_in_no_quorum(self) -> None:
        """Planted: learners among the voters; whoever acknowledged is counted."""
        cluster = led(3, nodes=5)
        cluster.change(0, learner(3), learner(4))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.propose(0, b"x")
        cluster.settle()
        assert cluster.members[3].log() == cluster.members[0].log()
        assert cluster[3].commit_index == cluster[0].commit_index == 3
        cluster.isolate(0, 3, 4)
        cluster.propose(0, b"y")
        cluster.read(0, 7)
        cluster.settle()
        assert (cluster[3].last_index, cluster[0].commit_index, cluster.members[0].reads) == (4, 3, {})
        for _ in range(20):
            cluster.tick(0, 3, 4)
            cluster.settle()
        assert cluster[0].role is Role.FOLLOWER, "CheckQuorum"

    def test_a_learner_never_stands(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.isolate(3)
        cluster.tick(3, count=200)
        assert (cluster[3].role, cluster[3].term, cluster[3].leader) == (Role.FOLLOWER, 1, NOBODY)
        cluster[3].step(TimeoutNow(0, 3, 1, 1))
        assert cluster[3].role is Role.FOLLOWER

    def test_who_was_told_of_no_group_waits(self) -> None:
        cluster = Cluster(3, nodes=4)
        assert cluster[3].membership == NOBODY_YET
        cluster.tick(3, count=200)
        assert (cluster[3].role, cluster[3].term, cluster.wire) == (Role.FOLLOWER, 0, [])

    def test_a_learner_may_read_through_the_leader(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.read(3, 7)
        cluster.settle()
        assert cluster.members[3].reads == {7: 2}

    def test_c21_a_new_voter_was_a_learner_first(self) -> None:
        with pytest.raises(ChangeRefused, match="node 3 is no learner; a new voter must have caught up"):
            led(3, nodes=4).change(0, voter(3))

    def test_c21_promotion_only_when_caught_up(self) -> None:
        """Planted: no check of the learner's match index."""
        cluster = led(3, nodes=4, promotion_lag_max=2, append_bytes_max=1)
        cluster.propose(0, *[b"x"] * 5)
        cluster.settle()
        cluster.change(0, learner(3))
        with pytest.raises(ChangeRefused, match="not committed yet"):
            cluster[0].propose_membership([voter(3)])
        cluster.settle(only=lambda message: message.dst != 3)
        with pytest.raises(ChangeRefused, match="node 3 is not heard"):
            cluster[0].propose_membership([voter(3)])
        cluster.tick(0, count=3)
        cluster.settle(only=lambda message: not isinstance(message, Append) or message.dst != 3)
        for joint in (False, True):
            with pytest.raises(ChangeRefused, match="node 3 has not caught up: it lacks 7 entries"):
                cluster[0].propose_membership([voter(3)], joint=joint)
        for _ in range(4):
            cluster.heartbeat(0)
        cluster.isolate(3)
        cluster.propose(0, b"y", b"y")
        cluster.settle()
        assert cluster[0].progress[3].state is ProgressState.REPLICATE
        cluster[0].propose_membership([voter(3)])

    def test_c21_a_learner_that_fell_behind_waits_again(self) -> None:
        cluster = led(3, nodes=4, promotion_lag_max=2)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.isolate(3)
        cluster.propose(0, b"x", b"x", b"x")
        cluster.settle()
        with pytest.raises(ChangeRefused, match="lacks 3 entries"):
            cluster[0].propose_membership([voter(3)])

    def test_c22_a_voter_that_does_not_know_it_votes(self) -> None:
        """n3 was promoted, and has not been told. The candidate knows; without n3's vote nobody could lead. Planted:
        learners refuse their vote.
        """
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.change(0, voter(3))
        cluster.settle(only=lambda message: 3 not in (message.src, message.dst))
        assert cluster[1].membership.voters == (0, 1, 2, 3)
        assert cluster[3].membership.learners == (3,)
        cluster.crash(0)
        cluster[2].leader_unreachable()
        cluster[3].leader_unreachable()
        cluster.elect(1)
        assert memberships(cluster, 1, 2, 3) == {(0, 1, 2, 3)}

    def test_a_voter_can_become_a_learner(self) -> None:
        cluster = led()
        cluster.change(0, learner(2))
        cluster.settle()
        cluster.heartbeat(0)
        assert cluster[2].membership == Membership((0, 1), learners=(2,))
        cluster.propose(0, b"x")
        cluster.settle()
        assert cluster[2].commit_index == 3


class TestInForceWhenAppended:
    """Paper §6: each node uses the newest membership of its log, committed or not."""

    def test_the_leader_counts_by_the_new_one_at_once(self) -> None:
        """Of n0-n3, with n3 new, two do not commit."""
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.isolate(0, 1)
        cluster.change(0, voter(3))
        cluster.settle()
        assert (cluster[1].membership.voters, cluster[1].last_index) == ((0, 1, 2, 3), 3)
        assert cluster[0].commit_index == 2

    def test_truncation_takes_a_membership_back(self) -> None:
        """Planted: a log that forgets entries and keeps their membership."""
        cluster = led(5)
        cluster.isolate(0, 1)
        cluster.change(0, remove(4))
        cluster.settle()
        assert memberships(cluster, 0, 1) == {(0, 1, 2, 3)}
        cluster.elect(2)
        cluster.mend()
        for _ in range(5):
            cluster.heartbeat(2)
        assert memberships(cluster, *range(5)) == {(0, 1, 2, 3, 4)}
        assert cluster[0].membership_index == cluster[1].membership_index == 0

    def test_a_membership_survives_a_restart(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        for node in range(4):
            cluster.crash(node)
            cluster.restart(node)
            assert (cluster[node].membership, cluster[node].membership_index) == (Membership((0, 1, 2), (), (3,)), 2)

    def test_a_membership_outlives_its_entry(self) -> None:
        """The log is cut above it."""
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.cut_log(0, 3)
        cluster.crash(0)
        cluster.restart(0)
        assert (cluster[0].membership, cluster[0].membership_index) == (Membership((0, 1, 2), (), (3,)), 3)

    def test_an_unwritten_membership_dies_with_its_node(self) -> None:
        cluster = led()
        cluster.members[0].holds_writes = True
        cluster.change(0, remove(2))
        cluster.crash(0)
        cluster.restart(0)
        assert cluster[0].membership == Membership((0, 1, 2))


class TestRemoval:
    """Thesis §4.2.2 and §4.2.3"""

    def test_c19_a_leader_that_removes_itself_counts_itself_no_more(self) -> None:
        """n0 and n1 hold the change; of the new members n1, n2, n3 that is one. Planted: whoever has it is counted."""
        cluster = led(4)
        cluster.isolate(0, 1)
        cluster.change(0, remove(0))
        cluster.read(0, 7)
        cluster.settle()
        assert (cluster[0].commit_index, cluster[1].last_index, cluster.members[0].reads) == (1, 2, {})
        cluster.mend()
        cluster.cut = {(a, b) for a in range(4) for b in range(4) if 3 in (a, b)}
        for _ in range(4):
            cluster.heartbeat(0)
        assert cluster[0].commit_index == 2, "n1 and n2 suffice"

    def test_c19_it_steps_down_once_that_is_committed_and_hands_over(self) -> None:
        """Nobody waits for an election timeout."""
        cluster = led()
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.change(0, remove(0))
        assert cluster[0].role is Role.LEADER
        cluster.settle()
        assert (cluster[0].role, cluster[0].leader) == (Role.FOLLOWER, NOBODY)
        (leader,) = cluster.leaders()
        assert leader in (1, 2)
        assert cluster[leader].term == 2
        cluster.propose(leader, b"y")
        cluster.settle()
        assert [cluster.members[node].committed() for node in (1, 2)] == [[b"x", b"y"]] * 2

    def test_c19_check_quorum_does_not_count_it_either(self) -> None:
        cluster = led()
        cluster.isolate(0, 1)
        cluster.change(0, remove(0))
        for _ in range(20):
            cluster.tick(0, 1)
            cluster.settle()
        assert cluster[0].role is Role.FOLLOWER

    def test_c19_a_demoted_leader_steps_down_too(self) -> None:
        cluster = led()
        cluster.change(0, learner(0))
        cluster.settle()
        assert cluster[0].role is Role.FOLLOWER
        (leader,) = cluster.leaders()
        cluster.heartbeat(leader)
        assert (cluster[0].leader, cluster[0].membership) == (leader, Membership((1, 2), learners=(0,)))

    def test_c19_a_handover_that_is_lost_is_made_up_for_by_an_election(self) -> None:
        cluster = led()
        cluster.change(0, remove(0))
        cluster.settle(only=lambda message: not isinstance(message, TimeoutNow))
        assert cluster.leaders() == []
        for _ in range(60):
            cluster.tick()
            cluster.settle()
        assert len(cluster.leaders()) == 1
        assert cluster.leaders() != [0]

    def test_c19_who_is_left_out_stands_until_that_is_committed(self) -> None:
        """n0 alone holds its own removal and restarts: n1, which does not know of it, needs n0's vote and has the
        shorter log; n0 needs only n1's. Planted: only members of the newest membership stand; the group is stuck.
        """
        cluster = led(2)
        cluster.isolate(0)
        cluster.change(0, remove(0))
        cluster.crash(0)
        cluster.restart(0)
        assert memberships(cluster, 0) == {(1,)}
        assert memberships(cluster, 1) == {(0, 1)}
        for _ in range(100):
            cluster.tick()
            cluster.settle()
        assert (cluster.leaders(), cluster[1].membership.voters) == ([1], (1,))
        assert (cluster[0].role, cluster[0].is_membership_committed) == (Role.FOLLOWER, True)

    def test_c17_a_removed_node_does_not_disturb(self) -> None:
        """It was told, or it was not because it was cut off; with pre-vote or without. Planted: voters without
        loyalty (§4.2.3).
        """
        for told in (False, True):
            for pre_vote in (False, True):
                cluster = Cluster(pre_vote=pre_vote)
                cluster.elect(0)
                if not told:
                    cluster.isolate(2)
                cluster.change(0, remove(2))
                cluster.settle()
                assert (cluster[2].membership.voters == (0, 1)) is told
                cluster.mend()
                for _ in range(10 * 20):
                    cluster.tick()
                    cluster.settle()
                assert (cluster.leaders(), cluster[0].term) == ([0], 1), (told, pre_vote)
                assert not told or (cluster[2].role, cluster[2].term) == (Role.FOLLOWER, 1), "it knows not to stand"

    def test_c17_an_isolated_node_rejoins_quietly(self) -> None:
        """100 election timeouts, then a change that it missed."""
        cluster = led(5)
        cluster.isolate(4)
        cluster.tick(4, count=100 * 20)
        cluster.change(0, remove(3))
        cluster.settle()
        cluster.mend()
        for _ in range(100):
            cluster.tick()
            cluster.settle()
        assert (cluster.leaders(), cluster[0].term, cluster[4].membership.voters) == ([0], 1, (0, 1, 2, 4))

    def test_the_leader_forgets_a_removed_node_once_that_is_committed(self) -> None:
        """Until then it gets the log, so that it learns that it is out."""
        cluster = led()
        cluster.change(0, remove(2))
        assert 2 in cluster[0].progress
        cluster.settle()
        assert sorted(cluster[0].progress) == [1]
        assert cluster[2].membership.voters == (0, 1)
        assert (cluster[2].commit_index, cluster[2].membership_index) == (2, 2), "even that it is committed"
        cluster[0].step(AppendResponse(2, 0, 1, accepted=True, index=2, hint_index=0, hint_term=0))
        cluster.heartbeat(0)
        assert 2 not in {message.dst for message in [*cluster.wire, *cluster.lost]}

    def test_a_removed_node_can_come_back(self) -> None:
        cluster = led()
        cluster.change(0, remove(2))
        cluster.settle()
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.grow(0, 2)
        assert cluster[2].membership == Membership((0, 1, 2))

    def test_a_group_can_shrink_to_one_and_grow_again(self) -> None:
        cluster = led()
        for node in (2, 1):
            cluster.change(0, remove(node))
            cluster.settle()
        cluster.isolate(0)
        cluster.propose(0, b"alone")
        assert cluster[0].commit_index == 4
        cluster.mend()
        cluster.grow(0, 1, 2)
        assert [cluster[node].membership for node in range(3)] == [Membership((0, 1, 2))] * 3


class TestQuorumIsKept:
    def test_c21_a_removal_that_would_lose_the_quorum_is_refused(self) -> None:
        """Three, one of them dead: of two, one would be left. Planted: no look at who is heard."""
        cluster = led()
        cluster.crash(2)
        for _ in range(8):
            cluster.heartbeat(0)
        for change in (remove(1), learner(1)):
            with pytest.raises(ChangeRefused, match=r"of the voters \[0, 2\] only \[0\] are heard"):
                cluster[0].propose_membership([change])
        cluster.change(0, remove(2))
        cluster.settle()
        assert cluster[0].is_membership_committed

    def test_c21_a_promotion_that_would_lose_the_quorum_is_refused(self) -> None:
        """Two of four alive: the joint change to 0 1 2 3 4 needs three."""
        cluster = led(3, nodes=5)
        for new in (3, 4):
            cluster.change(0, learner(new))
            cluster.settle()
            cluster.heartbeat(0)
        cluster.crash(2)
        for _ in range(8):
            cluster.heartbeat(0)
        with pytest.raises(ChangeRefused, match=r"of the voters \[2, 4\] only \[4\] are heard"):
            cluster[0].propose_membership([remove(0), remove(1), voter(4)])
        cluster.crash(4)
        for _ in range(8):
            cluster.heartbeat(0)
        with pytest.raises(ChangeRefused, match="node 4 is not heard"):
            cluster[0].propose_membership([voter(3), voter(4)])
        cluster.change(0, voter(3))
        cluster.settle()
        assert cluster[0].membership.voters == (0, 1, 2, 3)
        assert cluster[0].is_membership_committed

    def test_a_leader_does_not_leave_a_group_that_could_not_decide(self) -> None:
        cluster = led()
        cluster.crash(2)
        for _ in range(8):
            cluster.heartbeat(0)
        with pytest.raises(ChangeRefused, match=r"of the voters \[1, 2\] only \[1\] are heard"):
            cluster[0].propose_membership([remove(0)])


def joint_from_012_to_034(cluster: Cluster) -> None:
    """n0 leads 0 1 2, with learners 3 4, and has just appended the way to 0 3 4."""
    cluster.change(0, learner(3), learner(4))
    cluster.settle()
    cluster.heartbeat(0)
    cluster.change(0, voter(3), voter(4), remove(1), remove(2))
    assert cluster[0].membership == Membership((0, 3, 4), (0, 1, 2), auto_leave=True)
    assert (cluster[0].last_index, cluster[0].commit_index) == (3, 2)


class TestJoint:
    """Thesis §4.3"""

    def test_one_voter_at_a_time_needs_no_joint_membership(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.change(0, voter(3))
        assert not cluster[0].membership.is_joint
        cluster.settle()
        cluster.change(0, remove(3), joint=True)
        assert cluster[0].membership.is_joint
        with pytest.raises(ChangeRefused, match="more than one voter"):
            led().change(0, remove(1), remove(2), joint=False)

    def test_it_is_entered_committed_and_left_by_itself(self) -> None:
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.settle()
        assert memberships(cluster, 0, 3, 4) == {(0, 3, 4)}
        assert [cluster[node].membership.is_joint for node in (0, 3, 4)] == [False] * 3
        kinds = [entry.kind for index in range(1, 5) for entry in cluster[0].entries(index, 1)]
        assert kinds == [EntryKind.NOOP, *[EntryKind.MEMBERSHIP] * 3]
        assert sorted(cluster[0].progress) == [3, 4]
        assert memberships(cluster, 1, 2) == {(0, 3, 4)}, "those who are out were told"

    @pytest.mark.parametrize("side", [(1, 2), (3, 4)])
    def test_commits_need_both_majorities(self, side: tuple[int, int]) -> None:
        """Planted: the new voters alone decide; either majority decides."""
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.settle(only=lambda message: {message.src, message.dst} <= {0, *side})
        assert (cluster[0].commit_index, cluster[side[0]].last_index) == (2, 3)
        cluster.heartbeat(0)
        for _ in range(3):
            cluster.heartbeat(0)
        assert cluster[0].commit_index == 4

    @pytest.mark.parametrize("side", [(1, 2), (3, 4)])
    def test_elections_need_both_majorities(self, side: tuple[int, int]) -> None:
        """Planted: the new voters alone decide."""
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.settle(only=lambda message: not isinstance(message, AppendResponse))
        cluster.crash(0)
        for node in range(1, 5):
            assert cluster[node].membership.is_joint
            cluster[node].leader_unreachable()
        cluster.isolate(*side)
        for _ in range(100):
            cluster.tick(*side)
            cluster.settle()
        assert cluster.leaders() == [0], "the dead one"
        cluster.mend()
        cluster.crash(0)
        for _ in range(100):
            cluster.tick(1, 2, 3, 4)
            cluster.settle()
        assert len(cluster.leaders()) == 2, "together they can"

    @pytest.mark.parametrize("side", [(1, 2), (3, 4)])
    def test_reads_need_both_majorities(self, side: tuple[int, int]) -> None:
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.wire.clear()
        cluster.read(0, 7)
        for node in side:
            cluster[0].step(HeartbeatResponse(node, 0, 1, 1, 0))
        cluster.obey(0)
        assert cluster.members[0].reads == {}
        cluster[0].step(HeartbeatResponse(4 if side == (1, 2) else 1, 0, 1, 1, 0))
        cluster.obey(0)
        assert cluster.members[0].reads == {7: 2}

    def test_a_round_is_judged_by_the_membership_of_now(self) -> None:
        """n1 is no majority of four with n0, but of three."""
        cluster = led(4)
        cluster.read(0, 7)
        cluster[0].step(HeartbeatResponse(1, 0, 1, 1, 0))
        cluster.obey(0)
        assert cluster.members[0].reads == {}
        cluster.change(0, remove(3))
        assert cluster.members[0].reads == {7: 1}

    @pytest.mark.parametrize("side", [(1, 2), (3, 4)])
    def test_leases_need_both_majorities(self, side: tuple[int, int]) -> None:
        cluster = led(3, nodes=5, tick_us=1000, lease_us=7000)
        joint_from_012_to_034(cluster)
        cluster.wire.clear()
        cluster.read(0, 7)
        now_us = cluster.members[0].now_us
        for node in side:
            cluster[0].step(HeartbeatResponse(node, 0, 1, 0, now_us))
        assert not cluster[0].has_lease
        cluster[0].step(HeartbeatResponse(4 if side == (1, 2) else 1, 0, 1, 0, now_us))
        assert cluster[0].has_lease

    @pytest.mark.parametrize("side", [(1, 2), (3, 4)])
    def test_check_quorum_needs_both_majorities(self, side: tuple[int, int]) -> None:
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.wire.clear()
        cluster.isolate(0, *side)
        for _ in range(20):
            cluster.tick(0)
            cluster.settle(only=lambda message: not isinstance(message, Append))
        assert cluster[0].role is Role.FOLLOWER

    def test_c25_a_successor_finishes_it(self) -> None:
        """The leader dies when the joint membership is on every disk, before it is left. Planted: only who entered a
        joint membership leaves it.
        """
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.settle(only=lambda message: not isinstance(message, AppendResponse))
        cluster.crash(0)
        cluster.elect(3)
        assert memberships(cluster, 3, 4) == {(0, 3, 4)}
        assert not cluster[3].membership.is_joint
        assert cluster[3].is_membership_committed

    def test_c25_a_successor_that_is_on_its_way_out_finishes_it_and_goes(self) -> None:
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.settle(only=lambda message: not isinstance(message, AppendResponse))
        cluster.crash(0)
        for member in cluster.members:
            member.core.leader_unreachable()
        while cluster[1].role is Role.FOLLOWER:
            cluster.tick(1)
        cluster.settle()
        (leader,) = [node for node in cluster.leaders() if node != 0]
        assert leader in (3, 4)
        assert memberships(cluster, 3, 4) == {(0, 3, 4)}

    @pytest.mark.parametrize("step", range(60))
    def test_c25_the_leader_crashes_at_each_step(self, step: int) -> None:
        """After so many deliveries since the change was proposed. Whoever leads then, the change is made or undone as a
        whole, and the group goes on.
        """
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        for _ in range(step):
            if cluster.wire:
                cluster.deliver(cluster.wire.pop(0))
        cluster.crash(0)
        cluster.settle()
        for member in cluster.members:
            member.core.leader_unreachable()
        for _ in range(200):
            cluster.tick(1, 2, 3, 4)
            cluster.settle()
        cluster.restart(0)
        for _ in range(100):
            cluster.tick()
            cluster.settle()
        (leader,) = cluster.leaders()
        membership = cluster[leader].membership
        assert membership in (Membership((0, 3, 4)), Membership((0, 1, 2), learners=(3, 4)))
        cluster.propose(leader, b"goes on")
        cluster.settle()
        assert {cluster[node].membership for node in membership.nodes} == {membership}
        assert all(b"goes on" in cluster.members[node].committed() for node in membership.nodes)

    def test_a_joint_membership_that_is_not_left_by_itself_is_left_on_demand(self) -> None:
        """Such a one comes from elsewhere only: `propose_membership` always leaves by itself."""
        cluster = led()
        joint = enter_joint(cluster[0].membership, [remove(2)], auto_leave=False)
        cluster[0]._protocol.append_membership(joint)
        with pytest.raises(ChangeRefused, match="not committed yet"):
            cluster[0].leave_joint()
        cluster.settle()
        for _ in range(5):
            cluster.heartbeat(0)
        assert cluster[0].membership == joint
        assert cluster[0].leave_joint() == (1, 3)
        cluster.settle()
        assert cluster[0].membership == Membership((0, 1))
        with pytest.raises(ChangeRefused, match="not joint"):
            cluster[0].leave_joint()

    def test_a_group_is_replaced_whole(self) -> None:
        cluster = led(3, nodes=6)
        cluster.propose(0, b"x")
        cluster.settle()
        cluster.change(0, *(learner(node) for node in (3, 4, 5)))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.change(0, *(voter(node) for node in (3, 4, 5)), *(remove(node) for node in (0, 1, 2)))
        cluster.settle()
        (leader,) = cluster.leaders()
        assert leader in (3, 4, 5)
        cluster.propose(leader, b"y")
        cluster.settle()
        assert [cluster.members[node].committed() for node in (3, 4, 5)] == [[b"x", b"y"]] * 3

    def test_auto_leave_waits_for_the_end_of_a_transfer(self) -> None:
        """Nothing is appended meanwhile, so that the target can catch up."""
        cluster = led(3, nodes=5)
        joint_from_012_to_034(cluster)
        cluster.members[4].holds_writes = True
        cluster[0].transfer_leadership(4)
        cluster.settle()
        assert (cluster[0].is_membership_committed, cluster[0].last_index) == (True, 3)
        cluster.tick(0, count=10)
        cluster.settle()
        assert cluster[0].last_index == 4


class TestVotesByTheCandidatesMembership:
    def test_only_voters_of_it_are_asked(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster.crash(0)
        cluster[1].leader_unreachable()
        cluster.tick(1, count=3)
        assert [message.dst for message in [*cluster.wire, *cluster.lost] if isinstance(message, VoteRequest)] == [2, 0]

    def test_a_learners_vote_counts_for_nothing(self) -> None:
        cluster = led(3, nodes=4)
        cluster.change(0, learner(3))
        cluster.settle()
        cluster.heartbeat(0)
        cluster[1].leader_unreachable()
        cluster.tick(1, count=3)
        cluster[1].step(VoteResponse(3, 1, 2, granted=True, pre=True))
        assert cluster[1].role is Role.PRE_CANDIDATE


def test_who_waits_learns_everything_from_its_first_leader() -> None:
    cluster = led(1, nodes=2)
    cluster.grow(0, 1)
    assert cluster[1].membership == Membership((0, 1))
    assert cluster.members[1].log() == cluster.members[0].log()
