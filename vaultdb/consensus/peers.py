"""The peers' sockets: one ROUTER that only listens, one DEALER to each peer that only speaks.

What a turn of the loop has for a peer leaves as one message. A send that would block is dropped, counted and reported:
Raft probes anew and forwarded proposals are parked again. The DEALERs' monitors tell within milliseconds that a
process died.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from vaultdb import limits
from vaultdb.config import NodeConfig
from vaultdb.consensus import peer_format
from vaultdb.consensus.peer_format import Item
from vaultdb.errors import BadRequest
from vaultdb.raft.messages import NodeId
from vaultdb.wire import sockets

_CONNECTION_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class ConnectionChange(NamedTuple):
    peer: NodeId
    connected: bool


class PeerBus:
    """Owns every socket towards the other nodes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], node: NodeConfig) -> None:
        """Raises AddressTaken."""
        self._cluster = node.config.cluster.name
        self._id = node.id
        self.listener = sockets.bind_router(context, f"tcp://{node.me.host}:{node.me.peer_port}")
        self._dealers: dict[NodeId, zmq.Socket[bytes]] = {}
        self.monitors: dict[zmq.Socket[bytes], NodeId] = {}
        self._outgoing: dict[NodeId, list[Item]] = {peer.id: [] for peer in node.peers}
        self._outgoing_bytes: dict[NodeId, int] = dict.fromkeys(self._outgoing, 0)
        self._dropped: dict[NodeId, list[Item]] = {}
        self.connected: set[NodeId] = set()
        self.sent_total = self.dropped_total = self.received_total = self.malformed_total = 0
        for peer in node.peers:
            dealer = sockets.connect_dealer(context, f"tcp://{peer.peer_address}", monitor_events=_CONNECTION_EVENTS)
            monitor: zmq.Socket[bytes] = dealer.get_monitor_socket(_CONNECTION_EVENTS)
            self._dealers[peer.id] = dealer
            self.monitors[monitor] = peer.id

    def connection_changes(self, monitor: zmq.Socket[bytes]) -> list[ConnectionChange]:
        """What the monitor socket has to tell, in order."""
        changes = []
        peer = self.monitors[monitor]
        while sockets.has_message(monitor):
            event = recv_monitor_message(monitor)["event"]
            is_connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if is_connected != (peer in self.connected):
                (self.connected.add if is_connected else self.connected.discard)(peer)
                changes.append(ConnectionChange(peer, is_connected))
        return changes

    def receive(self) -> Iterator[tuple[NodeId, Item]]:
        """The well-formed items that wait, with their senders. Bounded; what remains is for the next turn."""
        for frames in sockets.drain(self.listener):
            try:
                cluster, src, dst, items = peer_format.decode(frames[-1])
            except BadRequest:
                self.malformed_total += 1
                continue
            if cluster != self._cluster or dst != self._id or src not in self._outgoing:
                self.malformed_total += 1
                continue
            self.received_total += 1
            for item in items:
                yield src, item

    def send(self, peer: NodeId, item: Item) -> None:
        """To leave with `flush`, or at once when the frame is full. Without a connection: dropped and counted."""
        if peer not in self.connected:
            self.dropped_total += 1
            return
        self._outgoing[peer].append(item)
        self._outgoing_bytes[peer] += peer_format.payload_bytes(item)
        if self._outgoing_bytes[peer] > limits.APPEND_BYTES_MAX:
            self._flush_peer(peer)

    def flush(self) -> dict[NodeId, list[Item]]:
        """Send what this turn collected; returns what connected peers were not sent because their queue is full."""
        for peer, items in self._outgoing.items():
            if items:
                self._flush_peer(peer)
        dropped, self._dropped = self._dropped, {}
        return dropped

    def _flush_peer(self, peer: NodeId) -> None:
        items = self._outgoing[peer]
        self._outgoing[peer] = []
        self._outgoing_bytes[peer] = 0
        if sockets.try_send(self._dealers[peer], peer_format.encode(self._cluster, self._id, peer, items)):
            self.sent_total += 1
        else:
            self.dropped_total += 1
            self._dropped.setdefault(peer, []).extend(items)
