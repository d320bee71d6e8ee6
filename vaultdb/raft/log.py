"""The log as the core sees it: what lies on disk below, a window of recent entries in memory above.

Invariants: base ≤ commit ≤ last, stable ≤ offered ≤ last, and `[base, start)` is readable through the LogReader.

    base_index     everything up to it is cut off; its term stays known
    start          the first entry held in memory
    stable_index   durable, and still part of the log
    offered        handed out to be written; between stable and offered the writes are under way

From `restore` until the snapshot is durable, stable lies below base.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from vaultdb.errors import BrokenInvariant, CorruptData
from vaultdb.raft import membership
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import LogReader, RestoredState, Snapshot


class RaftLog:
    """Owns every watermark of the log. Costs do not depend on the length of the log.

    Sizes are running sums: `_sums[i]` is the payload bytes of everything up to the i-th entry in memory, counted from
    the node's start.
    """

    def __init__(self, restored: RestoredState, reader: LogReader, memory_bytes: int) -> None:
        """Raises CorruptData when `restored` is not a log: it would be unsafe to vote with it."""
        commit = restored.hard_state.commit
        if not 0 <= restored.base_index <= restored.last_index or commit > restored.last_index:
            raise CorruptData(
                f"the log ends at {restored.last_index}, but was cut at {restored.base_index} and committed to {commit}"
            )
        if restored.last_term > restored.hard_state.term:
            raise CorruptData(f"the log ends in term {restored.last_term}, after term {restored.hard_state.term}")
        self._reader = reader
        self._memory_bytes = memory_bytes
        self.base_index = restored.base_index
        self.base_term = restored.base_term
        self.last_index = self.stable_index = self._offered = restored.last_index
        self.last_term = restored.last_term
        self.commit_index = max(commit, restored.base_index)
        self.applied_index = restored.base_index
        self._start = restored.last_index + 1
        self._entries: list[Entry] = []
        self._sums: list[int] = []
        self._sum_before = 0
        """The running sum just below `start`."""
        self._term_before = restored.last_term
        """The term just below `start`, so that an append to a fully evicted log reads no disk."""
        self._writes: deque[tuple[int, int]] = deque()
        """(Ready number, last index that stands once it is durable) of every write under way."""
        self._memberships = list(restored.memberships)
        """The one in force at the base, then those that the log holds; ascending."""
        self._unwritten_snapshot: Snapshot | None = None

    # Reading.

    @property
    def durable_commit_index(self) -> int:
        return min(self.commit_index, self.stable_index)

    @property
    def uncommitted_bytes(self) -> int:
        """Payload bytes that a majority, or this node's own disk, does not hold yet."""
        return self._sum_to(self.last_index) - self._sum_to(self.durable_commit_index)

    @property
    def memory_bytes(self) -> int:
        return self._sum_to(self.last_index) - self._sum_before

    def term(self, index: int) -> int:
        """Term at `index`, which must lie in [base, last]."""
        if self._start <= index <= self.last_index:
            return self._entries[index - self._start].term
        if index == self._start - 1:
            return self._term_before
        if index == self.base_index:
            return self.base_term
        if self.base_index < index < self._start:
            return self._reader.term(index)
        raise BrokenInvariant(f"term of {index} asked for, the log holds [{self.base_index}, {self.last_index}]")

    def slice(self, first: int, last: int, bytes_max: int) -> tuple[list[Entry], int]:
        """Entries from `first` to at most `last`, and their payload bytes; at least one if there is one, cut off at
        `bytes_max`.

        A slice does not cross from disk into memory: it may be shorter than it could be.
        """
        if first > last:
            return [], 0
        if first <= self.base_index:
            raise BrokenInvariant(f"entry {first} asked for, the log is cut up to {self.base_index}")
        if first < self._start:
            return self._read(first, min(last, self._start - 1), bytes_max)
        low = first - self._start
        before = self._sums[low - 1] if low else self._sum_before
        high = bisect_right(self._sums, before + bytes_max, low, last - self._start + 1)
        high = max(high, low + 1)
        return self._entries[low:high], self._sums[high - 1] - before

    def last_at_most(self, term: int, low: int, high: int) -> int:
        """The highest index in [low, high] whose term is at most `term`; `low` if there is none."""
        return max(low, low + bisect_right(range(low, high + 1), term, key=self.term) - 1)

    def matches(self, index: int, term: int) -> bool:
        """Log Matching: whether this log holds that position. `index` must be at or above the base."""
        return index <= self.last_index and self.term(index) == term

    # Who belongs to the group: the newest that the log holds, committed or not (paper §6).

    @property
    def membership(self) -> Membership:
        return self._memberships[-1][1]

    @property
    def membership_index(self) -> int:
        return self._memberships[-1][0]

    def membership_at(self, index: int) -> Membership:
        """The one in force at `index`, which is at or above the base."""
        return self._memberships[bisect_right(self._memberships, index, key=lambda held: held[0]) - 1][1]

    # Growing.

    def append(self, entries: Sequence[Entry]) -> None:
        """Add `entries` after the last one."""
        if not entries:
            return
        if entries[0].index != self.last_index + 1:
            raise BrokenInvariant(f"entry {entries[0].index} appended to a log that ends at {self.last_index}")
        sums = accumulate([len(entry.payload) for entry in entries], initial=self._sum_to(self.last_index))
        next(sums)
        self._sums.extend(sums)
        self._entries.extend(entries)
        self._memberships += [
            (entry.index, membership.decode(entry.payload)) for entry in entries if entry.kind == EntryKind.MEMBERSHIP
        ]
        self.last_index, self.last_term = entries[-1].index, entries[-1].term

    def merge(self, entries: Sequence[Entry]) -> None:
        """Make the log contain `entries`, which follow a matching position at or above the commit index (paper §5.3).

        What is there already stays, and so does what follows it: only a real conflict truncates.
        """
        if not entries:
            return
        first = entries[0].index
        known = min(entries[-1].index, self.last_index) - first + 1
        if known > 0 and entries[known - 1].term != self.term(first + known - 1):
            # Equal terms at one index mean equal logs up to it, so the first conflict can be found by halving.
            known = bisect_left(range(known), True, key=lambda n: entries[n].term != self.term(first + n))
            self._truncate(first + known - 1)
        self.append(entries[max(known, 0) :])

    def commit_to(self, index: int) -> None:
        """Raise the commit index; lower values change nothing."""
        if index > self.last_index:
            raise BrokenInvariant(f"commit of {index}, the log ends at {self.last_index}")
        self.commit_index = max(self.commit_index, index)

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew after `snapshot`, which is above the commit index: nothing that the log held stays."""
        if snapshot.index <= self.commit_index:
            raise BrokenInvariant(f"a snapshot of {snapshot.index} over a commit index of {self.commit_index}")
        self.stable_index = min(self.stable_index, self.commit_index)
        self._writes = deque((number, 0) for number, _ in self._writes)
        self._entries.clear()
        self._sums.clear()
        self.base_index = self.commit_index = self.last_index = self._offered = snapshot.index
        self.base_term = self.last_term = self._term_before = snapshot.term
        self._start = snapshot.index + 1
        self._memberships = [(snapshot.index, snapshot.membership)]
        self._unwritten_snapshot = snapshot

    # Durability. Row by row as the writes go out and come back.

    @property
    def has_unwritten(self) -> bool:
        return self._offered < self.last_index or self._unwritten_snapshot is not None

    def take_snapshot(self) -> Snapshot | None:
        """The snapshot that no Ready has carried yet; it goes before the unwritten entries."""
        snapshot, self._unwritten_snapshot = self._unwritten_snapshot, None
        return snapshot

    @property
    def writes_outstanding(self) -> bool:
        return bool(self._writes)

    def take_unwritten(self) -> list[Entry]:
        """The entries that no Ready has carried yet. They replace whatever the disk holds from their first index on."""
        entries = self._entries[self._offered + 1 - self._start :] if self._offered < self.last_index else []
        self._offered = self.last_index
        return entries

    def written(self, number: int) -> None:
        """All that was taken so far is under way to the disk, under this number."""
        self._writes.append((number, self._offered))

    def persisted(self, number: int) -> None:
        """The writes up to `number` are durable; a number that is not under way is passed over.

        A truncation in the meantime has lowered the marks, so a late completion never vouches for entries that took the
        place of those it wrote.
        """
        if not any(number == write for write, _ in self._writes):
            return
        while self._writes and self._writes[0][0] <= number:
            self.stable_index = max(self.stable_index, self._writes.popleft()[1])
        self._evict()

    # Forgetting.

    def applied_to(self, index: int) -> None:
        if index > self.last_index:
            raise BrokenInvariant(f"{index} was applied, the log ends at {self.last_index}")
        self.applied_index = max(self.applied_index, index)
        self._evict()

    def compact(self, index: int) -> None:
        """Cut everything up to `index`; only its term stays known. What was cut before changes nothing."""
        if index <= self.base_index:
            return
        if index > min(self.applied_index, self.stable_index):
            raise BrokenInvariant(
                f"cut at {index}, but applied is {self.applied_index} and durable is {self.stable_index}"
            )
        self.base_term = self.term(index)
        self.base_index = index
        self.commit_index = max(self.commit_index, index)
        while len(self._memberships) > 1 and self._memberships[1][0] <= index:
            del self._memberships[0]
        if index >= self._start:
            self._drop(index)

    def _evict(self) -> None:
        """Keep memory within its budget: the oldest durable and committed entries go; the reader has them.

        It goes down to three quarters at once, so that the list is not shifted for every entry.
        """
        if self.memory_bytes <= self._memory_bytes:
            return
        excess = self.memory_bytes - self._memory_bytes * 3 // 4
        last = self._start + bisect_left(self._sums, self._sum_before + excess)
        last = min(last, self.stable_index, self.commit_index)
        if last >= self._start:
            self._drop(last)

    def _drop(self, last: int) -> None:
        """Forget the entries up to `last` in memory."""
        count = last - self._start + 1
        self._term_before, self._sum_before = self._entries[count - 1].term, self._sums[count - 1]
        del self._entries[:count], self._sums[:count]
        self._start = last + 1

    def _truncate(self, last: int) -> None:
        """`last` becomes the end of the log: what followed conflicts with the leader's."""
        if last < self.commit_index:
            raise BrokenInvariant(f"truncation to {last}, below the commit index {self.commit_index}")
        term = self.term(last)
        if last + 1 >= self._start:
            del self._entries[last + 1 - self._start :], self._sums[last + 1 - self._start :]
        else:
            self._entries.clear()
            self._sums.clear()
            self._start, self._term_before = last + 1, term
        self.last_index, self.last_term = last, term
        self.stable_index = min(self.stable_index, last)
        self._offered = min(self._offered, last)
        self._writes = deque((number, min(mark, last)) for number, mark in self._writes)
        while self._memberships[-1][0] > last:
            self._memberships.pop()

    def _sum_to(self, index: int) -> int:
        """Running payload bytes up to `index`; what lies below memory is not counted apart."""
        return self._sums[index - self._start] if index >= self._start else self._sum_before

    def _read(self, first: int, last: int, bytes_max: int) -> tuple[list[Entry], int]:
        entries = self._reader.entries(first, last, bytes_max)
        if not entries or entries[0].index != first or entries[-1].index != first + len(entries) - 1:
            served = (entries[0].index, entries[-1].index) if entries else "nothing"
            raise BrokenInvariant(f"the log reader served {served} for [{first}, {last}]")
        return entries, sum(len(entry.payload) for entry in entries)
