"""Members of a real cluster come and go under load, the leadership moves, and disks are lost or put back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from bench.load import Writer, lost_writes, running
from bench.members import FOUNDERS, NODES, Administrator, grow, hand_over, shrink, stop_cleanly
from bench.nodes import SeparateNodes
from tests.system.test_five_nodes import wait_until
from vaultdb.clock import monotonic_ns, sleep_ms

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

GAP_MAX_MS = 5_000
"""Generous: what a change costs is measured by `python -m bench.members`."""
RATE = 60.0
ELECTION_TIMEOUT_MS = 600


@pytest.fixture
def three() -> Iterator[Administrator]:
    """Three nodes, with places for two more, and a writer that the test runs."""
    with SeparateNodes(NODES, founders=FOUNDERS) as cluster:
        yield Administrator(cluster, Writer(cluster, RATE, cluster.founders))
    assert cluster.processes() == [], "processes outlived the stop of the cluster"


def assert_nothing_lost(admin: Administrator) -> None:
    writer = admin.writer
    assert len(writer.acknowledged) > 100, f"only {len(writer.acknowledged)} writes: the run is void"
    assert not writer.given_up
    lost = lost_writes(admin.cluster, writer, admin.present)
    assert not lost, f"{len(lost)} of {len(writer.acknowledged)} acknowledged writes are lost: {lost[:5]}"
    ids = [admin.id_of(node) for node in admin.present]
    assert ids == admin.present, "these tests count on ids in the order of joining"
    admin.cluster.digests(among=admin.present)


def test_three_nodes_grow_to_five_and_shrink_to_three_under_load(three: Administrator) -> None:
    """Learners first, promoted together in a joint change; the leader is one of the two that are removed. No write is
    lost, nothing stays joint, and the removed nodes, still running, cost nobody leadership or term.
    """
    admin = three
    with running(admin.writer):
        grow(admin)
        assert admin.voters() == [0, 1, 2, 3, 4]
        disturbed = shrink(admin)
    document = admin.members()
    assert disturbed == []
    assert document["joint"] is False
    assert document["committed"] is True
    assert len(document["members"]) == FOUNDERS
    assert admin.voters() == sorted(admin.present)
    assert max(step.gap_ms for step in admin.steps) < GAP_MAX_MS, [str(step) for step in admin.steps]
    assert_nothing_lost(admin)


def test_c21_a_learner_without_a_process_is_not_promoted(three: Administrator) -> None:
    """Catalogue row 21: nobody has heard of it, let alone of its having caught up: the answer is 409 and a sentence."""
    admin = three
    ports = {f"{kind}_port": port for kind, port in admin.cluster.ports(3).items()}
    admin.change([{"change": "add", "name": "node3", "host": "127.0.0.1", **ports}])
    refused = admin.ask(0, "POST", "/cluster/members", {"change": "promote", "id": admin.id_of(3)})
    assert refused.status == 409, refused
    assert refused.json["outcome"] == "rejected", refused
    assert "node 3" in refused.json["detail"], refused
    assert admin.voters() == [0, 1, 2]
    assert admin.cluster.put(0, "k", "still").status == 200


def test_the_leadership_is_handed_to_each_node_under_load(three: Administrator) -> None:
    """On request, and no write fails: those that arrive meanwhile wait."""
    admin = three
    with running(admin.writer):
        gaps = hand_over(admin, transfers=2 * FOUNDERS)
    assert max(gaps) < GAP_MAX_MS
    assert sum(step.failed for step in admin.steps) == 0, [str(step) for step in admin.steps]
    assert_nothing_lost(admin)


def test_a_leader_that_is_stopped_cleanly_hands_over_first(three: Administrator) -> None:
    admin = three
    with running(admin.writer):
        wait_until(lambda: len(admin.writer.acknowledged) > 100, "a hundred writes")
        stop_cleanly(admin)
    assert admin.steps[-1].gap_ms < GAP_MAX_MS
    assert_nothing_lost(admin)


def is_admitted(cluster: SeparateNodes, node: int) -> bool | None:
    """None while its consensus process does not answer."""
    admitted: bool | None = (cluster.status(node)["consensus"] or {}).get("admitted")
    return admitted


def assert_it_does_not_vote(admin: Administrator, node: int) -> None:
    """`node` has lost what it promised: it says so, and with it alone the third node elects nobody."""
    cluster = admin.cluster
    wait_until(lambda: is_admitted(cluster, node) is False, f"node{node}'s insight")
    assert cluster.status(node)["consensus"]["notice"], "the node does not say why"
    leader = admin.leader()
    (third,) = {*cluster.founders} - {leader, node}
    admin.writer.nodes = [third]
    cluster.kill(leader)
    begun_ns = monotonic_ns()
    while monotonic_ns() - begun_ns < 5 * ELECTION_TIMEOUT_MS * 1_000_000:
        roles = [cluster.status(one)["role"] for one in (third, node)]
        assert "leader" not in roles, f"node{node} voted: a quorum of one good disk and one bad one"
        sleep_ms(50)
    cluster.restart(leader)
    cluster.leader(among=cluster.founders)
    admin.writer.nodes = [leader, third]


def test_c23_a_wiped_node_does_not_vote_until_it_is_let_in_again(three: Administrator) -> None:
    """Catalogue row 23: its data directory is deleted and it is started under the same id. What was acknowledged with
    its help must not depend on its vote; removed, and joined anew, it is a voter like any other.

    Planted bugs that this catches: an incarnation that nobody compares; votes that count although it was compared.
    """
    admin = three
    cluster = admin.cluster
    wiped = next(node for node in cluster.founders if node != admin.leader())
    with running(admin.writer):
        wait_until(lambda: len(admin.writer.acknowledged) > 100, "a hundred writes")
    cluster.terminate(wiped)
    shutil.rmtree(cluster.data_of(wiped))
    cluster.restart(wiped)
    assert_it_does_not_vote(admin, wiped)
    lost = lost_writes(cluster, admin.writer, admin.present)
    assert not lost

    admin.remove(wiped)
    cluster.terminate(wiped)
    shutil.rmtree(cluster.data_of(wiped))
    admin.join(wiped)
    admin.promote([wiped])
    assert is_admitted(cluster, wiped) is True
    cluster.digests(among=admin.present)


def test_c24_an_old_copy_of_a_disk_does_not_vote(three: Administrator) -> None:
    """Catalogue row 24: a copy of the data directory is put back after the node has acknowledged more. It is noticed,
    does not vote, and does not crash in a loop.

    Planted bug that this catches: a start below the promise that nobody compares (not noticed, and the vote counts).
    """
    admin = three
    cluster = admin.cluster
    node = next(node for node in cluster.founders if node != admin.leader())
    copy = cluster.directory / "copy"
    with running(admin.writer):
        wait_until(lambda: len(admin.writer.acknowledged) > 50, "fifty writes")
        cluster.terminate(node)
        shutil.copytree(cluster.data_of(node), copy)
        cluster.restart(node)
        since = len(admin.writer.acknowledged)
        wait_until(lambda: len(admin.writer.acknowledged) > since + 200, "two hundred writes more")
    cluster.digests(among=cluster.founders)
    cluster.terminate(node)
    shutil.rmtree(cluster.data_of(node))
    copy.rename(cluster.data_of(node))
    cluster.restart(node)
    pids = cluster.pids(node)
    assert_it_does_not_vote(admin, node)
    assert cluster.pids(node) == pids, "a process of the node died and was started again"
    lost = lost_writes(cluster, admin.writer, admin.present)
    assert not lost
