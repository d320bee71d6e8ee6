"""Reads under way. A linearizable read asks consensus for an index, then storage for the key at that index; a stale
one asks storage alone.

One question serves all reads of a turn, and only those: every read that uses an index arrived before it was asked
for (thesis §6.4). A read did nothing when it fails, so questions and fetches may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from vaultdb import limits
from vaultdb.api.lane import Lane
from vaultdb.api.results import Counters, ReadResult
from vaultdb.clock import NS_PER_MS
from vaultdb.errors import Unavailable
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack

FETCH_KEYS_MAX = (limits.MESSAGE_BYTES_MAX - limits.MIB) // (limits.VALUE_BYTES_MAX + 64)
"""Keys of one READ: even with the largest values its answer is one message."""
FETCH_RESEND_MS = 1_000
"""A storage process that is there and does not lag answers sooner."""


class Read(NamedTuple):
    key: bytes
    future: asyncio.Future[ReadResult]


Fail = Callable[[list[Read], Callable[[], Exception]], None]


@dataclass(slots=True, eq=False)
class Question:
    """READ_INDEX: for which index must these reads wait?"""

    deadline_ns: int
    reads: list[Read]
    fail: Fail
    resend_after_ns: int | None
    sent_ns: int = 0

    def frame(self, incarnation: int, number: int) -> bytes:
        return pack((ipc.READ_INDEX, incarnation, number, self.deadline_ns))

    def waits(self) -> bool:
        return True

    def expire(self, sent: bool) -> None:
        what = "no leader confirmed the read in time" if sent else "the consensus process of this node is not there"
        self.fail(self.reads, partial(Unavailable, what))


@dataclass(slots=True, eq=False)
class Fetch:
    """READ: these keys, once `min_index` is applied."""

    deadline_ns: int
    reads: list[Read]
    fail: Fail
    min_index: int
    resend_after_ns: int | None = FETCH_RESEND_MS * NS_PER_MS
    sent_ns: int = 0

    def frame(self, incarnation: int, number: int) -> bytes:
        keys = [key for key, _ in self.reads]
        return pack((ipc.READ, incarnation, number, self.min_index, self.deadline_ns, keys))

    def waits(self) -> bool:
        return True

    def expire(self, sent: bool) -> None:
        what = "did not answer in time" if sent else "is not there"
        self.fail(self.reads, partial(Unavailable, f"the storage process of this node {what}"))


class Reads:
    """Owns every read from its arrival to its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        consensus: Lane,
        storage: Lane,
        counters: Counters,
        question_resend_ms: int,
    ) -> None:
        """`question_resend_ms` must exceed the time that consensus waits for a leader before it refuses."""
        self._loop = loop
        self._consensus = consensus
        self._storage = storage
        self._counters = counters
        self._question_resend_ns = question_resend_ms * NS_PER_MS
        self._turn_linearizable: list[Read] = []
        self._turn_stale: list[Read] = []
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def add(self, key: bytes, linearizable: bool) -> asyncio.Future[ReadResult]:
        """Take one read into this turn."""
        future: asyncio.Future[ReadResult] = self._loop.create_future()
        (self._turn_linearizable if linearizable else self._turn_stale).append(Read(key, future))
        self._open += 1
        self._counters.reads += 1
        return future

    def ask_alone(self, key: bytes, deadline_ns: int) -> asyncio.Future[ReadResult]:
        """One linearizable read with a deadline of its own."""
        future: asyncio.Future[ReadResult] = self._loop.create_future()
        self._open += 1
        self._ask([Read(key, future)], deadline_ns)
        return future

    def flush(self, deadline_ns: int) -> None:
        """The turn is over: ask for what it brought."""
        if self._turn_linearizable:
            reads, self._turn_linearizable = self._turn_linearizable, []
            self._ask(reads, deadline_ns)
        if self._turn_stale:
            reads, self._turn_stale = self._turn_stale, []
            self._fetch(reads, 0, deadline_ns)

    def on_read_state(self, number: int, index: int) -> None:
        question = self._consensus.take(number, Question)
        if question is None:
            self._counters.stray += 1
        else:
            self._fetch(question.reads, index, question.deadline_ns)

    def on_rejected(self, number: int, error: Callable[[], Exception]) -> bool:
        """False: that number is no question of ours."""
        question = self._consensus.take(number, Question)
        if question is None:
            return False
        self._fail(question.reads, error)
        return True

    def on_values(
        self, number: int, applied_index: int, revision: int, values: Sequence[tuple[bytes, int] | None]
    ) -> None:
        fetch = self._storage.take(number, Fetch)
        if fetch is None:
            self._counters.stray += 1
            return
        self._open -= len(fetch.reads)
        for (_, future), found in zip(fetch.reads, values, strict=True):
            if not future.done():
                value, value_revision = found or (None, 0)
                future.set_result(ReadResult(value, value_revision, applied_index, revision))

    def _ask(self, reads: list[Read], deadline_ns: int) -> None:
        self._consensus.submit(Question(deadline_ns, reads, self._fail, self._question_resend_ns))

    def _fetch(self, reads: list[Read], min_index: int, deadline_ns: int) -> None:
        for first in range(0, len(reads), FETCH_KEYS_MAX):
            some = reads[first : first + FETCH_KEYS_MAX]
            self._storage.submit(Fetch(deadline_ns, some, self._fail, min_index))

    def _fail(self, reads: list[Read], error: Callable[[], Exception]) -> None:
        """Each gets an error of its own: a raised exception collects a traceback."""
        self._open -= len(reads)
        for _, future in reads:
            if not future.done():
                future.set_exception(error())
