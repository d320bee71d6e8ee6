"""Reads by lease: thesis §6.4.1, and rows 10-13 of the catalogue of failures.

Here a tick is 1000 µs on every node's clock, the minimum election timeout 10 ticks, a lease 7000 µs.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tests.raft.cluster import Cluster
from vaultdb.raft.membership import Change, ChangeKind
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndex,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.state import CLOCK_DRIFT_PERCENT, Role, lease_us_max

LEASE_US = 7000


def leased(size: int = 3, *, tick_us: int = 1000, lease_us: int = LEASE_US, **settings: Any) -> Cluster:
    """n0 leads, has served a read by a round, and so has a lease if it may have one at all."""
    cluster = Cluster(size, tick_us=tick_us, lease_us=lease_us, **settings)
    cluster.elect(0)
    cluster.propose(0, b"x")
    cluster.settle()
    cluster.read(0, 1)
    cluster.settle()
    assert cluster.members[0].reads == {1: 2}
    return cluster


def beats(cluster: Cluster) -> list[Heartbeat]:
    return [message for message in cluster.wire if isinstance(message, Heartbeat)]


class TestReadsByLease:
    def test_a_read_is_served_at_once(self) -> None:
        """No message leaves."""
        cluster = leased()
        assert cluster[0].has_lease
        cluster.read(0, 2)
        assert (cluster.members[0].reads, cluster.wire) == ({1: 2, 2: 2}, [])

    def test_c12_it_is_counted_from_when_the_request_was_sent(self) -> None:
        """A heartbeat of time t is answered 6 ticks later: the lease ends at t + 7 ticks, not at t + 13. Planted:
        counted from the answer's arrival.
        """
        cluster = leased()
        cluster.tick(0, count=8)
        cluster.wire.clear()
        assert not cluster[0].has_lease
        cluster.read(0, 2)
        sent = beats(cluster)
        assert [beat.lease_us for beat in sent] == [cluster.members[0].now_us] * 2
        cluster.tick(0, count=6)
        cluster.wire.clear()
        cluster.deliver(sent[0])
        cluster.settle()
        assert cluster[0].has_lease
        cluster.tick(0)
        assert not cluster[0].has_lease

    def test_c12_it_ends_at_its_time_to_the_microsecond(self) -> None:
        cluster = leased()
        now_us = cluster.members[0].now_us
        cluster[0].clock(now_us + LEASE_US - 1)
        assert cluster[0].has_lease
        cluster[0].clock(now_us + LEASE_US)
        assert not cluster[0].has_lease

    def test_c12_after_a_stall_it_is_over(self) -> None:
        """The process stood still, without a tick; the clock went on. A read that waited is served by a round. Planted:
        a lease counted in ticks.
        """
        cluster = leased()
        cluster.isolate(0)
        cluster.members[0].now_us += 60_000_000
        cluster.read(0, 2)
        assert 2 not in cluster.members[0].reads
        cluster.mend()
        cluster.heartbeat(0)
        assert cluster.members[0].reads[2] == 2

    def test_after_expiry_a_round_is_asked(self) -> None:
        cluster = leased()
        cluster.isolate(0)
        cluster.tick(0, count=7)
        assert (cluster[0].role, cluster[0].has_lease) == (Role.LEADER, False)
        cluster.mend()
        cluster.read(0, 2)
        assert {beat.round for beat in beats(cluster)} == {2}
        cluster.settle()
        assert cluster.members[0].reads == {1: 2, 2: 2}

    def test_heartbeats_renew_it_while_reads_come_in(self) -> None:
        cluster = leased()
        for context in range(2, 50):
            cluster.heartbeat(0)
            cluster.trace.clear()
            cluster.read(0, context)
            assert cluster.members[0].reads[context] == 2
            assert not any("round" in line for line in cluster.trace)

    def test_without_reads_none_is_asked_for(self) -> None:
        """Promises delay the election after the leader's death: a group that only writes gives none."""
        cluster = leased()
        for _ in range(12):
            cluster.heartbeat(0)
        assert not cluster[0].has_lease
        cluster.tick(0, count=3)
        assert [beat.lease_us for beat in beats(cluster)] == [0, 0]
        writes_only = Cluster(tick_us=1000, lease_us=LEASE_US)
        writes_only.elect(0)
        for _ in range(5):
            writes_only.tick(0, count=3)
            assert [beat.lease_us for beat in beats(writes_only)] == [0, 0]
            writes_only.settle()

    def test_a_follower_reads_through_the_leaders_lease(self) -> None:
        """One question, one answer, and no round."""
        cluster = leased()
        cluster.trace.clear()
        cluster.read(1, 5)
        cluster.settle()
        assert cluster.members[1].reads == {5: 2}
        assert len([line for line in cluster.trace if "→" in line]) == 2

    def test_a_minority_makes_no_lease(self) -> None:
        cluster = leased(5)
        cluster.tick(0, count=8)
        cluster.wire.clear()
        cluster[0].step(HeartbeatResponse(1, 0, 1, 0, cluster.members[0].now_us))
        assert not cluster[0].has_lease
        cluster[0].step(HeartbeatResponse(2, 0, 1, 0, cluster.members[0].now_us))
        assert cluster[0].has_lease

    def test_the_second_best_answer_counts(self) -> None:
        """Of three, the leader and the latest; of five the second latest: Progress keeps the latest of each."""
        cluster = leased(5)
        start_us = cluster.members[0].now_us
        cluster.tick(0, count=8)
        for peer, stamp_us in ((1, start_us + 1), (2, start_us + 9), (3, start_us + 5), (3, start_us + 4)):
            cluster[0].step(HeartbeatResponse(peer, 0, 1, 0, stamp_us))
        cluster[0].clock(start_us + 5 + LEASE_US - 1)
        assert cluster[0].has_lease
        cluster[0].clock(start_us + 5 + LEASE_US)
        assert not cluster[0].has_lease


class TestNoLease:
    def test_when_the_clock_is_never_told(self) -> None:
        cluster = leased(tick_us=0)
        assert not cluster[0].has_lease
        cluster.read(0, 2)
        assert {(beat.round, beat.lease_us) for beat in beats(cluster)} == {(2, 0)}

    def test_when_the_time_was_told_before_the_read_came_in(self) -> None:
        """It may have stood still since: whatever the lease says, it says nothing about now."""
        cluster = leased()
        assert cluster[0].has_lease
        cluster[0].request_read(2)
        assert not cluster[0].has_lease
        assert cluster[0].ready().read_states == []
        cluster[0].clock(cluster.members[0].now_us)
        assert cluster[0].has_lease
        cluster[0].step(ReadIndex(1, 0, 1, 9))
        assert not cluster[0].has_lease

    def test_when_they_are_switched_off(self) -> None:
        cluster = leased(lease_us=0)
        assert not cluster[0].has_lease
        cluster.read(0, 2)
        assert {beat.lease_us for beat in beats(cluster)} == {0}

    def test_c10_before_the_first_commit_of_the_term(self) -> None:
        """n1 leads, with promises of both others; its commit index lacks what n0 acknowledged. Planted: a lease used at
        once.
        """
        cluster = Cluster(tick_us=1000, lease_us=LEASE_US)
        cluster.elect(0)
        cluster.propose(0, b"x")
        cluster.settle(only=lambda message: not isinstance(message, Append) or bool(message.entries))
        assert (cluster[0].commit_index, cluster[1].commit_index) == (2, 1)

        def not_append(message: Message) -> bool:
            return not isinstance(message, Append)

        cluster.isolate(0)
        for node in (1, 2):
            cluster[node].leader_unreachable()
        while cluster[1].role is Role.FOLLOWER:
            cluster.tick(1)
        cluster.settle(only=not_append)
        assert (cluster[1].role, cluster[1].commit_index) == (Role.LEADER, 1)
        cluster.read(1, 7)
        cluster.tick(1, count=3)
        cluster.settle(only=not_append)
        assert (cluster[1].progress[2].lease_us > 0, cluster[1].has_lease) == (True, False), "n2 has promised"
        cluster.read(1, 8)
        assert cluster.members[1].reads == {}
        cluster.heartbeat(1)
        assert cluster.members[1].reads == {7: 3, 8: 3}

    def test_c13_while_leadership_is_handed_over(self) -> None:
        """Another may lead at any moment. A round serves the read instead. Planted: the lease goes on."""
        cluster = leased()
        cluster.isolate(2)
        cluster[0].propose([b"y"])
        cluster.transfer(0, 2)
        assert not cluster[0].has_lease
        cluster.settle()
        cluster.read(0, 2)
        assert 2 not in cluster.members[0].reads
        cluster.settle()
        assert cluster.members[0].reads == {1: 2, 2: 3}

    def test_c13_after_a_handover_that_was_given_up(self) -> None:
        """TimeoutNow left, and may arrive at any time: no lease any more in this term. Planted: the lease comes back
        with the transfer's end.
        """
        cluster = leased()
        cluster.transfer(0, 2)
        late = cluster.wire.pop(0)
        assert isinstance(late, TimeoutNow)
        cluster.tick(0, count=10)
        assert cluster[0].transferring == NOBODY
        cluster.settle()
        cluster.read(0, 2)
        cluster.settle()
        cluster.heartbeat(0)
        assert (cluster[0].role, cluster[0].has_lease) == (Role.LEADER, False)
        cluster.isolate(0)
        cluster.deliver(late)
        cluster.settle()
        cluster.propose(2, b"new")
        cluster.settle()
        assert (cluster.members[2].committed(), cluster.leaders()) == ([b"x", b"new"], [0, 2])
        cluster.read(0, 3)
        assert 3 not in cluster.members[0].reads, "it would not see what n2 has acknowledged"

    def test_c13_a_given_up_transfer_whose_order_never_left_keeps_the_lease(self) -> None:
        cluster = leased()
        cluster.isolate(2)
        cluster.propose(0, b"y")
        cluster.settle()
        cluster.transfer(0, 2)
        for _ in range(10):
            cluster.tick(0)
            cluster.settle()
        cluster.read(0, 2)
        cluster.settle()
        assert cluster[0].has_lease

    def test_c13_the_next_term_has_leases_again(self) -> None:
        cluster = leased()
        cluster.transfer(0, 2)
        cluster.settle()
        cluster.read(2, 2)
        cluster.settle()
        assert cluster[2].has_lease
        cluster.transfer(2, 0)
        cluster.settle()
        cluster.read(0, 3)
        cluster.settle()
        assert cluster[0].has_lease

    def test_c11_promises_of_a_former_term_are_worth_nothing(self) -> None:
        """n0 leads again; what was promised to it as leader of term 1 is no promise now."""
        cluster = leased()
        old = HeartbeatResponse(1, 0, 1, 0, cluster.members[0].now_us)
        cluster.transfer(0, 2)
        cluster.settle()
        cluster.transfer(2, 0)
        cluster.settle()
        assert (cluster[0].role, cluster[0].term) == (Role.LEADER, 3)
        cluster[0].step(old)
        assert not cluster[0].has_lease

    def test_c19_a_leader_that_removes_itself_counts_no_promise_of_its_own(self) -> None:
        """n1's is not enough: n2 and n3 could elect one of theirs."""
        cluster = leased(4)
        cluster.isolate(0, 1)
        cluster.change(0, Change(ChangeKind.REMOVE, 0))
        cluster.tick(0, count=8)
        cluster[0].step(HeartbeatResponse(1, 0, 1, 0, cluster.members[0].now_us))
        assert not cluster[0].has_lease
        cluster[0].step(HeartbeatResponse(2, 0, 1, 0, cluster.members[0].now_us))
        assert cluster[0].has_lease


class TestPromises:
    """What a follower that answered a lease request holds to: no support for anybody else, for 10 of its ticks."""

    @staticmethod
    def promised(*, lease_us: int = LEASE_US) -> Cluster:
        """n1 has just promised to n0. Everybody has the same log."""
        cluster = Cluster(logs=[[1], [1], [1]], term=1, lease_us=lease_us, tick_us=1000)
        cluster[1].step(Heartbeat(0, 1, 1, 0, 0, 500))
        cluster.obey(1)
        assert cluster.wire == [HeartbeatResponse(1, 0, 1, 0, 500)]
        cluster.wire.clear()
        return cluster

    @staticmethod
    def supports(cluster: Cluster, *, pre: bool, transfer: bool = False) -> bool:
        cluster.wire.clear()
        cluster[1].step(VoteRequest(2, 1, cluster[1].term + 1, 1, 1, pre, transfer))
        cluster.obey(1)
        return any(isinstance(message, VoteResponse) and message.granted for message in cluster.wire)

    @pytest.mark.parametrize("pre", [False, True])
    def test_a_promise_outlives_a_broken_connection(self, pre: bool) -> None:
        """Planted: leader_unreachable ends it."""
        cluster = self.promised()
        cluster[1].leader_unreachable()
        for _ in range(10):
            assert not self.supports(cluster, pre=pre)
            cluster.tick(1)
        assert cluster[1].term == 1
        assert self.supports(cluster, pre=pre)

    def test_without_one_a_broken_connection_frees_at_once(self) -> None:
        cluster = Cluster(lease_us=LEASE_US)
        cluster[1].step(Heartbeat(0, 1, 1, 0, 0, 0))
        cluster[1].leader_unreachable()
        assert self.supports(cluster, pre=True)

    def test_who_promised_does_not_stand_itself(self) -> None:
        """After a broken connection it stands within `unreachable_ticks_max` ticks of the promise's end."""
        for seed in range(20):
            cluster = Cluster(tick_us=1000, lease_us=LEASE_US, seed=seed)
            cluster.elect(0)
            cluster.tick(1, count=3)
            cluster[1].step(Heartbeat(0, 1, 1, 0, 0, 500))
            cluster[1].leader_unreachable()
            cluster.tick(1, count=9)
            assert (cluster[1].role, cluster[1].leader) == (Role.FOLLOWER, 0)
            cluster.tick(1, count=4)
            assert (cluster[1].role, cluster[1].leader) == (Role.PRE_CANDIDATE, NOBODY)

    def test_c12_a_promise_survives_a_restart(self) -> None:
        """A restarted node cannot know what it promised, so it is bound for a minimum election timeout. Planted: it
        starts unbound.
        """
        cluster = self.promised()
        cluster.crash(1)
        cluster.restart(1)
        for _ in range(10):
            assert not self.supports(cluster, pre=False)
            cluster.tick(1)
        assert self.supports(cluster, pre=False)

    def test_c12_a_node_that_could_not_remember_promises_nothing(self) -> None:
        """Nothing is durable yet: after a crash it would be as new, and unbound. Planted: it promises at once."""
        cluster = Cluster(tick_us=1000, lease_us=LEASE_US)
        cluster.members[1].holds_writes = True
        cluster[1].step(Heartbeat(0, 1, 1, 0, 3, 500))
        cluster.obey(1)
        assert cluster.wire == [HeartbeatResponse(1, 0, 1, 3, 0)]
        cluster[1].step(Append(0, 1, 1, 0, 0, 0, [Entry(1, 1, EntryKind.NOOP, b"")]))
        cluster[1].step(Heartbeat(0, 1, 1, 0, 3, 600))
        cluster.obey(1)
        assert cluster.wire[-1] == HeartbeatResponse(1, 0, 1, 3, 0)
        cluster.sync(1)
        cluster[1].step(Heartbeat(0, 1, 1, 0, 3, 700))
        cluster.obey(1)
        assert cluster.wire[-1] == HeartbeatResponse(1, 0, 1, 3, 700)

    def test_c12_a_node_with_leases_off_promises_nothing(self) -> None:
        """Whatever the leader's settings: it would not be bound after a restart. Planted: it promises."""
        cluster = Cluster(logs=[[1], [1], [1]], term=1)
        cluster[1].step(Heartbeat(0, 1, 1, 0, 3, 500))
        cluster.obey(1)
        assert cluster.wire == [HeartbeatResponse(1, 0, 1, 3, 0)]
        cluster[1].leader_unreachable()
        assert self.supports(cluster, pre=True)

    def test_c12_a_restart_binds_where_leases_were_just_turned_off(self) -> None:
        """If the driver says so."""
        for bound in (False, True):
            cluster = Cluster(logs=[[1], [1], [1]], bound_at_start=bound)
            assert self.supports(cluster, pre=False) is not bound
            cluster.tick(1, count=10)
            assert self.supports(cluster, pre=False)

    def test_who_leads_is_bound_no_more(self) -> None:
        """Whoever had the promise has handed over, or its lease has run out."""
        cluster = self.promised()
        cluster[1].step(TimeoutNow(0, 1, 1, 1))
        cluster.settle()
        assert cluster[1].role is Role.LEADER
        cluster[1].step(HeartbeatResponse(2, 1, 3, 0, 0))
        cluster[1].step(VoteRequest(2, 1, 3, 9, 2, pre=False, transfer=False))
        cluster.obey(1)
        assert cluster.wire == [VoteResponse(1, 2, 3, granted=True, pre=False)]

    def test_with_leases_off_a_restart_binds_nobody(self) -> None:
        cluster = Cluster(logs=[[1], [1], [1]])
        cluster.crash(1)
        cluster.restart(1)
        assert self.supports(cluster, pre=False)

    def test_a_promise_survives_a_new_term(self) -> None:
        """That came with another message; the leader's lease may still run."""
        cluster = self.promised()
        cluster[1].step(HeartbeatResponse(2, 1, 7, 0, 0))
        assert cluster[1].term == 7
        assert not self.supports(cluster, pre=True)
        cluster.wire.clear()
        cluster[1].step(VoteRequest(2, 1, 7, 1, 1, pre=False, transfer=False))
        cluster.obey(1)
        assert cluster.wire == [VoteResponse(1, 2, 7, granted=False, pre=False)]

    def test_c13_the_leader_itself_releases_it(self) -> None:
        """By handing over: it has given its own lease up before."""
        assert self.supports(self.promised(), pre=False, transfer=True)
        cluster = self.promised()
        cluster[1].step(TimeoutNow(0, 1, 1, 1))
        assert cluster[1].role is Role.CANDIDATE

    def test_a_new_leader_is_followed(self) -> None:
        """It has a quorum without this node: what is promised is no support, not disobedience."""
        cluster = self.promised()
        cluster[1].step(Heartbeat(2, 1, 2, 0, 0, 0))
        assert (cluster[1].term, cluster[1].leader) == (2, 2)

    def test_who_is_in_a_newer_term_promises_nothing(self) -> None:
        cluster = Cluster(logs=[[1], [1], [1]], term=5, lease_us=LEASE_US)
        cluster[1].step(Heartbeat(0, 1, 4, 0, 3, 500))
        cluster.obey(1)
        assert cluster.wire == [HeartbeatResponse(1, 0, 5, 3, 0)]

    def test_a_promise_is_renewed_with_every_answer(self) -> None:
        cluster = self.promised()
        cluster.tick(1, count=9)
        cluster[1].step(Heartbeat(0, 1, 1, 0, 0, 700))
        cluster[1].leader_unreachable()
        cluster.tick(1, count=9)
        assert not self.supports(cluster, pre=True)

    def test_the_first_failover_after_writes_alone_is_fast(self) -> None:
        """No read, no promise: a broken connection leads to an election within `unreachable_ticks_max`."""
        cluster = Cluster(tick_us=1000, lease_us=LEASE_US)
        cluster.elect(0)
        cluster.tick(count=10)
        cluster.settle()
        cluster.crash(0)
        for node in (1, 2):
            cluster[node].leader_unreachable()
        cluster.tick(1, count=3)
        cluster.settle()
        assert cluster[1].role is Role.LEADER


class TestDrift:
    @pytest.mark.parametrize("election_ticks_min", [2, 3, 10, 30])
    @pytest.mark.parametrize("tick_us", [1, 999, 1000, 10_000])
    def test_c12_the_longest_lease_is_over_before_the_shortest_promise(
        self, election_ticks_min: int, tick_us: int
    ) -> None:
        """The follower's clock runs fast by the bound and its first tick comes at once. What it counts as n ticks takes
        at least n - 1 of them in truth, over 1.2.
        """
        promise_us = Fraction((election_ticks_min - 1) * tick_us * 100, 100 + CLOCK_DRIFT_PERCENT)
        assert lease_us_max(election_ticks_min, tick_us) <= promise_us

    def test_it_is_worth_having(self) -> None:
        assert lease_us_max(30, 10_000) == 232_000

    @pytest.mark.parametrize("percent", [80, 90, 100, 110, 120])
    def test_c12_no_stale_read_whatever_the_clocks_rates(self, percent: int) -> None:
        """The leader is cut off at the worst moment; the others, whose clocks run at `percent` of its own, elect
        another. While the old leader has its lease that must not have happened. Planted: promises of half the minimum
        timeout.
        """
        cluster = Cluster(tick_us=1000, lease_us=lease_us_max(10, 1000), unreachable_ticks_max=1, election_ticks_max=11)
        cluster.elect(0)
        for context in range(5):
            cluster.heartbeat(0)
            cluster.read(0, context)
            cluster.settle()
        # The worst: all that was promised was promised just before a tick.
        cluster.isolate(0)
        for node in (1, 2):
            cluster[node].leader_unreachable()
        ticked = 0
        for tick in range(40):
            while ticked < 1 + tick * percent // 100:
                for node in (1, 2):
                    cluster.tick(node)
                    cluster.settle()
                ticked += 1
            assert not (cluster[0].has_lease and cluster.leaders() != [0]), f"after {tick} ticks"
            cluster.tick(0)
        assert cluster[1].role is Role.LEADER or cluster[2].role is Role.LEADER


def test_a_single_node_needs_no_promises() -> None:
    cluster = Cluster(1, tick_us=1000, lease_us=LEASE_US)
    cluster.elect(0)
    cluster.read(0, 7)
    assert (cluster.members[0].reads, cluster[0].has_lease) == ({7: 1}, True)


def test_c14_a_read_by_lease_names_the_commit_index_of_the_leader() -> None:
    """The asker waits until it has applied that: n1 lags behind."""
    cluster = leased()
    cluster.isolate(1)
    cluster.propose(0, b"y")
    cluster.settle()
    cluster.mend()
    cluster[1].request_read(9)
    assert cluster[1].ready().messages_now == [ReadIndex(1, 0, 1, 9)]
    cluster[0].step(ReadIndex(1, 0, 1, 9))
    cluster.obey(0)
    cluster.settle()
    assert (cluster.members[1].reads, cluster[1].commit_index) == ({9: 3}, 2)
