"""Partitions between real nodes, without privileges: a TCP relay on every directed link.

    with Partitions({0: 12000, 1: 12001, 2: 12002}) as partitions:
        partitions.ports[0, 1]      where node 0's configuration must say that node 1 listens
        partitions.cut(0, 1)        node 1 hears nothing from node 0 any more; node 0 still hears node 1

The connection from i to j carries only what i tells j, so stopping the relay from i to j is a one-way partition. Bytes
stall and nothing is closed: what stands in the buffers arrives late, after `heal`, as it would from a network's queues.
Connections made meanwhile are accepted and stall too; unlike with lost SYN packets, they go on the moment the link is
healed. All relays share one selector loop in a process of its own (`python -m bench.partition`), which takes one JSON
line for each command, answers it with one, and ends when its input ends. Loopback only, every buffer bounded.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vaultdb.errors import Unavailable
from vaultdb.limits import KIB

_HOST = "127.0.0.1"
_BUFFER_BYTES_MAX = 64 * KIB
_CONNECTIONS_MAX = 64
"""Of one link, stalled ones included; more are closed at once."""
_CONNECT_TIMEOUT_S = 1.0
_STOP_TIMEOUT_S = 5.0

Link = tuple[int, int]
"""(from, to), by node id."""


class Partitions:
    """Owns the relay process. Every method returns once its effect is there; raises Unavailable when the relay died."""

    def __init__(self, peer_ports: Mapping[int, int]) -> None:
        """A relay for every ordered pair of nodes; `peer_ports` says where each really listens."""
        self.nodes = tuple(sorted(peer_ports))
        self.links: tuple[Link, ...] = tuple(itertools.permutations(self.nodes, 2))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.partition"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(os.path.dirname(__file__)),
        )  # fmt: skip
        try:
            listening = self._ask("open", [(src, dst, peer_ports[dst]) for src, dst in self.links])
        except BaseException:
            self.close()
            raise
        self.ports: dict[Link, int] = dict(zip(self.links, listening, strict=True))

    def __enter__(self) -> Partitions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self, *links: Link) -> None:
        """From now on nothing passes these links."""
        self._ask("cut", links)

    def heal(self, *links: Link) -> None:
        """Let these links go on; without any, all."""
        self._ask("heal", links or self.links)

    def reset(self, *links: Link) -> None:
        """Close the connections that these links have now, at both ends. A cut link stays cut."""
        self._ask("reset", links)

    def between(self, one_side: Iterable[int], other_side: Iterable[int]) -> list[Link]:
        """The links in both directions between two sets of nodes."""
        others = tuple(other_side)
        return [link for a in one_side for b in others if a != b for link in ((a, b), (b, a))]

    def around(self, node: int) -> list[Link]:
        """Every link to and from `node`."""
        return self.between([node], self.nodes)

    def close(self) -> None:
        """End the relay, and with it every connection through it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, operation: str, argument: Iterable[object]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([operation, list(argument)]) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Unavailable(f"the relay has died: {error}") from error
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable("the relay has died")
        return json.loads(line)


class Connection:
    """One connection through a link: its two ends, and what was read from each and not yet written to the other."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        """None until the link is open."""
        self.unsent: dict[socket.socket, bytearray] = {}
        """By the socket that the bytes go to."""
        self.is_ended = False
        """One end closed: what it sent is still delivered, then both are closed."""

    def connect(self, port: int) -> None:
        """Raises OSError."""
        self.server = socket.create_connection((_HOST, port), _CONNECT_TIMEOUT_S)
        for end in (self.client, self.server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.unsent[end] = bytearray()

    def other(self, end: socket.socket) -> socket.socket:
        assert self.server is not None
        return self.server if end is self.client else self.client

    def ends(self) -> Iterator[socket.socket]:
        yield self.client
        if self.server is not None:
            yield self.server

    def interest(self, end: socket.socket) -> int:
        """The events that `end` waits for."""
        reads = not self.is_ended and len(self.unsent[self.other(end)]) < _BUFFER_BYTES_MAX
        return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if self.unsent[end] else 0)

    def move(self, end: socket.socket, events: int) -> bool:
        """Read and write what `end` is ready for. False: nothing more will come."""
        try:
            if events & selectors.EVENT_READ and not self.is_ended:
                found = end.recv(_BUFFER_BYTES_MAX)
                self.unsent[self.other(end)] += found
                self.is_ended = not found
            for sink, waiting in self.unsent.items():
                if waiting:
                    with contextlib.suppress(BlockingIOError):
                        del waiting[: sink.send(waiting)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not self.is_ended or any(self.unsent.values())


class Relay:
    """One link: a listening socket and its connections. Registers with the selector what may move, and calls that
    `data`.
    """

    def __init__(self, selector: selectors.BaseSelector, port: int) -> None:
        self._selector = selector
        self._target_port = port
        self._is_cut = False
        self._connections: list[Connection] = []
        self._listener = socket.create_server((_HOST, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())

    def set_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        for connection in list(self._connections):
            self._open(connection)

    def reset(self) -> None:
        for connection in list(self._connections):
            self._end(connection)

    def close(self) -> None:
        self.reset()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        if len(self._connections) >= _CONNECTIONS_MAX:
            client.close()
            return
        connection = Connection(client)
        self._connections.append(connection)
        self._open(connection)

    def _open(self, connection: Connection) -> None:
        """Let the connection go on if the link does, else keep it still."""
        if connection.server is None and not self._is_cut:
            try:
                connection.connect(self._target_port)
            except OSError:
                self._end(connection)
                return
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        if connection.server is None:
            return
        for end in connection.ends():
            wanted = 0 if self._is_cut else connection.interest(end)
            watched = self._selector.get_map().get(end)
            if watched is not None and watched.events != wanted:
                self._selector.unregister(end)
                watched = None
            if watched is None and wanted:
                self._selector.register(end, wanted, self._mover(connection, end))

    def _mover(self, connection: Connection, end: socket.socket) -> Callable[[int], None]:
        def move(events: int) -> None:
            if connection not in self._connections or self._is_cut:
                return
            if connection.move(end, events):
                self._watch(connection)
            else:
                self._end(connection)

        return move

    def _end(self, connection: Connection) -> None:
        self._connections.remove(connection)
        for end in connection.ends():
            if end in self._selector.get_map():
                self._selector.unregister(end)
            end.close()


class RelayProcess:
    """All relays, and the commands on standard input."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._relays: dict[Link, Relay] = {}
        self._input = bytearray()
        self._is_done = False

    def run(self) -> None:
        """Until the input ends."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, lambda _: self._obey())
        while not self._is_done:
            for key, events in self._selector.select():
                key.data(events)
        for relay in self._relays.values():
            relay.close()
        self._selector.close()

    def _obey(self) -> None:
        found = os.read(sys.stdin.fileno(), 64 * KIB)
        self._is_done = not found
        self._input += found
        while b"\n" in self._input:
            line, _, self._input = self._input.partition(b"\n")
            operation, argument = json.loads(line)
            print(json.dumps(self._do(operation, argument)), flush=True)

    def _do(self, operation: str, argument: list[list[int]]) -> object:
        if operation == "open":
            for src, dst, port in argument:
                self._relays[src, dst] = Relay(self._selector, port)
            return [relay.port for relay in self._relays.values()]
        for src, dst in argument:
            relay = self._relays[src, dst]
            if operation == "reset":
                relay.reset()
            else:
                relay.set_cut(operation == "cut")
        return True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, whose end ends this
    RelayProcess().run()
