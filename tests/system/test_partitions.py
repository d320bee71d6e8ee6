"""Real nodes whose links are cut, in one direction or in both: no stale read, no livelock, no disturbance after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from bench.load import Writer, running
from bench.nodes import SeparateNodes
from bench.partition import Link
from bench.prevote import isolate_and_return, timings
from tests.system.test_five_nodes import wait_until
from vaultdb.clock import monotonic_ns
from vaultdb.errors import Unavailable, Unknown

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ELECTION_TIMEOUT_MS = 600
"""The longest one of the default configuration."""
RESUMES_WITHIN_TIMEOUTS = 10
CALM_TIMEOUTS = 5
PATIENT = {"raft.heartbeat_ms": "300", "raft.election_timeout_min_ms": "1500", "raft.election_timeout_max_ms": "3000"}
"""A leader that was cut off believes in itself for 1.5 to 3 s."""
READERS = 3


@pytest.fixture(scope="module")
def relayed() -> Iterator[SeparateNodes]:
    """Five nodes behind relays; each test leaves them healed and healthy."""
    with SeparateNodes(5, is_relayed=True) as cluster:
        yield cluster
    assert cluster.processes() == [], "processes outlived the stop of the cluster"


@pytest.fixture
def healed(relayed: SeparateNodes) -> Iterator[SeparateNodes]:
    """As `relayed`, for tests that cut links: heals them, and then every node must hold the same."""
    yield relayed
    relayed.partitions.heal()
    relayed.leader()
    relayed.digests()


class ReadersAt:
    """Threads that read one key from one node, linearizably, again and again; remembers what each read saw."""

    def __init__(self, cluster: SeparateNodes, node: int, key: str) -> None:
        self._cluster, self._node, self._key = cluster, node, key
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(READERS)]
        self.seen: list[tuple[int, str | None]] = []
        """(begun, value) of the reads that were answered; begun in monotonic nanoseconds."""
        self.refused = 0

    def __enter__(self) -> ReadersAt:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.seen) > READERS, "reads before the partition")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a read did not end within 20 s"

    def _read(self) -> None:
        while not self._done.is_set():
            begun_ns = monotonic_ns()
            try:
                self.seen.append((begun_ns, self._cluster.get(self._node, self._key)))
            except (Unavailable, Unknown):
                self.refused += 1

    def begun_since(self, begun_ns: int) -> list[str | None]:
        return [value for begun, value in self.seen if begun >= begun_ns]


def others_than(cluster: SeparateNodes, node: int) -> list[int]:
    return [other for other in range(cluster.nodes) if other != node]


def write_through(cluster: SeparateNodes, node: int, key: str, value: str, within_ms: float) -> None:
    """Until it is acknowledged."""
    wait_until(lambda: cluster.put(node, key, value).status == 200, f"a write through node{node}", within_ms)


def test_c11_a_deposed_leader_that_does_not_know_it_serves_no_stale_read() -> None:
    """Catalogue rows 11 and 14. The leader is cut off in both directions; the others notice at once, because their
    connections to it break, elect another and commit a write. The old one believes in itself for another second, and a
    linearizable read that begins there then must be refused, or wait, but not answer with the old value.

    Planted bug that this catches: read rounds that are confirmed without asking anybody (the old value comes back).
    """
    with SeparateNodes(3, settings={**PATIENT, "raft.leases": "false"}, is_relayed=True) as cluster:
        old = cluster.leader()
        others = others_than(cluster, old)
        assert cluster.put(old, "k", "old").status == 200
        assert cluster.get(old, "k") == "old"
        cluster.partitions.cut(*cluster.partitions.around(old))
        cluster.partitions.reset(*((other, old) for other in others))
        new = cluster.leader(but=old, among=others)
        write_through(cluster, new, "k", "new", ELECTION_TIMEOUT_MS)
        assert cluster.status(old)["role"] == "leader", "the old leader knows already: the run is void"
        with contextlib.suppress(Unavailable):
            assert cluster.get(old, "k") == "new", "a deposed leader served a stale read"
        cluster.partitions.heal()
        wait_until(lambda: cluster.get(old, "k") == "new", "a read of the new value from the old leader")
        cluster.digests()


def test_c12_a_lease_ends_before_the_others_elect() -> None:
    """Catalogue row 12, with reads that keep the lease alive until the leader is cut off. Followers have promised to
    hold to it, so breaking their connections does not hurry them; when another leads, the lease is over.

    Planted bugs that this catches: a lease that never ends; a follower that forgets its promise when its connection
    breaks; reads that are confirmed without asking anybody.
    """
    with SeparateNodes(3, settings=PATIENT, is_relayed=True) as cluster:
        old = cluster.leader()
        others = others_than(cluster, old)
        assert cluster.put(old, "k", "old").status == 200
        with ReadersAt(cluster, old, "k") as readers:
            cluster.partitions.cut(*cluster.partitions.around(old))
            cluster.partitions.reset(*((other, old) for other in others))
            new = cluster.leader(but=old, among=others, within_ms=20_000)
            write_through(cluster, new, "k", "new", 5_000)
            written_ns = monotonic_ns()
            wait_until(lambda: cluster.status(old)["role"] != "leader", "the old leader's insight")
            cluster.partitions.heal()
            wait_until(lambda: "new" in readers.begun_since(written_ns), "a read of the new value from the old leader")
        assert set(readers.begun_since(written_ns)) == {"new"}
        cluster.digests()


@pytest.mark.parametrize("direction", ["to the leader", "from the leader"])
def test_c11_a_one_sided_partition_makes_no_stale_read(healed: SeparateNodes, direction: str) -> None:
    """Reads run at the old leader all the time. One that hears nobody steps down; one that nobody hears is told."""
    cluster = healed
    old = cluster.leader()
    others = others_than(cluster, old)
    assert cluster.put(old, "k", "old").status == 200
    links = [(other, old) if direction == "to the leader" else (old, other) for other in others]
    with ReadersAt(cluster, old, "k") as readers:
        cluster.partitions.cut(*links)
        new = cluster.leader(but=old, among=others, within_ms=RESUMES_WITHIN_TIMEOUTS * ELECTION_TIMEOUT_MS)
        write_through(cluster, new, "k", "new", 5_000)
        written_ns = monotonic_ns()
        wait_until(lambda: cluster.status(old)["role"] != "leader", "the old leader's insight")
        cluster.partitions.heal()
        wait_until(lambda: "new" in readers.begun_since(written_ns), "a read of the new value from the old leader")
    assert set(readers.begun_since(written_ns)) == {"new"}


def leader_hears_nobody(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    return [(other, leader) for other in others], others


def nobody_hears_the_leader(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    return [(leader, other) for other in others], others


def leader_sees_only_a_bridge(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    _, *cut_off = others
    return [link for other in cut_off for link in ((leader, other), (other, leader))], others


def only_a_bridge_hears_the_leader(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    _, *deaf = others
    return [(leader, other) for other in deaf], others


def two_halves_and_a_bridge(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    bridge, with_leader, *rest = others
    half = (leader, with_leader)
    return [link for a in half for b in rest for link in ((a, b), (b, a))], [bridge, *half]


def one_follower_and_the_leader_lost_each_other(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    """What took Cloudflare's control plane down for six hours in 2020."""
    lonely, *rest = others
    return [(leader, lonely), (lonely, leader)], [leader, *rest]


def a_follower_hears_nobody(leader: int, others: list[int]) -> tuple[list[Link], list[int]]:
    deaf, *rest = others
    return [(node, deaf) for node in (leader, *rest)], [leader, *rest]


SHAPES: list[Callable[[int, list[int]], tuple[list[Link], list[int]]]] = [
    leader_hears_nobody,
    nobody_hears_the_leader,
    leader_sees_only_a_bridge,
    only_a_bridge_hears_the_leader,
    two_halves_and_a_bridge,
    one_follower_and_the_leader_lost_each_other,
    a_follower_hears_nobody,
]
"""Each gives the links to cut, and a quorum whose members all hear each other."""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_c15_a_connected_quorum_goes_on(
    healed: SeparateNodes, shape: Callable[[int, list[int]], tuple[list[Link], list[int]]]
) -> None:
    """Catalogue row 15: every member of the quorum takes writes again within ten election timeouts, and then the term
    does not move any more, however long the partition lasts.

    Planted bug that this catches: a leader that does not step down when it hears no quorum (`leader_hears_nobody`).
    """
    cluster = healed
    leader = cluster.leader()
    links, quorum = shape(leader, others_than(cluster, leader))
    cluster.partitions.cut(*links)
    for node in quorum:
        write_through(cluster, node, f"through-{node}", "yes", RESUMES_WITHIN_TIMEOUTS * ELECTION_TIMEOUT_MS)
    term = cluster.status(cluster.leader(among=quorum))["term"]
    refused = []
    begun_ns = monotonic_ns()
    while monotonic_ns() - begun_ns < CALM_TIMEOUTS * ELECTION_TIMEOUT_MS * 1_000_000:
        for node in quorum:
            reply = cluster.put(node, "calm", "yes")
            if reply.status != 200:
                refused.append((node, reply.status))
    assert not refused, f"writes were refused while the quorum was whole: {refused}"
    assert cluster.status(cluster.leader(among=quorum))["term"] == term


def test_c17_a_follower_that_was_away_comes_back_quietly() -> None:
    """Catalogue row 17: cut off for a hundred election timeouts under load, then healed. Leader and term are the same,
    and writes are not held up for as long as an election takes.

    Planted bug that this catches: PreVote switched off (`raft.pre_vote`).
    """
    election_ms = 150
    with SeparateNodes(3, settings=timings(election_ms), is_relayed=True) as cluster:
        writer = Writer(cluster, 50)
        with running(writer):
            result = isolate_and_return(cluster, writer, 2 * election_ms)
        assert not result.leader_changed, result
        assert result.terms == 0, result
        assert len(writer.acknowledged) > 500
        assert not writer.given_up
        cluster.digests()
