"""Each of these bugs is planted into the core, and the simulation must find it within the stated number of seeds.

They are bugs that real implementations had (rows of the catalogue of failures in brackets). A checker that finds
none of them proves nothing when it finds nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.raft.simulation import SimulationFailed, run_seed
from vaultdb.raft import election
from vaultdb.raft.election import ElectionTimer
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import NOBODY, Entry, Heartbeat, HeartbeatResponse
from vaultdb.raft.node import RaftNode
from vaultdb.raft.protocol import HANDLERS, Protocol
from vaultdb.raft.quorum import committed_index
from vaultdb.raft.reads import ReadRounds
from vaultdb.raft.replication import Replication
from vaultdb.raft.state import Ready, Role

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: list[tuple[Plant, int, str]] = []


def bug(seeds: int, symptom: str) -> Callable[[Plant], Plant]:
    """Must be found in one of the first `seeds` seeds, by a failure that says `symptom` (a regular expression)."""

    def register(plant: Plant) -> Plant:
        BUGS.append((plant, seeds, symptom))
        return plant

    return register


@bug(seeds=20, symptom="by counting")
def old_terms_are_committed_by_counting(patch: pytest.MonkeyPatch) -> None:
    """[1]"""

    def maybe_commit(self: Replication) -> None:
        matched = [progress.match_index for progress in self.progress.values()]
        self._log.commit_to(max(self._log.commit_index, committed_index([self._log.stable_index, *matched])))

    patch.setattr(Replication, "maybe_commit", maybe_commit)


@bug(seeds=100, symptom="voted in term|has two leaders")
def votes_are_not_persisted(patch: pytest.MonkeyPatch) -> None:
    """[2]"""
    original = RaftNode.ready

    def ready(self: RaftNode) -> Ready:
        given = original(self)
        if given.hard_state is not None:
            given.hard_state = given.hard_state._replace(vote=NOBODY)
        return given

    patch.setattr(RaftNode, "ready", ready)


@bug(seeds=5, symptom="acknowledged .* durable is|is durable on")
def acknowledgements_leave_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """[2]"""
    original = RaftNode.ready

    def ready(self: RaftNode) -> Ready:
        given = original(self)
        given.messages_now = [*given.messages_now, *given.messages_after_sync]
        given.messages_after_sync = []
        return given

    patch.setattr(RaftNode, "ready", ready)


@bug(seeds=20, symptom="acknowledged .* durable is|is durable on")
def a_repeated_acknowledgement_overtakes_the_write(patch: pytest.MonkeyPatch) -> None:
    """[2]"""
    patch.setattr(RaftLog, "writes_outstanding", False)


@bug(seeds=20, symptom="acknowledged|is durable on|without the committed|for durable|applied .* of ")
def a_late_append_truncates(patch: pytest.MonkeyPatch) -> None:
    """[5]"""
    original = RaftLog.merge

    def merge(self: RaftLog, entries: Sequence[Entry]) -> None:
        original(self, entries)
        if entries and entries[-1].index < self.last_index:
            self._truncate(max(entries[-1].index, self.commit_index))

    patch.setattr(RaftLog, "merge", merge)


@bug(seeds=100, symptom="committed at|has term|below the commit index|where term")
def heartbeats_commit_an_unmatched_tail(patch: pytest.MonkeyPatch) -> None:
    """[4] The leader sends its whole commit index, and the follower believes it."""

    def heartbeats(self: Replication, read_round: int) -> list[Heartbeat]:
        return [
            Heartbeat(self._config.id, peer, self._term, self._log.commit_index, read_round) for peer in self.progress
        ]

    def on_heartbeat(self: Protocol, heartbeat: Heartbeat) -> None:
        self._follow(heartbeat.src)
        self.log.commit_to(min(heartbeat.commit, self.log.last_index))
        self.now.append(HeartbeatResponse(self.id, heartbeat.src, self.term, heartbeat.round))

    patch.setattr(Replication, "heartbeats", heartbeats)
    for role in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE):
        patch.setitem(HANDLERS[role], Heartbeat, on_heartbeat)


@bug(seeds=50, symptom="was committed when it was asked")
def reads_are_served_before_the_first_commit(patch: pytest.MonkeyPatch) -> None:
    """[10]"""

    def can_start_round(self: Protocol) -> bool:
        return self.rounds is not None and self.rounds.startable

    patch.setattr(Protocol, "_can_start_round", can_start_round)


@bug(seeds=50, symptom="was committed when it was asked")
def reads_join_the_running_round(patch: pytest.MonkeyPatch) -> None:
    """[11]"""

    def ask(self: ReadRounds, origin: int, context: int) -> None:
        (self._running or self._waiting).append((origin, context))

    patch.setattr(ReadRounds, "ask", ask)


@bug(seeds=50, symptom="was committed when it was asked")
def reads_need_no_round(patch: pytest.MonkeyPatch) -> None:
    """[11]"""

    def confirm_self(self: ReadRounds) -> Any:
        confirmed, self._running = self._running, []
        return self._index, confirmed

    patch.setattr(ReadRounds, "confirm_self", confirm_self)


@bug(seeds=20, symptom="without the committed|committed at")
def votes_ignore_the_log(patch: pytest.MonkeyPatch) -> None:
    """[7]"""

    def deserves_vote(request: Any, **state: Any) -> bool:
        return election.deserves_vote(request, **{**state, "last_index": 0, "last_term": 0})

    patch.setattr("vaultdb.raft.protocol.deserves_vote", deserves_vote)


@bug(seeds=20, symptom="is durable on")
def a_leader_counts_its_unfinished_write(patch: pytest.MonkeyPatch) -> None:
    """[3, 9]"""

    def maybe_commit(self: Replication) -> None:
        matched = [progress.match_index for progress in self.progress.values()]
        index = committed_index([self._log.last_index, *matched])
        if index >= self.first_index:
            self._log.commit_to(index)

    patch.setattr(Replication, "maybe_commit", maybe_commit)


@bug(seeds=50, symptom="for durable, but its")
def late_completions_vouch_for_replaced_entries(patch: pytest.MonkeyPatch) -> None:
    """[9]"""
    original = RaftLog._truncate

    def truncate(self: RaftLog, last: int) -> None:
        marks = deque(self._writes)
        original(self, last)
        self._writes = marks

    patch.setattr(RaftLog, "_truncate", truncate)


@bug(seeds=100, symptom="nothing committed|applied .* of|did not confirm")
def nobody_stands_after_losing_an_election(patch: pytest.MonkeyPatch) -> None:
    """[15, 16] A liveness bug: the timer fires once in a life."""
    original = ElectionTimer.tick

    def tick(self: ElectionTimer) -> bool:
        due = original(self)
        if due and getattr(self, "fired", False):
            return False
        if due:
            self.fired = True  # type: ignore[attr-defined]
        return due

    patch.setattr(ElectionTimer, "tick", tick)


@bug(seeds=50, symptom="nothing committed|applied .* of|did not confirm")
def lost_appends_are_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    """[39]"""
    patch.setattr("vaultdb.raft.replication.QUIET_HEARTBEATS_MAX", 1 << 30)


@pytest.mark.parametrize(("plant", "seeds", "symptom"), BUGS, ids=[plant.__name__ for plant, _, _ in BUGS])
def test_the_simulation_finds(plant: Plant, seeds: int, symptom: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(SimulationFailed, match=symptom):
        _run_seeds(seeds)


def _run_seeds(seeds: int) -> None:
    for seed in range(seeds):
        run_seed(seed)
