"""The peers' bus on real sockets: connections noticed, nothing sent to the absent, nonsense dropped and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from bench.cluster import free_ports
from vaultdb.clock import deadline_after_ms, ms_until
from vaultdb.config import Config, NodeAddress
from vaultdb.consensus import peer_format
from vaultdb.consensus.peer_format import Floor, Forward, Item
from vaultdb.consensus.peers import ConnectionChange, PeerBus
from vaultdb.wire.sockets import Socket, connect_dealer, try_send

PATIENCE_MS = 5_000


class Pair:
    """Node 0's and node 1's bus, in two contexts."""

    def __init__(self, data_dir: Path) -> None:
        base = free_ports(6)
        names = ("http_port", "peer_port", "native_port")
        members = tuple(
            NodeAddress(
                id=n, name=f"node{n}", host="127.0.0.1", **{name: base + 2 * p + n for p, name in enumerate(names)}
            )
            for n in range(2)
        )
        self.config = Config(nodes=members, data_dir=str(data_dir))
        self.contexts: list[zmq.Context[Socket]] = [zmq.Context(), zmq.Context()]
        self.buses = [PeerBus(self.contexts[n], self.config.node(n)) for n in range(2)]

    def change(self, node: int) -> ConnectionChange:
        """The next change that a node's monitor tells."""
        [monitor] = self.buses[node].monitors
        deadline_ns = deadline_after_ms(PATIENCE_MS)
        while ms_until(deadline_ns) > 0:
            monitor.poll(100)
            if changes := self.buses[node].connection_changes(monitor):
                return changes[0]
        raise AssertionError(f"node {node} noticed nothing within {PATIENCE_MS} ms")

    def received(self, node: int) -> list[tuple[int, Item]]:
        assert self.buses[node].listener.poll(PATIENCE_MS)
        return list(self.buses[node].receive())

    def close(self) -> None:
        for context in self.contexts:
            context.destroy(linger=0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def test_what_a_turn_collected_arrives_in_order_and_in_one_message(pair: Pair) -> None:
    assert pair.change(0) == ConnectionChange(1, True)
    for floor in range(5):
        pair.buses[0].send(1, Floor(3, floor))
    assert pair.buses[0].flush() == {}
    assert pair.received(1) == [(0, Floor(3, floor)) for floor in range(5)]
    assert pair.buses[0].sent_total == 1


def test_without_a_connection_nothing_is_kept(pair: Pair) -> None:
    """What waits for a dead peer would reach its successor late. Planted bug: collecting for the unconnected."""
    pair.buses[0].send(1, Floor(3, 1))
    assert pair.change(0) == ConnectionChange(1, True)
    assert pair.buses[0].flush() == {}
    pair.buses[0].send(1, Floor(3, 2))
    pair.buses[0].flush()
    assert pair.received(1) == [(0, Floor(3, 2))]


def test_a_peers_end_is_noticed(pair: Pair) -> None:
    assert pair.change(0) == ConnectionChange(1, True)
    pair.contexts[1].destroy(linger=0)
    assert pair.change(0) == ConnectionChange(1, False)
    assert pair.buses[0].connected == set()


def test_what_a_full_queue_refused_is_handed_back(pair: Pair) -> None:
    """The driver must know that a forward did not leave. Planted bug: forgetting what was dropped."""
    assert pair.change(0) == ConnectionChange(1, True)
    forward = Forward(3, [(7, 1, False, b"x" * 100_000)])
    for _ in range(20_000):
        pair.buses[0].send(1, forward)
        if dropped := pair.buses[0].flush():
            break
    assert dropped == {1: [forward]}
    assert pair.buses[0].dropped_total == 1


def test_strangers_and_nonsense_are_dropped_and_counted(pair: Pair) -> None:
    """Another cluster, another receiver, an unknown sender, and bytes that mean nothing."""
    listener = pair.config.node(1).me
    dealer = connect_dealer(pair.contexts[0], f"tcp://{listener.peer_address}")
    assert dealer.poll(PATIENCE_MS, zmq.POLLOUT)
    nonsense = [
        peer_format.encode("other", 0, 1, [Floor(1, 1)]),
        peer_format.encode("local", 0, 0, [Floor(1, 1)]),
        peer_format.encode("local", 9, 1, [Floor(1, 1)]),
        b"\xc1",
    ]
    for frame in (*nonsense, peer_format.encode("local", 0, 1, [Floor(1, 2)])):
        assert try_send(dealer, frame)
    found: list[tuple[int, Item]] = []
    while not found:
        found = pair.received(1)
    assert found == [(0, Floor(1, 2))]
    assert pair.buses[1].malformed_total == len(nonsense)
