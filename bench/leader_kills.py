"""Kill the leader again and again under a steady load of writes; nothing that was acknowledged may be lost.

    python -m bench.leader_kills [--kills 20] [--rate 100] [--reads 100]

Kills (-9) alternate between the whole node and its consensus process alone. The gap is the time from the kill until a
write that was begun after it is acknowledged by a surviving node. With --reads, linearizable reads run beside the
writes, so that leases are in use and followers hold to their leader; their gap is measured alike, and each read must
show the write that was acknowledged last when it began. Exit status 0 only when every acknowledged write is there at
the end, on every node, and no read was stale.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
from typing import NamedTuple

from bench.cluster import LocalCluster
from bench.load import Load, Reader, Writer, lost_writes, running
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns, ms_until, sleep_ms

_GIVE_UP_MS = 10_000
_SETTLE_MS = 1_000
"""Of undisturbed load between two kills."""
_POLL_MS = 10


class Kill(NamedTuple):
    what: str
    node: int
    gap_ms: float
    read_gap_ms: float | None


class Campaign(NamedTuple):
    kills: list[Kill]
    writer: Writer
    reader: Reader | None
    lost: list[str]


def kill_leaders(cluster: LocalCluster, kills: int, writer: Writer, reader: Reader | None) -> list[Kill]:
    """While the loads run. Returns with all nodes up."""
    results = []
    for number in range(kills):
        sleep_ms(_SETTLE_MS)
        leader = cluster.leader()
        pids = cluster.pids(leader)
        is_node = number % 2 == 0
        victims = [pid for _, pid in sorted(pids.items(), reverse=True)] if is_node else [pids["consensus"]]
        killed_ns = monotonic_ns()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        gap_ms = _gap(writer, killed_ns)
        read_gap_ms = _gap(reader, killed_ns) if reader else None
        results.append(Kill("node" if is_node else "consensus", leader, gap_ms, read_gap_ms))
        reads = "" if read_gap_ms is None else f", of reads {read_gap_ms:7.1f} ms"
        print(f"kill {number + 1:3}  {results[-1].what:9} of node{leader}  gap {gap_ms:7.1f} ms{reads}", flush=True)
        if is_node:
            cluster.restart(leader)
        cluster.leader()
    return results


def _gap(load: Load, killed_ns: int) -> float:
    deadline_ns = deadline_after_ms(_GIVE_UP_MS)
    while ms_until(deadline_ns) > 0:
        sleep_ms(_POLL_MS)
        gap_ms = load.gap_ms(killed_ns)
        if gap_ms is not None:
            return gap_ms
    raise TimeoutError(f"nothing succeeded within {_GIVE_UP_MS} ms of a kill")


def campaign(kills: int, rate: float, read_rate: float = 0) -> Campaign:
    """Start five nodes, kill leaders, and look for what was lost; the digests of all nodes are equal in the end."""
    with LocalCluster(5) as cluster:
        writer = Writer(cluster, rate)
        reader = Reader(cluster, read_rate, writer) if read_rate else None
        with running(*([writer, reader] if reader else [writer])):
            results = kill_leaders(cluster, kills, writer, reader)
        digest = cluster.digests()
        lost = lost_writes(cluster, writer)
        print(
            f"all nodes: {digest['keys']:,} keys, digest {digest['digest'][:16]}… at index {digest['applied_index']:,}"
        )
    return Campaign(results, writer, reader, lost)


def summary(what: str, gaps: list[float]) -> str:
    return f"{len(gaps)} kills, {what} median {statistics.median(gaps):.0f} ms, worst {max(gaps):.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=100.0, help="writes begun per second")
    parser.add_argument("--reads", type=float, default=0.0, help="linearizable reads begun per second")
    arguments = parser.parse_args()
    results, writer, reader, lost = campaign(arguments.kills, arguments.rate, arguments.reads)
    for what in ("node", "consensus", "all"):
        chosen = [kill for kill in results if what in ("all", kill.what)]
        if chosen:
            print(f"{what:9}: {summary('gap', [kill.gap_ms for kill in chosen])}")
        read_gaps = [kill.read_gap_ms for kill in chosen if kill.read_gap_ms is not None]
        if read_gaps:
            print(f"{what:9}: {summary('gap of reads', read_gaps)}")
    latencies = sorted((ended - begun) / NS_PER_MS for begun, ended in writer.times)
    print(
        f"writes   : {len(writer.acknowledged):,} acknowledged, slowest {latencies[-1]:.0f} ms,"
        f" {writer.given_up} given up, {writer.unknown} tries of unknown outcome, {len(lost)} LOST"
    )
    if reader:
        print(f"reads    : {len(reader.times):,} answered, {reader.given_up} given up, {reader.stale} STALE")
    is_good = not lost and not writer.given_up and not (reader and (reader.given_up or reader.stale))
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
