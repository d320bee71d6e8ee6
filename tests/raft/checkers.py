"""What must hold in every run, one checker per promise. A violation raises Violation with the numbers.

They watch from outside: what nodes send, write, apply and answer, and their logs. None knows the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tests.raft.disk import SimulatedDisk
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import AppendResponse, Entry, Message, NodeId, VoteRequest, VoteResponse
from vaultdb.raft.node import RaftNode
from vaultdb.raft.quorum import majority
from vaultdb.raft.state import Ready, Role


class Violation(AssertionError):
    """A promise of Raft was broken."""


def log_of(node: RaftNode) -> RaftLog:
    return node._log


class Observed(Protocol):
    """A node as the checkers see it."""

    id: NodeId
    disk: SimulatedDisk

    @property
    def running(self) -> RaftNode: ...


class ElectionSafety:
    """At most one leader per term (paper figure 3); one vote per node and term, over all restarts (§5.2)."""

    def __init__(self) -> None:
        self._leaders: dict[int, NodeId] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}

    def on_ready(self, node: NodeId, ready: Ready) -> None:
        soft = ready.soft_state
        if soft is not None and soft.role is Role.LEADER:
            first = self._leaders.setdefault(soft.term, node)
            if first != node:
                raise Violation(f"term {soft.term} has two leaders: n{first} and n{node}")

    def on_sent(self, message: Message) -> None:
        if isinstance(message, VoteResponse) and message.granted and not message.pre:
            self._cast(message.src, message.term, message.dst)
        elif isinstance(message, VoteRequest) and not message.pre:
            self._cast(message.src, message.term, message.src)

    def _cast(self, voter: NodeId, term: int, candidate: NodeId) -> None:
        first = self._votes.setdefault((voter, term), candidate)
        if first != candidate:
            raise Violation(f"n{voter} voted in term {term} for n{first} and for n{candidate}")


class LogMatching:
    """Two logs that have the same (term, index) are equal up to it (paper figure 3).

    By induction: whoever writes (term, index) writes the same payload after the same predecessor.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[int, bytes]] = {}

    def on_written(self, node: NodeId, log: RaftLog, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        previous_term = log.term(entries[0].index - 1)
        for entry in entries:
            first = self._seen.setdefault((entry.term, entry.index), (previous_term, entry.payload))
            if first != (previous_term, entry.payload):
                raise Violation(
                    f"n{node} wrote {entry.index}/{entry.term} as {entry.payload!r} after term {previous_term};"
                    f" elsewhere it is {first[1]!r} after term {first[0]}"
                )
            previous_term = entry.term


class CommitSafety:
    """Leader Completeness, durability of what is committed, and no way back (paper figure 3, §5.4).

    Owns the committed log as known to anyone: for index i + 1, the term of the entry and the term in which its leader
    committed it.
    """

    def __init__(self, voters: int) -> None:
        self._majority = majority(voters)
        self._committed: list[tuple[int, int]] = []
        self._commit: dict[NodeId, int] = {}
        self._watermark: dict[NodeId, int] = {}
        self._led: set[int] = set()

    @property
    def commit_index(self) -> int:
        """The highest commit index known anywhere, ever."""
        return len(self._committed)

    def reaches(self, index: int) -> bool:
        return self.commit_index >= index

    def on_restart(self, node: NodeId) -> None:
        """A node may have forgotten how far it had committed."""
        self._commit.pop(node, None)
        self._watermark.pop(node, None)

    def on_step(self, observed: Observed, everyone: Sequence[Observed]) -> None:
        """After anything happened to a node."""
        node, log = observed.running, log_of(observed.running)
        if node.role is Role.LEADER and node.term not in self._led:
            self._led.add(node.term)
            self._check_complete(observed.id, node.term, log)
        before = self._commit.get(observed.id, 0)
        if node.commit_index < before:
            raise Violation(f"n{observed.id} moved its commit index from {before} back to {node.commit_index}")
        if node.commit_index == before:
            return
        self._commit[observed.id] = node.commit_index
        if node.role is Role.LEADER and log.term(node.commit_index) != node.term:
            raise Violation(
                f"leader n{observed.id} of term {node.term} committed {node.commit_index}, an entry of term"
                f" {log.term(node.commit_index)}, by counting"
            )
        for index in range(max(before, log.base_index) + 1, node.commit_index + 1):
            self._check_committed(observed, index, log.term(index), everyone)

    def on_ready(self, node: NodeId, ready: Ready) -> None:
        before = self._watermark.get(node, 0)
        if ready.commit_index < before:
            raise Violation(f"n{node} moved its watermark from {before} back to {ready.commit_index}")
        self._watermark[node] = ready.commit_index

    def _check_committed(self, observed: Observed, index: int, term: int, everyone: Sequence[Observed]) -> None:
        if index <= len(self._committed):
            known = self._committed[index - 1][0]
            if known != term:
                raise Violation(f"n{observed.id} has term {term} committed at {index}; elsewhere it is term {known}")
            return
        holders = [other.id for other in everyone if other.disk.holds(term, index)]
        if len(holders) < self._majority:
            raise Violation(f"n{observed.id} committed {index}/{term}, which is durable on {holders} only")
        self._committed.append((term, observed.running.term))

    def _check_complete(self, node: NodeId, term: int, log: RaftLog) -> None:
        """Concerns what earlier terms committed: a candidate may learn late, in vain, that it had won an old term."""
        for index in range(log.base_index + 1, len(self._committed) + 1):
            wanted, committed_in = self._committed[index - 1]
            held = log.term(index) if index <= log.last_index else None
            if committed_in < term and held != wanted:
                raise Violation(f"n{node} leads term {term} without the committed {index}/{wanted}: it has {held}")


class StateMachineSafety:
    """Every state machine applies the same entries in the same order (paper figure 3)."""

    def __init__(self) -> None:
        self._applied: dict[int, Entry] = {}

    def on_applied(self, node: NodeId, entry: Entry) -> None:
        first = self._applied.setdefault(entry.index, entry)
        if first != entry:
            raise Violation(f"n{node} applied {entry} where {first} was applied before")


class TruthfulDurability:
    """What a node takes for durable, or acknowledges, is on its disk."""

    def on_sent(self, message: Message, disk: SimulatedDisk) -> None:
        if isinstance(message, AppendResponse) and message.accepted and message.index > disk.last_index:
            raise Violation(f"n{message.src} acknowledged {message.index}, durable is {disk.last_index}")

    def on_step(self, observed: Observed) -> None:
        stable, log = observed.running.stable_index, log_of(observed.running)
        if stable > log.last_index:
            raise Violation(f"n{observed.id} takes {stable} for durable, but its log ends at {log.last_index}")
        if not observed.disk.holds(log.term(stable), stable):
            raise Violation(
                f"n{observed.id} takes {stable}/{log.term(stable)} for durable, but its disk does not hold it"
            )


class FreshReads:
    """A confirmed read sees everything committed before it was asked."""

    def __init__(self) -> None:
        self._floors: dict[tuple[NodeId, int], int] = {}
        self._confirmed: set[tuple[NodeId, int]] = set()

    @property
    def confirmed(self) -> int:
        return len(self._confirmed)

    def was_confirmed(self, node: NodeId, context: int) -> bool:
        return (node, context) in self._confirmed

    def on_asked(self, node: NodeId, context: int, commit_index: int) -> None:
        self._floors[node, context] = commit_index

    def on_confirmed(self, node: NodeId, context: int, index: int) -> None:
        floor = self._floors.pop((node, context), None)
        if floor is None:
            raise Violation(f"n{node} confirmed read {context}, which it was not asked or had confirmed before")
        if index < floor:
            raise Violation(f"n{node} confirmed read {context} at {index}, but {floor} was committed when it was asked")
        self._confirmed.add((node, context))
