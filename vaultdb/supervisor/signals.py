"""Signals as something to wait for: one wait wakes for a signal, a ready descriptor or the end of a time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalInbox:
    """Takes SIGTERM, SIGINT, SIGHUP (orders to stop) and SIGCHLD (wakes the wait) of this process until `close`.

    One per process, made by its main thread; takes what its forker blocked until now. A forked child calls
    `leave_to_parent` first thing.
    """

    def __init__(self) -> None:
        self.stop_requests = 0
        self._fd, self._wake_fd = os.pipe()
        os.set_blocking(self._fd, False)
        os.set_blocking(self._wake_fd, False)
        self._previous_wake_fd = signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        # Who started this under nohup wants it to outlive the terminal.
        taken = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._on_stop) for number in taken}
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._on_child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def wait(self, timeout_ms: float, others: Iterable[int] = ()) -> set[int]:
        """Until a signal came, one of the descriptors `others` is readable, or `timeout_ms` passed. Returns the
        readable ones.
        """
        poll = select.poll()
        for fd in (self._fd, *others):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, timeout_ms))}
        if self._fd in ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._fd, 512):
                    pass
        return ready - {self._fd}

    def leave_to_parent(self) -> None:
        """In a forked child: forget the handlers and close the inherited pipe. Stop signals must be blocked by the
        caller.
        """
        signal.set_wakeup_fd(-1)
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._fd)
        os.close(self._wake_fd)

    def close(self) -> None:
        """Put back what was before."""
        signal.set_wakeup_fd(self._previous_wake_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._fd)
        os.close(self._wake_fd)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requests += 1

    def _on_child(self, _number: int, _frame: FrameType | None) -> None:
        """Without a handler the signal would not wake anyone."""
