"""A node's log disk and the two halves that the consensus process has of it, in memory.

`Disk` is what survives: it holds what was synced. `SimulatedLog` stands for WriteAheadLog and knows only what the
driver was told; `SimulatedWriter` stands for LogWriter: one sync at a time makes everything durable that was submitted
before it began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.world import NodeClock, World
from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.log_memberships import MembershipHistory
from vaultdb.consensus.log_writer import Completion, Write
from vaultdb.raft.membership import Membership, decode
from vaultdb.raft.messages import NOBODY, Entry, EntryKind
from vaultdb.raft.state import HardState, RestoredState, Snapshot


class LogImage:
    """A log from its base on, as it stands on a disk or in a process's index of it."""

    def __init__(self, first_membership: Membership) -> None:
        self.base_index = 0
        self.base_term = 0
        self.found: list[Entry] = []
        self.memberships = MembershipHistory(0, first_membership)

    def copy(self) -> LogImage:
        other = LogImage(self.memberships.newest)
        other.base_index, other.base_term, other.found = self.base_index, self.base_term, list(self.found)
        other.memberships = self.memberships.copy()
        return other

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.found)

    def term(self, index: int) -> int:
        assert self.base_index <= index <= self.last_index, f"{index} is not in ({self.base_index}, {self.last_index}]"
        return self.base_term if index == self.base_index else self.found[index - self.base_index - 1].term

    def slice(self, first: int, last: int) -> list[Entry]:
        assert self.base_index < first <= last <= self.last_index, (
            f"[{first}, {last}] is not in ({self.base_index}, {self.last_index}]"
        )
        return self.found[first - self.base_index - 1 : last - self.base_index]

    def write(self, entries: Sequence[Entry]) -> None:
        """`entries` replace everything from their first index on."""
        if entries:
            first = entries[0].index
            assert self.base_index < first <= self.last_index + 1, f"a gap: {first} written after {self.last_index}"
            self.found[first - self.base_index - 1 :] = entries
            changes = [(e.index, decode(e.payload)) for e in entries if e.kind == EntryKind.MEMBERSHIP]
            self.memberships.replace(first, changes)

    def restart(self, snapshot: Snapshot) -> None:
        """The log is empty and begins after `snapshot`."""
        self.base_index, self.base_term = snapshot.index, snapshot.term
        self.found = []
        self.memberships = MembershipHistory(snapshot.index, snapshot.membership)

    def take(self, write: Write) -> None:
        if write.snapshot is not None:
            self.restart(write.snapshot)
        self.write(write.entries)

    def cut(self, index: int) -> None:
        if index > self.base_index:
            self.base_term = self.term(index)
            del self.found[: index - self.base_index]
            self.base_index = index
            self.memberships.rebase(index)

    def holds(self, term: int, index: int) -> bool:
        """Whether that entry stands there, or stood there and was cut off."""
        return index < self.base_index or (index <= self.last_index and self.term(index) == term)


class Disk:
    """Survives its node's lives."""

    def __init__(
        self, first_membership: Membership, incarnation: int, grain: int, install: Callable[[Snapshot], None]
    ) -> None:
        """`install`: a snapshot's state takes the place of the state machine's."""
        self.hard_state = HardState(0, NOBODY, 0)
        self.image = LogImage(first_membership)
        self.incarnation = incarnation
        self.notes = b""
        self._install = install
        self.grain = grain
        """The log is cut at multiples of this only, as a real one is at the ends of segments."""

    def copy(self) -> Disk:
        other = Disk(self.image.memberships.newest, self.incarnation, self.grain, self._install)
        other.hard_state, other.notes, other.image = self.hard_state, self.notes, self.image.copy()
        return other

    def restored(self) -> RestoredState:
        image = self.image
        return RestoredState(
            self.hard_state,
            image.base_index,
            image.base_term,
            image.last_index,
            image.term(image.last_index),
            image.memberships.all(),
        )

    def apply(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        self.notes = write.notes or self.notes
        self.image.take(write)
        if write.snapshot is not None:
            self._install(write.snapshot)

    def holds(self, term: int, index: int) -> bool:
        return self.image.holds(term, index)


class SimulatedLog:
    """The log in one life, as the loop sees it: the core's LogReader, and what the driver asks of WriteAheadLog."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._image = disk.image.copy()
        self.restored = disk.restored()
        self.incarnation, self.notes, self.hard_state = disk.incarnation, disk.notes, disk.hard_state
        self.segments = 1

    @property
    def base_index(self) -> int:
        return self._image.base_index

    @property
    def last_index(self) -> int:
        return self._image.last_index

    @property
    def memberships(self) -> tuple[tuple[int, Membership], ...]:
        return self._image.memberships.all()

    def term(self, index: int) -> int:
        return self._image.term(index)

    def entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for entry in self._image.slice(first, last):
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def written(self, writes: list[Write]) -> None:
        for write in writes:
            self._image.take(write)

    def cut(self, index: int) -> int:
        """At the end of a segment at or below `index`, which is durable."""
        index -= index % self._disk.grain
        if index <= self._image.base_index:
            return self._image.base_index
        assert index <= self._disk.image.last_index, f"cut at {index}, durable is {self._disk.image.last_index}"
        self._image.cut(index)
        self._disk.image.cut(index)
        return self._image.base_index


class SimulatedWriter:
    """Makes writes durable in order, later. `is_stuck`: a sync does not end before `release`."""

    def __init__(
        self, world: World, clock: NodeClock, disk: Disk, sync_ns: Callable[[], int], finished: Callable[[], None]
    ) -> None:
        self._world = world
        self._clock = clock
        self._disk = disk
        self._sync_ns = sync_ns
        self._finished = finished
        self._waiting: list[Write] = []
        self._running: list[Write] = []
        self._since_ns = 0
        self._is_overdue = False
        self._is_dead = False
        self.is_stuck = False
        self.done: deque[Completion] = deque()

    @property
    def pending(self) -> int:
        return len(self._waiting) + len(self._running)

    def submit(self, write: Write) -> None:
        self._waiting.append(write)
        if not self._running:
            self._begin()

    def busy_ms(self, now_ns: int) -> float:
        return (now_ns - self._since_ns) / NS_PER_MS if self._running else 0.0

    def completions(self) -> list[Completion]:
        done = list(self.done)
        self.done.clear()
        return done

    def release(self) -> None:
        """The disk works again."""
        self.is_stuck = False
        if self._is_overdue:
            self._sync_ended()

    def power_cut(self) -> None:
        """The end of this life. The first few writes may have reached the disk all the same."""
        self._is_dead = True
        unsynced = self._running + self._waiting
        for write in unsynced[: self._world.rng.randint(0, len(unsynced))]:
            self._disk.apply(write)

    def _begin(self) -> None:
        self._running, self._waiting = self._waiting, []
        self._since_ns = self._clock.now_ns()
        self._world.after(self._sync_ns(), self._sync_ended)

    def _sync_ended(self) -> None:
        if self._is_dead:
            return
        self._is_overdue = self.is_stuck
        if self.is_stuck:
            return
        for write in self._running:
            self._disk.apply(write)
        written: Any = self._running
        self.done.append(Completion(self._running[-1].number, written))
        self._running = []
        if self._waiting:
            self._begin()
        self._finished()
