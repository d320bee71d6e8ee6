"""The log writer: a thread that makes writes durable while the loop goes on.

fdatasync releases the interpreter lock, so heartbeats flow during a sync and one sync serves everything that was
submitted meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import NamedTuple

from vaultdb.consensus.log import LogTail, Written
from vaultdb.errors import VaultError
from vaultdb.raft.messages import Entry
from vaultdb.raft.state import HardState


class Write(NamedTuple):
    """One Ready's share of the log. `number` is the Ready's; both parts may be empty: a marker in the order."""

    number: int
    hard_state: HardState | None
    entries: list[Entry]


class Completion(NamedTuple):
    """Everything submitted up to the Ready `number` is durable."""

    number: int
    written: Written | None


class LogWriter:
    """Owns the LogTail. `submit` and `completions` are for the loop's thread; `fd` is readable when there are any."""

    def __init__(self, tail: LogTail, segment_bytes: int) -> None:
        self._tail = tail
        self._segment_bytes = segment_bytes
        self._submitted: deque[Write] = deque()
        self._done: deque[Completion] = deque()
        self._work = threading.Semaphore(0)
        self._failure: VaultError | None = None
        self._stopped = False
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.syncs_total = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Queue a write; its bytes are bounded by what the core may hold unstable."""
        self._submitted.append(write)
        self._work.release()

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

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._stopped = True
        self._work.release()
        self._thread.join()
        self._tail.close()
        os.close(self.fd)

    def _run(self) -> None:
        try:
            while True:
                self._work.acquire()
                while self._submitted:
                    self._write_all_that_waits()
                if self._stopped:
                    return
        except VaultError as error:
            self._failure = error
            os.eventfd_write(self.fd, 1)

    def _write_all_that_waits(self) -> None:
        hard_state: HardState | None = None
        entries: list[Entry] = []
        number = 0
        while self._submitted:
            write = self._submitted.popleft()
            number = write.number
            hard_state = write.hard_state or hard_state
            if write.entries:
                entries = _overwrite(entries, write.entries)
        written = None
        if hard_state is not None or entries:
            written = self._tail.write(hard_state, entries, self._segment_bytes)
            self.syncs_total += 1
        self._done.append(Completion(number, written))
        os.eventfd_write(self.fd, 1)


def _overwrite(entries: list[Entry], newer: list[Entry]) -> list[Entry]:
    """The run of entries after `newer` replaced everything from its first index on."""
    if not entries:
        return newer
    keep = newer[0].index - entries[0].index
    return newer if keep <= 0 else [*entries[:keep], *newer]
