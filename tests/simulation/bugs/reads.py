"""Reads: read indexes, leases, promises, and the handing over of leadership."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.simulation import node as simulated_node
from tests.simulation.bugs.planting import STALE, Patches, bug
from vaultdb.consensus.driver import Driver
from vaultdb.consensus.process import raft_config
from vaultdb.raft.election import ElectionTimer
from vaultdb.raft.messages import (
    HeartbeatResponse,
    TimeoutNow,
)
from vaultdb.raft.node import RaftNode
from vaultdb.raft.protocol import HANDLERS, Protocol
from vaultdb.raft.reads import ReadRounds
from vaultdb.raft.state import RaftConfig, Role


def _reads_without_term_commit(patches: Patches) -> None:
    def flush(self: Protocol) -> None:
        if self.rounds is not None and self.replication is not None:
            self._serve_reads(self.rounds)
        original(self)

    original = Protocol.flush
    patches.setattr(Protocol, "flush", flush)


@bug(10, seeds=200, symptom=STALE)
def reads_are_served_before_the_first_commit(patches: Patches) -> None:
    _reads_without_term_commit(patches)


@bug(11, seeds=100, symptom=STALE)
def reads_join_the_running_round(patches: Patches) -> None:
    original = ReadRounds.ask

    def ask(self: ReadRounds, origin: int, context: int) -> None:
        original(self, origin, context)
        if self._running:
            self._running.append(self._waiting.pop())

    patches.setattr(ReadRounds, "ask", ask)


@bug(11, seeds=100, symptom=STALE)
def reads_need_no_round(patches: Patches) -> None:
    def confirm_self(self: ReadRounds, _voter_sets: Any) -> Any:
        confirmed, self._running = self._running, []
        return self._index, confirmed

    patches.setattr(ReadRounds, "confirm_self", confirm_self)


@bug(12, seeds=1000, symptom=STALE)
def a_lease_counts_from_the_receipt_of_the_answer(patches: Patches) -> None:
    original, original_clock = Protocol.on_heartbeat_response, RaftNode.clock
    received: dict[Protocol, set[int]] = {}

    def on_heartbeat_response(self: Protocol, response: HeartbeatResponse) -> None:
        original(self, response)
        if response.lease_us:
            received.setdefault(self, set()).add(response.src)

    def clock(self: RaftNode, now_us: int) -> None:
        original_clock(self, now_us)
        for peer in received.pop(self._protocol, ()):
            if peer in self.progress:
                self.progress[peer].lease_us = now_us

    patches.setitem(HANDLERS[Role.LEADER], HeartbeatResponse, on_heartbeat_response)
    patches.setattr(RaftNode, "clock", clock)


@bug(12, seeds=1000, symptom=STALE)
def a_lease_counts_ticks_that_stall(patches: Patches) -> None:
    def clock(self: RaftNode, _now_us: int) -> None:
        self._protocol.now_us = 1 + self._protocol.ticks * 10_000

    patches.setattr(RaftNode, "clock", clock)


@bug(12, seeds=1000, symptom=STALE)
def a_lease_counts_from_before_the_turn(patches: Patches) -> None:
    """The clock was read before what the turn answers had arrived."""
    original = Driver.turn

    def turn(self: Driver, now_ns: int, wall_ms: int, _boot_ns: int) -> None:
        original(self, now_ns, wall_ms, now_ns)

    patches.setattr(Driver, "turn", turn)


@bug(12, seeds=1000, symptom=STALE)
def a_lease_is_longer_than_the_promise(patches: Patches) -> None:
    def longer(node: Any) -> RaftConfig:
        config = raft_config(node)
        return replace(config, lease_us=config.lease_us * 3)

    patches.setattr(simulated_node, "raft_config", longer)


@bug(12, seeds=1000, symptom=STALE)
def a_promise_ends_with_the_connection(patches: Patches) -> None:
    original = ElectionTimer.lost_leader

    def lost_leader(self: ElectionTimer) -> None:
        original(self)
        self._promised = 0

    patches.setattr(ElectionTimer, "lost_leader", lost_leader)


@bug(12, seeds=1000, symptom=STALE)
def a_promise_is_forgotten_by_a_restart(patches: Patches) -> None:
    original = ElectionTimer.__init__

    def init(self: ElectionTimer, config: RaftConfig, rng: Any, *, may_have_promised: bool) -> None:  # noqa: ARG001
        original(self, config, rng, may_have_promised=False)

    patches.setattr(ElectionTimer, "__init__", init)


@bug(13, seeds=1000, symptom=STALE)
def a_lease_is_kept_while_leadership_is_handed_over(patches: Patches) -> None:
    def has_lease(self: Protocol) -> bool:
        replication = self.replication
        if replication is None:
            return False
        promised_us = replication.promised_us()
        return promised_us > 0 and self.now_us < promised_us + self.config.lease_us

    patches.setattr(Protocol, "has_lease", property(has_lease))


@bug(13, seeds=1000, symptom=STALE)
def a_late_order_to_stand_is_obeyed_in_a_later_term(patches: Patches) -> None:
    original = Protocol._answer_stale

    def answer_stale(self: Protocol, message: Any) -> None:
        if isinstance(message, TimeoutNow) and self.role is Role.FOLLOWER:
            self.on_timeout_now(message)
        original(self, message)

    patches.setattr(Protocol, "_answer_stale", answer_stale)
