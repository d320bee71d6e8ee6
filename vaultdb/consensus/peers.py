"""The peers' sockets: one ROUTER that only listens, one DEALER to each peer that only speaks.

What a turn of the loop has for a peer leaves as one message. A send that would block is dropped, counted and reported:
Raft probes anew and forwarded proposals are parked again. The DEALERs' monitors tell within milliseconds that a
process died. Whom to connect to changes with the membership (`set_members`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from vaultdb import limits
from vaultdb.config import NodeConfig
from vaultdb.consensus import peer_format
from vaultdb.consensus.addresses import Address
from vaultdb.consensus.peer_format import Frame, Item, Sender
from vaultdb.errors import BadRequest
from vaultdb.raft.messages import NodeId
from vaultdb.wire import sockets
from vaultdb.wire.sockets import Socket, Waiter

_CONNECTION_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class ConnectionChange(NamedTuple):
    peer: NodeId
    connected: bool


class _Link:
    """The connection to one peer, and what this turn has for it."""

    def __init__(self, context: zmq.Context[Socket], address: Address) -> None:
        self.address = address
        endpoint = f"tcp://{address.host}:{address.port}"
        self.dealer = sockets.connect_dealer(context, endpoint, monitor_events=_CONNECTION_EVENTS)
        self.monitor: Socket = self.dealer.get_monitor_socket(_CONNECTION_EVENTS)
        self.outgoing: list[Item] = []
        self.outgoing_bytes = 0

    def close(self) -> None:
        self.dealer.disable_monitor()
        self.monitor.close(linger=0)
        self.dealer.close(linger=0)


class PeerBus:
    """Owns every socket towards the other nodes, and keeps `waiter` informed of them."""

    def __init__(self, context: zmq.Context[Socket], node: NodeConfig, waiter: Waiter) -> None:
        """Raises AddressTaken. Connected to nobody until `set_members`."""
        self._context = context
        self._waiter = waiter
        self._cluster = node.config.cluster.name
        self._id = node.id
        self._sender: Sender | None = None
        self._links: dict[NodeId, _Link] = {}
        self._dropped: dict[NodeId, list[Item]] = {}
        self.listener = sockets.bind_router(context, f"tcp://{node.me.host}:{node.me.peer_port}")
        self.monitors: dict[Socket, NodeId] = {}
        self.connected: set[NodeId] = set()
        self.sent_total = self.dropped_total = self.received_total = self.malformed_total = 0
        waiter.add(self.listener)

    def set_members(self, addresses: Mapping[NodeId, Address], sender: Sender) -> None:
        """Be connected to exactly these, and introduce this node as `sender` from now on. A connection whose address
        stays the same is not touched; what was collected for a peer that is left out is gone.
        """
        self._sender = sender
        for peer, link in list(self._links.items()):
            if addresses.get(peer) != link.address:
                self._waiter.remove(link.monitor)
                del self.monitors[link.monitor], self._links[peer]
                self.connected.discard(peer)
                link.close()
        for peer, address in addresses.items():
            if peer not in self._links:
                link = self._links[peer] = _Link(self._context, address)
                self.monitors[link.monitor] = peer
                self._waiter.add(link.monitor)

    def connection_changes(self, monitor: Socket) -> list[ConnectionChange]:
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

    def receive(self) -> Iterator[Frame]:
        """The well-formed frames that wait, if they are of this cluster's name and for this node. Bounded; what
        remains is for the next turn.
        """
        for frames in sockets.drain(self.listener):
            try:
                frame = peer_format.decode(frames[-1])
            except BadRequest:
                self.malformed_total += 1
                continue
            sender = frame.sender
            if sender.cluster != self._cluster or frame.dst != self._id or sender.src == self._id or sender.src < 0:
                self.malformed_total += 1
                continue
            self.received_total += 1
            yield frame

    def send(self, peer: NodeId, item: Item) -> None:
        """To leave with `flush`, or at once when the frame is full. Without a connection: dropped and counted."""
        if peer not in self.connected:
            self.dropped_total += 1
            return
        link = self._links[peer]
        link.outgoing.append(item)
        link.outgoing_bytes += peer_format.payload_bytes(item)
        if link.outgoing_bytes > limits.APPEND_BYTES_MAX:
            self._flush(peer, link)

    def flush(self) -> dict[NodeId, list[Item]]:
        """Send what this turn collected; returns what connected peers were not sent because their queue is full."""
        for peer, link in self._links.items():
            if link.outgoing:
                self._flush(peer, link)
        dropped, self._dropped = self._dropped, {}
        return dropped

    def _flush(self, peer: NodeId, link: _Link) -> None:
        items, link.outgoing, link.outgoing_bytes = link.outgoing, [], 0
        assert self._sender is not None
        if sockets.try_send(link.dealer, peer_format.encode(self._sender, peer, items)):
            self.sent_total += 1
        else:
            self.dropped_total += 1
            self._dropped.setdefault(peer, []).extend(items)
