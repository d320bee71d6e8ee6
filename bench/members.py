"""Members come and go, and the leadership moves, under a steady load of writes: how long writes are held up by it.

    python -m bench.members [--rate 100] [--transfers 10]

Three real nodes are grown to five over HTTP, the new ones first as learners, and shrunk to three again, the leader
among those that leave; then the leadership is handed from node to node, and at last the leader's node is stopped
cleanly. The gap of a step is the longest time without an acknowledged write from its beginning until it has settled.
Exit status 0 only when every acknowledged write is there at the end, no membership stayed joint, nodes that left
disturbed nobody, and no write failed during a transfer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.cluster import Reply
from bench.load import Writer, lost_writes, running
from bench.nodes import SeparateNodes
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns, ms_until, sleep_ms
from vaultdb.errors import Unavailable, Unknown

FOUNDERS = 3
NODES = 5
_SETTLE_MS = 500
"""Counted to a step: what it set off may come a little later."""
_CALM_MS = 3_000
"""Five of the longest election timeouts, in which nodes that left could have disturbed the others."""
_CHANGE_TIMEOUT_MS = 30_000
_POLL_MS = 20

Document = dict[str, Any]


class Step(NamedTuple):
    what: str
    took_ms: float
    gap_ms: float
    failed: int
    """Tries of writes that were refused or had no answer; each was tried again."""

    def __str__(self) -> str:
        return f"{self.what:34} {self.took_ms:7.0f} ms   gap {self.gap_ms:6.1f} ms   {self.failed} tries failed"


class Administrator:
    """Changes members and leadership over HTTP, and keeps the writer on nodes that belong to the cluster."""

    def __init__(self, cluster: SeparateNodes, writer: Writer) -> None:
        self.cluster = cluster
        self.writer = writer
        self.steps: list[Step] = []

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Measure, and print, what happens inside and shortly after."""
        failed = self.writer.refused + self.writer.unknown
        begun_ns = monotonic_ns()
        yield
        took_ms = (monotonic_ns() - begun_ns) / NS_PER_MS
        sleep_ms(_SETTLE_MS)
        gap_ms = self.writer.longest_gap_ms(begun_ns, monotonic_ns())
        self.steps.append(Step(what, took_ms, gap_ms, self.writer.refused + self.writer.unknown - failed))
        print(self.steps[-1], flush=True)

    @property
    def present(self) -> list[int]:
        return self.writer.nodes

    def members(self) -> Document:
        """As the leader has them. Raises Unavailable when no node that is present knows a leader."""
        for node in self.present:
            with contextlib.suppress(Unavailable, Unknown):
                reply = self.cluster.request(node, "GET", "/cluster/members")
                if reply.status == 200:
                    return reply.json
        raise Unavailable("no node knows the members")

    def row(self, node: int) -> Document | None:
        return next((row for row in self.members()["members"] if row["name"] == f"node{node}"), None)

    def id_of(self, node: int) -> int:
        row = self.row(node)
        if row is None:
            raise Unavailable(f"node{node} is no member")
        member: int = row["id"]
        return member

    def voters(self) -> list[int]:
        """By the numbers that they have here."""
        rows = self.members()["members"]
        return sorted(int(row["name"].removeprefix("node")) for row in rows if row["role"] == "voter")

    def leader(self) -> int:
        """By the number that it has here: ids are the cluster's, and never used twice."""
        document = self.members()
        names = {row["id"]: row["name"] for row in document["members"]}
        return int(names[document["leader"]].removeprefix("node"))

    def term(self) -> int:
        term: int = self.members()["term"]
        return term

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        deadline_ns = deadline_after_ms(_CHANGE_TIMEOUT_MS)
        while ms_until(deadline_ns) > 0:
            with contextlib.suppress(Unavailable, Unknown):
                if condition():
                    return
            sleep_ms(_POLL_MS)
        raise TimeoutError(f"{what} did not come about within {_CHANGE_TIMEOUT_MS} ms; members: {self.members()}")

    def wait_for_leader(self, node: int) -> None:
        self.wait_until(lambda: self.leader() == node, f"node{node} as leader")

    # Changes. Each returns once it is committed and the membership is simple again.

    def join(self, node: int) -> None:
        self.cluster.join(node, via=self.present[0])
        self.wait_until(lambda: (self.row(node) or {}).get("caught_up"), f"node{node} as a learner that has caught up")

    def promote(self, nodes: Sequence[int]) -> None:
        """All at once: a joint change when there are several."""
        self.change([{"change": "promote", "id": self.id_of(node)} for node in nodes])
        self.wait_until(lambda: {*nodes} <= {*self.voters()} and not self.members()["joint"], f"voters {nodes}")
        self.writer.nodes = [*self.present, *nodes]

    def remove(self, node: int) -> None:
        """The process is left alone."""
        member = self.id_of(node)
        self.writer.nodes = [other for other in self.present if other != node]
        self.ask(self.present[0], "DELETE", f"/cluster/members/{member}", None)
        self.wait_until(lambda: self.row(node) is None and not self.members()["joint"], f"the removal of node{node}")

    def transfer(self, node: int) -> None:
        """Raises Unavailable when the leader did not or could not hand over."""
        reply = self.ask(self.present[0], "POST", "/cluster/leader", {"id": self.id_of(node)})
        if reply.status != 200:
            raise Unavailable(f"no transfer to node{node}: {reply.status} {reply.body.decode()}")

    def change(self, changes: list[Document]) -> None:
        """Raises Unavailable when it was refused."""
        reply = self.ask(self.present[0], "POST", "/cluster/members", {"changes": changes})
        if reply.status not in (200, 504):  # 504: it may have happened, and the caller looks whether it has
            raise Unavailable(f"{changes} were refused: {reply.status} {reply.body.decode()}")

    def ask(self, node: int, method: str, path: str, body: Document | None) -> Reply:
        """A request to one node, with its answer whatever it is."""
        sent = None if body is None else json.dumps(body).encode()
        return self.cluster.request(node, method, path, sent, {"Content-Type": "application/json"}, timeout_s=20)


def grow(admin: Administrator) -> None:
    """From three voters to five."""
    joining = range(FOUNDERS, NODES)
    for node in joining:
        with admin.step(f"node{node} joins as a learner"):
            admin.join(node)
    with admin.step("both are promoted at once"):
        admin.promote(joining)


def shrink(admin: Administrator) -> list[str]:
    """Back to three, the leader leaving first. Returns what was disturbed by those that left: they go on running."""
    leader = admin.leader()
    with admin.step(f"the leader, node{leader}, is removed"):
        admin.remove(leader)
    follower = next(node for node in admin.present if node != admin.leader())
    with admin.step(f"a follower, node{follower}, is removed"):
        admin.remove(follower)
    before = admin.leader(), admin.term()
    with admin.step("nothing happens for a while"):
        sleep_ms(_CALM_MS)
    after = admin.leader(), admin.term()
    return [] if after == before else [f"leader and term were {before}, and after nodes had left {after}"]


def hand_over(admin: Administrator, transfers: int) -> list[float]:
    """From voter to voter in turn; the gap of each transfer."""
    for number in range(transfers):
        voters = admin.voters()
        target = voters[(voters.index(admin.leader()) + 1) % len(voters)]
        with admin.step(f"transfer {number + 1} to node{target}"):
            admin.transfer(target)
            admin.wait_for_leader(target)
    return [step.gap_ms for step in admin.steps[-transfers:]] if transfers else []


def stop_cleanly(admin: Administrator) -> None:
    """SIGTERM to the leader's node, while writes go to the others."""
    leader = admin.leader()
    admin.writer.nodes = [node for node in admin.present if node != leader]
    with admin.step(f"the leader's node{leader} is stopped"):
        admin.cluster.terminate(leader)
        admin.wait_until(lambda: admin.leader() != leader, "another leader")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="writes begun per second")
    parser.add_argument("--transfers", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.rate:.0f} writes/s")
    with SeparateNodes(NODES, founders=FOUNDERS) as cluster:
        writer = Writer(cluster, arguments.rate, cluster.founders)
        admin = Administrator(cluster, writer)
        with running(writer):
            with admin.step("undisturbed"):
                sleep_ms(_CALM_MS)
            grow(admin)
            faults = shrink(admin)
            gaps = hand_over(admin, arguments.transfers)
            failed = sum(step.failed for step in admin.steps[-arguments.transfers :]) if gaps else 0
            stop_cleanly(admin)
        document = admin.members()
        lost = lost_writes(cluster, writer, writer.nodes)
    if gaps:
        print(f"transfers: {len(gaps)}, gap median {statistics.median(gaps):.1f} ms, worst {max(gaps):.1f} ms", end="")
        print(f", {failed} tries of writes failed")
    print(f"members  : {len(document['members'])}, {'JOINT' if document['joint'] else 'not joint'}")
    print(f"writes   : {len(writer.acknowledged):,} acknowledged, {writer.given_up} given up, {len(lost)} LOST")
    for fault in faults:
        print(f"DISTURBED: {fault}")
    return 1 if lost or faults or failed or writer.given_up or document["joint"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
