"""The way to one sibling process: batches go out in order, at once when the process is there, else when it is back.

A batch that was handed to the socket of a process that then died may or may not have arrived. Questions (reads,
status) are asked again under a fresh number; a proposal is never sent twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol, TypeVar

from vaultdb.api.results import Counters
from vaultdb.clock import monotonic_ns

WHEN_LOST_ONLY = 1 << 62
"""A `resend_after_ns` that no silence reaches."""


class Batch(Protocol):
    """What travels as one message, with those who wait for the answer."""

    deadline_ns: int
    sent_ns: int
    resend_after_ns: int | None
    """Ask again after this silence, or when the process is lost; None: never send twice."""

    def frame(self, incarnation: int, number: int) -> bytes: ...

    def waits(self) -> bool:
        """False when nobody waits for the answer any more."""
        ...

    def expire(self, sent: bool) -> None:
        """Its time is up: fail what waits. `sent`: it was handed to the process, which may have acted on it."""
        ...


B = TypeVar("B", bound=Batch)


class Outlet(Protocol):
    """What a lane needs of a link."""

    def try_send(self, frame: bytes) -> bool: ...


class Lane:
    """Owns the batches that wait to be sent and those that wait for their answer."""

    def __init__(self, outlet: Outlet, incarnation: int, numbers: Iterator[int], counters: Counters) -> None:
        self._outlet = outlet
        self._incarnation = incarnation
        self._numbers = numbers
        self._counters = counters
        self._unsent: deque[Batch] = deque()
        self._open: dict[int, Batch] = {}

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def submit(self, batch: Batch) -> None:
        """Send it now or, in its turn, when the process is there."""
        if self._unsent or not self._send(batch):
            self._unsent.append(batch)

    def flush(self) -> None:
        """The socket takes messages (again)."""
        while self._unsent:
            batch = self._unsent[0]
            if monotonic_ns() >= batch.deadline_ns:
                batch.expire(sent=False)
            elif batch.waits() and not self._send(batch):
                return
            self._unsent.popleft()

    def peek(self, number: int, kind: type[B]) -> B | None:
        """The open batch of this number, if it is of this kind."""
        batch = self._open.get(number)
        return batch if isinstance(batch, kind) else None

    def take(self, number: int, kind: type[B]) -> B | None:
        """As `peek`, and it is open no more."""
        batch = self.peek(number, kind)
        if batch is not None:
            del self._open[number]
        return batch

    def lost(self) -> None:
        """The process went away: what may be asked again waits for its successor, before everything younger."""
        self._ask_again([number for number, batch in self._open.items() if batch.resend_after_ns is not None])

    def sweep(self, now_ns: int) -> None:
        """Expire what is over its deadline; ask again what has had no answer for long."""
        over, silent = [], []
        for number, batch in self._open.items():
            if now_ns >= batch.deadline_ns or not batch.waits():
                over.append(number)
            elif batch.resend_after_ns is not None and now_ns - batch.sent_ns >= batch.resend_after_ns:
                silent.append(number)
        for number in over:
            self._open.pop(number).expire(sent=True)
        if any(now_ns >= batch.deadline_ns for batch in self._unsent):
            unsent, self._unsent = self._unsent, deque(b for b in self._unsent if now_ns < b.deadline_ns)
            for batch in unsent:
                if now_ns >= batch.deadline_ns:
                    batch.expire(sent=False)
        if silent:
            self._ask_again(silent)
            self.flush()

    def abandon(self) -> None:
        """End everything, as if every deadline had passed."""
        unsent, self._unsent = self._unsent, deque()
        sent, self._open = self._open, {}
        for batch in unsent:
            batch.expire(sent=False)
        for batch in sent.values():
            batch.expire(sent=True)

    def _ask_again(self, numbers: list[int]) -> None:
        self._counters.resent += len(numbers)
        self._unsent.extendleft(self._open.pop(number) for number in reversed(numbers))

    def _send(self, batch: Batch) -> bool:
        number = next(self._numbers)
        if not self._outlet.try_send(batch.frame(self._incarnation, number)):
            return False
        batch.sent_ns = monotonic_ns()
        self._open[number] = batch
        return True
