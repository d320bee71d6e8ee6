"""One node asked over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from monitor import limits
from monitor.poller import NoAnswer, StatusClient
from tests.monitor.fakes import FakeNode, configuration, status


@pytest.fixture
def node() -> Iterator[FakeNode]:
    fake = FakeNode(status(0))
    yield fake
    fake.stop()


def ask(node: FakeNode, story: Callable[[StatusClient], Awaitable[None]], *, timeout_ms: int = 2000) -> None:
    async def tell() -> None:
        client = StatusClient(configuration([node.port]).nodes[0], timeout_ms)
        try:
            await story(client)
        finally:
            client.close()

    asyncio.run(tell())


def test_one_connection_serves_many_polls(node: FakeNode) -> None:
    """Guards: a poll a second does not open a connection a second."""

    async def story(client: StatusClient) -> None:
        for _ in range(5):
            assert (await client.fetch()).node == "node0"
        assert node.requests == 5
        assert len(node.connections) == 1

    ask(node, story)


def test_a_closed_connection_is_opened_again_within_the_same_poll(node: FakeNode) -> None:
    """Guards: a restarted api process is no lost node. Planted bug caught: no second try."""

    async def story(client: StatusClient) -> None:
        await client.fetch()
        node.stop()
        node.start()
        assert (await client.fetch()).term == 3

    ask(node, story)


def test_nobody_listens(node: FakeNode) -> None:
    """Guards: a killed node is told apart from a slow one."""

    async def story(client: StatusClient) -> None:
        await client.fetch()
        node.stop()
        with pytest.raises(NoAnswer, match="connection refused") as failure:
            await client.fetch()
        assert failure.value.refused

    ask(node, story)


def test_a_hanging_node_is_given_up_in_time_and_asked_anew(node: FakeNode) -> None:
    """Guards: a stopped process holds up no poll, and its late answer is not taken for the next one."""

    async def story(client: StatusClient) -> None:
        node.hang(True)
        with pytest.raises(NoAnswer, match="within 100 ms") as failure:
            await client.fetch()
        assert not failure.value.refused
        node.hang(False)
        node.update(term=9)
        assert (await client.fetch()).term == 9

    ask(node, story, timeout_ms=100)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b"{}"), "HTTP status 500"),
        ((200, b"{"), "not a node's status"),
        ((200, b"\xff\xfe"), "not a node's status"),
        ((200, b"[" * 200_000), "not a node's status"),
        ((200, b"[1]"), "not a node's status"),
        ((200, b" " * (limits.STATUS_BYTES_MAX + 1)), "not a node's status"),
    ],
)
def test_answers_that_are_no_status(node: FakeNode, answer: tuple[int, bytes], reason: str) -> None:
    """Guards: wrong, broken, deep or endless answers are bounded and become one error; the next poll works."""

    async def story(client: StatusClient) -> None:
        node.raw = answer
        with pytest.raises(NoAnswer, match=reason):
            await client.fetch()
        node.raw = None
        assert (await client.fetch()).node == "node0"

    ask(node, story)
