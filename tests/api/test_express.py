"""What only the express lane has to promise: its own requests do not wait for Flask's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from tests.api.lanes import FakeLoopService, FakeService
from tests.api.siblings import Store
from vaultdb.api import express
from vaultdb.api.express import FLASK_REQUESTS_MAX, ExpressLane
from vaultdb.api.flask_app import create_app
from vaultdb.api.results import Counters, Digest


class SlowService(FakeService):
    """Its digest takes until `go_on`."""

    def __init__(self) -> None:
        super().__init__(Store())
        self.go_on = threading.Event()

    def digest(self) -> Digest:
        assert self.go_on.wait(20)
        return super().digest()


class WaitingLoopService(FakeLoopService):
    """Its status and ready take until `go_on`."""

    def __init__(self, service: FakeService) -> None:
        super().__init__(service)
        self.go_on = asyncio.Event()

    async def status(self) -> dict[str, Any]:
        await self.go_on.wait()
        return await super().status()

    async def ready(self) -> None:
        await self.go_on.wait()
        await super().ready()


@pytest.fixture
def slow() -> Iterator[SlowService]:
    service = SlowService()
    yield service
    service.go_on.set()


async def get(app: ExpressLane, path: str, method: str = "GET") -> int:
    """The status of the answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [], "http_version": "1.1", "scheme": "http", "root_path": ""}
    await app(scope | {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize("path", ["/status", "/health/ready", "/health/live"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status_and_health_do_not_wait_for_slow_views(slow: SlowService, path: str, method: str) -> None:
    """Promise: while Flask's threads and their queue are full, status and health are answered. Catches: a view that
    takes one of those threads.
    """
    app = ExpressLane(FakeLoopService(slow), create_app(slow), Counters())

    async def main() -> None:
        digests = [asyncio.create_task(get(app, "/digest")) for _ in range(FLASK_REQUESTS_MAX)]
        await asyncio.sleep(0)
        assert await get(app, "/digest") == 429, "Flask's lane is not full"
        assert await asyncio.wait_for(get(app, path, method), 10) == 200
        assert not any(task.done() for task in digests)
        slow.go_on.set()
        assert await asyncio.gather(*digests) == [200] * FLASK_REQUESTS_MAX

    try:
        asyncio.run(main())
    finally:
        app.close()


@pytest.mark.parametrize("path", ["/status", "/health/ready"])
def test_inquiries_under_way_are_bounded(slow: SlowService, path: str) -> None:
    """Promise: questions to the other processes are bounded by path, and the room comes back."""

    async def main() -> None:
        service = WaitingLoopService(slow)
        app = ExpressLane(service, create_app(slow), Counters())
        other = "/status" if path == "/health/ready" else "/health/ready"
        waiting = [asyncio.create_task(get(app, path)) for _ in range(express.INQUIRIES_MAX)]
        await asyncio.sleep(0)
        assert await get(app, path) == 429
        waiting.append(asyncio.create_task(get(app, other)))
        await asyncio.sleep(0)
        service.go_on.set()
        assert await asyncio.gather(*waiting) == [200] * len(waiting)
        assert await get(app, path) == 200
        app.close()

    asyncio.run(main())
