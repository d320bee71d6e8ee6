"""Sockets: nothing lies unread without a wake-up, and what cannot be sent is refused at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from vaultdb import limits
from vaultdb.errors import AddressTaken, BrokenInvariant
from vaultdb.wire import sockets
from vaultdb.wire.sockets import Socket, Waiter, bind_router, connect_dealer, drain, try_send

PATIENCE_MS = 5_000
AT_ONCE_MS = 0


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def endpoint() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="vdb")
    yield f"ipc://{directory}/socket"
    shutil.rmtree(directory)


def pair(context: zmq.Context[Socket], endpoint: str) -> tuple[Socket, Socket]:
    """A ROUTER and a connected DEALER, each having heard of the other."""
    router = bind_router(context, endpoint)
    dealer = connect_dealer(context, endpoint, b"dealer")
    assert dealer.poll(PATIENCE_MS, zmq.POLLOUT)
    assert try_send(dealer, b"hello")
    assert router.poll(PATIENCE_MS)
    assert [frames[-1] for frames in drain(router)] == [b"hello"]
    return router, dealer


def test_a_message_that_waits_is_reported_and_then_not(context: zmq.Context[Socket], endpoint: str) -> None:
    router, dealer = pair(context, endpoint)
    waiter = Waiter(two_way=[router])
    assert waiter.wait(AT_ONCE_MS) == set()
    assert try_send(dealer, b"1")
    assert waiter.wait(PATIENCE_MS) == {router}
    assert len(list(drain(router))) == 1
    assert waiter.wait(AT_ONCE_MS) == set()


def test_a_send_may_swallow_the_edge_and_the_message_is_reported_all_the_same(
    context: zmq.Context[Socket], endpoint: str
) -> None:
    """Planted bug: not looking at two-way sockets again before blocking."""
    router, dealer = pair(context, endpoint)
    waiter = Waiter(two_way=[router])
    assert waiter.wait(AT_ONCE_MS) == set()
    for number in range(200):
        assert try_send(dealer, b"%d" % number)
        while not sockets.has_message(router):  # as a send on it does: takes the edge, leaves the message
            pass
        assert waiter.wait(AT_ONCE_MS) == {router}, f"message {number} lies there without a wake-up"
        assert len(list(drain(router))) == 1
        waiter.wait(AT_ONCE_MS)


def test_what_one_turn_left_is_reported_to_the_next(context: zmq.Context[Socket], endpoint: str) -> None:
    """Planted bug: not looking again at a receiving socket whose drain was cut off."""
    router, dealer = pair(context, endpoint)
    waiter = Waiter(receiving=[router])
    total = limits.DRAIN_MESSAGES_MAX + 100
    for number in range(total):
        assert try_send(dealer, b"%d" % number)
    received = 0
    while received < total:
        assert waiter.wait(PATIENCE_MS) == {router}, f"{total - received} messages lie there without a wake-up"
        received += len(list(drain(router, messages_max=7)))


def test_descriptors_and_sockets_are_waited_for_together(context: zmq.Context[Socket], endpoint: str) -> None:
    router, dealer = pair(context, endpoint)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    waiter = Waiter(two_way=[router], descriptors=[event])
    waiter.wait(AT_ONCE_MS)
    os.eventfd_write(event, 1)
    assert waiter.wait(PATIENCE_MS) == {event}
    assert try_send(dealer, b"1")
    assert router.poll(PATIENCE_MS)
    assert waiter.wait(PATIENCE_MS) == {event, router}
    os.close(event)


def test_a_socket_that_comes_later_is_waited_for_until_it_goes(context: zmq.Context[Socket], endpoint: str) -> None:
    """What had arrived before it was added has no edge any more. Planted bug: not looking at it once."""
    router, dealer = pair(context, endpoint)
    waiter = Waiter()
    assert try_send(dealer, b"1")
    assert router.poll(PATIENCE_MS)
    waiter.add(router)
    assert waiter.wait(PATIENCE_MS) == {router}
    waiter.remove(router)
    assert waiter.wait(AT_ONCE_MS) == set()


def test_a_send_to_nobody_is_refused(context: zmq.Context[Socket], endpoint: str) -> None:
    router = bind_router(context, endpoint)
    dealer = connect_dealer(context, "tcp://127.0.0.1:1")
    assert not try_send(router, b"nobody", b"message")
    assert not try_send(dealer, b"message")


def test_a_send_into_a_full_queue_is_refused(context: zmq.Context[Socket], endpoint: str) -> None:
    """The receiver does not read: bounded memory on both sides."""
    _, dealer = pair(context, endpoint)
    sent = 0
    while try_send(dealer, b"x" * 1000):
        sent += 1
        assert sent <= 3 * limits.SOCKET_HWM_MESSAGES, "the queue has no bound"


def test_a_taken_address_is_told_with_its_name(context: zmq.Context[Socket]) -> None:
    first = bind_router(context, "tcp://127.0.0.1:*")
    taken = first.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(taken, bytes)
    with pytest.raises(AddressTaken, match=taken.decode()):
        bind_router(context, taken.decode())


def test_a_path_over_the_systems_limit_is_told(context: zmq.Context[Socket], tmp_path: Path) -> None:
    with pytest.raises(BrokenInvariant, match="107 bytes"):
        bind_router(context, f"ipc://{tmp_path}/{'x' * 107}")
