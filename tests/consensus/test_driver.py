"""The driver with real cores and logs: the three outcomes of a write hold through every change of leader."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.chaos import Run
from tests.consensus.cluster import PAYLOAD, Cluster, Member
from vaultdb import limits
from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.peer_format import REFUSED_BUSY, REFUSED_LEADER, Forward, ForwardAnswer, Frame, Item, decode
from vaultdb.errors import BadRequest, CorruptData
from vaultdb.raft.state import Role
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


def wake_after_election(cluster: Cluster) -> tuple[Member, Member, list[tuple[int, int, bytes]]]:
    """Stop the leader with a forward of its term in its socket; run the others until that proposal is with the next
    one.

    Returns the stopped leader, the follower whose proposal it is, and what lies in the leader's socket.
    """
    old = cluster.elect()
    survivors = [member for member in cluster.members if member is not old]
    for member in survivors:
        member.propose(1)
        member.turn()
    waiting: list[tuple[int, int, bytes]] = []
    for _ in range(400):
        cluster.now_ns += 10 * NS_PER_MS
        for member in survivors:
            member.driver.pass_ticks(1)
            member.turn()
        packets, cluster.network = cluster.network, []
        waiting += [packet for packet in packets if packet[1] == old.node.id]
        for src, dst, frame in packets:
            if dst != old.node.id:
                deliver(cluster.members[dst], src, frame)
        for member in survivors:
            member.sync()
            member.turn()
        leader = next((member for member in survivors if member.raft.role is Role.LEADER), None)
        follower = next(member for member in survivors if member is not leader)
        if leader is not None and (1, 1) in follower.forwarded_in([*packets, *cluster.network], leader.raft.term):
            return old, follower, waiting
    raise AssertionError("the proposal was not sent to the next leader")


@pytest.mark.parametrize("seed", range(6))
def test_a_leader_that_slept_through_its_term_refuses_in_the_term_of_the_forward(tmp_path: Path, seed: int) -> None:
    """One drain of its socket holds a forward of its old term and the messages of the new one.

    Planted bug: naming its present term in the refusal parks what the next leader has got already; it happens twice.
    """
    cluster = Cluster(3, tmp_path, seed)
    old, follower, waiting = wake_after_election(cluster)
    for src, _, frame in waiting:
        deliver(old, src, frame)
    old.turn()
    answers = [packet for packet in cluster.network if packet[0] == old.node.id]
    for src, dst, frame in answers:
        deliver(cluster.members[dst], src, frame)
    follower.turn()
    cluster.network = [packet for packet in cluster.network if packet not in answers]
    cluster.run(1000)
    for member in cluster.members:
        batches = member.committed_batches()
        assert len(set(batches)) == len(batches), "a proposal was committed twice"
    cluster.close()


@pytest.mark.parametrize("verdict", [REFUSED_BUSY, REFUSED_LEADER])
def test_a_late_refusal_of_an_earlier_term_says_nothing(tmp_path: Path, verdict: int) -> None:
    """Planted bug: taking BUSY of any term tells the client that nothing happened, and then it commits."""
    cluster = Cluster(3, tmp_path)
    old, follower, _ = wake_after_election(cluster)
    say(follower, old, ForwardAnswer(old.raft.term, [(1, 1, verdict)]))
    cluster.run(1000)
    assert follower.committed_batches().count((follower.node.id, 1)) == 1
    assert follower.answers_to(1) == []
    cluster.close()


def test_a_forward_of_another_term_is_never_proposed(cluster: Cluster) -> None:
    """Its origin may have sent it again since. Planted bug: a leader that takes forwards of any term."""
    leader = cluster.elect()
    follower = cluster.follower()
    before = leader.raft.last_index
    for term in (leader.raft.term - 1, leader.raft.term + 1):
        say(leader, follower, Forward(term, [(1, 77, False, PAYLOAD)]))
    leader.turn()
    assert leader.raft.last_index == before


def test_a_node_that_does_not_lead_refuses_forwards_at_once_and_in_their_term(cluster: Cluster) -> None:
    """Planted bug: keeping them. The origin waits for an answer, and they are never let go of."""
    leader = cluster.elect()
    refuser, origin = (member for member in cluster.members if member is not leader)
    cluster.network.clear()
    say(refuser, origin, Forward(refuser.raft.term, [(1, 77, False, PAYLOAD)]))
    refuser.turn()
    answers = [item for src, _, frame in cluster.network if src == refuser.node.id for item in decode(frame).items]
    assert ForwardAnswer(refuser.raft.term, [[1, 77, REFUSED_LEADER]]) in answers  # type: ignore[list-item]


def test_a_forward_that_did_not_leave_is_sent_again_in_the_same_term(cluster: Cluster) -> None:
    """The queue to the leader was full. Planted bug: leaving it as sent answers the client at its deadline only."""
    cluster.elect()
    follower = cluster.follower()
    follower.propose(1)
    follower.fails_to_send = True
    follower.turn()
    follower.fails_to_send = False
    cluster.run(100)
    assert follower.committed_batches() == [(follower.node.id, 1)]


def test_c18_a_leader_whose_disk_hangs_hands_over_and_takes_no_proposals(cluster: Cluster) -> None:
    """Within half a second of its being noticed another node leads, and what waited is served by it.

    Planted bug: a stalled leader that stays until its process gives the disk up.
    """
    leader = cluster.elect()
    cluster.run(200)
    leader.disk_busy_ms = 2_000.0
    leader.propose(1)
    cluster.step()
    assert leader.committed_batches() == []
    cluster.run(500)
    assert cluster.leader() not in (None, leader)
    assert leader.committed_batches() == [(leader.node.id, 1)]


def test_c18_a_node_alone_with_a_disk_that_hangs_says_so(tmp_path: Path) -> None:
    """There is nobody to hand over to: what waits is refused with the reason, and nothing ends as unknown."""
    cluster = Cluster(1, tmp_path)
    leader = cluster.elect()
    cluster.run(200)
    before = leader.raft.last_index
    leader.disk_busy_ms = 2_000.0
    leader.propose(1)
    cluster.run(1600)
    [answer] = leader.answers_to(1)
    assert answer[3] == "unavailable"
    assert "has not completed a write" in answer[4]
    assert leader.raft.last_index == before
    cluster.close()


def test_c39_a_leader_whose_disk_is_slower_than_the_others_says_busy(cluster: Cluster) -> None:
    """What a majority has committed but its own disk has not is bounded too."""
    leader = cluster.elect()
    leader.syncs = False
    big = pack([[1, [1, [b"k", b"v" * limits.MIB]]]])
    for batch in range(100):
        leader.propose(batch, payload=big)
        cluster.step()
    waiting = sum(len(entry.payload) for write in leader.writes for entry in write.entries)
    assert waiting <= limits.UNCOMMITTED_BYTES_MAX + 2 * limits.MIB
    assert {answer[3] for answer in leader.answers if answer[0] == ipc.REJECTED} == {"busy"}


def test_a_storage_that_is_away_does_not_grow_the_logs_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    cluster = Cluster(3, tmp_path)
    leader = cluster.elect()
    follower = cluster.follower()
    follower.applies = False
    big = pack([[1, [1, [b"k", b"v" * limits.MIB]]]])
    for batch in range(60):
        leader.propose(batch, payload=big)
        cluster.step()
    assert follower.raft.log_memory_bytes < 2 * follower.node.config.log.memory_bytes
    cluster.close()


def test_the_log_is_never_cut_above_what_storage_has_on_disk(cluster: Cluster) -> None:
    """Applied is not enough: a crash of storage takes it back. Planted bug: cutting at the applied index."""
    leader = cluster.elect()
    payload = pack([[1, [1, [b"k", b"v" * 30_000]]]])
    leader.flushed = 5
    for batch in range(20):
        leader.propose(batch, payload=payload)
        cluster.step()
    cluster.run(2500)
    assert leader.log.base_index <= 5
    assert cluster.follower().log.base_index > 5


def test_a_new_connection_begins_with_a_probe(cluster: Cluster) -> None:
    """What was on the old one may be lost. Planted bug: ignoring the event leaves the gap to the next heartbeats."""
    leader = cluster.elect()
    follower = cluster.follower()
    leader.propose(1)
    leader.turn()
    cluster.network = [packet for packet in cluster.network if packet[1] != follower.node.id]
    leader.driver.on_connection(follower.node.id, connected=False)
    leader.driver.on_connection(follower.node.id, connected=True)
    leader.turn()
    assert any(packet[:2] == (leader.node.id, follower.node.id) for packet in cluster.network)


@pytest.mark.parametrize("seed", range(12))
def test_whole_drivers_in_chaos(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses, one-sided breaks, slow disks, full queues, storage restarts: see `chaos`."""
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    run = Run(seed, tmp_path)
    assert run.run() > 100
    run.close()


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


def test_c12_a_lease_answers_reads_without_a_round_and_a_suspended_machine_has_none(cluster: Cluster) -> None:
    """Its clock of ticks stood still, the others' did not. Planted bugs: a lease on that clock; a clock never told."""
    leader = cluster.elect()
    for batch in range(10):
        leader.ask_read(batch)
        cluster.run(100)
    assert leader.driver.status()["has_lease"]
    leader.ask_read(50)
    leader.turn()
    assert [answer[0] for answer in leader.answers_to(50)] == [ipc.READ_STATE]
    leader.boot_offset_ns = 10_000 * NS_PER_MS
    leader.ask_read(51)
    leader.turn()
    assert leader.answers_to(51) == []
    cluster.run(200)
    assert [answer[0] for answer in leader.answers_to(51)] == [ipc.READ_STATE]


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

    Checked: storage is given the same sequence on every node, no batch twice, no batch that was refused; after
    healing, everything that was neither refused nor asked of a process that died is there. Planted bugs: parking sent
    proposals again when the leader changes (a batch commits twice); refusing sent proposals when their time is up (a
    refused batch commits); resolving by the term of the soft state instead of a committed entry.
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


def deliver(member: Member, _src: int, frame: bytes) -> None:
    member.receive(frame)


def say(member: Member, src: Member, *items: Item) -> None:
    member.driver.on_frame(Frame(src.sender, member.node.id, list(items)), member.cluster.now_ns)
