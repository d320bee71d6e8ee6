"""The ASGI application, called without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from monitor import limits
from monitor.app import MonitorApp, load_page
from monitor.collector import Collector
from monitor.reading import read_status
from monitor.server import PAGE_DIRECTORY
from tests.monitor.fakes import configuration, status
from vaultdb.clock import NS_PER_S, monotonic_ns

Message = MutableMapping[str, Any]


class Reader:
    """One request: what the application sent to it."""

    def __init__(self, app: MonitorApp, target: str, *, method: str = "GET", **headers: str) -> None:
        path, _, query = target.partition("?")
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self._scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
        self._app = app
        self._left = asyncio.Event()
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self.messages.put)

    def leave(self) -> None:
        self._left.set()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        await self.run()
        start, body = self.messages.get_nowait(), self.messages.get_nowait()
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"]

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next event of a stream: its id and data."""
        message = await asyncio.wait_for(self.messages.get(), 5)
        head, _, data = message["body"].decode().partition("\n")
        return head.removeprefix("id: "), json.loads(data.removeprefix("data: "))

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}


class Stage:
    def __init__(self) -> None:
        self.collector = Collector(configuration([1001, 1002, 1003, 1004, 1005]))
        self.app = MonitorApp(self.collector, load_page(PAGE_DIRECTORY))
        self.now_ns = monotonic_ns()

    def poll(self, *, term: int = 3) -> None:
        self.now_ns += NS_PER_S
        for i in range(5):
            self.collector.answered(i, read_status(status(i, term=term)), self.now_ns)
        self.collector.turn(self.now_ns, self.now_ns // 1_000_000, sample=True)
        self.app.publish()

    async def get(self, target: str, **options: str) -> tuple[int, dict[str, str], bytes]:
        return await Reader(self.app, target, **options).answer()


def staged(story: Callable[[Stage], Awaitable[None]]) -> None:
    async def tell() -> None:
        await story(Stage())

    asyncio.run(tell())


def test_page_and_its_files() -> None:
    """Guards: every file that the page names is served with its type, a strict policy, and a working ETag."""

    async def story(stage: Stage) -> None:
        for path in ("/", "/app.js", "/chart.js", "/style.css", "/favicon.svg", "/favicon.ico"):
            code, headers, body = await stage.get(path)
            assert (code, bool(body)) == (200, True), path
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            again, _, nothing = await stage.get(path, if_none_match=headers["etag"])
            assert (again, nothing) == (304, b""), path

    staged(story)


def test_page_is_self_contained() -> None:
    """Guards: no other host, no inline script or style, no markup from data: text goes in as text only."""
    for path in PAGE_DIRECTORY.iterdir():
        source = path.read_text(encoding="utf-8")
        assert "https://" not in source, path
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "onclick="):
            assert sink not in source, (path, sink)


@pytest.mark.parametrize(
    ("target", "method", "code", "name"),
    [
        ("/nowhere", "GET", 404, "not_found"),
        ("/../server.py", "GET", 404, "not_found"),
        ("/api/state", "POST", 405, "method_not_allowed"),
    ],
)
def test_refusals_are_problems(target: str, method: str, code: int, name: str) -> None:
    """Guards: errors are problem+json with a stable code."""

    async def story(stage: Stage) -> None:
        answered, headers, body = await Reader(stage.app, target, method=method).answer()
        assert (answered, headers["content-type"]) == (code, "application/problem+json")
        assert json.loads(body)["code"] == name

    staged(story)


def test_state_since_a_position() -> None:
    """Guards: polling gets each sample once; a position of another life, or nonsense, gets everything."""

    async def story(stage: Stage) -> None:
        stage.poll()
        first = json.loads((await stage.get("/api/state"))[2])
        position = f"{first['incarnation']}.{first['version']}"
        stage.poll()
        later = json.loads((await stage.get(f"/api/state?since={position}"))[2])
        assert (first["full"], later["full"]) == (True, False)
        assert (len(first["samples"]), len(later["samples"])) == (1, 1)
        for odd in ("other.1", "", "x", f"{first['incarnation']}.999", f"{first['incarnation']}.-1", "%ff", "9" * 5000):
            assert json.loads((await stage.get(f"/api/state?since={odd}"))[2])["full"], odd

    staged(story)


def test_stream_follows_and_resumes() -> None:
    """Guards: one event a version, the first one full; a reader that returns with Last-Event-ID misses nothing."""

    async def story(stage: Stage) -> None:
        stage.poll()
        reader = Reader(stage.app, "/api/stream")
        running = asyncio.create_task(reader.run())
        start = await reader.messages.get()
        assert (b"content-type", b"text/event-stream") in start["headers"]
        assert (await reader.event())[1]["full"]
        stage.poll()
        position, second = await reader.event()
        assert not second["full"]
        reader.leave()
        await running
        stage.poll(term=4)
        stage.poll(term=4)
        returned = Reader(stage.app, "/api/stream", last_event_id=position)
        running = asyncio.create_task(returned.run())
        await returned.messages.get()
        missed = (await returned.event())[1]
        assert (missed["full"], len(missed["samples"]), len(missed["events"])) == (False, 2, 1)
        returned.leave()
        await running

    staged(story)


def test_streams_are_bounded_and_released() -> None:
    """Guards: one stream too many is refused with 503 and Retry-After; a reader that leaves makes room."""

    async def story(stage: Stage) -> None:
        readers = [Reader(stage.app, "/api/stream") for _ in range(limits.STREAMS_MAX)]
        running = [asyncio.create_task(reader.run()) for reader in readers]
        for reader in readers:
            await reader.messages.get()
        code, headers, _ = await stage.get("/api/stream")
        assert (code, headers["retry-after"]) == (503, "1")
        readers[0].leave()
        await running[0]
        late = Reader(stage.app, "/api/stream")
        running[0] = asyncio.create_task(late.run())
        assert (await late.messages.get())["status"] == 200
        stage.app.close()
        await asyncio.wait_for(asyncio.gather(*running), 5)

    staged(story)
