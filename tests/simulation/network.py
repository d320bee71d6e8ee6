"""The network: links that lose, double, shuffle, delay and break; connections that the drivers hear of, or not.

What holds of the real transport holds here too: what drivers say besides Raft's messages arrives in order and at most
once. Raft's own messages need neither, and mostly get neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from tests.simulation.plan import LATE_MS_MAX, Plan
from tests.simulation.world import World
from vaultdb.consensus.addresses import Address
from vaultdb.consensus.peer_format import Frame, Hello, Item, Sender
from vaultdb.raft.messages import KINDS, NodeId

Link = tuple[NodeId, NodeId]
"""(from, to)."""

_RAFT = frozenset(KINDS)
_RECONNECT_MS = (5.0, 60.0)
_TOLD_MS = ((1.0, 30.0), (50.0, 400.0))
"""Until a connection breaks whose link is blocked: reset, or by heartbeats."""
_SILENT_BREAK_MS = (300.0, 2_000.0)
"""Until a connection whose other end fell silent is given up."""


class Endpoint(Protocol):
    """A node, as the network sees it."""

    id: NodeId
    life: int

    @property
    def is_up(self) -> bool: ...

    sender: Sender
    connected: set[NodeId]
    wanted: set[NodeId]
    """Whom it tries to be connected to."""

    def arrived(self, frame: Frame) -> None: ...

    def connection_changed(self, peer: NodeId, *, connected: bool) -> None: ...


class Network:
    """Owns what is on the way. `blocked` links let nothing through; `is_hostile` switches all other mischief."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self.endpoints: dict[NodeId, Endpoint] = {}
        self.blocked: set[Link] = set()
        self.is_hostile = True
        self._epochs: dict[Link, int] = {}
        """Grows when a connection breaks: what was on it is lost."""
        self._last_arrival_ns: dict[Link, int] = {}
        self._held: dict[Link, list[tuple[tuple[int, int], Sender, Sequence[Item]]]] = {}
        """Frames that wait for a link to let them pass, with the connection that they belong to."""
        self.on_sent: Callable[[NodeId, Any], None] = lambda _src, _item: None
        self.sent_total = self.lost_total = 0

    # Connections.

    def joined(self, node: Endpoint) -> None:
        """`node` has started: others connect to it again, some of whom only now learn of its former death."""
        for other in self.endpoints.values():
            if other is not node and other.is_up and node.id in other.wanted:
                self.break_connection((other.id, node.id))
                self.connect_soon((other.id, node.id))

    def left(self, node: Endpoint) -> None:
        """`node` has died. Mostly its connections are reset at once; after a power cut they just fall silent."""
        is_reset = self._world.chance(self._plan.is_told)
        for other in self.endpoints.values():
            if other is node:
                continue
            if self._world.chance(0.5):
                self._forget((node.id, other.id))
            self._forget((other.id, node.id))
            delays = (0.1, 5.0) if is_reset else _SILENT_BREAK_MS
            self._world.after(self._world.between_ms(*delays), self._break_if_dead, (other.id, node.id), node.life)

    def block(self, links: Iterable[Link]) -> None:
        """From now on nothing passes these links; the connections over them break, some day or never."""
        for link in sorted(links):
            self.blocked.add(link)
            if self._world.chance(self._plan.is_told):
                for way in (link, link[::-1]):
                    delays = self._world.rng.choice(_TOLD_MS)
                    self._world.after(self._world.between_ms(*delays), self._break_if_blocked, way)

    def unblock(self, links: Iterable[Link]) -> None:
        links = sorted(links)
        self.blocked.difference_update(links)
        self._send_held(links)

    def mend(self) -> None:
        self.unblock(list(self.blocked))

    def break_connection(self, link: Link) -> None:
        """What is on the way is lost, and the sender is told."""
        src, dst = link
        self._forget(link)
        endpoint = self.endpoints[src]
        if endpoint.is_up and dst in endpoint.connected:
            self._world.note(f"n{src} loses its connection to n{dst}")
            endpoint.connected.discard(dst)
            endpoint.connection_changed(dst, connected=False)
            self.connect_soon(link)

    def _forget(self, link: Link) -> None:
        self._epochs[link] = self._epochs.get(link, 0) + 1

    def _is_blocked(self, link: Link) -> bool:
        return link in self.blocked or link[::-1] in self.blocked

    def _break_if_blocked(self, link: Link) -> None:
        if self._is_blocked(link):
            self.break_connection(link)

    def _break_if_dead(self, link: Link, life: int) -> None:
        dead = self.endpoints[link[1]]
        if not dead.is_up or dead.life != life:
            self.break_connection(link)

    def connect_soon(self, link: Link) -> None:
        delay_ns = self._world.between_ms(*_RECONNECT_MS)
        self._world.after(delay_ns, self._connect, link, self.endpoints[link[0]].life)

    def _connect(self, link: Link, life: int) -> None:
        src, dst = (self.endpoints[node] for node in link)
        if not src.is_up or src.life != life or dst.id in src.connected or dst.id not in src.wanted:
            return
        if not dst.is_up or self._is_blocked(link):
            self.connect_soon(link)
            return
        src.connected.add(dst.id)
        src.connection_changed(dst.id, connected=True)

    # Frames.

    def is_queue_full(self) -> bool:
        return self.is_hostile and self._world.chance(self._plan.full_queue)

    def transmit(self, link: Link, sender: Sender, items: Sequence[Item]) -> None:
        """Send `items` in one frame; on a network that is no FIFO, Raft's messages travel apart."""
        if self._plan.is_fifo or not self.is_hostile:
            self._send_in_order(link, sender, items)
            return
        for item in items:
            if type(item) in _RAFT:
                self._send_anyhow(link, sender, item)
        others = [item for item in items if type(item) not in _RAFT]
        if others:
            self._send_in_order(link, sender, others)

    def _send_in_order(self, link: Link, sender: Sender, items: Sequence[Item]) -> None:
        """A frame of a connection. Where nothing passes it is sent again and again, until the connection breaks; only
        the first frame of a connection cannot be lost otherwise.
        """
        key = (self._epochs.get(link, 0), self.endpoints[link[1]].life)
        if link in self.blocked:
            self._held.setdefault(link, []).append((key, sender, items))
            return
        if type(items[0]) is not Hello and self._is_lost(items):
            self._noted("lost", link, items)
            return
        self._noted("sent", link, items)
        arrival_ns = max(self._world.now_ns + self._delay_ns(), self._last_arrival_ns.get(link, 0) + 1)
        self._last_arrival_ns[link] = arrival_ns
        self._world.at(arrival_ns, self._deliver, link, key, sender, items)

    def _send_held(self, links: Iterable[Link]) -> None:
        for link in links:
            for key, sender, items in self._held.pop(link, ()):
                if key == (self._epochs.get(link, 0), self.endpoints[link[1]].life):
                    self._send_in_order(link, sender, items)

    def _send_anyhow(self, link: Link, sender: Sender, item: Item) -> None:
        if link in self.blocked or self._is_lost((item,)):
            self._noted("lost", link, (item,))
            return
        self._noted("sent", link, (item,))
        for _ in range(2 if self._world.chance(self._plan.duplication) else 1):
            self._world.after(self._delay_ns(), self._deliver, link, None, sender, (item,))

    def _is_lost(self, items: Sequence[Item]) -> bool:
        lost = self.is_hostile and self._world.chance(self._plan.loss)
        self.lost_total += len(items) * lost
        return lost

    def _noted(self, what: str, link: Link, items: Sequence[Item]) -> None:
        self.sent_total += len(items)
        for item in items:
            self.on_sent(link[0], item)
            self._world.note((what, link, item))

    def _delay_ns(self) -> int:
        if not self.is_hostile:
            return self._world.between_ms(0.1, 2.0)
        if self._world.chance(self._plan.lateness):
            return self._world.between_ms(1.0, LATE_MS_MAX)
        return self._world.between_ms(*self._plan.delay_ms)

    def _deliver(self, link: Link, key: tuple[int, int] | None, sender: Sender, items: Sequence[Item]) -> None:
        node = self.endpoints[link[1]]
        if not node.is_up or (key is not None and key != (self._epochs.get(link, 0), node.life)):
            return
        if link in self.blocked:
            if key is not None:
                self._held.setdefault(link, []).append((key, sender, items))
            return
        node.arrived(Frame(sender, link[1], list(items)))


class SimulatedPeers:
    """The driver's view of the others, in one life of its node: what a turn has for one peer leaves as one frame."""

    def __init__(self, network: Network, me: Endpoint) -> None:
        self._network = network
        self._me = me
        self._outgoing: dict[NodeId, list[Item]] = {}
        me.wanted = set()

    @property
    def connected(self) -> set[NodeId]:
        return self._me.connected

    @connected.setter
    def connected(self, _: set[NodeId]) -> None:
        raise AssertionError("the network decides who is connected")

    def set_members(self, addresses: Mapping[NodeId, Address], sender: Sender) -> None:
        me = self._me
        me.sender = sender
        before, me.wanted = me.wanted, {*addresses} & self._network.endpoints.keys()
        for peer in sorted(before - me.wanted):
            me.connected.discard(peer)
            self._outgoing.pop(peer, None)
        for peer in sorted(me.wanted - before):
            self._network.connect_soon((me.id, peer))

    def send(self, peer: NodeId, item: Item) -> None:
        if peer in self._me.connected:
            self._outgoing.setdefault(peer, []).append(item)

    def flush(self) -> Mapping[NodeId, list[Item]]:
        dropped: dict[NodeId, list[Item]] = {}
        outgoing, self._outgoing = self._outgoing, {}
        for peer, items in outgoing.items():
            if type(items[0]) is not Hello and self._network.is_queue_full():
                dropped[peer] = items
            else:
                self._network.transmit((self._me.id, peer), self._me.sender, items)
        return dropped
