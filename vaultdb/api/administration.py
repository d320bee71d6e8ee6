"""Questions and orders about the members under way between the HTTP front ends and the consensus process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vaultdb.api.cluster_requests import AdminRequest
from vaultdb.api.lane import WHEN_LOST_ONLY, Lane
from vaultdb.api.results import Counters, Fields
from vaultdb.errors import Busy, Unavailable, Unknown, VaultError
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack

REQUESTS_MAX = 4
"""Under way: fewer than the threads of Flask, so that administration never takes them all."""


@dataclass(slots=True, eq=False)
class Admin:
    """ADMIN. A question may be asked again, an order that was sent never is."""

    deadline_ns: int
    request: AdminRequest
    future: asyncio.Future[Fields]
    resend_after_ns: int | None
    sent_ns: int = 0

    def frame(self, incarnation: int, number: int) -> bytes:
        return pack((ipc.ADMIN, incarnation, number, self.deadline_ns, *self.request))

    def waits(self) -> bool:
        return not self.future.done()

    def expire(self, sent: bool) -> None:
        if not sent:
            self.fail(Unavailable("the consensus process of this node is not there; the request was not sent"))
        elif self.request.changes_something:
            self.fail(Unknown("no answer came in time; the change may have happened, or may still happen"))
        else:
            self.fail(Unavailable("no leader answered in time"))

    def answer(self, document: Fields) -> None:
        if not self.future.done():
            self.future.set_result(document)

    def fail(self, error: VaultError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Administration:
    """Owns every such request from its arrival to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, counters: Counters) -> None:
        self._loop = loop
        self._lane = lane
        self._counters = counters
        self._open = 0

    async def ask(self, request: AdminRequest, deadline_ns: int) -> Fields:
        """The document that answers. Raises Busy, a refusal of consensus, or what `Admin.expire` says."""
        if self._open >= REQUESTS_MAX:
            raise Busy(f"{REQUESTS_MAX} requests about the members are under way already")
        resend_after_ns = None if request.changes_something else WHEN_LOST_ONLY
        admin = Admin(deadline_ns, request, self._loop.create_future(), resend_after_ns)
        self._open += 1
        try:
            self._lane.submit(admin)
            return await admin.future
        finally:
            self._open -= 1

    def on_done(self, number: int, document: Fields) -> None:
        admin = self._lane.take(number, Admin)
        if admin is None:
            self._counters.stray += 1
        else:
            admin.answer(document)

    def on_rejected(self, number: int, error: Callable[[], VaultError]) -> bool:
        """False: that number is no request of ours."""
        admin = self._lane.take(number, Admin)
        if admin is None:
            return False
        admin.fail(error())
        return True
