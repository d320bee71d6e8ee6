"""The only module that reads a clock.

`monotonic_ns` is CLOCK_MONOTONIC: one clock for all processes of a machine, so a deadline in its nanoseconds
may travel between the processes of a node. It never travels between nodes. The wall clock only stamps logs
and entries; no decision about safety hangs on it.

`boot_ns` is CLOCK_BOOTTIME where there is one: it goes on while the machine is suspended, so a lease has run out by the
time that it wakes. Never mixed with `monotonic_ns`.
"""

from __future__ import annotations

import time

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

monotonic_ns = time.monotonic_ns
wall_ns = time.time_ns
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // NS_PER_MS


def boot_ns() -> int:
    """Nanoseconds of a clock that never stands still."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


def deadline_after_ms(timeout_ms: float) -> int:
    """The monotonic nanosecond `timeout_ms` from now."""
    return time.monotonic_ns() + int(timeout_ms * NS_PER_MS)


def ms_until(deadline_ns: int) -> float:
    """Milliseconds left until `deadline_ns`; negative when it has passed."""
    return (deadline_ns - time.monotonic_ns()) / NS_PER_MS


def sleep_ms(duration_ms: float) -> None:
    """Block this thread. For the supervisor, launcher and demo only; nothing that a request waits for sleeps."""
    time.sleep(duration_ms / 1000)
