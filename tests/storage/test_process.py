"""The storage process as its neighbours see it, over real sockets, with kill -9 where a crash is meant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import zmq

from tests.processes import wait_until
from tests.storage.databases import entry
from tests.storage.harness import API_INCARNATION, PATIENCE_MS, Api, StorageNode, in_ms
from vaultdb import limits
from vaultdb.errors import ExitCode
from vaultdb.kv import commands
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack
from vaultdb.wire.sockets import connect_dealer

pytestmark = pytest.mark.system

NEVER_MS = 3_600_000
SOON_MS = 100


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[StorageNode]:
    """Flushes only when it stops, unless the test says otherwise."""
    storage = StorageNode(flush_interval_ms=getattr(request, "param", NEVER_MS))
    yield storage
    storage.close()


def put(key: bytes, value: bytes) -> commands.Command:
    return commands.put([(key, value)])


def own(*of: commands.Command, request: int = 1) -> bytes:
    """An entry whose commands came in through this node and this api."""
    return entry(*of, origin=0, incarnation=API_INCARNATION, request=request)


def of_another_node(*of: commands.Command) -> bytes:
    return entry(*of, origin=1, incarnation=API_INCARNATION)


def greet(api: Api) -> None:
    """Storage can send to the api only once it has heard it."""
    api.status()


def test_a_write_is_applied_answered_reported_and_readable(node: StorageNode) -> None:
    assert node.start() == [0, 0]
    greet(node.api)
    node.consensus.stream(1, [b"", own(put(b"a", b"1"), commands.delete([b"x"]), request=7), own(put(b"b", b"2"))])
    assert node.api.expect(ipc.RESULTS) == [[[7, ipc.DONE, 1, 1], [8, ipc.DONE, 1, 0], [1, ipc.DONE, 2, 1]]]
    assert node.consensus.expect(ipc.APPLIED) == [3, 0]
    assert node.api.values(node.api.read(b"b", b"x", b"a")) == [3, 2, [[b"2", 2], None, [b"1", 1]]]


def test_only_this_nodes_commands_are_answered_and_each_incarnation_apart(node: StorageNode) -> None:
    """What another node's api asked is answered there; a predecessor's results must not be taken for the api's own."""
    node.start()
    greet(node.api)
    predecessors = entry(put(b"c", b"3"), origin=0, incarnation=41, request=5)
    node.consensus.stream(1, [of_another_node(put(b"a", b"1")), own(put(b"b", b"2"), request=9), predecessors])
    assert node.api.expect(ipc.RESULTS) == [[[9, ipc.DONE, 2, 1]]]
    assert node.api.socket.recv() == pack([ipc.RESULTS, 41, [[5, ipc.DONE, 3, 1]]])


def test_refused_commands_are_answered_and_the_process_lives(node: StorageNode) -> None:
    node.start()
    greet(node.api)
    node.consensus.stream(1, [own([99, [b"future"]], [commands.PUT, [b"a"]], put(b"a", b"1"))])
    refused, done = ipc.REFUSED, ipc.DONE
    assert node.api.expect(ipc.RESULTS) == [[[1, refused, 0, 0], [2, refused, 0, 0], [3, done, 1, 1]]]


def test_a_read_waits_for_its_index_and_no_longer(node: StorageNode) -> None:
    """ReadIndex: planted bug: answering at once. The value then is the old one."""
    node.start()
    later = node.api.read(b"a", min_index=3)
    sooner = node.api.read(b"a", min_index=2)
    assert node.api.status()["counters"]["reads_waiting"] == 2
    node.consensus.stream(1, [of_another_node(put(b"a", b"1"))])
    node.consensus.expect_applied(1)
    node.consensus.stream(2, [of_another_node(put(b"a", b"2"))])
    assert node.api.values(sooner) == [2, 2, [[b"2", 2]]]
    node.consensus.stream(3, [of_another_node(put(b"a", b"3"))])
    assert node.api.values(later) == [3, 3, [[b"3", 3]]]


def test_reads_past_their_deadline_are_not_answered(node: StorageNode) -> None:
    node.start()
    node.api.read(b"a", deadline_ns=in_ms(-1))
    node.api.read(b"a", min_index=1, deadline_ns=in_ms(SOON_MS))
    wait_until(lambda: node.api.status()["counters"]["reads_expired_total"] == 2, "both are counted as expired")
    node.consensus.stream(1, [b""])
    node.consensus.expect_applied(1)
    assert node.api.values(node.api.read(b"a", min_index=1)) == [1, 0, [None]], "the first answer is to the live read"


def test_too_many_waiting_reads_are_dropped_and_counted(node: StorageNode) -> None:
    node.start()
    frame = pack([ipc.READ, API_INCARNATION, 1, 1, in_ms(NEVER_MS), [b"a"]])
    for _ in range(limits.READS_WAITING_MAX + 1):
        node.api.raw(frame)
    counters = node.api.status()["counters"]
    assert (counters["reads_waiting"], counters["reads_dropped_total"]) == (limits.READS_WAITING_MAX, 1)


def test_entries_sent_twice_are_applied_once(node: StorageNode) -> None:
    """After a new subscription the old stream may still arrive."""
    node.start()
    entries = [of_another_node(put(b"a", b"%d" % number)) for number in range(1, 5)]
    node.consensus.stream(1, entries[:3])
    node.consensus.expect_applied(3)
    node.consensus.stream(1, entries[:2])
    node.consensus.stream(2, entries[1:])
    node.consensus.expect_applied(4)
    assert node.api.values(node.api.read(b"a")) == [4, 4, [[b"4", 4]]]


def test_a_gap_leads_to_one_new_subscription_and_nothing_is_applied_out_of_order(node: StorageNode) -> None:
    node.start()
    node.consensus.stream(1, [b""])
    node.consensus.expect_applied(1)
    for first_index in (3, 4, 5):
        node.consensus.stream(first_index, [of_another_node(put(b"a", b"early"))])
    assert node.consensus.expect(ipc.SUBSCRIBE) == [1, 0]
    node.consensus.stream(2, [of_another_node(put(b"a", b"in turn"))])
    assert node.consensus.expect_applied(2) == 0
    assert node.api.values(node.api.read(b"a")) == [2, 1, [[b"in turn", 1]]]
    assert node.api.status()["counters"]["gaps_total"] == 1


def test_a_stream_for_a_predecessor_is_ignored(node: StorageNode) -> None:
    node.start()
    node.consensus.stream(1, [b""], incarnation=node.consensus.subscriber ^ 1)
    node.consensus.stream(1, [of_another_node(put(b"a", b"1"))])
    node.consensus.expect_applied(1)
    assert node.api.values(node.api.read(b"a")) == [1, 1, [[b"1", 1]]]
    assert node.api.status()["counters"]["entries_foreign_total"] == 1


def test_every_new_connection_is_subscribed_on(node: StorageNode) -> None:
    """A consensus process that came back knows nothing of its subscriber."""
    node.start()
    for index in range(1, 6):
        node.consensus.stream(index, [b""])
        node.consensus.expect_applied(index)
        node.replace_consensus()
        assert node.consensus.expect(ipc.SUBSCRIBE) == [index, 0]


def test_c30_after_kill_9_the_replay_gives_the_same_state(node: StorageNode) -> None:
    """The log is replayed over whatever was flushed.

    Planted bug: the position also goes into RocksDB's own log, which is on for that batch alone. It then survives
    without its data, and nothing is replayed.
    """
    entries = [
        of_another_node(put(b"key%d" % (number % 50), bytes(number % 200)), commands.delete([b"key%d" % (number % 7)]))
        for number in range(20_000)
    ]
    node.start()
    for first in range(0, len(entries), 500):
        node.consensus.stream(first + 1, entries[first : first + 500])
    flushed = node.consensus.expect_applied(len(entries))
    before = node.api.digest()
    assert before[0] == len(entries)
    node.kill()
    applied, durable = node.start()
    assert flushed <= applied == durable < len(entries), "the unflushed end is gone"
    node.consensus.stream(applied + 1, entries[applied:])
    node.consensus.expect_applied(len(entries))
    assert node.api.digest() == before


def test_a_clean_stop_leaves_nothing_to_replay(node: StorageNode) -> None:
    node.start()
    node.consensus.stream(1, [of_another_node(put(b"a", b"1"))] * 10)
    node.consensus.expect_applied(10)
    assert node.child is not None
    node.child.terminate()
    assert node.ended()[0] == ExitCode.CLEAN
    assert node.start() == [10, 10]
    assert node.api.values(node.api.read(b"a")) == [10, 10, [[b"1", 10]]]


@pytest.mark.parametrize("node", [SOON_MS], indirect=True)
def test_a_flush_is_reported_without_further_traffic(node: StorageNode) -> None:
    """The log can be cut, and the window is credited, though nothing more is written."""
    node.start()
    node.consensus.stream(1, [of_another_node(put(b"a", b"1"))])
    assert node.consensus.expect(ipc.APPLIED) == [1, 0]
    assert node.consensus.expect(ipc.APPLIED) == [1, 1]
    node.kill()
    assert node.start() == [1, 1], "what was called flushed survives kill -9"


def test_requests_are_served_while_a_digest_is_computed(node: StorageNode) -> None:
    node.start()
    pairs = [(b"%08d" % number, b"v") for number in range(60_000)]
    node.consensus.stream(
        1, [of_another_node(commands.put(pairs[at : at + 10_000])) for at in range(0, 60_000, 10_000)]
    )
    node.consensus.expect_applied(6)
    digest = node.api.ask(ipc.DIGEST)
    read = node.api.read(b"00000000")
    assert node.api.values(read) == [6, 6, [[b"v", 1]]], "the answer to the read does not wait for the scan"
    node.consensus.stream(7, [of_another_node(put(b"00000000", b"w"))])
    answered, applied, revision, keys, _ = node.api.expect(ipc.DIGEST_IS)
    assert (answered, applied, revision, keys) == (digest, 6, 6, 60_000)


def test_garbage_is_counted_and_dropped(node: StorageNode) -> None:
    node.start()
    requests: list[list[bytes]] = [
        [b""],
        [b"\xc1"],
        [pack(None)],
        [pack(7)],
        [pack([])],
        [pack([ipc.READ])],
        [pack([ipc.READ, API_INCARNATION, 1, 0, in_ms(PATIENCE_MS), ["text"]])],
        [pack([ipc.READ, API_INCARNATION, 1, 0, in_ms(PATIENCE_MS), [None]])],
        [pack([ipc.READ, API_INCARNATION, 1, "now", in_ms(PATIENCE_MS), [b"a"]])],
        [pack([ipc.STATUS, [[[]]], 1])],
        [pack([ipc.ENTRIES, 1, 1, []])],
        [pack([999, API_INCARNATION, 1])],
        [pack([ipc.STATUS, API_INCARNATION, 1]), b"one frame too many"],
    ]
    for frames in requests:
        node.api.raw(*frames)
    streams: list[list[bytes]] = [
        [b"\xc1"],
        [pack([ipc.ENTRIES, node.consensus.subscriber, 1, ["text"]])],
        [pack([ipc.ENTRIES, node.consensus.subscriber, "first", []])],
        [pack([ipc.STATUS_IS, 1, 1, {}])],
        [pack([ipc.ENTRIES, node.consensus.subscriber, 1, [b""]]), b""],
    ]
    for frames in streams:
        node.consensus.raw(*frames)
    node.consensus.stream(1, [of_another_node(put(b"a", b"1"))])
    node.consensus.expect_applied(1)
    assert node.api.values(node.api.read(b"a")) == [1, 1, [[b"1", 1]]]
    assert node.api.status()["counters"]["messages_unreadable_total"] == len(requests) + len(streams)


def test_a_proposal_that_cannot_be_read_changes_nothing(node: StorageNode) -> None:
    node.start()
    node.consensus.stream(1, [pack([1, [[0, API_INCARNATION, 1, b"\xc1"]]]), of_another_node(put(b"a", b"1"))])
    node.consensus.expect_applied(2)
    status = node.api.status()
    assert (status["revision"], status["counters"]["proposals_unreadable_total"]) == (1, 1)


def test_an_entry_that_cannot_be_read_ends_the_process_with_its_index(node: StorageNode) -> None:
    """A restart cannot cure it, and the exit code says so."""
    node.start()
    node.consensus.stream(1, [of_another_node(put(b"a", b"1")), b"\xc1"])
    code, written = node.ended()
    assert code == ExitCode.CORRUPT_DATA
    assert "the log entry at index 2 cannot be read" in written


def test_c33_a_disk_that_takes_no_more_ends_the_process_and_a_restart_replays(node: StorageNode) -> None:
    """A file size limit stands in for the full disk: RocksDB's write fails alike. Nothing is retried in place.

    If the error of the flush were swallowed the process would never end.
    """
    node.start()
    assert node.child is not None
    psutil.Process(node.child.pid).rlimit(psutil.RLIMIT_FSIZE, (512 * limits.KIB, 512 * limits.KIB))
    source = random.Random(33)
    entries = [of_another_node(put(b"%d" % number, source.randbytes(100_000))) for number in range(30)]
    node.consensus.stream(1, entries[:15])
    node.consensus.stream(16, entries[15:])
    code, written = node.ended()
    assert code == ExitCode.IO_FAILED, written
    assert "IO error" in written
    node.consensus.forget()
    applied, flushed = node.start()
    assert applied == flushed < len(entries)
    node.consensus.stream(applied + 1, entries[applied:])
    node.consensus.expect_applied(len(entries))
    assert node.api.digest()[:3] == [30, 30, 30]


def test_results_for_an_absent_api_are_dropped_and_counted(node: StorageNode) -> None:
    node.api.socket.close(0)
    node.start()
    node.consensus.stream(1, [own(put(b"a", b"1"), put(b"b", b"1"))])
    node.consensus.expect_applied(1)
    node.api = Api(node.context, node.node.storage_endpoint)
    assert node.api.status()["counters"]["results_dropped_total"] == 2


def test_values_larger_than_a_message_come_in_parts(node: StorageNode) -> None:
    """One message over the limit would cost the connection, and everything queued on it."""
    node.start()
    keys = [b"large%02d" % number for number in range(40)]
    value = bytes(limits.VALUE_BYTES_MAX)
    node.consensus.stream(1, [of_another_node(put(key, value)) for key in keys[:10]])
    node.consensus.stream(11, [of_another_node(put(key, value)) for key in keys[10:20]])
    node.consensus.stream(21, [of_another_node(put(key, value)) for key in keys[20:30]])
    node.consensus.stream(31, [of_another_node(put(key, value)) for key in keys[30:]])
    node.consensus.expect_applied(40)
    batch = node.api.read(*keys)
    parts: list[list[Any]] = []
    while sum(map(len, parts)) < len(keys):
        applied, revision, part = node.api.values(batch)
        assert (applied, revision) == (40, 40)
        parts.append(part)
    assert [revision for part in parts for _, revision in part] == list(range(1, 41))
    assert len(parts) == 3


def test_status_names_what_it_promises(node: StorageNode) -> None:
    node.start()
    node.consensus.stream(1, [of_another_node(commands.put([(b"a", b"1"), (b"b", b"2")]), commands.delete([b"a"]))])
    node.consensus.expect_applied(1)
    node.api.values(node.api.read(b"b", b"x"))
    status = node.api.status()
    assert status["incarnation"] == node.consensus.subscriber
    assert (status["applied_index"], status["flushed_index"], status["revision"]) == (1, 0, 2)
    assert status["clock_ms"] == 1
    assert status["keys_estimate"] >= 1
    assert (status["cache"]["entries"], status["cache"]["hits"], status["cache"]["misses"]) == (1, 1, 1)
    assert status["rocksdb"]["memtable_bytes"] > 0
    expected = {
        "commands_total": 2,
        "batches_total": 1,
        "keys_written_total": 2,
        "keys_deleted_total": 1,
        "reads_total": 1,
        "read_keys_total": 2,
        "reads_waiting": 0,
        "results_dropped_total": 0,
    }
    assert expected.items() <= status["counters"].items()


def test_the_first_connection_is_never_missed(node: StorageNode) -> None:
    """A monitor made after the connect can be too late: the handshake is over within a tenth of a millisecond.

    With `get_monitor_socket` after `connect_dealer` storage now and then never subscribes: a race seen under stress.
    """
    dealer = connect_dealer(
        node.context, node.node.consensus_endpoint, b"early", monitor_events=zmq.EVENT_HANDSHAKE_SUCCEEDED
    )
    assert dealer.poll(PATIENCE_MS, zmq.POLLOUT), "the connection is there before the monitor is looked at"
    monitor: zmq.Socket[bytes] = dealer.get_monitor_socket()
    assert monitor.poll(PATIENCE_MS), "its handshake is in the monitor all the same"
    dealer.disable_monitor()
