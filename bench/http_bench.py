"""HTTP put and get at 1, 32 and 128 connections, VaultDB beside etcd in the same run.

    python -m bench.http_bench [--seconds 5] [--rounds 3] [--out docs/benchmarks.md]

The systems run at the same time and are measured in turn, so that the machine's drift meets both. wrk makes the load
(apt install wrk); etcd is left out where it is not installed (apt install etcd-server). Each figure is the median of
the rounds. The exit status is 0 only when every request was answered with 2xx.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.cluster import ROOT
from bench.peers import KEYS, VALUE, Etcd, Peer, VaultDB, load_all
from vaultdb import clock

OPERATIONS = ("put", "get stale", "get linearizable")
CONNECTIONS = (1, 32, 128)
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Figure(NamedTuple):
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def measure(peer: Peer, operation: str, connections: int, seconds: int) -> Figure:
    """One run of wrk."""
    url, script = peer.script(operation)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name, url]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", report)))
    failed += sum(sum(map(int, re.findall(r"\d+", line))) for line in re.findall(r"Socket errors: (.*)", report))
    return Figure(_number(report, r"Requests/sec:\s+"), _duration(report, "50%"), _duration(report, "99%"), failed)


def _number(report: str, before: str) -> float:
    found = re.search(before + r"([\d.]+)", report)
    if found is None:
        raise ValueError(f"wrk's report has no {before!r}:\n{report}")
    return float(found[1])


def _duration(report: str, percentile: str) -> float:
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", report)
    if found is None:
        raise ValueError(f"wrk's report has no {percentile}:\n{report}")
    return float(found[1]) * _UNITS_MS[found[2]]


def sync_p50_ms() -> float:
    """Median of 200 fdatasyncs of a 4 KiB append on this disk."""
    durations = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            begun_ns = clock.monotonic_ns()
            os.fdatasync(file.fileno())
            durations.append((clock.monotonic_ns() - begun_ns) / clock.NS_PER_MS)
    return statistics.median(durations)


def median_of(figures: list[Figure]) -> Figure:
    columns = list(zip(*figures, strict=True))
    per_second, p50_ms, p99_ms = (statistics.median(column) for column in columns[:3])
    return Figure(per_second, p50_ms, p99_ms, failed=sum(figure.failed for figure in figures))


def run(peers: list[Peer], seconds: int, rounds: int) -> dict[tuple[str, int, str], Figure]:
    """Every operation at every number of connections, the peers in turn."""
    found: dict[tuple[str, int, str], Figure] = {}
    for operation in OPERATIONS:
        for connections in CONNECTIONS:
            samples: dict[str, list[Figure]] = {peer.name: [] for peer in peers}
            for _ in range(rounds):
                for peer in peers:
                    samples[peer.name].append(measure(peer, operation, connections, seconds))
            for name, figures in samples.items():
                found[operation, connections, name] = figure = median_of(figures)
                print(
                    f"{operation:17} {connections:4} connections  {name:8} {figure.per_second:9,.0f}/s"
                    f"  p50 {figure.p50_ms:7.2f} ms  p99 {figure.p99_ms:7.2f} ms  failed {figure.failed}",
                    flush=True,
                )
    return found


def report(peers: list[Peer], found: dict[tuple[str, int, str], Figure], seconds: int, rounds: int) -> str:
    """The run as a Markdown section."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    lines = [
        "## HTTP, five nodes on one machine",
        "",
        f"Commit `{git.stdout.strip() or 'unknown'}`, Python {platform.python_version()}, {os.cpu_count()} cores shared"
        f" by all nodes and the load generator, fdatasync p50 {sync_p50_ms():.2f} ms, load {os.getloadavg()[0]:.1f}."
        f" {', '.join(f'{peer.name} {peer.version}' for peer in peers)}. Values of {len(VALUE)} bytes, {KEYS:,} loaded"
        " keys chosen at random, requests to one follower, every write synced on a majority, median of"
        f" {rounds} rounds of {seconds} s. `python -m bench.http_bench`.",
        "",
        "| operation | connections | " + " | ".join(f"{p.name} /s | p50 ms | p99 ms" for p in peers) + " | ratio |",
        "|---|---|" + "---|---|---|" * len(peers) + "---|",
    ]
    for operation in OPERATIONS:
        for connections in CONNECTIONS:
            figures = [found[operation, connections, peer.name] for peer in peers]
            cells = [f"{f.per_second:,.0f} | {f.p50_ms:.2f} | {f.p99_ms:.1f}" for f in figures]
            ratio = f"{figures[0].per_second / figures[1].per_second:.2f}" if len(figures) > 1 else "–"
            lines.append(f"| {operation} | {connections} | {' | '.join(cells)} | {ratio} |")
    lines += ["", "| memory after the run (sum of PSS) | " + " | ".join(p.name for p in peers) + " |"]
    lines += ["|---|" + "---|" * len(peers)]
    lines += ["| MB | " + " | ".join(f"{peer.pss_bytes() / 1e6:.0f}" for peer in peers) + " |", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the section to this file as well")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed (apt install wrk)", file=sys.stderr)
        return 2
    peers: list[Peer] = [VaultDB()]
    try:
        peers.append(Etcd())
    except FileNotFoundError as error:
        print(f"{error}; VaultDB is measured alone", file=sys.stderr)
    started: list[Peer] = []
    try:
        for peer in peers:
            started.append(peer)
            peer.start()
            load_all(peer)
        found = run(peers, arguments.seconds, arguments.rounds)
        section = report(peers, found, arguments.seconds, arguments.rounds)
    finally:
        for peer in started:
            peer.stop()
    print(section)
    if arguments.out:
        arguments.out.write_text(section, encoding="utf-8")
    return 1 if any(figure.failed for figure in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
