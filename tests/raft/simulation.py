"""A cluster of cores in one thread, on a simulated network, disk and clock. One seed decides everything.

First a safety phase: messages are lost, doubled, reordered and late, links are cut (also one way), nodes pause,
crash and lose what they had not synced. Then everything heals, and the cluster must elect, commit and answer reads
within bounded time. The checkers of `checkers` watch all of it.

    python -m tests.raft.simulation --seeds 1000 --first 1      many seeds
    python -m tests.raft.simulation --first 42 --trace          one seed, with its whole trace

Time runs in steps, STEPS_PER_TICK to a tick, so that a tick is not the smallest distance between two events.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.raft.checkers import (
    CommitSafety,
    ElectionSafety,
    FreshReads,
    LogMatching,
    StateMachineSafety,
    TruthfulDurability,
    Violation,
    log_of,
)
from tests.raft.disk import SimulatedDisk
from tests.raft.rendering import message_text, name, ready_lines
from vaultdb.errors import Busy, NotLeader, VaultError
from vaultdb.raft.messages import Message, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import RaftConfig, Ready, Role

STEPS_PER_TICK = 10
ELECTION_TICKS_MAX = 20
SAFETY_TICKS = 500
LIVENESS_TICKS = 15 * ELECTION_TICKS_MAX
"""Within this the healed cluster must have elected, committed and answered.

Terms and split votes cost a few timeouts.
"""
TRACE_LINES = 200
APPLY_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """What the seed chose: how hostile this run is. Probabilities are per event, delays in steps."""

    nodes: int
    pre_vote: bool
    drop: float
    duplicate: float
    delay_max: int
    disk_max: int
    laziness: float
    """That a node lets a Ready wait while more happens to it."""
    fault_ticks: int
    """Mean time between two faults."""
    client_ticks: int
    """Mean time between two requests of clients."""

    @staticmethod
    def draw(rng: random.Random, nodes: int | None) -> Plan:
        return Plan(
            nodes=nodes or rng.choice((3, 5)),
            pre_vote=rng.random() < 0.8,
            drop=rng.choice((0.0, 0.02, 0.1)),
            duplicate=rng.choice((0.0, 0.05, 0.2)),
            delay_max=rng.choice((3, 15, 60)),
            disk_max=rng.choice((2, 15, 60)),
            laziness=rng.choice((0.0, 0.3)),
            fault_ticks=rng.choice((8, 20, 50)),
            client_ticks=rng.choice((1, 3)),
        )


@dataclass
class SimulatedNode:
    """One member: its core while it runs, its disk, and its state machine."""

    id: NodeId
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    core: RaftNode | None = None
    life: int = 0
    """Counts starts: what was meant for an earlier life is dropped."""
    paused_until: int = 0
    syncing: bool = False
    watermark: int = 0
    applied: int = 0
    flushed: int = 0
    """Applied and durable in the state machine; a crash goes back to it."""

    @property
    def running(self) -> RaftNode:
        assert self.core is not None
        return self.core


class Simulation:
    """Runs one seed. After `run` the trace holds the last lines of what happened, or all with `keep_all`."""

    def __init__(self, seed: int, *, nodes: int | None = None, keep_all: bool = False) -> None:
        self.seed = seed
        self._rng = random.Random(seed)
        self.plan = Plan.draw(self._rng, nodes)
        self.nodes = [SimulatedNode(number) for number in range(self.plan.nodes)]
        self.now = 0
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._event_number = 0
        self._cut: set[tuple[NodeId, NodeId]] = set()
        self._hostile = True
        self._requests = 0
        self._trace: deque[tuple[int, Any]] = deque(maxlen=None if keep_all else TRACE_LINES)
        self.elections = ElectionSafety()
        self.matching = LogMatching()
        self.commits = CommitSafety(self.plan.nodes)
        self.machines = StateMachineSafety()
        self.durability = TruthfulDurability()
        self.reads = FreshReads()

    # The run.

    def run(self) -> None:
        """Raises Violation, or whatever a core raised."""
        self._note(f"plan {self.plan}")
        for node in self.nodes:
            self._start(node)
        self._at(self._spread(self.plan.client_ticks), self._client)
        self._at(self._spread(self.plan.fault_ticks), self._fault)
        self._run_until(SAFETY_TICKS * STEPS_PER_TICK)
        self._heal()
        self._check_liveness()

    def trace(self) -> list[str]:
        return [line for when, what in self._trace for line in _lines(when, what)]

    def _run_until(self, end: int, done: Callable[[], bool] = lambda: False) -> bool:
        while self._events and self._events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
            if done():
                return True
        self.now = end
        return False

    def _at(self, when: int, action: Callable[..., None], *arguments: Any) -> None:
        self._event_number += 1
        heapq.heappush(self._events, (max(when, self.now), self._event_number, action, arguments))

    def _spread(self, mean_ticks: int) -> int:
        return self.now + self._rng.randint(1, 2 * mean_ticks * STEPS_PER_TICK)

    def _note(self, what: Any) -> None:
        self._trace.append((self.now, what))

    # Nodes.

    def _start(self, node: SimulatedNode) -> None:
        config = RaftConfig(
            id=node.id,
            voters=tuple(range(self.plan.nodes)),
            heartbeat_ticks=3,
            election_ticks_min=10,
            election_ticks_max=ELECTION_TICKS_MAX,
            unreachable_ticks_max=3,
            append_bytes_max=24,
            inflight_bytes_max=64,
            inflight_appends_max=4,
            uncommitted_bytes_max=160,
            log_memory_bytes=48,
            pre_vote=self.plan.pre_vote,
        )
        node.life += 1
        node.core = RaftNode(config, node.disk.restored(), node.disk, random.Random(self._rng.getrandbits(64)))
        node.paused_until, node.syncing = self.now, False
        node.watermark = 0
        node.applied = node.flushed
        node.core.applied(node.applied)
        self.commits.on_restart(node.id)
        self._note(f"{name(node.id)} starts with {node.disk.restored()}")
        self._at(self.now + self._rng.randint(1, STEPS_PER_TICK), self._tick, node, node.life)
        self._happened(node)

    def _crash(self, node: SimulatedNode) -> None:
        unsynced = len(node.disk.pending)
        node.core = None
        node.disk.crash(self._rng)
        node.applied = node.flushed
        self._note(f"{name(node.id)} crashes with {unsynced} writes under way")

    def _restart(self, node: SimulatedNode) -> None:
        if node.core is None:
            self._start(node)

    def _alive(self, node: SimulatedNode, life: int) -> bool:
        return node.core is not None and node.life == life

    def _tick(self, node: SimulatedNode, life: int) -> None:
        if not self._alive(node, life):
            return
        if node.paused_until > self.now:
            self._at(node.paused_until, self._tick, node, life)
            return
        node.running.tick()
        self._happened(node, act_now=True)
        self._apply(node)
        self._at(self.now + STEPS_PER_TICK, self._tick, node, life)

    def _happened(self, node: SimulatedNode, *, act_now: bool = False) -> None:
        """Something was done to a core: check it, and mostly do what it asks for."""
        self._check(node)
        if not act_now and self._hostile and self._rng.random() < self.plan.laziness:
            return
        while node.running.has_ready():
            self._obey(node, node.running.ready())
            self._check(node)

    def _check(self, node: SimulatedNode) -> None:
        self.commits.on_step(node, self.nodes)
        self.durability.on_step(node)

    def _obey(self, node: SimulatedNode, ready: Ready) -> None:
        self._note((node.id, ready))
        self.elections.on_ready(node.id, ready)
        self.matching.on_written(node.id, log_of(node.running), ready.entries)
        self.commits.on_ready(node.id, ready)
        for message in ready.messages_now:
            self._send(node, message)
        if ready.must_sync:
            node.disk.submit(ready)
            self._sync(node)
        else:
            for message in ready.messages_after_sync:
                self._send(node, message)
            if self._rng.random() < 0.5:
                node.running.persisted(ready.number)
        node.watermark = ready.commit_index
        for context, index in ready.read_states:
            self.reads.on_confirmed(node.id, context, index)

    def _sync(self, node: SimulatedNode) -> None:
        """Start a sync of all that was submitted, unless one is under way: then it comes after that."""
        if node.disk.pending and not node.syncing:
            node.syncing = True
            when = self.now + self._rng.randint(0, self.plan.disk_max)
            self._at(when, self._synced, node, node.life, node.disk.pending[-1].number)

    def _synced(self, node: SimulatedNode, life: int, number: int) -> None:
        """The writes up to that of Ready `number` are durable."""
        if not self._alive(node, life):
            return
        if node.paused_until > self.now:
            self._at(node.paused_until, self._synced, node, life, number)
            return
        while node.disk.pending and node.disk.pending[0].number <= number:
            for message in node.disk.complete_one().then:
                self._send(node, message)
        self._note(f"{name(node.id)} has synced up to write {number}")
        node.syncing = False
        node.running.persisted(number)
        self._sync(node)
        self._happened(node)

    def _apply(self, node: SimulatedNode) -> None:
        """The state machine follows at its own pace, flushes at times, and lets the log be cut."""
        while node.applied < node.watermark and (not self._hostile or self._rng.random() < 0.8):
            for entry in node.running.entries(node.applied + 1, APPLY_BYTES):
                self.machines.on_applied(node.id, entry)
                node.applied = entry.index
        node.running.applied(node.applied)
        if self._rng.random() < 0.1:
            node.flushed = node.applied
            # As long as snapshots are not sent, the log is cut only below what everybody holds.
            floor = min(other.disk.hard_state.commit for other in self.nodes)
            index = min(node.flushed, floor)
            if index > node.disk.base_index and self._rng.random() < 0.5:
                node.disk.cut(index)
                node.running.compact(index)
                self._note(f"{name(node.id)} cuts its log at {index}")

    # The network.

    def _send(self, node: SimulatedNode, message: Message) -> None:
        self.elections.on_sent(message)
        self.durability.on_sent(message, node.disk)
        lost = (message.src, message.dst) in self._cut or (self._hostile and self._rng.random() < self.plan.drop)
        self._note(("lost", message) if lost else ("sent", message))
        if lost:
            return
        copies = 2 if self._hostile and self._rng.random() < self.plan.duplicate else 1
        for _ in range(copies):
            delay = self._rng.randint(1, self.plan.delay_max if self._hostile else 3)
            self._at(self.now + delay, self._deliver, message)

    def _deliver(self, message: Message) -> None:
        node = self.nodes[message.dst]
        if node.core is None or (message.src, message.dst) in self._cut:
            return
        if node.paused_until > self.now:
            self._at(node.paused_until, self._deliver, message)
            return
        self._note(("got", message))
        node.core.step(message)
        self._happened(node)

    # Clients.

    def _client(self) -> None:
        node = self._rng.choice(self.nodes)
        if self._rng.random() < 0.5:  # writes go to the leaders, also to those that only believe so
            leaders = [other for other in self.nodes if other.core is not None and other.core.role is Role.LEADER]
            node = self._rng.choice(leaders) if leaders else node
        self._request(node, self._propose if self._rng.random() < 0.6 else self._read)
        if self._hostile:
            self._at(self._spread(self.plan.client_ticks), self._client)

    def _request(self, node: SimulatedNode, request: Callable[[SimulatedNode], object]) -> None:
        """A paused node finds the request when it wakes, before what arrived later."""
        if node.paused_until > self.now:
            self._at(node.paused_until, self._request, node, request)
        elif node.core is not None:
            request(node)

    def _propose(self, node: SimulatedNode) -> bool:
        payloads = []
        for _ in range(self._rng.choice((1, 1, 2, 4))):
            self._requests += 1
            payloads.append(b"%d" % self._requests * self._rng.choice((1, 4)))
        try:
            term, index = node.running.propose(payloads)
        except (NotLeader, Busy):
            return False
        self._note(f"{name(node.id)} takes {len(payloads)} proposals at {index}/{term}")
        self._happened(node)
        return True

    def _read(self, node: SimulatedNode) -> int:
        self._requests += 1
        context = self._requests
        self.reads.on_asked(node.id, context, self.commits.commit_index)
        try:
            node.running.request_read(context)
        except (NotLeader, Busy):
            return 0
        self._note(f"{name(node.id)} is asked for read {context} when {self.commits.commit_index} is committed")
        self._happened(node)
        return context

    # Faults.

    def _fault(self) -> None:
        if not self._hostile:
            return
        faults = (
            self._fault_crash,
            self._fault_crash,
            self._fault_pause,
            self._fault_split,
            self._fault_one_way,
            self._fault_isolate,
            self._fault_mend,
            self._fault_mend,
            self._fault_disconnect,
        )
        fault = self._rng.choice(faults)
        fault(self._rng.choice(self.nodes))
        self._at(self._spread(self.plan.fault_ticks), self._fault)

    def _fault_crash(self, node: SimulatedNode) -> None:
        if node.core is None:
            return
        self._crash(node)
        self._at(self._spread(ELECTION_TICKS_MAX), self._restart, node)
        if self._rng.random() < 0.5:
            for other in self.nodes:
                self._disconnect(other, node.id)

    def _fault_pause(self, node: SimulatedNode) -> None:
        node.paused_until = self._spread(2 * ELECTION_TICKS_MAX)
        self._note(f"{name(node.id)} pauses until {node.paused_until}")

    def _fault_split(self, _: SimulatedNode) -> None:
        side = {node.id for node in self.nodes if self._rng.random() < 0.5}
        self._cut = {(a.id, b.id) for a in self.nodes for b in self.nodes if (a.id in side) != (b.id in side)}
        self._note(f"the network splits: {sorted(side)} alone")
        self._notice_cut_links()

    def _fault_one_way(self, node: SimulatedNode) -> None:
        """One link in one direction, or everything that a node sends, or everything that it should hear."""
        others = [other.id for other in self.nodes if other is not node]
        match self._rng.randrange(3):
            case 0:
                self._cut.add((node.id, self._rng.choice(others)))
            case 1:
                self._cut |= {(node.id, other) for other in others}
            case _:
                self._cut |= {(other, node.id) for other in others}
        self._note(f"links cut: {sorted(self._cut)}")

    def _fault_isolate(self, node: SimulatedNode) -> None:
        for other in self.nodes:
            self._cut |= {(node.id, other.id), (other.id, node.id)}
        self._note(f"{name(node.id)} is isolated")
        self._notice_cut_links()

    def _notice_cut_links(self) -> None:
        """Sometimes the transport reports them, so that a new leader is found long before the old one gives up."""
        if self._rng.random() < 0.5:
            for src, dst in sorted(self._cut):
                self._disconnect(self.nodes[dst], src)

    def _fault_mend(self, _: SimulatedNode) -> None:
        self._cut.clear()
        self._note("all links are mended")

    def _fault_disconnect(self, node: SimulatedNode) -> None:
        """A connection is reported as broken, rightly or not."""
        self._disconnect(node, self._rng.choice(self.nodes).id)

    def _disconnect(self, node: SimulatedNode, peer: NodeId) -> None:
        if node.core is None or node.id == peer:
            return
        self._note(f"{name(node.id)} is told that its connection to {name(peer)} broke")
        node.core.peer_unreachable(peer)
        if node.core.leader == peer:
            node.core.leader_unreachable()
        self._happened(node)

    # The healed cluster.

    def _heal(self) -> None:
        self._hostile = False
        self._cut.clear()
        self._note("everything heals")
        for node in self.nodes:
            node.paused_until = self.now
            self._restart(node)

    def _check_liveness(self) -> None:
        """Elect, commit a new proposal everywhere, confirm a read on every node."""
        deadline = self.now + LIVENESS_TICKS * STEPS_PER_TICK
        target = self._commit_anew(deadline)

        def caught_up() -> bool:
            return all(node.applied >= target for node in self.nodes)

        if not self._run_until(deadline, caught_up):
            raise Violation(f"applied {[node.applied for node in self.nodes]} of {target} in {LIVENESS_TICKS} ticks")
        for node in self.nodes:
            self._confirm_read(node)

    def _confirm_read(self, node: SimulatedNode) -> None:
        """Ask until there is an answer, as a driver does."""
        deadline = self.now + LIVENESS_TICKS * STEPS_PER_TICK
        while self.now < deadline:
            context = self._read(node)
            wait = self.now + 5 * STEPS_PER_TICK
            if self._run_until(wait, partial(self.reads.was_confirmed, node.id, context)):
                return
        raise Violation(f"{name(node.id)} did not confirm a read within {LIVENESS_TICKS} ticks")

    def _commit_anew(self, deadline: int) -> int:
        """Returns the index of a proposal that was made in the healed cluster and committed."""
        while self.now < deadline:
            self._run_until(min(deadline, self.now + STEPS_PER_TICK))
            for node in self.nodes:
                if node.running.role is not Role.LEADER or not self._propose(node):
                    continue
                index, term = node.running.last_index, node.running.term
                wait = min(deadline, self.now + ELECTION_TICKS_MAX * STEPS_PER_TICK)
                if self._run_until(wait, partial(self.commits.reaches, index)) and (
                    node.running.term == term and node.running.role is Role.LEADER
                ):
                    return index
        roles = [f"{name(node.id)} {node.running.role.value} term {node.running.term}" for node in self.nodes]
        raise Violation(f"nothing committed within {LIVENESS_TICKS} ticks after healing: {', '.join(roles)}")


def _lines(when: int, what: Any) -> list[str]:
    stamp = f"{when // STEPS_PER_TICK:5}.{when % STEPS_PER_TICK}  "
    match what:
        case str():
            return [stamp + what]
        case (int(node), Ready() as ready):
            return [stamp + line for line in ready_lines(node, ready)]
        case (str(verb), message):
            return [f"{stamp}{verb:4}  {message_text(message)}"]
    raise AssertionError(what)


class SimulationFailed(AssertionError):
    """Says what broke, how to replay it, and what came before."""

    def __init__(self, simulation: Simulation, cause: Exception) -> None:
        trace = "\n".join(simulation.trace()[-TRACE_LINES:])
        where = "" if isinstance(cause, Violation) else "".join(traceback.format_exception(cause))
        super().__init__(
            f"seed {simulation.seed}: {cause}\n{where}"
            f"replay: python -m tests.raft.simulation --first {simulation.seed} --trace\n{trace}"
        )


def run_seed(seed: int, *, nodes: int | None = None) -> Simulation:
    """Raises SimulationFailed."""
    simulation = Simulation(seed, nodes=nodes)
    try:
        simulation.run()
    except (AssertionError, VaultError) as error:
        raise SimulationFailed(simulation, error) from error
    return simulation


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.raft.simulation", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print the whole trace of the first seed")
    options = parser.parse_args()
    if options.trace:
        simulation = Simulation(options.first, keep_all=True)
        try:
            simulation.run()
        finally:
            print("\n".join(simulation.trace()))
        return 0
    committed = confirmed = 0
    for seed in range(options.first, options.first + options.seeds):
        simulation = run_seed(seed)
        committed += simulation.commits.commit_index
        confirmed += simulation.reads.confirmed
    print(f"{options.seeds} seeds from {options.first}: all promises kept")
    print(f"{committed} entries committed, {confirmed} reads confirmed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
