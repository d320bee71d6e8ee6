"""A disk for one node: writes complete in order and late, and a crash loses what was not synced."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from vaultdb.raft.membership import NOBODY_YET, Membership, decode
from vaultdb.raft.messages import NOBODY, Entry, EntryKind, Message
from vaultdb.raft.state import HardState, Ready, RestoredState, Snapshot


@dataclass
class Write:
    number: int
    hard_state: HardState | None
    entries: list[Entry]
    then: list[Message]
    """May leave when this write is durable."""
    snapshot: Snapshot | None = None


@dataclass
class SimulatedDisk:
    """Holds the durable log and hard state; it is the core's LogReader. It refuses to serve what is not durable."""

    hard_state: HardState = field(default_factory=lambda: HardState(0, NOBODY, 0))
    base_index: int = 0
    base_term: int = 0
    base_membership: Membership = NOBODY_YET
    durable: list[Entry] = field(default_factory=list)
    pending: deque[Write] = field(default_factory=deque)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.durable)

    def restored(self) -> RestoredState:
        last_term = self.term(self.last_index)
        return RestoredState(
            self.hard_state, self.base_index, self.base_term, self.last_index, last_term, self.memberships
        )

    @property
    def memberships(self) -> tuple[tuple[int, Membership], ...]:
        held = [(entry.index, decode(entry.payload)) for entry in self.durable if entry.kind == EntryKind.MEMBERSHIP]
        return (self.base_index, self.base_membership), *held

    def submit(self, ready: Ready) -> None:
        assert ready.hard_state is not None, "a write without its hard state"
        self.pending.append(
            Write(ready.number, ready.hard_state, list(ready.entries), ready.messages_after_sync, ready.snapshot)
        )

    def complete_one(self) -> Write:
        """The oldest write becomes durable."""
        write = self.pending.popleft()
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.snapshot is not None:
            self.base_index, self.base_term, self.base_membership = write.snapshot
            self.durable.clear()
        if write.entries:
            first = write.entries[0].index
            assert self.base_index < first <= self.last_index + 1, f"a gap: {first} written after {self.last_index}"
            self.durable[first - self.base_index - 1 :] = write.entries
        return write

    def crash(self, rng: random.Random) -> None:
        """Unsynced writes are lost, except that the first few may have reached the disk all the same."""
        for _ in range(rng.randint(0, len(self.pending))):
            self.complete_one()
        self.pending.clear()

    def cut(self, index: int) -> None:
        """Remove everything up to `index`, which is durable."""
        assert index <= self.last_index
        if index > self.base_index:
            self.base_term = self.term(index)
            self.base_membership = [held for at, held in self.memberships if at <= index][-1]
            del self.durable[: index - self.base_index]
            self.base_index = index

    def holds(self, term: int, index: int) -> bool:
        """Whether the durable log has that entry, or had it and cut it."""
        return index < self.base_index or (index <= self.last_index and self.term(index) == term)

    # LogReader

    def term(self, index: int) -> int:
        assert self.base_index <= index <= self.last_index, f"{index} is not durable"
        return self.base_term if index == self.base_index else self.durable[index - self.base_index - 1].term

    def entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        assert self.base_index < first <= last <= self.last_index, f"[{first}, {last}] is not durable"
        found: list[Entry] = []
        size = 0
        for entry in self.durable[first - self.base_index - 1 : last - self.base_index]:
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found
