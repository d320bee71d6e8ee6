"""The driver with real cores and logs: the three outcomes of a write hold through every change of leader."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.cluster import Cluster, Member
from vaultdb import limits
from vaultdb.consensus.peer_format import decode
from vaultdb.errors import BadRequest, CorruptData
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(3, tmp_path)
    yield made
    made.close()


def test_a_proposal_of_any_node_reaches_every_storage_with_its_origin(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.follower()
    leader.propose(1)
    follower.propose(2)
    cluster.run(200)
    for member in cluster.members:
        assert sorted(member.committed_batches()) == sorted([(leader.node.id, 1), (follower.node.id, 2)])


def test_all_that_waits_becomes_one_entry(cluster: Cluster) -> None:
    leader = cluster.elect()
    before = leader.raft.last_index
    for batch in range(50):
        leader.propose(batch)
    cluster.run(50)
    assert leader.raft.last_index == before + 1
    assert [batch for _, batch in leader.committed_batches()] == list(range(50))


def test_proposals_wait_for_the_first_leader(cluster: Cluster) -> None:
    """A request that comes before the election is over is served, not refused."""
    cluster.members[0].propose(1)
    cluster.elect()
    cluster.run(100)
    assert cluster.members[0].committed_batches() == [(0, 1)]


def test_without_a_quorum_proposals_and_reads_are_refused_in_bounded_time(cluster: Cluster) -> None:
    """Two of three gone: the survivor, leader or not, says 503 within leader_wait_ms. Nothing of it happens later."""
    leader = cluster.elect()
    for member in cluster.members:
        if member is not leader:
            member.kill()
    leader.propose(1)
    leader.ask_read(2)
    cluster.run(1600)
    for batch in (1, 2):
        [answer] = leader.answers_to(batch)
        assert answer[0] == ipc.REJECTED
        assert answer[3] == "unavailable"
        assert "no quorum: 1 of 3" in answer[4]
    for member in cluster.members:
        if member is not leader:
            member.start()
    cluster.elect()
    cluster.run(200)
    assert leader.committed_batches() == []


def test_a_proposal_lost_with_its_leader_is_sent_to_the_next_one_exactly_once(cluster: Cluster) -> None:
    """The client of a surviving node sees a delay and no error."""
    leader = cluster.elect()
    follower = cluster.follower()
    follower.propose(1)
    follower.turn()
    cluster.network.clear()
    leader.kill()
    cluster.elect()
    cluster.run(200)
    assert follower.committed_batches() == [(follower.node.id, 1)]
    assert follower.answers_to(1) == []


def test_a_proposal_that_the_dead_leader_had_replicated_is_not_sent_again(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.follower()
    follower.propose(1)
    follower.turn()
    for _ in range(3):
        packets, cluster.network = cluster.network, []
        for src, dst, frame in packets:
            deliver(cluster.members[dst], src, frame)
        for member in cluster.members:
            if member is not leader:
                member.sync()
            member.turn()
    assert any(member.raft.last_index > leader.raft.commit_index for member in cluster.members)
    leader.kill()
    cluster.elect()
    cluster.run(500)
    assert follower.committed_batches() == [(follower.node.id, 1)]


def test_a_deposed_leader_proposes_its_lost_entries_anew(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.isolated = {leader.node.id}
    leader.propose(1)
    cluster.run(20)
    assert leader.raft.last_index > leader.raft.commit_index
    assert cluster.elect() is not leader
    cluster.isolated = set()
    cluster.elect()
    cluster.run(500)
    assert leader.committed_batches() == [(leader.node.id, 1)]


def test_queued_is_answered_before_commit_while_the_queue_has_room(cluster: Cluster) -> None:
    """Beyond QUEUED_BYTES_MAX the answer says that the commit will be waited for."""
    leader = cluster.elect()
    follower = cluster.follower()
    big = pack([[1, [1, [b"k", b"v" * limits.MIB]]]])
    for batch in range(6):
        leader.propose(batch, queued=True, payload=big)
        leader.turn()
    assert [leader.answers_to(batch)[0][3] for batch in range(6)] == [True, True, True, False, False, False]
    cluster.run(300)
    follower.propose(10, queued=True)
    cluster.run(100)
    assert follower.answers_to(10) == [[ipc.QUEUED, 1, 10, True]]
    assert len(follower.committed_batches()) == 7


def test_c39_a_leader_with_too_much_uncommitted_says_busy(cluster: Cluster) -> None:
    """Its log does not grow past the limit while the quorum is silent."""
    leader = cluster.elect()
    cluster.isolated = {leader.node.id}
    big = pack([[1, [1, [b"k", b"v" * limits.MIB]] * 4]])
    for batch in range(30):
        leader.propose(batch, payload=big)
        leader.turn()
    codes = {answer[3] for answer in leader.answers if answer[0] == ipc.REJECTED}
    assert codes == {"busy"}
    assert leader.raft.uncommitted_bytes <= limits.UNCOMMITTED_BYTES_MAX + len(big)


def test_reads_of_a_follower_get_an_index_that_covers_every_acknowledged_write(cluster: Cluster) -> None:
    cluster.elect()
    follower = cluster.follower()
    follower.propose(1)
    cluster.run(100)
    follower.ask_read(2)
    cluster.run(100)
    [[kind, _, _, index]] = follower.answers_to(2)
    assert kind == ipc.READ_STATE
    assert index >= max(index for index, payload in follower.entries.items() if payload)


def test_the_log_is_cut_once_every_member_has_it_and_storage_made_it_durable(cluster: Cluster) -> None:
    leader = cluster.elect()
    payload = pack([[1, [1, [b"k", b"v" * 30_000]]]])
    for batch in range(20):
        leader.propose(batch, payload=payload)
        cluster.step()
    cluster.run(2500)
    for member in cluster.members:
        assert member.log.base_index > 0
    lagging = cluster.follower()
    lagging.kill()
    base = leader.log.base_index
    for batch in range(20, 40):
        leader.propose(batch, payload=payload)
        cluster.step()
    cluster.run(2500)
    assert leader.log.base_index <= base + 10
    lagging.start()
    cluster.run(2500)
    assert lagging.committed_batches() == leader.committed_batches()
    assert len(leader.committed_batches()) == 40


def test_storage_that_holds_what_the_log_lacks_is_refused(cluster: Cluster) -> None:
    with pytest.raises(CorruptData, match="storage has applied index 99"):
        cluster.members[0].driver.on_storage([ipc.SUBSCRIBE, 1, 99, 99])


@pytest.mark.parametrize("message", [[], [99], [ipc.PROPOSE, 1, 2], "text", None, [ipc.READ_INDEX, "a", 1, 2]])
def test_nonsense_from_the_local_processes_is_a_bad_request(cluster: Cluster, message: list[object]) -> None:
    with pytest.raises(BadRequest):
        cluster.members[0].driver.on_api(message, 0)
    with pytest.raises(BadRequest):
        cluster.members[0].driver.on_storage(message)


@pytest.mark.parametrize("seed", range(20))
def test_every_proposal_commits_at_most_once_and_a_refused_one_never(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random kills, restarts, lost messages, proposals on every node, for some thousand turns.

    Checked: storage is given the same sequence on every node, no batch twice, no batch that was refused; after healing,
    everything that was neither refused nor asked of a process that died is there. Planted bugs: parking sent proposals
    again when the leader changes (a batch commits twice); refusing sent proposals when their time is up (a refused
    batch commits); resolving by the term of the soft state instead of a committed entry.
    """
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)  # a kill of the process loses no page cache; only time
    cluster = Cluster(5 if seed % 2 else 3, tmp_path, seed)
    rng = random.Random(seed)
    asked: dict[tuple[int, int], int] = {}
    lives = [0] * len(cluster.members)
    batch = 0
    for _ in range(1500):
        for member in cluster.members:
            if member.is_up and rng.random() < 0.2:
                batch += 1
                member.propose(batch)
                asked[(member.node.id, batch)] = lives[member.node.id]
        if rng.random() < 0.01:
            victim = rng.choice(cluster.members)
            if victim.is_up:
                victim.kill()
                lives[victim.node.id] += 1
        if rng.random() < 0.02:
            down = [member for member in cluster.members if not member.is_up]
            if down:
                rng.choice(down).start()
        cluster.step(loss=0.05 if seed % 3 else 0.0)
    for member in cluster.members:
        if not member.is_up:
            member.start()
    cluster.elect()
    cluster.run(3000)
    sequences = [member.committed_batches() for member in cluster.members]
    assert all(sequence == sequences[0] for sequence in sequences)
    assert len(set(sequences[0])) == len(sequences[0]), "a proposal was committed twice"
    refused = {(m.node.id, answer[2]) for m in cluster.members for answer in m.answers if answer[0] == ipc.REJECTED}
    assert not refused & set(sequences[0]), "a refused proposal was committed"
    assert len(sequences[0]) > 100
    if seed % 3 == 0:
        owed = {key for key, life in asked.items() if lives[key[0]] == life} - refused
        assert owed <= set(sequences[0]), "a proposal vanished without a refusal"
    cluster.close()


def deliver(member: Member, src: int, frame: bytes) -> None:
    for item in decode(frame)[3]:
        member.driver.on_peer(src, item)
