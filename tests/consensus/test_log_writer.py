"""The log writer: one sync for all that waits, in order, and no failure that goes unheard."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.log_harness import SMALL_SEGMENT_BYTES, VOTERS, Harness, change, entry
from vaultdb.clock import NS_PER_S, monotonic_ns
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_tail import LogTail
from vaultdb.consensus.log_writer import LogWriter, Write
from vaultdb.errors import IoFailed
from vaultdb.raft.membership import Membership
from vaultdb.raft.state import HardState, Snapshot

GROWN = Membership((1, 2, 3, 4), context="four")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "log")
    yield made
    made.close()


def test_whatever_ends_the_log_writers_thread_is_reported(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: a thread that dies of an unforeseen error leaves a leader that leads and commits nothing."""
    writer = LogWriter(harness.log.tail(), SMALL_SEGMENT_BYTES)

    def failing(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(LogTail, "write", failing)
    writer.submit(Write(1, None, [entry(1)]))
    with pytest.raises(IoFailed, match="MemoryError"):
        wait_for(writer)
    writer.close()


def test_the_writer_tells_how_long_its_disk_has_been_busy(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    release, syncing = threading.Event(), threading.Event()

    def slow(_fd: int) -> None:
        syncing.set()
        assert release.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    writer = LogWriter(harness.log.tail(), 1 << 20)
    assert writer.busy_ms(monotonic_ns()) == 0
    writer.submit(Write(1, None, [entry(1)]))
    assert syncing.wait(10)
    assert 2_000 < writer.busy_ms(monotonic_ns() + 2 * NS_PER_S) < 60_000
    release.set()
    wait_for(writer)
    assert writer.busy_ms(monotonic_ns()) == 0
    writer.close()


def test_c31_a_failed_sync_ends_the_writer_and_nothing_is_reported_durable(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catalogue row 31. Planted bug: retrying the fdatasync reports number 2 as durable."""
    writer = LogWriter(harness.log.tail(), SMALL_SEGMENT_BYTES)
    writer.submit(Write(1, None, [entry(1)]))
    assert wait_for(writer) == [1]
    failed = threading.Event()

    def failing(_fd: int) -> None:
        if not failed.is_set():
            failed.set()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    writer.submit(Write(2, None, [entry(2)]))
    with pytest.raises(IoFailed, match="Input/output error"):
        wait_for(writer)
    writer.submit(Write(3, None, [entry(3)]))
    with pytest.raises(IoFailed):
        writer.completions()
    writer.close()


def test_one_sync_serves_everything_that_was_submitted_meanwhile(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a later submission that replaces entries of an earlier one in the same sync wins."""
    write_together(
        harness,
        monkeypatch,
        Write(2, None, [entry(2), entry(3), entry(4)]),
        Write(3, None, []),
        Write(4, HardState(2, -1, 1), [entry(3, term=2)]),
    )
    assert harness.read_all() == [entry(1), entry(2), entry(3, term=2)]
    assert harness.log.hard_state == HardState(2, -1, 1)


def test_the_last_notes_that_are_not_empty_win(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: taking the last write's notes, empty or not, forgets the promises in them."""
    write_together(
        harness,
        monkeypatch,
        Write(2, None, [], notes=b"old"),
        Write(3, None, [], notes=b"new"),
        Write(4, None, [entry(2)]),
    )
    assert harness.log.notes == b"new"


def test_notes_alone_are_written(harness: Harness) -> None:
    writer = LogWriter(harness.log.tail(), SMALL_SEGMENT_BYTES)
    writer.submit(Write(1, None, [], notes=b"promises"))
    assert wait_for(writer, harness.log) == [1]
    writer.close()
    harness.reopen()
    assert harness.log.notes == b"promises"


def test_a_snapshot_among_other_writes_voids_the_entries_before_it_and_nothing_else(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of before it would stand behind it otherwise; hard state and notes of before it are still promised.

    Planted bugs: entries kept over a snapshot; hard state and notes begun anew with it.
    """
    write_together(
        harness,
        monkeypatch,
        Write(2, HardState(3, 2, 1), [entry(2), entry(3), entry(4)], notes=b"promises"),
        Write(3, None, [entry(30, term=2)], snapshot=Snapshot(10, 2, VOTERS)),
        Write(4, None, [], snapshot=Snapshot(20, 3, GROWN)),
        Write(5, None, [entry(21, term=3), change(22, VOTERS, term=3), entry(23, term=3)]),
        Write(6, None, [entry(22, term=4)]),
    )
    assert (harness.log.base_index, harness.log.base_term) == (20, 3)
    assert harness.read_all() == [entry(21, term=3), entry(22, term=4)]
    assert harness.log.memberships == ((20, GROWN),)
    assert harness.log.hard_state == HardState(3, 2, 1)
    assert harness.log.notes == b"promises"


def write_together(harness: Harness, monkeypatch: pytest.MonkeyPatch, *writes: Write) -> None:
    """Submit an entry 1 and, while that is being synced, `writes`; take all of it into the log, and reopen it."""
    release, syncing, real = threading.Event(), threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        syncing.set()
        assert release.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    writer = LogWriter(harness.log.tail(), 1 << 20)
    writer.submit(Write(1, HardState(1, 2, 0), [entry(1)]))
    assert syncing.wait(10)
    for write in writes:
        writer.submit(write)
    release.set()
    numbers: list[int] = []
    while not numbers or numbers[-1] != writes[-1].number:
        numbers += wait_for(writer, harness.log)
    assert numbers == [1, writes[-1].number]
    assert writer.syncs_total == 2
    writer.close()
    current = harness.log.memberships, harness.read_all()
    harness.reopen()
    assert current == (harness.log.memberships, harness.read_all())


def wait_for(writer: LogWriter, log: WriteAheadLog | None = None) -> list[int]:
    """Block until the writer has completions; their numbers."""
    assert select.select([writer.fd], [], [], 10)[0], "the log writer reported nothing for 10 s"
    numbers = []
    for number, written in writer.completions():
        numbers.append(number)
        if log is not None and written is not None:
            log.written(written)
    return numbers
