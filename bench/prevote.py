"""What a follower's return costs the others, with PreVote and without: the write gap after a partition is healed.

    python -m bench.prevote [--rounds 5] [--nodes 5] [--election-ms 100] [--rate 200]

Real nodes talk through relays (bench.partition). A round: one follower is cut off in both directions for 100 of the
longest election timeouts, and healed; writes at a fixed rate go to the other nodes all the time. Without PreVote the
follower comes back with a term some hundred ahead, and the leader must go. The gap is the longest time without an
acknowledged write in the window after healing; the same figure of an undisturbed window before it shows what the
writer's own rhythm and the machine account for. Timings keep the ratios of the defaults (300 to 600 ms, heartbeats
every 100 ms): --election-ms 300 are the defaults themselves.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import NamedTuple

from bench.load import Writer, lost_writes, running
from bench.nodes import SeparateNodes
from vaultdb.clock import NS_PER_MS, monotonic_ns, sleep_ms

TIMEOUTS = 100
"""Election timeouts that a follower is away for."""
_WINDOW_TIMEOUTS = 15
"""Within which after healing the largest gap is looked for: an election, and another one if that was split."""


class Round(NamedTuple):
    calm_ms: float
    gap_ms: float
    leader_changed: bool
    terms: int
    """How far the term moved on."""


def timings(election_ms: int) -> dict[str, str]:
    """Settings with the default ratios for a shortest election timeout of `election_ms`."""
    return {
        "raft.tick_ms": str(max(1, election_ms // 30)),
        "raft.heartbeat_ms": str(election_ms // 3),
        "raft.election_timeout_min_ms": str(election_ms),
        "raft.election_timeout_max_ms": str(2 * election_ms),
        "raft.unreachable_delay_max_ms": str(max(1, election_ms * 80 // 300)),
    }


def isolate_and_return(cluster: SeparateNodes, writer: Writer, timeout_ms: int) -> Round:
    """One round; `timeout_ms` is the longest election timeout. Returns with all nodes in one term."""
    leader = cluster.leader()
    term = cluster.status(leader)["term"]
    away = (leader + 1) % cluster.nodes
    writer.nodes = [node for node in range(cluster.nodes) if node != away]
    cluster.partitions.cut(*cluster.partitions.around(away))
    sleep_ms(TIMEOUTS * timeout_ms)
    window_ms = _WINDOW_TIMEOUTS * timeout_ms
    healed_ns = monotonic_ns()
    cluster.partitions.heal()
    sleep_ms(window_ms)
    calm_ms = writer.longest_gap_ms(healed_ns - window_ms * NS_PER_MS, healed_ns)
    gap_ms = writer.longest_gap_ms(healed_ns, healed_ns + window_ms * NS_PER_MS)
    leader_after = cluster.leader()
    return Round(calm_ms, gap_ms, leader_after != leader, cluster.status(leader_after)["term"] - term)


def campaign(nodes: int, rounds: int, election_ms: int, rate: float, pre_vote: bool) -> tuple[list[Round], int]:
    """The rounds, and the number of acknowledged writes that were lost."""
    settings = {**timings(election_ms), "raft.pre_vote": str(pre_vote).lower()}
    with SeparateNodes(nodes, settings=settings, is_relayed=True) as cluster:
        writer, results = Writer(cluster, rate), []
        with running(writer):
            for number in range(rounds):
                results.append(isolate_and_return(cluster, writer, 2 * election_ms))
                print(f"PreVote {'on ' if pre_vote else 'off'} round {number + 1:2}: {told(results[-1])}", flush=True)
        return results, len(lost_writes(cluster, writer))


def told(result: Round) -> str:
    leader = "new leader" if result.leader_changed else "same leader"
    return f"gap {result.gap_ms:7.1f} ms (undisturbed {result.calm_ms:5.1f} ms), {leader}, term {result.terms:+d}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument(
        "--election-ms", type=int, default=100, help="shortest election timeout; the longest is twice it"
    )
    parser.add_argument("--rate", type=float, default=200.0, help="writes begun per second")
    arguments = parser.parse_args()
    print(
        f"{arguments.nodes} nodes, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; election timeouts"
        f" {arguments.election_ms} to {2 * arguments.election_ms} ms, a follower away for {TIMEOUTS} of them"
    )
    medians: dict[bool, float] = {}
    lost_total = disturbed = 0
    for pre_vote in (True, False):
        results, lost = campaign(
            arguments.nodes, arguments.rounds, arguments.election_ms, arguments.rate, pre_vote=pre_vote
        )
        lost_total += lost
        gaps = [result.gap_ms for result in results]
        changes = sum(result.leader_changed for result in results)
        medians[pre_vote] = statistics.median(gaps)
        disturbed += pre_vote and any(result.leader_changed or result.terms for result in results)
        print(
            f"PreVote {'on ' if pre_vote else 'off'}: gap median {medians[pre_vote]:.1f} ms, worst {max(gaps):.1f} ms;"
            f" undisturbed median {statistics.median(result.calm_ms for result in results):.1f} ms;"
            f" leader changed {changes} times of {len(results)}, terms {sum(result.terms for result in results):+d};"
            f" {lost} acknowledged writes lost"
        )
    shorter = 100 * (1 - medians[True] / medians[False])
    print(f"with PreVote the gap is {shorter:.0f} % shorter ({medians[False]:.1f} → {medians[True]:.1f} ms)")
    return 1 if lost_total or disturbed else 0


if __name__ == "__main__":
    raise SystemExit(main())
