"""What a seed chose for its run: how many nodes, how hostile a world, how tiny the limits."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Probabilities are per event; durations in milliseconds."""

    nodes: int
    """Voters at the start; ids from 0."""
    spares: int
    """Members to come: nodes with the ids that follow, which nobody has invited yet."""
    pre_vote: bool
    leases: bool
    safety_ms: int
    # Network
    is_fifo: bool
    """Messages of one link arrive in order and once, as on a connection; else Raft's are shuffled and doubled too."""
    delay_ms: tuple[float, float]
    loss: float
    duplication: float
    lateness: float
    """That a message takes up to LATE_MS_MAX."""
    full_queue: float
    """That the send queue to a peer is full at the end of a turn."""
    is_told: float
    """That the transport tells of a broken connection soon."""
    # Disk
    sync_ms: tuple[float, float]
    # Process
    turn_ms: tuple[float, float]
    """How long a turn of the loop takes: what arrives meanwhile is for the next."""
    stall: float
    """That a turn stops in its middle for a while."""
    # Storage
    apply_ms: tuple[float, float]
    flush_ms: float
    cut_ms: float
    """Mean time between two log cuts of a node, below what its storage has flushed."""
    # Load
    clients: int
    keys: int
    think_ms: float
    reads: float
    queued: float
    # Faults
    fault_ms: float
    """Mean time between two faults."""
    partition_ms: float
    """Mean time that blocked links stay so."""
    change_ms: float
    """Mean time between two membership changes or transfers."""
    loses_disks: bool
    """Disks are wiped and old copies put back; then nobody changes the voters, but to remove who is lost."""
    # Limits of the core, in bytes
    append_bytes: int
    inflight_bytes: int
    inflight_appends: int
    uncommitted_bytes: int
    memory_bytes: int
    promotion_lag: int

    @staticmethod
    def draw(rng: random.Random) -> Plan:
        append_bytes = rng.choice((40, 100, 400))
        is_fast = rng.random() < 0.35  # then most happens within a lease
        return Plan(
            nodes=rng.choice((3, 3, 5)),
            spares=rng.choice((1, 3, 6)),
            pre_vote=rng.random() < 0.85,
            leases=rng.random() < 0.8,
            safety_ms=rng.choice((8_000, 12_000)),
            is_fifo=rng.random() < 0.4,
            delay_ms=(0.1, 1.0) if is_fast else rng.choice(((0.1, 1.0), (0.5, 8.0), (2.0, 40.0))),
            loss=rng.choice((0.0, 0.01, 0.08)),
            duplication=rng.choice((0.0, 0.02, 0.1)),
            lateness=rng.choice((0.0, 0.005, 0.02)),
            full_queue=rng.choice((0.0, 0.0, 0.01)),
            is_told=rng.choice((0.3, 0.9)),
            sync_ms=(0.1, 1.0) if is_fast else rng.choice(((0.1, 1.0), (1.0, 12.0), (1.0, 60.0))),
            turn_ms=(0.02, 0.2) if is_fast else rng.choice(((0.02, 0.2), (0.1, 3.0))),
            stall=rng.choice((0.0, 0.0005, 0.002)),
            apply_ms=rng.choice(((0.1, 2.0), (1.0, 30.0))),
            flush_ms=rng.choice((60.0, 400.0)),
            cut_ms=rng.choice((250.0, 1000.0, 4000.0)),
            clients=rng.choice((4, 8, 12)),
            keys=rng.choice((1, 2, 4)),
            think_ms=rng.choice((5.0, 40.0)),
            reads=rng.choice((0.3, 0.6, 0.8)),
            queued=rng.choice((0.0, 0.1)),
            fault_ms=rng.choice((250.0, 600.0, 1500.0)),
            partition_ms=rng.choice((200.0, 800.0)),
            change_ms=rng.choice((100.0, 250.0, 1000.0)),
            loses_disks=rng.random() < 0.25,
            append_bytes=append_bytes,
            inflight_bytes=append_bytes * rng.choice((2, 6)),
            inflight_appends=rng.choice((2, 8)),
            uncommitted_bytes=rng.choice((400, 2000)),
            memory_bytes=rng.choice((100, 600)),
            promotion_lag=rng.choice((1, 20)),
        )


LATE_MS_MAX = 1_500
