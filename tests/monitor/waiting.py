"""Waiting for a condition instead of for a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vaultdb.clock import deadline_after_ms, ms_until, sleep_ms

T = TypeVar("T")


def eventually(what: str, probe: Callable[[], T], *, within_ms: int = 10_000) -> T:
    """The first true answer of `probe`; fails with `what` and the last answer when there is none in time."""
    deadline_ns = deadline_after_ms(within_ms)
    while True:
        answer = probe()
        if answer:
            return answer
        if ms_until(deadline_ns) < 0:
            raise AssertionError(f"not within {within_ms} ms: {what}; last answer: {answer!r}")
        sleep_ms(20)
