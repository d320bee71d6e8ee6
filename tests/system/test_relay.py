"""The relay that partition tests stand on: what it does to bytes and connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from bench.partition import Partitions
from vaultdb.limits import MIB

pytestmark = pytest.mark.system

SILENCE_S = 0.2
HELD_BYTES_MAX = 16 * MIB
"""By the buffers of both sockets of a connection and of the relay, with room."""


@pytest.fixture
def listeners() -> Iterator[dict[int, socket.socket]]:
    """What nodes 0 and 1 would listen on."""
    found = {node: socket.create_server(("127.0.0.1", 0)) for node in (0, 1)}
    for one in found.values():
        one.settimeout(5)
    yield found
    for one in found.values():
        one.close()


@pytest.fixture
def partitions(listeners: dict[int, socket.socket]) -> Iterator[Partitions]:
    with Partitions({node: one.getsockname()[1] for node, one in listeners.items()}) as running:
        yield running


def connect(partitions: Partitions, src: int, dst: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", partitions.ports[src, dst]), 5)


def read(end: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = end.recv(count - len(found))
        assert more, f"the connection ended after {found!r}"
        found += more
    return found


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SILENCE_S)
    try:
        found = end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)
    raise AssertionError(f"heard {found!r} through a cut link")


def test_bytes_pass_in_both_directions_and_an_end_reaches_the_other(
    partitions: Partitions, listeners: dict[int, socket.socket]
) -> None:
    with connect(partitions, 0, 1) as client:
        server, _ = listeners[1].accept()
        with server:
            client.sendall(b"there")
            assert read(server, 5) == b"there"
            server.sendall(b"back")
            assert read(client, 4) == b"back"
            client.sendall(b"last")
            client.close()
            assert read(server, 4) == b"last"
            assert server.recv(1) == b""


def test_a_cut_stalls_one_direction_of_use_and_healing_delivers_what_waited(
    partitions: Partitions, listeners: dict[int, socket.socket]
) -> None:
    """Nothing is lost, reordered or closed, and the link the other way is not touched."""
    with connect(partitions, 0, 1) as forth, connect(partitions, 1, 0) as back:
        server, _ = listeners[1].accept()
        other, _ = listeners[0].accept()
        with server, other:
            forth.sendall(b"before ")
            assert read(server, 7) == b"before "
            partitions.cut((0, 1))
            forth.sendall(b"during ")
            assert is_silent(server)
            back.sendall(b"ok")
            assert read(other, 2) == b"ok"
            partitions.heal((0, 1))
            forth.sendall(b"after")
            assert read(server, 12) == b"during after"


def test_a_connection_made_through_a_cut_link_goes_on_when_it_is_healed(
    partitions: Partitions, listeners: dict[int, socket.socket]
) -> None:
    partitions.cut((0, 1))
    with connect(partitions, 0, 1) as client:
        client.sendall(b"early")
        listeners[1].settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            listeners[1].accept()
        listeners[1].settimeout(5)
        partitions.heal()
        server, _ = listeners[1].accept()
        with server:
            assert read(server, 5) == b"early"


def test_what_a_cut_link_holds_is_bounded(partitions: Partitions) -> None:
    """The sender is stopped by its own full buffer, as on a real network."""
    with connect(partitions, 0, 1) as client:
        partitions.cut((0, 1))
        client.settimeout(SILENCE_S)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < HELD_BYTES_MAX:
                sent += client.send(bytes(MIB))
        assert sent < HELD_BYTES_MAX


def test_a_reset_closes_both_ends_and_leaves_the_link_as_it_was(
    partitions: Partitions, listeners: dict[int, socket.socket]
) -> None:
    with connect(partitions, 0, 1) as client:
        server, _ = listeners[1].accept()
        with server:
            partitions.cut((0, 1))
            partitions.reset((0, 1))
            assert client.recv(1) == b""
            assert server.recv(1) == b""
    partitions.heal()
    with connect(partitions, 0, 1) as client:
        server, _ = listeners[1].accept()
        with server:
            client.sendall(b"new")
            assert read(server, 3) == b"new"


def test_a_refused_connection_ends_the_one_that_asked(
    partitions: Partitions, listeners: dict[int, socket.socket]
) -> None:
    """A node that is down looks down through its relay."""
    listeners[1].close()
    with connect(partitions, 0, 1) as client:
        assert client.recv(1) == b""


def test_the_relay_ends_with_its_owner(partitions: Partitions) -> None:
    port = partitions.ports[0, 1]
    partitions.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
