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
from vaultdb.consensus.addresses import Address
from vaultdb.consensus.peer_format import Floor, Forward, Item, Sender
from vaultdb.consensus.peers import ConnectionChange, PeerBus
from vaultdb.wire.sockets import Socket, Waiter, bind_router, connect_dealer, try_send

PATIENCE_MS = 5_000


def sender(node: int, cluster: str = "local") -> Sender:
    return Sender(cluster, "", node, 1, 1, 0, 0)


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
        self.waiters = [Waiter(), Waiter()]
        self.buses = [PeerBus(self.contexts[n], self.config.node(n), self.waiters[n]) for n in range(2)]
        for n in range(2):
            self.connect(n)

    def connect(self, node: int) -> None:
        peer = self.config.nodes[1 - node]
        self.buses[node].set_members({peer.id: Address(peer.host, peer.peer_port)}, sender(node))

    def change(self, node: int) -> ConnectionChange:
        """The next change that a node's monitor tells."""
        deadline_ns = deadline_after_ms(PATIENCE_MS)
        while ms_until(deadline_ns) > 0:
            for monitor in self.buses[node].monitors.keys() & self.waiters[node].wait(100):
                if changes := self.buses[node].connection_changes(monitor):
                    return changes[0]
        raise AssertionError(f"node {node} noticed nothing within {PATIENCE_MS} ms")

    def received(self, node: int) -> list[tuple[int, Item]]:
        assert self.buses[node].listener.poll(PATIENCE_MS)
        return [(frame.sender.src, item) for frame in self.buses[node].receive() for item in frame.items]

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
    """Another cluster, another receiver, an impossible sender, and bytes that mean nothing."""
    listener = pair.config.node(1).me
    dealer = connect_dealer(pair.contexts[0], f"tcp://{listener.peer_address}")
    assert dealer.poll(PATIENCE_MS, zmq.POLLOUT)
    nonsense = [
        peer_format.encode(sender(0, "other"), 1, [Floor(1, 1)]),
        peer_format.encode(sender(0), 0, [Floor(1, 1)]),
        peer_format.encode(sender(1), 1, [Floor(1, 1)]),
        peer_format.encode(sender(-1), 1, [Floor(1, 1)]),
        b"\xc1",
    ]
    for frame in (*nonsense, peer_format.encode(sender(0), 1, [Floor(1, 2)])):
        assert try_send(dealer, frame)
    found: list[tuple[int, Item]] = []
    while not found:
        found = pair.received(1)
    assert found == [(0, Floor(1, 2))]
    assert pair.buses[1].malformed_total == len(nonsense)


def test_a_peer_that_is_left_out_is_left_alone_and_one_that_comes_back_is_connected_again(pair: Pair) -> None:
    """Planted bug: forgetting the connection's state with the connection; what is sent later is lost in silence."""
    assert pair.change(0) == ConnectionChange(1, True)
    pair.buses[0].send(1, Floor(3, 1))
    pair.buses[0].set_members({}, sender(0))
    assert pair.buses[0].connected == set()
    assert pair.buses[0].flush() == {}
    pair.connect(0)
    pair.buses[0].send(1, Floor(3, 2))
    assert pair.change(0) == ConnectionChange(1, True)
    pair.buses[0].send(1, Floor(3, 3))
    pair.buses[0].flush()
    assert pair.received(1) == [(0, Floor(3, 3))]


def test_a_connection_whose_address_stays_is_not_touched_when_others_come_and_go(pair: Pair) -> None:
    """A change of members interrupts nobody. Planted bug: connecting everybody anew."""
    assert pair.change(0) == ConnectionChange(1, True)
    peer = pair.config.nodes[1]
    port = free_ports(1)
    both = {1: Address(peer.host, peer.peer_port), 2: Address("127.0.0.1", port)}
    pair.buses[0].set_members(both, sender(0))
    assert pair.buses[0].connected == {1}
    pair.buses[0].send(1, Floor(3, 1))
    pair.connect(0)
    pair.buses[0].flush()
    assert pair.received(1) == [(0, Floor(3, 1))]


def test_a_peer_with_another_address_is_connected_there(pair: Pair) -> None:
    assert pair.change(0) == ConnectionChange(1, True)
    bound = bind_router(pair.contexts[1], "tcp://127.0.0.1:*")
    endpoint = bound.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    port = int(endpoint.decode().rpartition(":")[2])
    pair.buses[0].set_members({1: Address("127.0.0.1", port)}, sender(0))
    assert pair.change(0) == ConnectionChange(1, True)
    pair.buses[0].send(1, Floor(3, 1))
    pair.buses[0].flush()
    assert bound.poll(PATIENCE_MS)
