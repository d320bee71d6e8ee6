"""The tie between a process and its supervisor: beats one way, the order to stop the other.

A process calls `beat` from its main loop, so that a hung loop falls silent. The kernel kills a child whose
supervisor died (parent death signal); the check of the parent's pid covers the instant between fork and arming, and
systems without that signal.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from types import FrameType

from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.errors import ExitCode

BEAT_INTERVAL_MS = 250
"""A main loop must come round at least this often, idle or not."""
_PR_SET_PDEATHSIG = 1
_YOUNG_OBJECTS = 20_000


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when the thread that forked it ends. Linux only; elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


class Lifeline:
    """Owned by one process, made right after its fork. `heartbeat_fd` is the non-blocking write end of a pipe to the
    supervisor.
    """

    def __init__(self, heartbeat_fd: int, parent_pid: int) -> None:
        self._fd = heartbeat_fd
        self._parent_pid = parent_pid
        self._next_beat_ns = 0
        self.stopping = False
        """True once SIGTERM came: finish what is at hand and return from `run`."""

    def arm(self) -> None:
        """Take SIGTERM as the order to stop, leave a terminal's signals to the supervisor, die with the supervisor."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        die_with_parent()
        self._exit_if_orphaned()

    def beat(self) -> None:
        """Tell the supervisor that the loop turns; cheap to call each turn. Exits when the supervisor is gone."""
        now_ns = monotonic_ns()
        if now_ns < self._next_beat_ns:
            return
        self._next_beat_ns = now_ns + BEAT_INTERVAL_MS * NS_PER_MS
        self._exit_if_orphaned()
        try:
            os.write(self._fd, b".")
        except BlockingIOError:
            pass  # a full pipe has beats enough
        except BrokenPipeError:
            sys.exit(ExitCode.ORPHANED)

    def _exit_if_orphaned(self) -> None:
        if os.getppid() != self._parent_pid:
            sys.exit(ExitCode.ORPHANED)

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True


def calm_garbage_collector() -> None:
    """Requests make no reference cycles: look for some rarely, and never among what start-up left behind.

    To be called once by a process that has opened everything.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
