"""Log, votes and commits: what holds a term and an entry in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from tests.simulation.bugs.planting import DEAD, FOLLOWERS, LOST, Patches, bug
from vaultdb.raft import election, protocol, replication
from vaultdb.raft.election import ElectionTimer
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    Entry,
    Heartbeat,
    HeartbeatResponse,
)
from vaultdb.raft.node import RaftNode
from vaultdb.raft.protocol import HANDLERS, Protocol
from vaultdb.raft.quorum import joint_committed_index
from vaultdb.raft.replication import Replication
from vaultdb.raft.state import Ready


@bug(1, seeds=200, symptom="by counting")
def old_terms_are_committed_by_counting(patches: Patches) -> None:
    def maybe_commit(self: Replication) -> None:
        matched = {peer: progress.match_index for peer, progress in self.progress.items()}
        matched[self._config.id] = self._log.stable_index
        index = joint_committed_index(self._log.membership.voter_sets, matched)
        self._log.commit_to(max(self._log.commit_index, index))

    patches.setattr(Replication, "maybe_commit", maybe_commit)


@bug(2, seeds=200, symptom="voted in term|has two leaders")
def votes_are_not_persisted(patches: Patches) -> None:
    original = RaftNode.ready

    def ready(self: RaftNode) -> Ready:
        given = original(self)
        if given.hard_state is not None:
            given.hard_state = given.hard_state._replace(vote=NOBODY)
        return given

    patches.setattr(RaftNode, "ready", ready)


@bug(2, seeds=20, symptom="acknowledged .* durable is|is durable on")
def acknowledgements_leave_before_the_sync(patches: Patches) -> None:
    original = RaftNode.ready

    def ready(self: RaftNode) -> Ready:
        given = original(self)
        given.messages_now = [*given.messages_now, *given.messages_after_sync]
        given.messages_after_sync = []
        return given

    patches.setattr(RaftNode, "ready", ready)


@bug(2, seeds=50, symptom="acknowledged .* durable is|is durable on")
def a_repeated_acknowledgement_overtakes_the_write(patches: Patches) -> None:
    patches.setattr(RaftLog, "writes_outstanding", False)


@bug(3, 9, seeds=50, symptom="is durable on")
def a_leader_counts_its_unfinished_write(patches: Patches) -> None:
    def maybe_commit(self: Replication) -> None:
        matched = {peer: progress.match_index for peer, progress in self.progress.items()}
        matched[self._config.id] = self._log.last_index
        index = joint_committed_index(self._log.membership.voter_sets, matched)
        if index >= self.first_index:
            self._log.commit_to(index)

    patches.setattr(Replication, "maybe_commit", maybe_commit)


@bug(9, seeds=200, symptom="for durable, but its|" + LOST)
def late_completions_vouch_for_replaced_entries(patches: Patches) -> None:
    original = RaftLog._truncate

    def truncate(self: RaftLog, last: int) -> None:
        marks = deque(self._writes)
        original(self, last)
        self._writes = marks

    patches.setattr(RaftLog, "_truncate", truncate)


@bug(4, seeds=200, symptom=LOST + "|has term|moved its commit")
def heartbeats_commit_an_unmatched_tail(patches: Patches) -> None:
    """The leader sends its whole commit index, and the follower believes it."""

    def heartbeats(self: Replication, read_round: int, lease_us: int) -> list[Heartbeat]:
        commit = self._log.commit_index
        return [Heartbeat(self._config.id, peer, self._term, commit, read_round, lease_us) for peer in self.progress]

    def on_heartbeat(self: Protocol, heartbeat: Heartbeat) -> None:
        self._follow(heartbeat.src)
        self.log.commit_to(min(heartbeat.commit, self.log.last_index))
        if heartbeat.lease_us:
            self.timer.promise()
        self.now.append(HeartbeatResponse(self.id, heartbeat.src, self.term, heartbeat.round, heartbeat.lease_us))

    patches.setattr(Replication, "heartbeats", heartbeats)
    for role in FOLLOWERS:
        patches.setitem(HANDLERS[role], Heartbeat, on_heartbeat)


@bug(4, seeds=300, symptom=LOST + "|has term")
def appends_commit_an_unmatched_tail(patches: Patches) -> None:
    original = replication.accept_append

    def accept_append(log: RaftLog, append: Append) -> Any:
        answer = original(log, append)
        if answer is not None and answer[0]:
            log.commit_to(min(append.commit, log.last_index))
        return answer

    patches.setattr(protocol, "accept_append", accept_append)


@bug(5, seeds=60, symptom="acknowledged|for durable|" + LOST)
def a_late_append_truncates(patches: Patches) -> None:
    original = RaftLog.merge

    def merge(self: RaftLog, entries: Sequence[Entry]) -> None:
        original(self, entries)
        if entries and entries[-1].index < self.last_index:
            self._truncate(max(entries[-1].index, self.commit_index))

    patches.setattr(RaftLog, "merge", merge)


@bug(7, seeds=50, symptom=LOST)
def votes_ignore_the_log(patches: Patches) -> None:
    def deserves_vote(request: Any, **state: Any) -> bool:
        return election.deserves_vote(request, **{**state, "last_index": 0, "last_term": 0})

    patches.setattr(protocol, "deserves_vote", deserves_vote)


@bug(7, seeds=100, symptom="has two leaders|" + LOST)
def a_refusal_counts_as_a_vote(patches: Patches) -> None:
    original = Protocol._count_vote

    def count_vote(self: Protocol, ballot: Any, voter: int, *, granted: bool) -> None:
        original(self, ballot, voter, granted=granted or not ballot.pre)

    patches.setattr(Protocol, "_count_vote", count_vote)


@bug(15, 16, seeds=200, symptom=DEAD)
def nobody_stands_after_losing_an_election(patches: Patches) -> None:
    """The timer fires once in a life."""
    original = ElectionTimer.tick

    def tick(self: ElectionTimer) -> bool:
        due = original(self)
        if due and getattr(self, "fired", False):
            return False
        if due:
            self.fired = True  # type: ignore[attr-defined]
        return due

    patches.setattr(ElectionTimer, "tick", tick)


@bug(39, seeds=100, symptom=DEAD)
def lost_appends_are_not_sent_again(patches: Patches) -> None:
    patches.setattr(replication, "QUIET_HEARTBEATS_MAX", 1 << 30)
