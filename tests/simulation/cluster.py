"""A whole cluster and its world, from one seed: first hostile, then healed."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import replace
from functools import lru_cache

from tests.simulation import rendering
from tests.simulation.changes import Administrator
from tests.simulation.checkers import (
    Checks,
    CommitSafety,
    ElectionSafety,
    FreshReads,
    Ledger,
    LogMatching,
    TruthfulDurability,
    Violation,
)
from tests.simulation.clients import Client, Numbers
from tests.simulation.history import Operation, Witness
from tests.simulation.linearizability import Verdict, by_key, search
from tests.simulation.liveness import Liveness
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.node import Member
from tests.simulation.plan import Plan
from tests.simulation.snapshots import Transfers
from tests.simulation.world import TRACE_LINES, World
from vaultdb.clock import NS_PER_MS
from vaultdb.config import ApiSettings, Config, NodeAddress, NodeConfig, RaftSettings
from vaultdb.errors import VaultError
from vaultdb.raft.messages import NodeId
from vaultdb.raft.state import RaftConfig

LEADER_WAIT_MS = 700
REQUEST_TIMEOUT_MS = 2_000


@lru_cache
def address(node: NodeId) -> NodeAddress:
    return NodeAddress(
        id=node,
        name=f"node{node}",
        host="127.0.0.1",
        http_port=1000 + node,
        peer_port=2000 + node,
        native_port=3000 + node,
    )


@lru_cache
def configuration(first: int, joining: NodeId | None, pre_vote: bool, leases: bool) -> Config:
    """The members that the cluster begins with, and one that joins it later."""
    nodes = [*range(first), joining] if joining is not None else [*range(first)]
    return Config(
        nodes=tuple(address(node) for node in nodes),
        data_dir="/nowhere",
        raft=RaftSettings(pre_vote=pre_vote, leases=leases),
        api=ApiSettings(leader_wait_ms=LEADER_WAIT_MS, request_timeout_ms=REQUEST_TIMEOUT_MS),
    )


class Cluster:
    """Runs one seed. `run` raises Violation, or whatever a driver or core raised."""

    def __init__(self, seed: int, *, keep_all: bool = False) -> None:
        self.seed = seed
        self.world = World(seed, keep_all=keep_all)
        self.plan = Plan.draw(self.world.rng)
        self.network = Network(self.world, self.plan)
        self.members: dict[NodeId, Member] = {}
        self.checks = Checks(
            ElectionSafety(),
            LogMatching(),
            CommitSafety(self.members),
            TruthfulDurability(),
            FreshReads(),
            Ledger(),
        )
        self.network.on_sent = self._sent
        self.transfers = Transfers(self.world, self.members, lambda src, dst: (src, dst) not in self.network.blocked)
        self.snapshots_installed = 0
        for node in range(self.plan.nodes):
            self._add(self._config(None).node(node))
        for node in range(self.plan.nodes, self.plan.nodes + self.plan.spares):
            self._add(self._config(node).node(node, joins=True))
        self.history: list[Operation] = []
        self.witness = Witness()
        self.numbers = Numbers()
        self.clients = [self.client(number) for number in range(self.plan.clients)]
        self.nemesis = Nemesis(self)
        self.administrator = Administrator(self)
        self.undecided_keys = 0

    def _config(self, joining: NodeId | None) -> Config:
        return configuration(self.plan.nodes, joining, self.plan.pre_vote, self.plan.leases)

    def _add(self, node: NodeConfig) -> None:
        self.members[node.id] = self.network.endpoints[node.id] = Member(node, self)

    def client(self, number: int) -> Client:
        return Client(
            number,
            self.world,
            self.plan,
            self.servers,
            self.witness,
            self.history,
            self.numbers,
        )

    def limited(self, config: RaftConfig) -> RaftConfig:
        plan = self.plan
        return replace(
            config,
            append_bytes_max=plan.append_bytes,
            inflight_bytes_max=plan.inflight_bytes,
            inflight_appends_max=plan.inflight_appends,
            uncommitted_bytes_max=plan.uncommitted_bytes,
            log_memory_bytes=plan.memory_bytes,
            promotion_lag_max=plan.promotion_lag,
        )

    def run(self) -> None:
        self.world.note(f"plan {self.plan}")
        for node in range(self.plan.nodes):
            self.members[node].start()
        for client in self.clients:
            client.begin()
        self.nemesis.begin()
        self.administrator.begin()
        self.world.run_until(self.plan.safety_ms * NS_PER_MS)
        self._heal()
        Liveness(self).check()
        self._check_history()

    def restart(self, member: Member) -> None:
        if not member.is_up:
            member.start()

    def servers(self) -> list[Member]:
        """Whom clients ask: mostly the members, as far as anybody outside can know."""
        everybody = list(self.members.values())
        known = {node for member in everybody if member.is_leader for node in member.raft.membership.nodes}
        if not known or self.world.chance(0.03):
            return everybody
        return [self.members[node] for node in sorted(known)]

    def strangers(self) -> list[NodeId]:
        return [node for node, member in self.members.items() if not member.life]

    def _sent(self, src: NodeId, item: object) -> None:
        member = self.members[src]
        if not member.is_lost:
            self.checks.elections.on_sent(item)
        self.checks.durability.on_sent(item, member.disk)

    def _heal(self) -> None:
        self.world.note("everything heals")
        self.nemesis.is_over = self.administrator.is_over = True
        self.administrator.remove_the_lost()
        self.network.is_hostile = self.transfers.is_hostile = False
        self.network.mend()
        for client in self.clients:
            client.is_stopped = True
        for member in self.members.values():
            member.paused_until_ns = 0
            member.storage.stalled_until_ns = 0
            member.pace.slowness = 1.0
            if member.is_up:
                member.writer.release()
            elif member.life:
                member.start()

    def _check_history(self) -> None:
        for key, operations in by_key(self.history).items():
            verdict = search(operations)
            self.undecided_keys += verdict is Verdict.UNDECIDED
            if verdict is Verdict.NOT_LINEARIZABLE:
                raise Violation(f"the history of key {key} is not linearizable ({len(operations)} operations)")

    def figures(self) -> Counter[str]:
        """What happened, for the summary."""
        checks = self.checks
        return (
            Counter(
                {
                    "events": self.world.events_total,
                    "simulated_ns": self.world.now_ns,
                    "terms_led": checks.elections.terms_led,
                    "entries": checks.commits.commit_index,
                    "commands": checks.ledger.commands,
                    "reads_confirmed": checks.reads.confirmed,
                    "reads_by_lease": checks.reads.by_lease,
                    "operations": len(self.history),
                    "answered": sum(operation.returned_ns is not None for operation in self.history),
                    "crashes": sum(member.life - 1 for member in self.members.values()),
                    "logs_cut": sum(member.disk.image.base_index > 0 for member in self.members.values()),
                    "snapshots_installed": self.snapshots_installed,
                    "messages": self.network.sent_total,
                    "undecided_keys": self.undecided_keys,
                }
            )
            + Counter({f"fault_{name}": count for name, count in self.nemesis.counts.items()})
            + Counter(self.administrator.counts)
        )


class SimulationFailed(AssertionError):
    """Says what broke, how to replay it, and what came before."""

    def __init__(self, cluster: Cluster, cause: Exception) -> None:
        trace = "\n".join(rendering.lines(cluster.world.trace)[-TRACE_LINES:])
        where = "" if isinstance(cause, Violation) else "".join(traceback.format_exception(cause))
        super().__init__(
            f"seed {cluster.seed}: {cause}\n{where}"
            f"replay: python -m tests.simulation --first {cluster.seed} --seeds 1 --trace\n{trace}"
        )


def run_seed(seed: int) -> Cluster:
    """Raises SimulationFailed."""
    cluster = Cluster(seed)
    try:
        cluster.run()
    except (AssertionError, VaultError) as error:
        raise SimulationFailed(cluster, error) from error
    return cluster
