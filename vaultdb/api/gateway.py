"""Between the HTTP front ends and the node's other processes: requests in, answers out, everything of one turn in
one message.

A write ends in one of three ways. Done: its RESULTS came. Rejected: consensus refused the batch, or it was never
sent. Unknown: it was sent and its deadline passed; it may still happen, and it is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

from vaultdb import limits
from vaultdb.api.administration import Administration
from vaultdb.api.cluster_requests import AdminRequest
from vaultdb.api.lane import WHEN_LOST_ONLY, Lane
from vaultdb.api.reads import Reads
from vaultdb.api.results import Counters, Digest, Fields, ReadResult, Siblings, WriteResult
from vaultdb.api.writes import Writes
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns
from vaultdb.config import ApiSettings
from vaultdb.errors import REJECTIONS, BadRequest, BrokenInvariant, Busy, Unavailable, Unknown, VaultError
from vaultdb.kv.commands import Command
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack

STATUS_TIMEOUT_MS = 500
READY_TIMEOUT_MS = 1_000
DIGEST_TIMEOUT_MS = 60_000
DIGESTS_MAX = 2
"""State hashes under way: each is a scan of the whole store."""
READY_KEY = b"\x00ready"
"""Read, and never written, to see whether reading works."""


class Transport(Protocol):
    """What the gateway needs of a link to a sibling process."""

    def start(
        self, on_message: Callable[[bytes], None], on_writable: Callable[[], None], on_lost: Callable[[], None]
    ) -> None: ...

    def try_send(self, frame: bytes) -> bool: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Inquiry:
    """STATUS or DIGEST. Without an answer in time the future's result is None."""

    kind: int
    deadline_ns: int
    future: asyncio.Future[Any]
    resend_after_ns: int | None = WHEN_LOST_ONLY
    sent_ns: int = 0

    def frame(self, incarnation: int, number: int) -> bytes:
        return pack((self.kind, incarnation, number))

    def waits(self) -> bool:
        return not self.future.done()

    def expire(self, sent: bool) -> None:  # noqa: ARG002
        self.answer(None)

    def answer(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)


class Gateway:
    """Owns both links and every request under way.

    Belongs to the event loop's thread; `sweep` must be called some ten times a second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        consensus: Transport,
        storage: Transport,
        settings: ApiSettings,
        *,
        incarnation: int,
        counters: Counters,
    ) -> None:
        self.incarnation = incarnation
        self._loop = loop
        self._links = (consensus, storage)
        self._counters = counters
        self._timeout_ns = settings.request_timeout_ms * NS_PER_MS
        numbers = count(1)
        self._consensus = Lane(consensus, incarnation, numbers, counters)
        self._storage = Lane(storage, incarnation, numbers, counters)
        self._writes = Writes(loop, self._consensus, counters)
        self._reads = Reads(loop, self._consensus, self._storage, counters, settings.leader_wait_ms + 1_000)
        self._administration = Administration(loop, self._consensus, counters)
        self._digests = 0
        self.closed = False
        self._flush_is_due = False
        self._handlers: dict[int, Callable[..., None]] = {
            ipc.READ_STATE: self._reads.on_read_state,
            ipc.VALUES: self._reads.on_values,
            ipc.RESULTS: self._writes.on_results,
            ipc.QUEUED: self._writes.on_queued,
            ipc.REJECTED: self._on_rejected,
            ipc.STATUS_IS: self._on_status,
            ipc.DIGEST_IS: self._on_digest,
            ipc.ADMIN_DONE: self._administration.on_done,
        }
        consensus.start(self._on_message, self._consensus.flush, self._consensus.lost)
        storage.start(self._on_message, self._storage.flush, self._storage.lost)

    def write(self, command: Command, *, queued: bool = False) -> asyncio.Future[WriteResult]:
        """Propose one atomic command.

        Raises Busy or Unavailable at once; the future ends with a result, a Rejected or Unknown.
        """
        self._admit()
        return self._writes.add(command, queued)

    def read(self, key: bytes, *, linearizable: bool = True) -> asyncio.Future[ReadResult]:
        """Read one key. Raises Busy or Unavailable at once; the future ends with a result or a Rejected."""
        self._admit()
        return self._reads.add(key, linearizable)

    async def ready(self) -> None:
        """Raises Unavailable with the reason when a linearizable read cannot be served within a second."""
        if self.closed:
            raise Unavailable("this node is stopping")
        await self._reads.ask_alone(READY_KEY, deadline_after_ms(READY_TIMEOUT_MS))

    async def status(self) -> Siblings:
        """What the two processes say of themselves, None for one that does not answer soon."""
        consensus = self._inquire(self._consensus, ipc.STATUS, STATUS_TIMEOUT_MS)
        storage = self._inquire(self._storage, ipc.STATUS, STATUS_TIMEOUT_MS)
        return Siblings(await consensus, await storage)

    async def digest(self) -> Digest:
        """Raises Busy when DIGESTS_MAX are under way, Unavailable without an answer."""
        if self._digests >= DIGESTS_MAX:
            raise Busy(f"{DIGESTS_MAX} state hashes are being computed already")
        self._digests += 1
        try:
            answer: Digest | None = await self._inquire(self._storage, ipc.DIGEST, DIGEST_TIMEOUT_MS)
        finally:
            self._digests -= 1
        if answer is None:
            raise Unavailable("the storage process of this node did not answer in time")
        return answer

    async def admin(self, request: AdminRequest) -> Fields:
        """Ask or order something about the members. Raises Rejected, or for an order Unknown."""
        if self.closed:
            raise Unavailable("this node is stopping")
        return await self._administration.ask(request, monotonic_ns() + self._timeout_ns)

    @property
    def operations(self) -> int:
        """Writes and reads under way."""
        return len(self._writes) + len(self._reads)

    def figures(self) -> Fields:
        """For the status page."""
        return {
            "operations": self.operations,
            "outbox_bytes": self._writes.size_bytes,
            "outbox_messages": self._consensus.unsent + self._storage.unsent,
        }

    def sweep(self, now_ns: int) -> None:
        """End what is over its deadline, ask again what was not answered."""
        self._consensus.sweep(now_ns)
        self._storage.sweep(now_ns)

    def close(self) -> None:
        """End everything under way as if its deadline had passed, then close the links. What comes later is refused."""
        self._flush()
        self.closed = True
        self._consensus.abandon()
        self._storage.abandon()
        for link in self._links:
            link.close()

    def _admit(self) -> None:
        if self.closed:
            raise Unavailable("this node is stopping")
        if self.operations >= limits.API_REQUESTS_MAX:
            raise Busy(f"{limits.API_REQUESTS_MAX} operations are under way already")
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """The turn of the loop is over: all that it brought leaves in as few messages as there are kinds."""
        self._flush_is_due = False
        if not self.closed:
            deadline_ns = monotonic_ns() + self._timeout_ns
            self._writes.flush(deadline_ns)
            self._reads.flush(deadline_ns)

    def _inquire(self, lane: Lane, kind: int, timeout_ms: int) -> asyncio.Future[Any]:
        inquiry = Inquiry(kind, deadline_after_ms(timeout_ms), self._loop.create_future())
        if self.closed:
            inquiry.answer(None)
        else:
            lane.submit(inquiry)
        return inquiry.future

    def _on_message(self, frame: bytes) -> None:
        """Raises BrokenInvariant for what is no message of ipc: the siblings are our own code."""
        try:
            kind, incarnation, *fields = unpack(frame)
            handler = self._handlers[kind]
        except (BadRequest, TypeError, ValueError, KeyError) as error:
            raise BrokenInvariant(
                f"a sibling process sent {len(frame)} bytes that are no message: {error!r}"
            ) from error
        if incarnation == self.incarnation:
            handler(*fields)
        else:
            self._counters.stray += 1

    def _on_rejected(self, number: int, code: str, sentence: str, retry_after_s: int | None) -> None:
        error = partial(_rejection, code, sentence, retry_after_s)
        for owner in (self._writes, self._reads, self._administration):
            if owner.on_rejected(number, error):
                return
        self._counters.stray += 1

    def _on_status(self, number: int, fields: Fields) -> None:
        inquiry = self._consensus.take(number, Inquiry) or self._storage.take(number, Inquiry)
        if inquiry is not None:
            inquiry.answer(fields)

    def _on_digest(self, number: int, applied_index: int, revision: int, keys: int, digest: str) -> None:
        inquiry = self._storage.take(number, Inquiry)
        if inquiry is not None:
            inquiry.answer(Digest(applied_index, revision, keys, digest))


def _rejection(code: str, sentence: str, retry_after_s: int | None) -> VaultError:
    """The error as it was raised on the other side of the process boundary."""
    error = Unknown(sentence) if code == Unknown.code else REJECTIONS.get(code, Unavailable)(sentence)
    error.retry_after_s = retry_after_s
    return error
