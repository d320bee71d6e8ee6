"""The link over real sockets: restarts of the other side, and no message left lying for want of an edge."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
import zmq

from vaultdb import limits
from vaultdb.api.link import Link
from vaultdb.wire import ipc, sockets

TIMEOUT_S = 10


class Harness:
    """A link in a loop, and the router it connects to, driven by the same test."""

    def __init__(self, directory: str) -> None:
        self.endpoint = f"ipc://{directory}/s"
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.link = Link(asyncio.get_running_loop(), self.context, self.endpoint)
        self.messages: list[bytes] = []
        self.writable = 0
        self.lost = 0
        self.link.start(self.messages.append, self._on_writable, self._on_lost)

    def bind(self) -> zmq.Socket[bytes]:
        return sockets.bind_router(self.context, self.endpoint)

    def _on_writable(self) -> None:
        self.writable += 1

    def _on_lost(self) -> None:
        self.lost += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.002)

    async def receive(self, router: zmq.Socket[bytes]) -> list[bytes]:
        """What has arrived, once something has."""
        got: list[bytes] = []

        def look() -> bool:
            got.extend(received(router))
            return bool(got)

        await self.until(look)
        return got


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vdb", dir="/tmp") as path:
        assert Path(path).is_dir()
        yield path


def run(test: Callable[[Harness], object], directory: str) -> None:
    async def main() -> None:
        harness = Harness(directory)
        try:
            await test(harness)  # type: ignore[misc]
        finally:
            harness.link.close()
            harness.context.destroy(linger=0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def received(router: zmq.Socket[bytes]) -> list[bytes]:
    return [frames[1] for frames in sockets.drain(router)]


def test_nothing_is_sent_to_nobody_and_writable_is_told(directory: str) -> None:
    """Promise: a message for a process that is not there stays with its owner until the process is."""

    async def test(harness: Harness) -> None:
        assert not harness.link.try_send(b"early")
        router = harness.bind()
        await harness.until(lambda: harness.writable > 0)
        assert harness.link.try_send(b"now")
        assert await harness.receive(router) == [b"now"]

    run(test, directory)


def test_a_burst_beyond_one_turn_arrives_whole(directory: str) -> None:
    """Promise: no message waits for the next edge. Catches: draining up to a bound without looking at EVENTS again."""

    async def test(harness: Harness) -> None:
        router = harness.bind()
        await harness.until(lambda: harness.writable > 0)
        assert harness.link.try_send(b"hello")
        await harness.until(lambda: received(router) == [b"hello"])
        count = 3 * limits.DRAIN_MESSAGES_MAX + 7
        for number in range(count):
            assert sockets.try_send(router, ipc.API, b"%d" % number)
        await harness.until(lambda: len(harness.messages) == count)
        assert harness.messages == [b"%d" % number for number in range(count)]

    run(test, directory)


def test_answers_come_while_sending(directory: str) -> None:
    """Promise: a send may swallow the edge of an answer; it is seen all the same."""

    async def test(harness: Harness) -> None:
        router = harness.bind()
        await harness.until(lambda: harness.writable > 0)
        for round_ in range(500):
            assert harness.link.try_send(b"q")
            assert harness.link.try_send(b"q")
            while not router.poll(1000):
                pytest.fail("the question did not arrive")
            sockets.try_send(router, ipc.API, b"a")
            harness.link.try_send(b"q")
            await harness.until(lambda expected=round_ + 1: len(harness.messages) == expected)  # type: ignore[misc]
            received(router)

    run(test, directory)


def test_a_lost_process_is_noticed_and_its_successor_found(directory: str) -> None:
    """Promise: every loss is told once, nothing is sent until the successor is there, and then it arrives.

    Catches: waiting for the monitor's first edge without having looked at it.
    """

    async def test(harness: Harness) -> None:
        for generation in range(20):
            before = harness.writable
            router = harness.bind()
            await harness.until(lambda seen=before: harness.writable > seen)  # type: ignore[misc]
            await harness.until(lambda: harness.link.try_send(b"x"))
            assert await harness.receive(router) == [b"x"]
            router.close(linger=0)
            await harness.until(lambda expected=generation + 1: harness.lost == expected)  # type: ignore[misc]
            assert not harness.link.try_send(b"into the void")

    run(test, directory)
