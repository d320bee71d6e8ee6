"""Reads that wait for an index to be applied."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import NamedTuple

from vaultdb import limits
from vaultdb.clock import NS_PER_MS

_SWEEP_INTERVAL_NS = 250 * NS_PER_MS


class Read(NamedTuple):
    """One READ message. `incarnation` and `batch` are its sender's, and are sent back as they came."""

    min_index: int
    deadline_ns: int
    sender: bytes
    incarnation: int
    batch: int
    keys: list[bytes]


class WaitingReads:
    """Up to `capacity` reads, lowest index first. A read past its deadline is forgotten: nobody waits for it any
    more.
    """

    def __init__(self, capacity: int = limits.READS_WAITING_MAX) -> None:
        self._capacity = capacity
        self._heap: list[tuple[int, int, Read]] = []
        self._arrivals = 0
        self._next_sweep_ns = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, read: Read) -> bool:
        """False, and the read is not kept, when there is no room."""
        if len(self._heap) >= self._capacity:
            return False
        self._arrivals += 1
        heappush(self._heap, (read.min_index, self._arrivals, read))
        return True

    def reached(self, applied_index: int, now_ns: int) -> list[Read]:
        """Take out the reads that may be answered now, in the order of their index and arrival."""
        ready = []
        while self._heap and self._heap[0][0] <= applied_index:
            read = heappop(self._heap)[2]
            if read.deadline_ns > now_ns:
                ready.append(read)
            else:
                self.expired += 1
        return ready

    def sweep(self, now_ns: int) -> None:
        """Forget what has expired. Cheap to call each turn: it looks a few times a second."""
        if now_ns < self._next_sweep_ns:
            return
        self._next_sweep_ns = now_ns + _SWEEP_INTERVAL_NS
        alive = [waiting for waiting in self._heap if waiting[2].deadline_ns > now_ns]
        if len(alive) < len(self._heap):
            self.expired += len(self._heap) - len(alive)
            self._heap = alive
            heapify(self._heap)
