"""What five idle nodes cost: processor time in percent of one core, and memory as the sum of proportional set sizes.

    python -m bench.idle [--seconds 20]

The monitor and the launcher are counted apart. Exit status 0 only when the nodes use less than 10 % of a core.
"""

from __future__ import annotations

import argparse

import psutil

from bench.cluster import LocalCluster
from vaultdb.clock import sleep_ms

_SETTLE_MS = 5_000
_CORE_PERCENT_MAX = 10.0


def processor_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    with LocalCluster(5) as cluster:
        pids = {name: [cluster.pids(node)[name] for node in range(5)] for name in cluster.pids(0)}
        parts = {name: [psutil.Process(pid) for pid in found] for name, found in pids.items()}
        nodes = {pid for found in pids.values() for pid in found}
        parts["monitor and launcher"] = [process for process in cluster.processes() if process.pid not in nodes]
        sleep_ms(_SETTLE_MS)
        before = {name: processor_seconds(processes) for name, processes in parts.items()}
        sleep_ms(1000 * seconds)
        used = {name: 100 * (processor_seconds(parts[name]) - before[name]) / seconds for name in parts}
        memory = {name: sum(process.memory_full_info().pss for process in parts[name]) for name in parts}
    for name in parts:
        print(f"{name:20} {len(parts[name]):2} processes  {used[name]:5.2f} % of a core  {memory[name] / 1e6:6.1f} MB")
    others = "monitor and launcher"
    total = sum(used.values()) - used[others]
    print(f"{'nodes together':20} {len(nodes):2} processes  {total:5.2f} % of a core", end="")
    print(f"  {(sum(memory.values()) - memory[others]) / 1e6:6.1f} MB")
    return 0 if total < _CORE_PERCENT_MAX else 1


if __name__ == "__main__":
    raise SystemExit(main())
