"""The stream to storage: in order, bounded, and restarted from wherever storage stands."""

from __future__ import annotations

from typing import Any

from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.wire import ipc
from vaultdb.wire.codec import unpack

LOG = [Entry(1, index, EntryKind.NOOP if index == 1 else EntryKind.COMMAND, b"p" * 100) for index in range(1, 101)]


def entries(first: int, bytes_max: int) -> list[Entry]:
    return LOG[first - 1 : first - 1 + max(1, bytes_max // 100)]


class Storage:
    def __init__(self) -> None:
        self.is_there = True
        self.received: list[list[Any]] = []

    def send(self, message: bytes) -> bool:
        if self.is_there:
            self.received.append(unpack(message))
        return self.is_there

    @property
    def indexes(self) -> list[int]:
        return [first + n for _, _, first, payloads in self.received for n in range(len(payloads))]


def test_nothing_is_sent_before_storage_subscribes() -> None:
    storage = Storage()
    stream = StorageStream(storage.send)
    stream.pump(100, entries)
    assert storage.received == []


def test_everything_committed_is_sent_in_order_from_where_storage_stands() -> None:
    storage = Storage()
    stream = StorageStream(storage.send)
    stream.subscribed(9, applied_index=10, flushed_index=5)
    stream.pump(60, entries)
    stream.pump(100, entries)
    assert storage.indexes == list(range(11, 101))
    assert {(kind, incarnation) for kind, incarnation, *_ in storage.received} == {(ipc.ENTRIES, 9)}


def test_a_noop_travels_as_an_empty_payload() -> None:
    storage = Storage()
    stream = StorageStream(storage.send)
    stream.subscribed(9, 0, 0)
    stream.pump(2, entries)
    assert [payload for *_, payloads in storage.received for payload in payloads][:2] == [b"", b"p" * 100]


def test_the_window_bounds_what_is_not_applied_and_reports_open_it() -> None:
    """Planted bug: not counting the bytes of applied messages back stops the stream for ever."""
    storage = Storage()
    stream = StorageStream(storage.send, window_bytes=1000)
    stream.subscribed(9, 0, 0)
    stream.pump(100, entries)
    sent = storage.indexes[-1]
    assert 5 <= sent <= 12
    stream.pump(100, entries)
    assert storage.indexes[-1] == sent
    for _ in range(100):
        if storage.indexes[-1] == 100:
            break
        assert stream.applied(9, storage.indexes[-1], 0)
        stream.pump(100, entries)
    assert storage.indexes == list(range(1, 101))


def test_a_restarted_storage_is_served_again_from_its_own_position() -> None:
    storage = Storage()
    stream = StorageStream(storage.send, window_bytes=1000)
    stream.subscribed(9, 0, 0)
    stream.pump(100, entries)
    storage.received.clear()
    stream.subscribed(10, 3, 3)
    assert not stream.applied(9, 50, 50)
    stream.pump(100, entries)
    assert storage.indexes[0] == 4
    assert stream.applied_index == 3


def test_what_could_not_be_sent_is_sent_later() -> None:
    storage = Storage()
    stream = StorageStream(storage.send)
    stream.subscribed(9, 0, 0)
    storage.is_there = False
    stream.pump(100, entries)
    storage.is_there = True
    stream.pump(100, entries)
    assert storage.indexes == list(range(1, 101))


def test_a_storage_that_has_more_than_it_subscribed_from_is_not_sent_the_same_again() -> None:
    """It subscribed, then worked off what the old connection had brought.

    Planted bug: streaming from the subscription on fills the window with what storage passes over, and waits for
    ever.
    """
    storage = Storage()
    stream = StorageStream(storage.send, window_bytes=1000)
    stream.subscribed(9, applied_index=10, flushed_index=0)
    assert stream.applied(9, 50, 0)
    stream.pump(100, entries)
    assert storage.indexes[0] == 51


def test_a_state_that_is_being_replaced_is_sent_nothing_until_the_new_one_subscribes() -> None:
    """Planted bug: entries after the snapshot reach the state before it."""
    storage = Storage()
    stream = StorageStream(storage.send)
    stream.subscribed(9, 10, 0)
    stream.reset()
    assert not stream.applied(9, 10, 0)
    stream.pump(100, entries)
    assert storage.received == []
    stream.subscribed(10, 60, 60)
    stream.pump(100, entries)
    assert storage.indexes == list(range(61, 101))
