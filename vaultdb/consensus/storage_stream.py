"""Committed entries on their way to the storage process, at its pace.

Storage subscribes from the position that it holds; live traffic, replay after its crash and flow control are one and
the same path. At most `window_bytes` are sent and not yet reported as applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vaultdb import limits
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack

_ENTRY_OVERHEAD_BYTES = 64
"""So that a run of empty entries fills the window too."""


class StorageStream:
    def __init__(self, send: Callable[[bytes], bool], window_bytes: int = limits.APPLY_WINDOW_BYTES) -> None:
        """`send` passes one message to storage without blocking; False: it is not there or its queue is full."""
        self._send = send
        self._window_bytes = window_bytes
        self._incarnation: int | None = None
        self._next_index = 0
        self._inflight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of every message that is not applied yet."""
        self._inflight_bytes = 0
        self.applied_index = 0
        self.flushed_index = 0

    @property
    def next_index(self) -> int | None:
        """The first index that storage has not been sent; None without a subscriber."""
        return None if self._incarnation is None else self._next_index

    def subscribed(self, incarnation: int, applied_index: int, flushed_index: int) -> None:
        self._incarnation = incarnation
        self._next_index = applied_index + 1
        self._inflight.clear()
        self._inflight_bytes = 0
        self.applied_index = applied_index
        self.flushed_index = flushed_index

    def reset(self) -> None:
        """Storage's state is being replaced: nothing is sent until it subscribes from where the new one stands."""
        self._incarnation = None
        self._inflight.clear()
        self._inflight_bytes = 0

    def applied(self, incarnation: int, applied_index: int, flushed_index: int) -> bool:
        """Storage reports progress. False: it is not the subscriber's report."""
        if incarnation != self._incarnation:
            return False
        while self._inflight and self._inflight[0][0] <= applied_index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        self._next_index = max(self._next_index, applied_index + 1)  # it may have applied more than it subscribed from
        self.applied_index = applied_index
        self.flushed_index = flushed_index
        return True

    def pump(self, commit_index: int, entries: Callable[[int, int], list[Entry]]) -> None:
        """Send committed entries while the window has room. `entries(first, bytes_max)` reads them."""
        if self._incarnation is None:
            return
        while self._next_index <= commit_index and self._inflight_bytes < self._window_bytes:
            batch = entries(self._next_index, min(limits.APPEND_BYTES_MAX, self._window_bytes - self._inflight_bytes))
            payloads = [entry.payload if entry.kind == EntryKind.COMMAND else b"" for entry in batch]
            if not self._send(pack([ipc.ENTRIES, self._incarnation, self._next_index, payloads])):
                return
            size = sum(map(len, payloads)) + _ENTRY_OVERHEAD_BYTES * len(payloads)
            self._next_index += len(batch)
            self._inflight.append((self._next_index - 1, size))
            self._inflight_bytes += size
