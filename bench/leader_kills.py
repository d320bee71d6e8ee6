"""Kill the leader again and again under a steady load of writes; nothing that was acknowledged may be lost.

    python -m bench.leader_kills [--kills 20] [--rate 100]

Kills (-9) alternate between the whole node and its consensus process alone. The gap is the time from the kill until a
write that was begun after it is acknowledged by a surviving node. Exit status 0 only when every acknowledged write is
there at the end, on every node.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
from typing import NamedTuple

from bench.cluster import LocalCluster
from vaultdb.client.http import Connection
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns, ms_until
from vaultdb.errors import Unavailable, Unknown

_TRY_TIMEOUT_S = 3.0
_GIVE_UP_MS = 10_000
_SETTLE_MS = 1_000
"""Of undisturbed load between two kills."""
_CONNECTIONS_MAX = 64


class Kill(NamedTuple):
    what: str
    node: int
    gap_ms: float


class Writer:
    """Writes begun at a fixed rate, each tried on one node after another until it is acknowledged or given up."""

    def __init__(self, cluster: LocalCluster, rate: float) -> None:
        self._cluster = cluster
        self._interval_s = 1 / rate
        self._idle: dict[int, list[Connection]] = {node: [] for node in range(cluster.nodes)}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self.acknowledged: dict[str, str] = {}
        self.given_up = 0
        self.unknown = 0
        self.times: list[tuple[int, int]] = []
        """(begun, acknowledged) of each write, in monotonic nanoseconds."""

    async def run(self, until: asyncio.Event) -> None:
        """Begin writes until the event is set, then wait for those under way."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not until.is_set():
            task = loop.create_task(self._write(self._count))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._count += 1
            next_at += self._interval_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), max(0.0, next_at - loop.time()))
        await asyncio.gather(*self._tasks)

    async def _write(self, number: int) -> None:
        key, value = f"write/{number}", str(number)
        begun_ns = monotonic_ns()
        deadline_ns = deadline_after_ms(_GIVE_UP_MS)
        node = number % self._cluster.nodes
        while ms_until(deadline_ns) > 0:
            try:
                status = await self._put(node, key, value)
            except Unavailable:
                status = 503
            except Unknown:
                self.unknown += 1
                status = 504
            if status == 200:
                self.acknowledged[key] = value
                self.times.append((begun_ns, monotonic_ns()))
                return
            node = (node + 1) % self._cluster.nodes
            await asyncio.sleep(0.002)
        self.given_up += 1

    async def _put(self, node: int, key: str, value: str) -> int:
        idle = self._idle[node]
        port = self._cluster.base_port + node
        connection = idle.pop() if idle else Connection("127.0.0.1", port, timeout_s=_TRY_TIMEOUT_S)
        response = await connection.request("PUT", f"/key/{key}", value.encode())
        if len(idle) < _CONNECTIONS_MAX:
            idle.append(connection)
        else:
            connection.close()
        return response.status

    def gap_ms(self, killed_ns: int) -> float | None:
        """From the kill to the first acknowledgement of a write begun after it; None while there is none."""
        ends = [ended for begun, ended in self.times if begun >= killed_ns]
        return (min(ends) - killed_ns) / NS_PER_MS if ends else None


async def kill_leaders(cluster: LocalCluster, kills: int, rate: float) -> tuple[Writer, list[Kill]]:
    writer, done, results = Writer(cluster, rate), asyncio.Event(), []
    writing = asyncio.create_task(writer.run(done))
    try:
        for number in range(kills):
            await asyncio.sleep(_SETTLE_MS / 1000)
            leader = await asyncio.to_thread(cluster.leader)
            pids = await asyncio.to_thread(cluster.pids, leader)
            is_node = number % 2 == 0
            victims = [pid for _, pid in sorted(pids.items(), reverse=True)] if is_node else [pids["consensus"]]
            killed_ns = monotonic_ns()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            gap_ms = await _gap(writer, killed_ns)
            results.append(Kill("node" if is_node else "consensus", leader, gap_ms))
            print(f"kill {number + 1:3}  {results[-1].what:9} of node{leader}  gap {gap_ms:7.1f} ms", flush=True)
            if is_node:
                await asyncio.to_thread(cluster.restart, leader)
            await asyncio.to_thread(cluster.leader)
    finally:
        done.set()
        await writing
    return writer, results


async def _gap(writer: Writer, killed_ns: int) -> float:
    deadline_ns = deadline_after_ms(_GIVE_UP_MS)
    while ms_until(deadline_ns) > 0:
        await asyncio.sleep(0.01)
        gap_ms = writer.gap_ms(killed_ns)
        if gap_ms is not None:
            return gap_ms
    raise TimeoutError(f"no write was acknowledged within {_GIVE_UP_MS} ms of a kill")


def lost_writes(cluster: LocalCluster, writer: Writer) -> list[str]:
    """The acknowledged keys that a linearizable read of some node does not show."""

    async def check(node: int) -> list[str]:
        connection = Connection("127.0.0.1", cluster.base_port + node)
        lost = []
        for key, value in list(writer.acknowledged.items())[node :: cluster.nodes]:
            response = await connection.request("GET", f"/key/{key}", headers=(("Accept", "application/octet-stream"),))
            if response.status != 200 or response.body.decode() != value:
                lost.append(key)
        connection.close()
        return lost

    async def check_all() -> list[str]:
        return [key for lost in await asyncio.gather(*(check(node) for node in range(cluster.nodes))) for key in lost]

    return asyncio.run(check_all())


def campaign(kills: int, rate: float) -> tuple[list[Kill], Writer, list[str]]:
    """Start five nodes, kill leaders, and look for what was lost; the digests of all nodes are equal in the end."""
    with LocalCluster(5) as cluster:
        writer, results = asyncio.run(kill_leaders(cluster, kills, rate))
        digest = cluster.digests()
        lost = lost_writes(cluster, writer)
        print(
            f"all nodes: {digest['keys']:,} keys, digest {digest['digest'][:16]}… at index {digest['applied_index']:,}"
        )
    return results, writer, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=100.0, help="writes begun per second")
    arguments = parser.parse_args()
    results, writer, lost = campaign(arguments.kills, arguments.rate)
    for what in ("node", "consensus"):
        gaps = [kill.gap_ms for kill in results if kill.what == what]
        if gaps:
            print(f"{what:9}: {len(gaps)} kills, gap median {statistics.median(gaps):.0f} ms, worst {max(gaps):.0f} ms")
    gaps = [kill.gap_ms for kill in results]
    print(f"all      : {len(gaps)} kills, gap median {statistics.median(gaps):.0f} ms, worst {max(gaps):.0f} ms")
    latencies = sorted((ended - begun) / NS_PER_MS for begun, ended in writer.times)
    print(
        f"writes   : {len(writer.acknowledged):,} acknowledged, slowest {latencies[-1]:.0f} ms,"
        f" {writer.given_up} given up, {writer.unknown} tries of unknown outcome, {len(lost)} LOST"
    )
    return 1 if lost or writer.given_up else 0


if __name__ == "__main__":
    raise SystemExit(main())
