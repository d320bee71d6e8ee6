"""A DEALER to one sibling process, driven by the event loop.

ZMQ_FD is edge-triggered: whatever touches the socket may swallow the edge, so EVENTS is looked at again after every
message and after every send, before the loop may sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from vaultdb import limits
from vaultdb.wire import ipc, sockets


class Link:
    """Owns the socket and its monitor. Belongs to the event loop's thread.

    From the monitor's report of a broken connection until its report of a new one, nothing is sent: in between the
    socket may still take messages for the peer that is gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._loop = loop
        self._socket = sockets.connect_dealer(context, endpoint, ipc.API)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self._broken = False
        self._turn_is_due = False
        self._on_message: Callable[[bytes], None]
        self._on_writable: Callable[[], None]
        self._on_lost: Callable[[], None]

    def start(
        self, on_message: Callable[[bytes], None], on_writable: Callable[[], None], on_lost: Callable[[], None]
    ) -> None:
        """From now on the loop calls these; `on_lost` when an established connection broke. To be called once."""
        self._on_message, self._on_writable, self._on_lost = on_message, on_writable, on_lost
        self._loop.add_reader(_option(self._socket, zmq.FD), self._turn)
        self._loop.add_reader(_option(self._monitor, zmq.FD), self._monitor_turn)
        self._loop.call_soon(self._monitor_turn)  # no edge comes before a first look
        self._take_turn_soon()

    def try_send(self, frame: bytes) -> bool:
        """False: nothing was sent; `on_writable` tells when to try again."""
        if self._broken:
            return False
        sent = sockets.try_send(self._socket, frame)
        if _option(self._socket, zmq.EVENTS) & zmq.POLLIN:
            self._take_turn_soon()
        return sent

    def close(self) -> None:
        self._loop.remove_reader(_option(self._socket, zmq.FD))
        self._loop.remove_reader(_option(self._monitor, zmq.FD))
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _take_turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take what came, up to a bound, then offer the socket to what waits to be sent."""
        self._turn_is_due = False
        if self._socket.closed:
            return
        for _ in range(limits.DRAIN_MESSAGES_MAX):
            events = _option(self._socket, zmq.EVENTS)
            if not events & zmq.POLLIN:
                if events & zmq.POLLOUT and not self._broken:
                    self._on_writable()
                return
            self._on_message(self._socket.recv_multipart(zmq.DONTWAIT)[-1])
        self._take_turn_soon()

    def _monitor_turn(self) -> None:
        if self._monitor.closed:
            return
        for message in sockets.drain(self._monitor):
            self._broken = parse_monitor_message(message)["event"] == zmq.EVENT_DISCONNECTED
            if self._broken:
                self._on_lost()
        self._take_turn_soon()


def _option(socket: zmq.Socket[bytes], option: int) -> int:
    value = socket.getsockopt(option)
    assert isinstance(value, int)
    return value
