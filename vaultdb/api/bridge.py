"""The node behind both lanes: as the event loop sees it, and as Flask's threads see it, whose blocking calls run in
the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import TypeVar

from vaultdb.api import status
from vaultdb.api.cluster_requests import AdminRequest
from vaultdb.api.gateway import DIGEST_TIMEOUT_MS, Gateway
from vaultdb.api.results import Digest, Fields, ReadResult, WriteResult
from vaultdb.config import NodeConfig
from vaultdb.errors import Unavailable, Unknown
from vaultdb.kv.commands import Command

T = TypeVar("T")

_SPARE_S = 2.0
"""The gateway ends every call by its own deadline; this much later the loop itself must have stopped."""


class LoopNode:
    """Implements `express.LoopService`. `own_figures` says what the process knows of itself."""

    def __init__(self, gateway: Gateway, node: NodeConfig, own_figures: Callable[[], Fields]) -> None:
        self.write = gateway.write
        self.read = gateway.read
        self.ready = gateway.ready
        self.digest = gateway.digest
        self.admin = gateway.admin
        self._gateway = gateway
        self._node = node
        self._own_figures = own_figures

    async def status(self) -> Fields:
        siblings = await self._gateway.status()
        processes = status.read_processes(self._node.supervisor_status_path)
        return status.compose(self._node, siblings, self._own_figures(), processes)


class Bridge:
    """Implements `flask_app.Service` by calls that run in `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: LoopNode, request_timeout_ms: int) -> None:
        self._loop = loop
        self._node = node
        self._timeout_s = request_timeout_ms / 1000 + _SPARE_S

    def write(self, command: Command, *, queued: bool) -> WriteResult:
        try:
            return self._call(lambda: self._node.write(command, queued=queued), self._timeout_s)
        except (TimeoutError, CancelledError) as error:
            raise Unknown("this node stopped before the write was answered") from error

    def read(self, key: bytes, *, linearizable: bool) -> ReadResult:
        return self._ask(lambda: self._node.read(key, linearizable=linearizable), self._timeout_s)

    def status(self) -> Fields:
        return self._ask(self._node.status, self._timeout_s)

    def digest(self) -> Digest:
        return self._ask(self._node.digest, DIGEST_TIMEOUT_MS / 1000 + _SPARE_S)

    def admin(self, request: AdminRequest) -> Fields:
        if not request.changes_something:
            return self._ask(lambda: self._node.admin(request), self._timeout_s)
        try:
            return self._call(lambda: self._node.admin(request), self._timeout_s)
        except (TimeoutError, CancelledError) as error:
            raise Unknown("this node stopped before the change was answered") from error

    def ready(self) -> None:
        self._ask(self._node.ready, self._timeout_s)

    def _ask(self, make: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """For calls that change nothing."""
        try:
            return self._call(make, timeout_s)
        except (TimeoutError, CancelledError) as error:
            raise Unavailable("this node is stopping") from error

    def _call(self, make: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        async def run() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout_s)
