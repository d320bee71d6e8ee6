"""What must hold in every run, one checker per promise. A broken one raises Violation, with the numbers.

They watch from outside: what nodes send, write, apply and answer, and what their disks hold. None knows the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.simulation.disk import Disk
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import AppendResponse, NodeId, VoteRequest, VoteResponse
from vaultdb.raft.node import RaftNode
from vaultdb.raft.quorum import has_quorum
from vaultdb.raft.state import Ready, Role
from vaultdb.wire.codec import unpack


class Violation(AssertionError):
    """A promise was broken."""


def log_of(raft: RaftNode) -> RaftLog:
    return raft._log


class Observed(Protocol):
    """A node as the checkers see it."""

    id: NodeId
    disk: Disk
    is_lost: bool
    """It may have held, and acknowledged, what its disk holds no more."""


class ElectionSafety:
    """At most one leader per term (paper figure 3); one vote per node and term, over all restarts (§5.2)."""

    def __init__(self) -> None:
        self._leaders: dict[int, NodeId] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}

    @property
    def terms_led(self) -> int:
        return len(self._leaders)

    def on_ready(self, node: NodeId, ready: Ready) -> None:
        soft = ready.soft_state
        if soft is not None and soft.role is Role.LEADER:
            first = self._leaders.setdefault(soft.term, node)
            if first != node:
                raise Violation(f"term {soft.term} has two leaders: n{first} and n{node}")

    def on_sent(self, item: Any) -> None:
        if isinstance(item, VoteResponse) and item.granted and not item.pre:
            self._cast(item.src, item.term, item.dst)
        elif isinstance(item, VoteRequest) and not item.pre:
            self._cast(item.src, item.term, item.src)

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

    def on_ready(self, node: NodeId, log: RaftLog, ready: Ready) -> None:
        entries = ready.entries
        if not entries:
            return
        previous_term = log.term(entries[0].index - 1)
        for entry in entries:
            found = (previous_term, entry.payload)
            first = self._seen.setdefault((entry.term, entry.index), found)
            if first != found:
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

    def __init__(self, everyone: Mapping[NodeId, Observed]) -> None:
        self._everyone = everyone
        self._committed: list[tuple[int, int]] = []
        self._commit: dict[NodeId, int] = {}
        self._watermark: dict[NodeId, int] = {}
        self._led: set[int] = set()
        self._leading: dict[NodeId, int] = {}
        """The term that a node leads; 0 when it does not."""

    @property
    def commit_index(self) -> int:
        """The highest commit index known anywhere, ever."""
        return len(self._committed)

    def on_restart(self, node: NodeId) -> None:
        """A node may have forgotten how far it had committed."""
        self._commit.pop(node, None)
        self._leading.pop(node, None)
        self._watermark.pop(node, None)

    def on_step(self, observed: Observed, raft: RaftNode) -> None:
        """After anything happened to a node."""
        log = log_of(raft)
        if raft.role is Role.LEADER and raft.term not in self._led:
            self._led.add(raft.term)
            self._check_complete(observed.id, raft.term, log)
        was_leading, self._leading[observed.id] = (
            self._leading.get(observed.id),
            raft.term if raft.role is Role.LEADER else 0,
        )
        before, commit = self._commit.get(observed.id, 0), raft.commit_index
        if commit == before:
            return
        if commit < before:
            raise Violation(f"n{observed.id} moved its commit index from {before} back to {commit}")
        self._commit[observed.id] = commit
        is_news = commit > len(self._committed)
        if is_news and was_leading == raft.term and log.term(commit) < raft.term and raft.role is Role.LEADER:
            raise Violation(
                f"leader n{observed.id} of term {raft.term} committed {commit}, an entry of term"
                f" {log.term(commit)}, by counting"
            )
        for index in range(max(before, log.base_index) + 1, commit + 1):
            self._check_committed(observed.id, index, log.term(index), raft)

    def on_ready(self, node: NodeId, ready: Ready) -> None:
        before = self._watermark.get(node, 0)
        if ready.commit_index < before:
            raise Violation(f"n{node} moved its watermark from {before} back to {ready.commit_index}")
        self._watermark[node] = ready.commit_index

    def _check_committed(self, node: NodeId, index: int, term: int, raft: RaftNode) -> None:
        if index <= len(self._committed):
            known = self._committed[index - 1][0]
            if known != term:
                raise Violation(f"n{node} has term {term} committed at {index}; elsewhere it is term {known}")
            return
        holders = {other.id for other in self._everyone.values() if other.is_lost or other.disk.holds(term, index)}
        if not any(has_quorum(held.voter_sets, holders) for held in _in_force_since(index, raft)):
            raise Violation(
                f"n{node} committed {index}/{term}, which is durable on {sorted(holders)} only, under"
                f" {raft.membership.voter_sets}"
            )
        self._committed.append((term, raft.term))

    def _check_complete(self, node: NodeId, term: int, log: RaftLog) -> None:
        """Concerns what earlier terms committed: a candidate may learn late, in vain, that it had won an old term."""
        for index in range(log.base_index + 1, len(self._committed) + 1):
            wanted, committed_in = self._committed[index - 1]
            held = log.term(index) if index <= log.last_index else None
            if committed_in < term and held != wanted:
                raise Violation(f"n{node} leads term {term} without the committed {index}/{wanted}: it has {held}")


def _in_force_since(index: int, raft: RaftNode) -> list[Membership]:
    """Those under which the entry at `index` may have been committed: the one in force there, and the later ones."""
    log = log_of(raft)
    return [log.membership_at(index), *(held for since, held in log._memberships if since > index)]


class TruthfulDurability:
    """What a node takes for durable, or acknowledges, is on its disk."""

    def __init__(self) -> None:
        self._stable: dict[NodeId, tuple[int, int]] = {}

    def on_sent(self, item: Any, disk: Disk) -> None:
        """What one sync made durable together with its replacement in a later term was true in its own."""
        if not isinstance(item, AppendResponse) or not item.accepted or item.term < disk.hard_state.term:
            return
        if item.index > disk.image.last_index:
            raise Violation(f"n{item.src} acknowledged {item.index}, durable is {disk.image.last_index}")

    def on_step(self, observed: Observed, raft: RaftNode) -> None:
        stable, log = raft.stable_index, log_of(raft)
        if stable > log.last_index:
            raise Violation(f"n{observed.id} takes {stable} for durable, but its log ends at {log.last_index}")
        if stable < log.base_index:
            return  # a snapshot is on its way to the disk
        seen = (stable, log.term(stable))
        if self._stable.get(observed.id) == seen:
            return
        self._stable[observed.id] = seen
        if not observed.disk.holds(seen[1], stable):
            raise Violation(f"n{observed.id} takes {stable}/{seen[1]} for durable, but its disk does not hold it")


class FreshReads:
    """A confirmed read sees everything committed before it was asked, by a lease as by a round."""

    def __init__(self) -> None:
        self._floors: dict[tuple[NodeId, int], int] = {}
        self.confirmed = 0
        self.by_lease = 0
        """Turns in which a leader answered reads by its lease."""

    def on_asked(self, node: NodeId, context: int, commit_index: int) -> None:
        self._floors[node, context] = commit_index

    def on_ready(self, node: NodeId, ready: Ready) -> None:
        for context, index in ready.read_states:
            floor = self._floors.pop((node, context), None)
            if floor is None:
                raise Violation(f"n{node} confirmed read {context}, which it was not asked or had confirmed before")
            if index < floor:
                raise Violation(
                    f"n{node} confirmed read {context} at {index}, but {floor} was committed when it was asked"
                )
            self.confirmed += 1


class Ledger:
    """Every state machine applies the same sequence; no proposal is committed twice, or after it was refused; no
    request takes effect twice.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[bytes, list[tuple[int, int, int, Any]]]] = []
        self._first_node: list[NodeId] = []
        self._proposals: dict[tuple[NodeId, int, int], int] = {}
        self._refused: set[tuple[NodeId, int, int]] = set()
        self._effects: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def last_index(self) -> int:
        return len(self._entries)

    @property
    def commands(self) -> int:
        return len(self._proposals)

    def applied(self, node: NodeId, index: int, payload: bytes) -> list[tuple[int, int, int, Any]]:
        """What the entry proposes, as (origin, incarnation, batch, command)."""
        if index > len(self._entries) + 1:
            raise Violation(f"n{node} applied {index}; nobody has applied {len(self._entries) + 1}")
        if index == len(self._entries) + 1:
            self._entries.append((payload, self._decoded(index, payload)))
            self._first_node.append(node)
        first, decoded = self._entries[index - 1]
        if first != payload:
            raise Violation(
                f"n{node} applied {payload!r} at {index}, where n{self._first_node[index - 1]} applied {first!r}"
            )
        return decoded

    def took_effect(self, node: NodeId, command: Any, position: tuple[int, int]) -> None:
        request = (command[0], command[1])
        first = self._effects.setdefault(request, position)
        if first != position:
            raise Violation(f"request {request} took effect at {first}, and on n{node} at {position}")

    def refused(self, proposal: tuple[NodeId, int, int]) -> None:
        """Its api was told that nothing happened and nothing will."""
        self._refused.add(proposal)
        if proposal in self._proposals:
            raise Violation(f"proposal {proposal} was refused, but is committed at {self._proposals[proposal]}")

    def position(self, request: tuple[int, int]) -> tuple[int, int] | None:
        """Where a request took effect."""
        return self._effects.get(request)

    def _decoded(self, index: int, payload: bytes) -> list[tuple[int, int, int, Any]]:
        if not payload:
            return []
        decoded = []
        for origin, incarnation, batch, command in unpack(payload)[1]:
            key = (origin, incarnation, batch)
            if key in self._proposals:
                raise Violation(f"proposal {key} is committed at {self._proposals[key]} and again at {index}")
            if key in self._refused:
                raise Violation(f"proposal {key} was refused, and is committed at {index}")
            self._proposals[key] = index
            decoded.append((origin, incarnation, batch, tuple(unpack(command))))
        return decoded


@dataclass
class Checks:
    elections: ElectionSafety
    matching: LogMatching
    commits: CommitSafety
    durability: TruthfulDurability
    reads: FreshReads
    ledger: Ledger
