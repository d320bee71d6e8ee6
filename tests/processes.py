"""For tests with real processes: waiting for a condition with a deadline, and killing exactly what was started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import psutil
import pytest

from vaultdb import clock


def wait_until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Return once `condition` is true; fail the test with `what` when it is not within `seconds`."""
    deadline_ns = clock.deadline_after_ms(seconds * 1000)
    while not condition():
        if clock.ms_until(deadline_ns) <= 0:
            pytest.fail(f"not within {seconds} s: {what}")
        clock.sleep_ms(5)


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL each that is still the process it was when it was looked up."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
