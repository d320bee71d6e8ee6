"""ZeroMQ sockets with every option that matters set, and the only translation of its errors.

Every socket belongs to one thread and is made after the fork. A send that would block is refused, and the caller
counts it. Options and why: LINGER 0 (a stop does not wait for a dead peer), bounded HWM, MAXMSGSIZE, IMMEDIATE 1
(nothing queues for a peer that is not there), ROUTER_MANDATORY (a send to nobody is an error, not silence),
ROUTER_HANDOVER (a restarted peer replaces its predecessor), heartbeats on TCP (a stopped peer is noticed).
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from pathlib import Path

import zmq

from vaultdb import limits
from vaultdb.errors import AddressTaken, BrokenInvariant

Socket = zmq.Socket[bytes]

_HEARTBEAT_INTERVAL_MS = 500
_HEARTBEAT_TIMEOUT_MS = 2_000
_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 200


def _bounded(socket: Socket) -> Socket:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, limits.SOCKET_HWM_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, limits.SOCKET_HWM_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.MESSAGE_BYTES_MAX)
    return socket


def _tcp_heartbeats(socket: Socket) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_INTERVAL_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT_MS)


def bind_router(context: zmq.Context[Socket], endpoint: str) -> Socket:
    """A ROUTER bound to `endpoint` (ipc or tcp). Raises AddressTaken.

    A stale ipc path of a dead predecessor is replaced: the caller holds the lock of the data directory.
    """
    socket = _bounded(context.socket(zmq.ROUTER))
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if endpoint.startswith("tcp://"):
        _tcp_heartbeats(socket)
    else:
        path = endpoint.removeprefix("ipc://")
        if len(os.fsencode(path)) > limits.IPC_PATH_BYTES_MAX:
            raise BrokenInvariant(f"socket path {path} is over {limits.IPC_PATH_BYTES_MAX} bytes")
        Path(path).unlink(missing_ok=True)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise AddressTaken(f"{endpoint} cannot be bound: {error.strerror}") from error
    return socket


def connect_dealer(
    context: zmq.Context[Socket], endpoint: str, routing_id: bytes | None = None, monitor_events: int = 0
) -> Socket:
    """A DEALER that connects to `endpoint` now and for ever again.

    With `monitor_events`, `get_monitor_socket()` of the result is its monitor and misses nothing: one made after the
    connect can be too late for the first connection.
    """
    socket = _bounded(context.socket(zmq.DEALER))
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    if routing_id is not None:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    if endpoint.startswith("tcp://"):
        _tcp_heartbeats(socket)
    if monitor_events:
        socket.get_monitor_socket(monitor_events)
    socket.connect(endpoint)
    return socket


class Waiter:
    """Waits for several sockets and descriptors with one poll(2), where zmq.Poller needs one and more per socket.

    A socket's descriptor is edge-triggered: it tells of commands for the socket, not of messages, and whatever touches
    the socket takes the edge. So before it blocks, `wait` looks at those that may hold messages without an edge: the
    `two_way` ones, which are sent on, and those whose last readiness may not have been drained to the end.
    """

    def __init__(
        self, *, two_way: Iterable[Socket] = (), receiving: Iterable[Socket] = (), descriptors: Iterable[int] = ()
    ) -> None:
        """`receiving` sockets are never sent on. Every socket is for the caller's thread only."""
        self._two_way = list(two_way)
        self._poll = select.poll()
        self._sockets: dict[int, Socket] = {}
        self._unsure: list[Socket] = []
        for socket in (*self._two_way, *receiving):
            self.add(socket)
        for fd in descriptors:
            self._poll.register(fd, select.POLLIN)

    def add(self, socket: Socket) -> None:
        """Wait for this socket too; one that is never sent on."""
        fd = _descriptor(socket)
        self._sockets[fd] = socket
        self._poll.register(fd, select.POLLIN)
        self._unsure.append(socket)

    def remove(self, socket: Socket) -> None:
        """To be called before the socket is closed."""
        fd = _descriptor(socket)
        del self._sockets[fd]
        self._poll.unregister(fd)
        self._unsure = [other for other in self._unsure if other is not socket]

    def wait(self, timeout_ms: float) -> set[Socket | int]:
        """The sockets that have messages and the descriptors that are readable; empty after `timeout_ms`."""
        ready: set[Socket | int] = {socket for socket in self._unsure if has_message(socket)}
        for fd, _ in self._poll.poll(0 if ready else timeout_ms):
            socket = self._sockets.get(fd)
            if socket is None:
                ready.add(fd)
            elif has_message(socket):
                ready.add(socket)
        self._unsure = [*self._two_way, *(source for source in ready if not isinstance(source, int))]
        return ready


def _descriptor(socket: Socket) -> int:
    fd = socket.getsockopt(zmq.FD)
    assert isinstance(fd, int)
    return fd


def has_message(socket: Socket) -> bool:
    """Whether a receive would return at once."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)


def try_send(socket: Socket, *frames: bytes) -> bool:
    """Send without blocking. False: nothing was sent (no such peer, or its queue is full)."""
    try:
        socket.send_multipart(frames, zmq.DONTWAIT)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return False
        raise
    return True


def drain(socket: Socket, messages_max: int = limits.DRAIN_MESSAGES_MAX) -> Iterator[list[bytes]]:
    """All messages that wait, as lists of frames, up to `messages_max`."""
    for _ in range(messages_max):
        try:
            yield socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return
