"""What to do when a process of the node ended: a table over exit codes and the history of its restarts. Pure; time
is passed in.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass

from vaultdb.clock import NS_PER_MS
from vaultdb.config import SupervisorSettings
from vaultdb.errors import ExitCode

INCURABLE = frozenset({ExitCode.USAGE, ExitCode.CORRUPT_DATA, ExitCode.ADDRESS_TAKEN, ExitCode.CONFIG})
"""Exit codes that a restart cannot change: the node ends at once with the same code. All others are restarted."""
PATIENT = frozenset({ExitCode.IO_FAILED})
"""Exit codes whose cause passes without anyone touching the node, as a full disk does: restarted for ever, and no part
of a crash loop.
"""


@dataclass(frozen=True)
class Restart:
    delay_ms: int


@dataclass(frozen=True)
class GiveUp:
    exit_code: int
    """Of the whole node; never 0."""
    reason: str


def describe(exit_code: int) -> str:
    """How a process ended, in words. Negative: the number of the signal that killed it."""
    if exit_code < 0:
        try:
            return f"was killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"was killed by signal {-exit_code}"
    named = f" ({ExitCode(exit_code).name})" if exit_code in set(ExitCode) else ""
    return f"ended with exit code {exit_code}{named}"


class RestartPolicy:
    """The history of one process and what follows from it.

    The first restart is immediate, then the delay doubles from backoff_min_ms to backoff_max_ms. A process that
    lived for backoff_max_ms is taken for healthy: the next restart is immediate again. The crash-loop window is
    independent of that; ends with a PATIENT code are not counted in it, and go on being restarted at backoff_max_ms.
    """

    def __init__(self, name: str, settings: SupervisorSettings) -> None:
        self._name = name
        self._settings = settings
        self._streak = 0
        self._ends_ns: deque[int] = deque(maxlen=settings.crash_loop_restarts + 1)

    def ended(self, exit_code: int, started_ns: int, now_ns: int) -> Restart | GiveUp:
        """The process that started at `started_ns` ended with `exit_code` (negative: a signal) without having been
        asked to.
        """
        settings = self._settings
        if exit_code in INCURABLE:
            return GiveUp(exit_code, f"{self._name} {describe(exit_code)}, which a restart cannot cure")
        if exit_code not in PATIENT and self._is_crash_loop(now_ns):
            return GiveUp(
                exit_code if exit_code > 0 else ExitCode.BROKEN_INVARIANT,
                f"{self._name} ended {len(self._ends_ns)} times within {settings.crash_loop_window_ms} ms;"
                f" the last time it {describe(exit_code)}",
            )
        if now_ns - started_ns >= settings.backoff_max_ms * NS_PER_MS:
            self._streak = 0
        delay_ms = 0 if self._streak == 0 else settings.backoff_min_ms << min(self._streak - 1, 32)
        self._streak += 1
        return Restart(min(delay_ms, settings.backoff_max_ms))

    def _is_crash_loop(self, now_ns: int) -> bool:
        self._ends_ns.append(now_ns)
        window_ns = self._settings.crash_loop_window_ms * NS_PER_MS
        return len(self._ends_ns) > self._settings.crash_loop_restarts and now_ns - self._ends_ns[0] <= window_ns
