"""Whole drivers under everything that a real machine does to them, from one seed.

On top of `cluster`: pauses with everything that arrives meanwhile left lying, first-in-first-out links that break on
one side at a time, slow disks, full send queues, storage that lags, dies and resubscribes, leadership handed over. Run
by hand over many seeds:

    python -m tests.consensus.chaos FIRST LAST
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tests.consensus.cluster import PAYLOAD, Cluster, Member
from vaultdb import logs
from vaultdb.clock import NS_PER_MS, NS_PER_S
from vaultdb.config import LoggingSettings
from vaultdb.consensus.administration import TRANSFER
from vaultdb.consensus.peer_format import Item, encode
from vaultdb.raft.messages import NOBODY, NodeId
from vaultdb.wire import ipc
from vaultdb.wire.codec import unpack

Item_ = TypeVar("Item_")

NODES = 5
TICK_MS = 10
STREAM_MESSAGES_MAX = 50
PHASES = 3
DISTURBANCES = {
    "nothing": 935,
    "pause": 20,
    "break": 10,
    "crash": 5,
    "disk": 10,
    "queue": 5,
    "storage": 5,
    "transfer": 10,
}
"""Per mille of the ticks."""
DISTURBED_TICKS = 300
HEALING_TICKS = 250
ANSWER_TICKS = 60


class ChaosMember(Member):
    """A member whose inputs wait in queues of their own until it gets its turn."""

    cluster: ChaosCluster

    def start(self) -> None:
        self.is_paused = False
        self.wakes_at = 0
        self.missed_ticks = 0
        self.disk_probability = 1.0
        self.connection_events: deque[tuple[NodeId, bool]] = deque()
        self.stream: deque[bytes] = deque()
        self.incarnation = self.cluster.rng.getrandbits(30)
        self.applied = max(self.entries, default=0)
        self.subscribe_due = False
        super().start()
        self.reachable = set()
        for other in self.cluster.members:
            other.reachable.discard(self.node.id)
        self._tell_storage(ipc.SUBSCRIBE)

    def send(self, peer: NodeId, item: Item) -> None:
        if peer not in self.connected:
            return
        if self.cluster.rng.random() < self.cluster.full_queue_probability:
            self.unsent.setdefault(peer, []).append(item)
            return
        self.cluster.links[self.node.id, peer].append(encode(self.sender, peer, [item]))

    def storage_send(self, message: bytes) -> bool:
        if len(self.stream) >= STREAM_MESSAGES_MAX:
            return False
        self.stream.append(message)
        return True

    def restart_storage(self) -> None:
        self.stream.clear()
        self.incarnation = self.cluster.rng.getrandbits(30)
        self.subscribe_due = True

    def storage_turn(self) -> None:
        """Apply some of what was streamed, report now and then."""
        if self.subscribe_due:
            self.subscribe_due = False
            self._tell_storage(ipc.SUBSCRIBE)
        for _ in range(min(len(self.stream), self.cluster.rng.randrange(6))):
            _, incarnation, first, payloads = unpack(self.stream.popleft())
            if incarnation != self.incarnation:
                continue
            if first > self.applied + 1:
                self._tell_storage(ipc.SUBSCRIBE)
                continue
            for index, payload in enumerate(payloads, first):
                assert self.entries.setdefault(index, payload) == payload, f"entry {index} has two contents"
                self.applied = max(self.applied, index)
        if self.cluster.rng.random() < 0.2:
            self._tell_storage(ipc.APPLIED)

    def _tell_storage(self, kind: int) -> None:
        self.driver.on_storage([kind, self.incarnation, self.applied, 0])

    def take_turn(self, *, is_first: bool) -> None:
        if is_first:
            self.driver.pass_ticks(min(self.missed_ticks + 1, 10))
            self.missed_ticks = 0
        while self.connection_events:
            peer, is_connected = self.connection_events.popleft()
            self.driver.on_connection(peer, connected=is_connected)
        if self.cluster.rng.random() < self.disk_probability:
            self.sync()
        for src in self.cluster.shuffled(range(NODES)):
            self._receive_from(src)
        self.storage_turn()
        self.driver.turn(self.cluster.now_ns, 1, self.cluster.now_ns)

    def _receive_from(self, src: NodeId) -> None:
        link = self.cluster.links[src, self.node.id]
        is_slow = self.cluster.rng.random() < 0.3
        for _ in range(self.cluster.rng.randrange(len(link) + 1) if is_slow else len(link)):
            self.receive(link.popleft())


class ChaosCluster(Cluster):
    members: list[ChaosMember]  # type: ignore[assignment]

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.links: dict[tuple[NodeId, NodeId], deque[bytes]] = {
            (src, dst): deque() for src in range(NODES) for dst in range(NODES)
        }
        self.full_queue_probability = 0.0
        super().__init__(NODES, data_dir, seed, member=ChaosMember)

    @property
    def up(self) -> list[ChaosMember]:
        return [member for member in self.members if member.is_up]

    def shuffled(self, items: Sequence[Item_]) -> list[Item_]:
        return self.rng.sample(items, len(items))

    def set_connection(self, src: NodeId, dst: NodeId, *, is_connected: bool) -> None:
        """What `src` knows of its connection to `dst`; a break loses what is on the way."""
        member = self.members[src]
        if not is_connected:
            self.links[src, dst].clear()
        if (dst in member.reachable) != is_connected:
            (member.reachable.add if is_connected else member.reachable.discard)(dst)
            member.connection_events.append((dst, is_connected))

    def heal_connections(self, probability: float = 1.0) -> None:
        for one in self.up:
            for other in self.up:
                if one is not other and self.rng.random() < probability:
                    self.set_connection(one.node.id, other.node.id, is_connected=True)

    def crash(self, member: ChaosMember) -> None:
        """Its last messages may still arrive or not; each other node notices in its own time."""
        member.is_up = False
        member.tail.close()
        member.log.close()
        for other in self.members:
            if self.rng.random() < 0.5:
                self.links[member.node.id, other.node.id].clear()
            self.links[other.node.id, member.node.id].clear()
            if other.is_up:
                self.set_connection(other.node.id, member.node.id, is_connected=False)

    def tick(self) -> None:
        self.now_ns += TICK_MS * NS_PER_MS
        for part in range(4):
            for member in self.shuffled(self.members):
                if member.is_up and not member.is_paused:
                    member.take_turn(is_first=part == 0)
                elif part == 0:
                    member.missed_ticks += 1


class Run:
    """One seed: phases of disturbance, each followed by healing with up to two nodes dead, which must serve."""

    def __init__(self, seed: int, data_dir: Path) -> None:
        self.rng = random.Random(seed * 7 + 1)
        self.cluster = ChaosCluster(data_dir, seed)
        self.batches = 0

    def run(self) -> int:
        """Returns the number of committed proposals. Raises AssertionError when a promise is broken."""
        for phase in range(PHASES):
            for member in self.cluster.members:
                if not member.is_up:
                    member.start()
            self.kills_left = 2
            for tick in range(DISTURBED_TICKS):
                self.ask_for_something()
                self.disturb(tick)
                self.cluster.heal_connections(0.1)
                self.cluster.tick()
            self.heal()
            self.assert_serves(phase)
        for member in self.cluster.members:
            if not member.is_up:
                member.start()
        for _ in range(300):
            self.cluster.heal_connections()
            self.cluster.tick()
        return self.assert_outcomes()

    def ask_for_something(self) -> None:
        for member in self.cluster.up:
            if not member.is_paused and self.rng.random() < 0.3:
                self.ask(member, queued=self.rng.random() < 0.2)

    def ask(self, member: ChaosMember, *, queued: bool = False) -> int:
        """A write and a read of the same number; the read's batch is negative."""
        self.batches += 1
        now_ns = self.cluster.now_ns
        deadline_ns = now_ns + 5 * NS_PER_S
        member.driver.on_api([ipc.PROPOSE, 1, self.batches, deadline_ns, queued, PAYLOAD], now_ns)
        member.driver.on_api([ipc.READ_INDEX, 1, -self.batches, deadline_ns], now_ns)
        return self.batches

    def disturb(self, tick: int) -> None:
        cluster, rng, up = self.cluster, self.rng, self.cluster.up
        for member in up:
            if member.is_paused and tick >= member.wakes_at:
                member.is_paused = False
        match rng.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]:
            case "pause":
                victim = rng.choice(up)
                victim.is_paused, victim.wakes_at = True, tick + rng.randrange(2, 80)
            case "break":
                src, dst = rng.sample(range(NODES), 2)
                cluster.set_connection(src, dst, is_connected=False)
            case "crash" if self.kills_left:
                self.kills_left -= 1
                cluster.crash(rng.choice(up))
            case "disk":
                rng.choice(up).disk_probability = rng.choice([1.0, 0.5, 0.05])
            case "queue":
                cluster.full_queue_probability = rng.choice([0.0, 0.0, 0.02])
            case "storage":
                rng.choice(up).restart_storage()
            case "transfer":
                self.batches += 1
                rng.choice(up).administer(self.batches, TRANSFER, rng.choice([NOBODY, rng.choice(up).node.id]))

    def heal(self) -> None:
        cluster = self.cluster
        cluster.full_queue_probability = 0.0
        for member in cluster.up:
            member.is_paused, member.disk_probability = False, 1.0
        while len(cluster.up) > 3 and self.rng.random() < 0.7:
            cluster.crash(self.rng.choice(cluster.up))
        for _ in range(HEALING_TICKS):
            cluster.heal_connections()
            cluster.tick()

    def assert_serves(self, phase: int) -> None:
        """Every node that is up commits a write and gets a read index."""
        asked = [(member, self.ask(member)) for member in self.cluster.up]
        for _ in range(ANSWER_TICKS):
            self.cluster.tick()
        for member, batch in asked:
            who = f"phase {phase}, node {member.node.id}, {member.raft.role.value} in term {member.raft.term}"
            assert (member.node.id, batch) in member.committed_batches(), f"{who}: a write is stuck"
            assert [a[0] for a in member.answers_to(-batch)] == [ipc.READ_STATE], f"{who}: a read is stuck"

    def assert_outcomes(self) -> int:
        members = self.cluster.members
        sequences = [member.committed_batches() for member in members]
        assert all(sequence == sequences[0] for sequence in sequences), "the nodes applied different sequences"
        assert len(set(sequences[0])) == len(sequences[0]), "a proposal was committed twice"
        refused = {(m.node.id, answer[2]) for m in members for answer in m.answers if answer[0] == ipc.REJECTED}
        assert not refused & set(sequences[0]), "a refused proposal was committed"
        return len(sequences[0])

    def close(self) -> None:
        for member in self.cluster.up:
            member.tail.close()
            member.log.close()


def main(first: int, last: int) -> int:
    logs.configure(LoggingSettings(level="error", format="console"))
    os.fdatasync = os.fsync = lambda _fd: None  # type: ignore[assignment]
    broken = 0
    for seed in range(first, last):
        directory = Path(tempfile.mkdtemp(prefix="chaos"))
        run = Run(seed, directory)
        try:
            run.run()
        except AssertionError as error:
            broken += 1
            print(f"seed {seed}: {error}  (replay: python -m tests.consensus.chaos {seed} {seed + 1})", flush=True)
        finally:
            run.close()
            shutil.rmtree(directory)
    print(f"{last - first} seeds, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
