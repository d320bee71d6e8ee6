"""One member: the real driver and core, and everything of the node that is simulated around them.

The loop does what consensus/process.py does: it sleeps until the core's next due tick, hands in what has arrived in
the same order, and takes one turn. Now and then it is stopped in the middle of a turn, as any process may be.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.api import SimulatedApi
from tests.simulation.disk import Disk, SimulatedLog, SimulatedWriter
from tests.simulation.network import SimulatedPeers
from tests.simulation.observed import ObservedRaft
from tests.simulation.pace import Pace
from tests.simulation.snapshots import Snapshots
from tests.simulation.storage import State, Storage
from tests.simulation.world import NodeClock
from vaultdb.clock import NS_PER_MS
from vaultdb.config import NodeConfig
from vaultdb.consensus.administration import View
from vaultdb.consensus.driver import Driver
from vaultdb.consensus.peer_format import Frame, Sender
from vaultdb.consensus.process import first_membership, raft_config
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.lifeline import BEAT_INTERVAL_MS
from vaultdb.raft.messages import InstallSnapshot, NodeId
from vaultdb.raft.state import Role, Snapshot
from vaultdb.wire import ipc

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

_WAITING_POLL_MS = 50
_STREAM_WINDOW_BYTES = 2_000


class Member:
    """Disk and storage's flushed state survive its lives; everything else ends with `crash`."""

    raft: ObservedRaft
    driver: Driver
    log: SimulatedLog
    writer: SimulatedWriter
    api: SimulatedApi
    snapshots: Snapshots
    sender: Sender
    wanted: set[NodeId]
    """Whom the driver wants to be connected to."""

    def __init__(self, node: NodeConfig, cluster: Cluster) -> None:
        self.id = node.id
        self.node = node
        self.cluster = cluster
        self.world = cluster.world
        self.plan = cluster.plan
        self.clock = NodeClock(self.world, self.world.rng.randint(900, 1100), self.world.rng.getrandbits(40))
        self.pace = Pace(self)
        self.storage = Storage(
            self.id, self.world, cluster.checks.ledger, self.pace.apply_ns, self._from_storage, self._answer_write
        )
        self.new_disk()
        self.connected: set[NodeId] = set()
        self.life = 0
        self.is_up = False
        self.is_lost = False
        """Its disks were wiped, or are an old copy: it must not be listened to."""
        self.paused_until_ns = 0
        raft = node.config.raft
        self._tick_ns = raft.tick_ms * NS_PER_MS
        self._ticks_max = max(1, raft.election_timeout_min_ms // (3 * raft.tick_ms))

    def new_disk(self) -> None:
        """Everything that the node ever stored is gone."""
        rng = self.world.rng
        self.disk = Disk(first_membership(self.node), rng.getrandbits(64), rng.choice((1, 4, 10)), self._install)
        self.storage.flushed = State()

    # Lives.

    def start(self) -> None:
        """The machine comes up with what its disks hold."""
        self.life += 1
        self.is_up = True
        self.paused_until_ns = 0
        self.connected = set()
        self._frames: list[Frame] = []
        self._connection_changes: list[tuple[NodeId, bool]] = []
        self._from_local: list[tuple[bytes, list[Any]]] = []
        self._between_turns: list[Callable[[], None]] = []
        self._wake_at_ns: int | None = None
        self._busy_until_ns = 0
        self._led_term = 0
        self._ticked_ns = self.clock.now_ns()
        self._make_processes()
        self.world.note(f"n{self.id} starts with {self.log.restored}")
        self.cluster.checks.commits.on_restart(self.id)
        self.storage.start()
        self.cluster.network.joined(self)
        self._wake_soon()
        self.pace.begin()

    def _make_processes(self) -> None:
        rng, node = self.world.rng, self.node
        self.log = SimulatedLog(self.disk)
        self.writer = SimulatedWriter(self.world, self.clock, self.disk, self.pace.sync_ns, self._wake_soon)
        self.api = SimulatedApi(self.id, self.world, self.clock, self.cluster.checks.ledger, self)
        self.snapshots = Snapshots(self.cluster.transfers, self)
        config = self.cluster.limited(raft_config(node))
        self.raft = ObservedRaft(config, self.log.restored, self.log, random.Random(rng.getrandbits(64)))
        self.raft.watch(self.world, self.cluster.checks)
        self.driver = Driver(
            node,
            self.raft,
            self.log,  # type: ignore[arg-type]
            self.writer,
            SimulatedPeers(self.cluster.network, self),
            self.api,
            StorageStream(self.storage.send, _STREAM_WINDOW_BYTES),
            self.snapshots,
            life=rng.getrandbits(62),
            first_number=rng.getrandbits(62),
            new_cluster_id=f"{rng.getrandbits(128):032x}",
        )
        self._let_joiners_in()

    def _let_joiners_in(self) -> None:
        """A new node may come although the log was cut: here snapshots can be sent."""
        administration = self.driver._administration
        turn = administration.turn

        def turn_with_snapshots(now_ns: int, view: View) -> None:
            turn(now_ns, view._replace(log_is_whole=True))

        administration.turn = turn_with_snapshots  # type: ignore[method-assign]

    def crash(self) -> None:
        self.world.note(f"n{self.id} crashes with {self.writer.pending} writes under way")
        self.is_up = False
        self.api.is_dead = True
        self.storage.life += 1
        self.writer.power_cut()
        self.connected = set()
        self.cluster.network.left(self)

    def pause(self, duration_ns: int) -> None:
        """The consensus process stands still; its disk, storage and api do not."""
        self.world.note(f"n{self.id} pauses for {duration_ns // NS_PER_MS} ms")
        self.paused_until_ns = self.world.now_ns + duration_ns

    # What arrives.

    def arrived(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._wake_soon()

    def connection_changed(self, peer: NodeId, *, connected: bool) -> None:
        self._connection_changes.append((peer, connected))
        self._wake_soon()

    def tell_driver(self, message: list[Any]) -> None:
        self._from_local.append((ipc.API, message))
        self._wake_soon()

    def read_storage(self, min_index: int, key: int, answer: Callable[[int, int], None]) -> None:
        self.storage.read(min_index, key, answer)

    def before_turn(self, action: Callable[[], None]) -> None:
        """To be done in the next turn, among what has arrived."""
        self._between_turns.append(action)
        self._wake_soon()

    def snapshot_arrived(self, frame: Frame, message: InstallSnapshot, state: State) -> None:
        self.snapshots.received[message.index] = state
        self.arrived(frame)

    def _from_storage(self, message: list[Any]) -> None:
        self._from_local.append((ipc.STORAGE, message))
        self._wake_soon()

    def _answer_write(self, incarnation: int, batch: int, old: int, position: tuple[int, int]) -> None:
        self.api.written(incarnation, batch, old, position)

    def _install(self, snapshot: Snapshot) -> None:
        """The log on disk begins after `snapshot` now; storage's state changes with it."""
        self.world.note(f"n{self.id} installs the state of {snapshot.index}")
        self.cluster.snapshots_installed += 1
        self._from_local = [(origin, message) for origin, message in self._from_local if origin != ipc.STORAGE]
        self.storage.install(self.snapshots.received[snapshot.index], is_up=self.is_up)

    # The loop.

    def _wake_soon(self) -> None:
        self._wake_by(max(self.world.now_ns, self._busy_until_ns))

    def _wake_by(self, instant_ns: int) -> None:
        if self._wake_at_ns is None or instant_ns < self._wake_at_ns:
            self._wake_at_ns = instant_ns
            self.world.at(instant_ns, self._wake, self.life, instant_ns)

    def _wake(self, life: int, instant_ns: int) -> None:
        if life != self.life or not self.is_up or instant_ns != self._wake_at_ns:
            return
        self._wake_at_ns = None
        if self.paused_until_ns > self.world.now_ns:
            self._wake_by(self.paused_until_ns)
            return
        now_ns = self.clock.now_ns()
        self._take_remote(now_ns)
        if self.cluster.network.is_hostile and self.world.chance(self.plan.stall):
            stall_ns = self.world.around_ms(400)
            self.world.note(f"n{self.id} stands still within its turn for {stall_ns // NS_PER_MS} ms")
            self._wake_at_ns = self._busy_until_ns = self.world.now_ns + stall_ns
            self.world.after(stall_ns, self._take_turn, life, now_ns)
        else:
            self._take_turn(life, now_ns)

    def _take_remote(self, now_ns: int) -> None:
        driver = self.driver
        driver.pass_ticks(self._ticks_passed(now_ns))
        changes, self._connection_changes = self._connection_changes, []
        for peer, connected in changes:
            driver.on_connection(peer, connected=connected)
        if self.writer.done:
            driver.on_durable(self.writer.completions())
        frames, self._frames = self._frames, []
        for frame in frames:
            for item in frame.items:
                self.world.note(("got", (frame.sender.src, self.id), item))
            driver.on_frame(frame, now_ns)

    def _take_turn(self, life: int, now_ns: int) -> None:
        """`now_ns` was read when the turn began."""
        if life != self.life or not self.is_up:
            return
        actions, self._between_turns = self._between_turns, []
        for action in actions:
            action()
        from_local, self._from_local = self._from_local, []
        for origin, message in from_local:
            if origin == ipc.API:
                self.driver.on_api(message, now_ns)
            else:
                self.driver.on_storage(message)
        self.driver.turn(now_ns, now_ns // NS_PER_MS, self.clock.now_ns())
        self.cluster.checks.commits.on_step(self, self.raft)
        self.cluster.checks.durability.on_step(self, self.raft)
        if self.raft.role is Role.LEADER and self._led_term != self.raft.term:
            self._led_term = self.raft.term
            self.cluster.administrator.led_by(self)
        self._wake_at_ns = None
        self._busy_until_ns = self.world.now_ns + self.world.between_ms(*self.plan.turn_ms)
        self._wake_by(max(self._busy_until_ns, self.clock.instant_of(self._sleep_until_ns())))

    def _sleep_until_ns(self) -> int:
        """On this node's clock."""
        if self._has_input:
            return 0
        due_ns = self._ticked_ns + self.driver.ticks_until_due() * self._tick_ns
        longest_ms = _WAITING_POLL_MS if self.driver.is_waiting else BEAT_INTERVAL_MS
        return min(due_ns, self.clock.now_ns() + min(longest_ms * NS_PER_MS, self._ticks_max * self._tick_ns))

    @property
    def _has_input(self) -> bool:
        return bool(
            self._frames or self._from_local or self._connection_changes or self._between_turns or self.writer.done
        )

    def _ticks_passed(self, now_ns: int) -> int:
        ticks = (now_ns - self._ticked_ns) // self._tick_ns
        if ticks > self._ticks_max:
            self._ticked_ns = now_ns
            return self._ticks_max
        self._ticked_ns += ticks * self._tick_ns
        return ticks

    @property
    def is_leader(self) -> bool:
        return self.is_up and self.raft.role is Role.LEADER
