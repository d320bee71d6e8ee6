"""The log writer: a thread that makes writes durable while the loop goes on.

fdatasync releases the interpreter lock, so heartbeats flow during a sync and one sync serves everything that was
submitted meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import NamedTuple

from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.consensus.log_tail import LogTail, Written
from vaultdb.errors import IoFailed, VaultError
from vaultdb.raft.messages import Entry
from vaultdb.raft.state import HardState, Snapshot


class Write(NamedTuple):
    """One Ready's share of the log. `number` is the Ready's; all else may be empty: a marker in the order.

    `snapshot`, if any, empties the log and begins it after itself; `entries` follow.
    """

    number: int
    hard_state: HardState | None
    entries: list[Entry]
    snapshot: Snapshot | None = None
    notes: bytes = b""
    """The driver's own, kept beside the hard state; empty: no news."""


class Completion(NamedTuple):
    """Everything submitted up to the Ready `number` is durable."""

    number: int
    written: Written | None


class LogWriter:
    """Owns the LogTail. `submit` and `completions` are for the loop's thread; `fd` is readable when there are any."""

    def __init__(self, tail: LogTail, segment_bytes: int) -> None:
        self._tail = tail
        self._segment_bytes = segment_bytes
        self._submitted: SimpleQueue[Write | None] = SimpleQueue()
        """None: no more will come."""
        self._done: deque[Completion] = deque()
        self._failure: VaultError | None = None
        self._busy_since_ns: int | None = None
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.syncs_total = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Queue a write. What waits is bounded: the core refuses proposals, and a follower's window closes, until
        earlier ones are durable."""
        self._submitted.put(write)

    def completions(self) -> list[Completion]:
        """What finished since the last call, in order. Raises the failure of the thread (IoFailed)."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        if self._failure is not None:
            raise self._failure
        done = []
        while self._done:
            done.append(self._done.popleft())
        return done

    def busy_ms(self, now_ns: int) -> float:
        """How long the write under way has taken so far; 0 when there is none."""
        since_ns = self._busy_since_ns
        return 0.0 if since_ns is None else (now_ns - since_ns) / NS_PER_MS

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._submitted.put(None)
        self._thread.join()
        self._tail.close()
        os.close(self.fd)

    def _run(self) -> None:
        try:
            while (write := self._submitted.get()) is not None:
                batch = [write]
                while not self._submitted.empty() and (write := self._submitted.get()) is not None:
                    batch.append(write)
                self._write(batch)
                if write is None:
                    return
        except Exception as error:  # noqa: BLE001 - the loop must hear of whatever ends this thread
            self._failure = error if isinstance(error, VaultError) else IoFailed(f"the log writer failed: {error!r}")
            os.eventfd_write(self.fd, 1)

    def _write(self, batch: list[Write]) -> None:
        """One record and one sync for all of it."""
        hard_state: HardState | None = None
        snapshot: Snapshot | None = None
        notes = b""
        entries: list[Entry] = []
        for write in batch:
            hard_state = write.hard_state or hard_state
            notes = write.notes or notes
            if write.snapshot is not None:
                # Entries before it need no disk: it voids them, and nothing is reported until it is durable.
                snapshot, entries = write.snapshot, []
            if write.entries:
                entries = _overwrite(entries, write.entries)
        written = None
        if hard_state is not None or entries or snapshot is not None or notes:
            self._busy_since_ns = monotonic_ns()
            written = self._tail.write(hard_state, entries, self._segment_bytes, snapshot=snapshot, notes=notes)
            self._busy_since_ns = None
            self.syncs_total += 1
        self._done.append(Completion(batch[-1].number, written))
        os.eventfd_write(self.fd, 1)


def _overwrite(entries: list[Entry], newer: list[Entry]) -> list[Entry]:
    """The run of entries after `newer` replaced everything from its first index on."""
    if not entries:
        return newer
    keep = newer[0].index - entries[0].index
    return newer if keep <= 0 else [*entries[:keep], *newer]
