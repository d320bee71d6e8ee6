"""The consensus process: real time, real sockets and a real disk around the driver.

A turn: wait for anything to happen, tell the driver what time went by and what arrived, let it act once on all of it.
"""

from __future__ import annotations

import secrets
from typing import Any

import zmq

from vaultdb import limits
from vaultdb.clock import NS_PER_MS, boot_ns, monotonic_ns, wall_ms
from vaultdb.config import NodeConfig, RaftSettings
from vaultdb.consensus.driver import Driver
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_writer import LogWriter
from vaultdb.consensus.peers import PeerBus
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.errors import BadRequest, ExitCode, IoFailed
from vaultdb.lifeline import BEAT_INTERVAL_MS, Lifeline, calm_garbage_collector
from vaultdb.logs import logger
from vaultdb.raft.membership import NOBODY_YET, Membership
from vaultdb.raft.messages import InstallSnapshot, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import RaftConfig, lease_us_max
from vaultdb.wire import ipc, sockets
from vaultdb.wire.codec import unpack

_WAITING_POLL_MS = 50
"""How late a refusal may be while requests wait."""


def run(node: NodeConfig, lifeline: Lifeline) -> int:
    """Serve until told to stop. Raises Fatal: AddressTaken, CorruptData, IoFailed, WrongIdentity, BrokenInvariant."""
    return ConsensusProcess(node, lifeline).run()


class ConsensusProcess:
    """Owns the log, the local ROUTER and the peers' sockets."""

    def __init__(self, node: NodeConfig, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._logger = logger("consensus")
        self._log = WriteAheadLog(node.log_dir, node.config.cluster.name, node.id, first_membership(node))
        self._logger.info(
            "log recovered",
            base_index=self._log.base_index,
            last_index=self._log.last_index,
            term=self._log.hard_state.term,
            cut_bytes=self._log.cut_bytes,
        )
        self._writer = LogWriter(self._log.tail(), node.config.log.segment_bytes)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._local = sockets.bind_router(self._context, node.consensus_endpoint)
        self._waiter = sockets.Waiter(two_way=[self._local], descriptors=[self._writer.fd])
        self._peers = PeerBus(self._context, node, self._waiter)
        raft = RaftNode(raft_config(node), self._log.restored, self._log, secrets.SystemRandom())
        self._driver = Driver(
            node,
            raft,
            self._log,
            self._writer,
            self._peers,
            LocalApi(self._local),
            StorageStream(lambda message: sockets.try_send(self._local, ipc.STORAGE, message)),
            NoSnapshots(),
            life=secrets.randbits(62),
            first_number=secrets.randbits(62),
            new_cluster_id=secrets.token_hex(16),
        )
        self._tick_ns = node.config.raft.tick_ms * NS_PER_MS
        self._ticks_max = max(1, node.config.raft.election_timeout_min_ms // (3 * node.config.raft.tick_ms))
        self._ticked_ns = monotonic_ns()
        self._stall_timeout_ms = node.config.log.stall_timeout_ms
        self.malformed_total = 0

    def run(self) -> int:
        calm_garbage_collector()
        try:
            while not self._lifeline.stopping or not self._driver.may_stop(monotonic_ns()):
                self._turn()
            self._writer.close()
            self._log.close()
        finally:
            self._context.destroy(linger=0)
        return ExitCode.CLEAN

    def _turn(self) -> None:
        self._lifeline.beat()
        ready = self._waiter.wait(self._patience_ms())
        now_ns = monotonic_ns()
        self._driver.pass_ticks(self._ticks_passed(now_ns))
        for monitor in self._peers.monitors.keys() & ready:
            for change in self._peers.connection_changes(monitor):
                self._driver.on_connection(change.peer, connected=change.connected)
        if self._writer.fd in ready:
            self._driver.on_durable(self._writer.completions())
        elif self._writer.busy_ms(now_ns) > self._stall_timeout_ms:
            raise IoFailed(f"the log's disk has not completed a write for {self._stall_timeout_ms} ms")
        if self._peers.listener in ready:
            for frame in self._peers.receive():
                self._driver.on_frame(frame, now_ns)
        if self._local in ready:
            self._receive_local(now_ns)
        self._driver.turn(now_ns, wall_ms(), boot_ns())

    def _receive_local(self, now_ns: int) -> None:
        for frames in sockets.drain(self._local):
            try:
                message: Any = unpack(frames[-1])
                if frames[0] == ipc.API:
                    self._driver.on_api(message, now_ns)
                else:
                    self._driver.on_storage(message)
            except BadRequest as error:
                self.malformed_total += 1
                self._logger.warning("local message dropped", reason=str(error), total=self.malformed_total)

    def _patience_ms(self) -> int:
        """Until the next tick that matters; the core says which."""
        due_ns = self._ticked_ns + self._driver.ticks_until_due() * self._tick_ns
        wait_ms = -(-(due_ns - monotonic_ns()) // NS_PER_MS)
        is_hurried = self._driver.is_waiting or self._lifeline.stopping
        longest_ms = _WAITING_POLL_MS if is_hurried else BEAT_INTERVAL_MS
        # A sleep that was meant must not be taken for a stall.
        return max(0, min(wait_ms, longest_ms, self._ticks_max * self._tick_ns // NS_PER_MS))

    def _ticks_passed(self, now_ns: int) -> int:
        """Whole ticks since the last call. A stall of this process counts for a third of an election timeout at most:
        what it missed lies in its sockets, and is no silence of the others."""
        ticks = (now_ns - self._ticked_ns) // self._tick_ns
        if ticks > self._ticks_max:
            self._ticked_ns = now_ns
            return self._ticks_max
        self._ticked_ns += ticks * self._tick_ns
        return ticks


class LocalApi:
    """The api process, as the driver addresses it."""

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        self._router = router

    def send(self, message: bytes) -> bool:
        return sockets.try_send(self._router, ipc.API, message)


class NoSnapshots:
    """This release cannot send a state. A peer that needs one stays behind, and the log says so."""

    def __init__(self) -> None:
        self._logger = logger("consensus")
        self._told: set[NodeId] = set()

    def make(self, peer: NodeId) -> bool:
        if peer not in self._told:
            self._told.add(peer)
            self._logger.error(
                "a node needs entries that the log no longer has; this release cannot bring them", peer=peer
            )
        return False

    def carry(self, _message: InstallSnapshot) -> bool:
        return False


def first_membership(node: NodeConfig) -> Membership:
    """Of a node whose log is created now: what its cluster began with, or nothing yet."""
    return NOBODY_YET if node.joins else Membership(tuple(sorted(member.id for member in node.config.nodes)))


def raft_config(node: NodeConfig) -> RaftConfig:
    """The settings in the core's unit of time."""
    settings: RaftSettings = node.config.raft

    def ticks(duration_ms: int) -> int:
        return max(1, round(duration_ms / settings.tick_ms))

    promise_ticks = ticks(settings.lease_promise_ms)
    return RaftConfig(
        id=node.id,
        heartbeat_ticks=ticks(settings.heartbeat_ms),
        election_ticks_min=ticks(settings.election_timeout_min_ms),
        election_ticks_max=ticks(settings.election_timeout_max_ms),
        unreachable_ticks_max=ticks(settings.unreachable_delay_max_ms),
        promise_ticks=promise_ticks,
        lease_us=lease_us_max(promise_ticks, settings.tick_ms * 1_000) if settings.leases else 0,
        bound_at_start=True,
        pre_vote=settings.pre_vote,
        uncommitted_bytes_max=limits.UNCOMMITTED_BYTES_MAX,
        log_memory_bytes=node.config.log.memory_bytes,
    )
