"""Writes under way: proposed in one message a turn, ended by results, a rejection, or their deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from vaultdb import limits
from vaultdb.api.lane import Lane
from vaultdb.api.results import Counters, WriteResult
from vaultdb.errors import Busy, Rejected, Unavailable, Unknown, VaultError
from vaultdb.kv.commands import Command
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack

_FRAMING_BYTES = 6
"""At most, of one key or value in a packed command."""
_COMMAND_BYTES = 32
"""At most, of the rest of a packed command."""


@dataclass(slots=True, eq=False)
class Proposal:
    """PROPOSE: writes of one turn. `on_expired(requests, sent)` ends those that are still open."""

    deadline_ns: int
    queued: bool
    payload: bytes
    requests: list[int]
    open_requests: int
    on_expired: Callable[[list[int], bool], None]
    number: int = 0
    sent_ns: int = 0
    resend_after_ns: int | None = None

    def frame(self, incarnation: int, number: int) -> bytes:
        self.number = number
        return pack((ipc.PROPOSE, incarnation, number, self.deadline_ns, self.queued, self.payload))

    def waits(self) -> bool:
        return self.open_requests > 0

    def expire(self, sent: bool) -> None:
        self.on_expired(self.requests, sent)


@dataclass(slots=True, eq=False)
class _Write:
    future: asyncio.Future[WriteResult]
    size_bytes: int
    proposal: Proposal | None = None
    """None until its turn of the loop is over."""


class Writes:
    """Owns every write from its arrival to its end. Their sizes in sum stay within API_OUTBOX_BYTES_MAX."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, counters: Counters) -> None:
        self._loop = loop
        self._lane = lane
        self._counters = counters
        self._requests = count(1)
        self._open: dict[int, _Write] = {}
        self._turn: list[tuple[int, Command]] = []
        self._turn_queued: list[tuple[int, Command]] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, command: Command, queued: bool) -> asyncio.Future[WriteResult]:
        """Take one command into this turn. Raises Busy."""
        parts = command[1]
        assert isinstance(parts, list)
        size_bytes = sum(map(len, parts)) + _FRAMING_BYTES * len(parts) + _COMMAND_BYTES
        if self.size_bytes + size_bytes > limits.API_OUTBOX_BYTES_MAX:
            raise Busy(f"{self.size_bytes} bytes of writes wait already; the limit is {limits.API_OUTBOX_BYTES_MAX}")
        request = next(self._requests)
        future: asyncio.Future[WriteResult] = self._loop.create_future()
        self._open[request] = _Write(future, size_bytes)
        self.size_bytes += size_bytes
        (self._turn_queued if queued else self._turn).append((request, command))
        self._counters.writes += 1
        return future

    def flush(self, deadline_ns: int) -> None:
        """The turn is over: propose what it brought."""
        if self._turn:
            turn, self._turn = self._turn, []
            self._propose(turn, False, deadline_ns)
        if self._turn_queued:
            turn, self._turn_queued = self._turn_queued, []
            self._propose(turn, True, deadline_ns)

    def on_results(self, results: Sequence[tuple[int, int, int, int]]) -> None:
        for request, outcome, revision, keys in results:
            if outcome == ipc.DONE:
                self._end(request, WriteResult(revision, keys))
            else:
                self._end(request, Rejected("the state machine refused the command; nothing was changed"))

    def on_queued(self, number: int, accepted: bool) -> None:
        """Not accepted: the queue is full, so the RESULTS of the commit will answer."""
        proposal = self._lane.peek(number, Proposal)
        if proposal is None:
            self._counters.stray += 1
        elif accepted:
            self._end_all(proposal.requests, lambda: WriteResult(0, 0, queued=True))

    def on_rejected(self, number: int, error: Callable[[], VaultError]) -> bool:
        """False: that number is no proposal of ours."""
        proposal = self._lane.take(number, Proposal)
        if proposal is None:
            return False
        self._end_all(proposal.requests, error)
        return True

    def _propose(self, turn: list[tuple[int, Command]], queued: bool, deadline_ns: int) -> None:
        """One message, or several where they would be over BATCH_BYTES_MAX."""
        batch: list[tuple[int, Command]] = []
        batch_bytes = 0
        for item in turn:
            size_bytes = self._open[item[0]].size_bytes
            if batch and batch_bytes + size_bytes > limits.BATCH_BYTES_MAX:
                self._submit(batch, queued, deadline_ns)
                batch, batch_bytes = [], 0
            batch.append(item)
            batch_bytes += size_bytes
        self._submit(batch, queued, deadline_ns)

    def _submit(self, batch: list[tuple[int, Command]], queued: bool, deadline_ns: int) -> None:
        requests = [request for request, _ in batch]
        proposal = Proposal(deadline_ns, queued, pack(batch), requests, len(requests), self._expire)
        for request in requests:
            self._open[request].proposal = proposal
        self._lane.submit(proposal)

    def _end(self, request: int, outcome: WriteResult | Exception) -> None:
        write = self._open.pop(request, None)
        if write is None:
            self._counters.stray += 1
            return
        self.size_bytes -= write.size_bytes
        if write.proposal is not None:
            write.proposal.open_requests -= 1
            if write.proposal.open_requests == 0:
                self._lane.take(write.proposal.number, Proposal)
        if write.future.done():
            return
        if isinstance(outcome, Exception):
            write.future.set_exception(outcome)
        else:
            write.future.set_result(outcome)

    def _end_all(self, requests: list[int], outcome: Callable[[], WriteResult | Exception]) -> None:
        """Each gets an outcome of its own: a raised exception collects a traceback."""
        for request in requests:
            if request in self._open:
                self._end(request, outcome())

    def _expire(self, requests: list[int], sent: bool) -> None:
        if sent:
            sentence = "no answer came in time; the write may have happened, or may still happen"
            self._end_all(requests, partial(Unknown, sentence))
        else:
            sentence = "the consensus process of this node is not there; the write was not sent"
            self._end_all(requests, partial(Unavailable, sentence))
