"""A whole cluster of real drivers, cores and logs in one thread; the network, the api and storage are lists."""

from __future__ import annotations

import random
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaultdb.clock import NS_PER_MS
from vaultdb.config import Config, NodeAddress, NodeConfig
from vaultdb.consensus.addresses import Address
from vaultdb.consensus.driver import Driver
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_tail import LogTail
from vaultdb.consensus.log_writer import Completion, Write
from vaultdb.consensus.peer_format import Forward, Item, Sender, decode, encode
from vaultdb.consensus.process import NoSnapshots, first_membership, raft_config
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.consensus.surroundings import Snapshots
from vaultdb.raft.messages import NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Role
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack

FAR_NS = 1 << 60
PAYLOAD = pack([[1, [1, [b"k", b"v"]]]])


def address(n: NodeId) -> NodeAddress:
    return NodeAddress(
        id=n, name=f"node{n}", host="127.0.0.1", http_port=1000 + n, peer_port=2000 + n, native_port=3000 + n
    )


def config(nodes: int, data_dir: Path) -> Config:
    return Config(nodes=tuple(map(address, range(nodes))), data_dir=str(data_dir))


@dataclass
class Inbox:
    """The api process: it only remembers."""

    answers: list[list[Any]]

    def send(self, message: bytes) -> bool:
        self.answers.append(unpack(message))
        return True


@dataclass
class Member:
    """One node and everything around its driver."""

    node: NodeConfig
    cluster: Cluster
    driver: Driver = field(init=False)
    raft: RaftNode = field(init=False)
    log: WriteAheadLog = field(init=False)
    tail: LogTail = field(init=False)
    answers: list[list[Any]] = field(default_factory=list)
    """What the api was told since the start, over all lives of the process."""
    entries: dict[int, bytes] = field(default_factory=dict)
    """What storage was given, by index: never two different payloads."""
    is_up: bool = False
    reachable: set[NodeId] = field(default_factory=set)
    """Whoever is up, as this node's sockets know it."""
    addresses: Mapping[NodeId, Address] = field(default_factory=dict)
    writes: deque[Write] = field(default_factory=deque)
    applies: bool = True
    disk_busy_ms: float = 0.0
    syncs: bool = True
    fails_to_send: bool = False
    flushed: int | None = None
    """What storage reports as durable; None: all that it has applied."""
    boot_offset_ns: int = 0
    """What the machine was suspended for."""
    unsent: dict[NodeId, list[Item]] = field(default_factory=dict)

    def start(self) -> None:
        self.log = WriteAheadLog(self.node.log_dir, "local", self.node.id, first_membership(self.node))
        self.tail = self.log.tail()
        rng = random.Random(self.cluster.rng.random())
        self.raft = RaftNode(raft_config(self.node), self.log.restored, self.log, rng)
        self.writes.clear()
        self.addresses = {}
        self.new_connections: list[NodeId] = []
        self.is_up = True
        self.reachable = {m.node.id for m in self.cluster.members if m.is_up and m is not self}
        self.driver = Driver(
            self.node,
            self.raft,
            self.log,
            self,
            self,
            Inbox(self.answers),
            StorageStream(self.storage_send),
            self.snapshots(),
            life=self.cluster.rng.getrandbits(62),
            first_number=self.cluster.rng.getrandbits(62),
            new_cluster_id=f"{self.cluster.rng.getrandbits(128):032x}",
        )
        for other in self.cluster.members:
            if other.is_up and other is not self:
                other.reachable.add(self.node.id)
                other.new_connections.append(self.node.id)
        self.driver.on_storage([ipc.SUBSCRIBE, 1, max(self.entries, default=0), 0])

    def snapshots(self) -> Snapshots:
        return NoSnapshots()

    def kill(self) -> None:
        """What was not synced is gone; the others see the connection break."""
        self.is_up = False
        self.tail.close()
        self.log.close()
        self.cluster.network = [packet for packet in self.cluster.network if self.node.id not in packet[:2]]
        for other in self.cluster.members:
            if other.is_up and self.node.id in other.reachable:
                other.reachable.discard(self.node.id)
                other.driver.on_connection(self.node.id, connected=False)

    def wipe(self) -> None:
        """Of a node that is down: it begins anew, and its storage too."""
        shutil.rmtree(self.node.data_dir)
        self.entries.clear()

    # The interfaces that the driver needs.

    @property
    def connected(self) -> set[NodeId]:
        return self.reachable & self.addresses.keys()

    def set_members(self, addresses: Mapping[NodeId, Address], sender: Sender) -> None:
        self.new_connections += self.reachable & (addresses.keys() - self.addresses.keys())
        self.addresses, self.sender = addresses, sender

    def send(self, peer: NodeId, item: Item) -> None:
        if self.fails_to_send:
            self.unsent.setdefault(peer, []).append(item)
        elif peer in self.addresses:
            self.cluster.network.append((self.node.id, peer, encode(self.sender, peer, [item])))

    def flush(self) -> dict[NodeId, list[Item]]:
        unsent, self.unsent = self.unsent, {}
        return unsent

    def submit(self, write: Write) -> None:
        self.writes.append(write)

    def busy_ms(self, _now_ns: int) -> float:
        return self.disk_busy_ms

    def storage_send(self, message: bytes) -> bool:
        _, _, first, payloads = unpack(message)
        for index, payload in enumerate(payloads, first):
            assert self.entries.setdefault(index, payload) == payload, f"entry {index} was applied with two contents"
        return True

    # What the tests do with it.

    def propose(self, batch: int, *, queued: bool = False, payload: bytes = PAYLOAD) -> None:
        self.driver.on_api([ipc.PROPOSE, 1, batch, FAR_NS, queued, payload], self.cluster.now_ns)

    def ask_read(self, batch: int) -> None:
        self.driver.on_api([ipc.READ_INDEX, 1, batch, FAR_NS], self.cluster.now_ns)

    def answers_to(self, batch: int) -> list[list[Any]]:
        return [answer for answer in self.answers if answer[2] == batch]

    def sync(self) -> None:
        while self.is_up and self.syncs and self.writes:
            write = self.writes.popleft()
            written = None
            if write.hard_state is not None or write.entries or write.snapshot is not None:
                written = self.tail.write(
                    write.hard_state, write.entries, 1 << 16, snapshot=write.snapshot, notes=write.notes
                )
            self.driver.on_durable([Completion(write.number, written)])

    def turn(self) -> None:
        if self.is_up:
            self.tell_connections()
            now_ns = self.cluster.now_ns
            self.driver.turn(now_ns, now_ns // NS_PER_MS, now_ns + self.boot_offset_ns)
            if self.applies and self.entries:
                applied = max(self.entries)
                self.driver.on_storage([ipc.APPLIED, 1, applied, applied if self.flushed is None else self.flushed])

    def tell_connections(self) -> None:
        made, self.new_connections = self.new_connections, []
        for peer in made:
            if peer in self.connected:
                self.driver.on_connection(peer, connected=True)

    def administer(self, batch: int, operation: str, argument: Any = None) -> None:
        now_ns = self.cluster.now_ns
        self.driver.on_api([ipc.ADMIN, 1, batch, now_ns + 5_000 * NS_PER_MS, operation, argument], now_ns)

    def receive(self, frame: bytes) -> None:
        self.driver.on_frame(decode(frame), self.cluster.now_ns)

    def forwarded_in(self, network: list[tuple[NodeId, NodeId, bytes]], term: int) -> list[tuple[int, int]]:
        """The keys of proposals that this node has on the way to the leader of `term`."""
        items = [item for src, _, frame in network if src == self.node.id for item in decode(frame).items]
        forwards = [item for item in items if isinstance(item, Forward) and item.term == term]
        return [(incarnation, batch) for forward in forwards for incarnation, batch, _, _ in forward.proposals]

    def committed_batches(self) -> list[tuple[int, int]]:
        """(origin, batch) of everything that storage was given, in order."""
        found = []
        for _, payload in sorted(self.entries.items()):
            if payload:
                found += [(origin, batch) for origin, _, batch, _ in unpack(payload)[1]]
        return found


class Cluster:
    def __init__(self, nodes: int, data_dir: Path, seed: int = 1, *, member: type[Member] = Member) -> None:
        self.rng = random.Random(seed)
        self.now_ns = 1
        self.network: list[tuple[NodeId, NodeId, bytes]] = []
        self.isolated: set[NodeId] = set()
        """Nodes that reach nobody and are reached by nobody, without a connection breaking."""
        self.members: list[Member] = []
        self.config = config(nodes, data_dir)
        self.members = [member(self.config.node(n), self) for n in range(nodes)]
        for made in self.members:
            made.start()

    def join(self, n: NodeId, *, knows: int | None = None) -> Member:
        """A node that was added as a member starts, knowing of the first `knows` nodes."""
        listed = self.config.nodes[:knows]
        joiner = Config(nodes=(*(node for node in listed if node.id != n), address(n)), data_dir=self.config.data_dir)
        made = Member(joiner.node(n, joins=True), self)
        self.members[n:] = [made, *self.members[n + 1 :]]
        made.start()
        return made

    def step(self, ms: int = 10, loss: float = 0.0) -> None:
        """Pass time, deliver what is on the way, sync, and give every node a turn."""
        self.now_ns += ms * NS_PER_MS
        for member in self.members:
            if member.is_up:
                member.driver.pass_ticks(ms // 10)
                member.turn()
        for _ in range(6):
            packets, self.network = self.network, []
            for src, dst, frame in packets:
                is_lost = {src, dst} & self.isolated or self.rng.random() < loss
                if dst < len(self.members) and self.members[dst].is_up and not is_lost:
                    self.members[dst].receive(frame)
            for member in self.members:
                member.sync()
                member.turn()

    def run(self, ms: int) -> None:
        for _ in range(ms // 10):
            self.step()

    def elect(self, within_ms: int = 5000) -> Member:
        """Run until there is a leader that everybody alive follows."""
        for _ in range(within_ms // 10):
            self.step()
            if (leader := self.leader()) is not None:
                return leader
        raise AssertionError(f"no leader within {within_ms} ms")

    def leader(self) -> Member | None:
        alive = [member for member in self.members if member.is_up and member.node.id not in self.isolated]
        leaders = [m for m in alive if m.raft.role is Role.LEADER and all(a.raft.leader == m.node.id for a in alive)]
        return leaders[0] if leaders else None

    def until(self, condition: Callable[[], bool], within_ms: int = 5000) -> None:
        for _ in range(within_ms // 10):
            if condition():
                return
            self.step()
        raise AssertionError(f"it did not come true within {within_ms} ms")

    def follower(self) -> Member:
        leader = self.leader()
        return next(member for member in self.members if member.is_up and member is not leader)

    def close(self) -> None:
        for member in self.members:
            if member.is_up:
                member.kill()
