"""The write-ahead log: what is durable comes back, what was torn is cut, what was damaged is never skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consensus.log_harness import INCARNATION, VOTERS, Harness, change, entry, open_log
from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_files import segment_path
from vaultdb.errors import BrokenInvariant, CorruptData, WrongIdentity
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState, Snapshot, fresh

GROWN = Membership((1, 2, 3, 4), context="four")
SHRUNK = Membership((1, 2), context="two")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "log")
    yield made
    made.close()


def test_a_fresh_log_is_empty(harness: Harness) -> None:
    assert harness.log.restored == fresh(VOTERS.voters)


def test_entries_and_hard_state_survive_reopening_over_many_segments(harness: Harness) -> None:
    for index in range(1, 41):
        harness.append(entry(index), hard_state=HardState(1, 2, index - 1))
    written = harness.read_all()
    assert len(harness.files) > 3
    harness.reopen()
    assert harness.read_all() == written == [entry(index) for index in range(1, 41)]
    assert harness.log.hard_state == HardState(1, 2, 39)


def test_hard_state_alone_survives(harness: Harness) -> None:
    harness.append(hard_state=HardState(7, 4, 0))
    harness.reopen()
    assert harness.log.hard_state == HardState(7, 4, 0)


def test_a_conflict_replaces_the_whole_tail(harness: Harness) -> None:
    """Catalogue row 5: the entries after the conflict must not come back from the disk."""
    harness.append(*[entry(index) for index in range(1, 20)])
    harness.append(entry(5, term=2), hard_state=HardState(2, -1, 4))
    assert harness.log.last_index == 5
    harness.reopen()
    assert harness.read_all() == [*[entry(index) for index in range(1, 5)], entry(5, term=2)]
    assert harness.log.term(5) == 2


def test_reads_are_bounded_by_bytes_and_return_at_least_one(harness: Harness) -> None:
    harness.append(*[entry(index) for index in range(1, 11)])
    assert [e.index for e in harness.log.entries(3, 9, 1)] == [3]
    assert [e.index for e in harness.log.entries(3, 9, 100)] == [3, 4]
    assert [e.index for e in harness.log.entries(3, 9, 10_000)] == list(range(3, 10))


def test_reading_outside_the_log_is_a_bug_and_says_so(harness: Harness) -> None:
    harness.append(entry(1))
    with pytest.raises(BrokenInvariant, match=r"index 2 is outside \(0, 1\]"):
        harness.log.entries(2, 2, 100)


def test_cut_drops_whole_segments_below_and_keeps_the_rest(harness: Harness) -> None:
    for index in range(1, 41):
        harness.append(entry(index))
    files_before = len(harness.files)
    base = harness.log.cut(20)
    assert 0 < base <= 20
    assert len(harness.files) < files_before
    assert harness.log.term(base) == 1
    kept = harness.read_all()
    assert [e.index for e in kept] == list(range(base + 1, 41))
    harness.reopen()
    assert (harness.log.base_index, harness.log.base_term) == (base, 1)
    assert harness.read_all() == kept
    harness.append(entry(41))
    assert harness.log.last_index == 41


def test_cut_never_goes_above_the_index_asked_for(harness: Harness) -> None:
    for index in range(1, 41):
        harness.append(entry(index))
    for index in range(41):
        assert harness.log.cut(index) <= index


def test_cut_does_not_begin_the_log_with_a_segment_that_overwrites_its_base(harness: Harness) -> None:
    """A segment that replaced entries below its own base says nothing of the term before them.

    Planted bug: ignoring `overwrites_base` leaves a log that begins with it, and cannot be opened any more.
    """
    for index in range(1, 11):
        harness.append(entry(index))
    segments = harness.log.segments
    while harness.log.segments == segments:
        harness.append(entry(harness.log.last_index + 1))
    base_of_newest = harness.log.last_index - 1
    harness.append(*[entry(index, term=2) for index in range(4, 41)])
    assert harness.log.segments == segments + 1
    assert harness.log.cut(base_of_newest) < base_of_newest
    harness.reopen()
    assert harness.log.term(base_of_newest) == 2
    assert [e.index for e in harness.read_all()] == list(range(harness.log.base_index + 1, 41))


def test_c28_a_crash_in_the_middle_of_a_cut_leaves_a_log_that_opens(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest file left may begin with an overwrite: only an interrupted cut leaves that; opening finishes it."""
    for index in range(1, 11):
        harness.append(entry(index))
    segments = harness.log.segments
    while harness.log.segments == segments:
        harness.append(entry(harness.log.last_index + 1))
    overwriting = segment_path(harness.directory, harness.log.segments)
    harness.append(*[entry(index, term=2) for index in range(4, 20)])
    while harness.log.segments < segments + 4:
        harness.append(entry(harness.log.last_index + 1, term=2))
    written = harness.read_all()
    unlink = Path.unlink

    def crashing(path: Path, missing_ok: bool = False) -> None:
        if path == overwriting:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", crashing)
    with pytest.raises(KeyboardInterrupt):
        harness.log.cut(harness.log.last_index)
    monkeypatch.undo()
    assert harness.files[0] == overwriting
    harness.tail.close()
    harness.open()
    assert not overwriting.exists()
    assert harness.read_all() == written[-len(harness.read_all()) :]
    assert harness.log.last_index == written[-1].index


def test_c31_recovery_writes_the_last_record_again_and_syncs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predecessor's sync may have failed or never come: its record is in the page cache only, and must not count.

    Planted bug: trusting what was read. (That the bytes reach the disk needs a power cut to show; here, that a write
    and then a sync are asked for before the log is used.)
    """
    harness = Harness(tmp_path / "log")
    harness.append(entry(1))
    harness.append(entry(2))
    harness.close()
    asked: list[str] = []
    write, fsync = os.write, os.fsync

    def noting_write(fd: int, data: bytes) -> int:
        asked.append("write")
        return write(fd, data)

    def noting_fsync(fd: int) -> None:
        asked.append("sync")
        fsync(fd)

    monkeypatch.setattr(os, "write", noting_write)
    monkeypatch.setattr(os, "fsync", noting_fsync)
    harness.open()
    monkeypatch.undo()
    assert asked == ["write", "sync", "sync"], "the record, the file, the directory"
    assert harness.read_all() == [entry(1), entry(2)]
    harness.close()


def test_a_torn_record_whose_value_holds_a_record_is_still_a_torn_tail(tmp_path: Path) -> None:
    """A client may store the bytes of a log. Planted bug: a checksum that does not cover the place of a record."""
    harness = Harness(tmp_path / "log", segment_bytes=1 << 20)
    harness.append(entry(1))
    stored = segment_path(harness.directory, 1).read_bytes()
    harness.append(Entry(1, 2, EntryKind.COMMAND, stored + bytes(5000)))
    harness.close()
    path = segment_path(harness.directory, 1)
    os.truncate(path, path.stat().st_size - 1000)
    harness.open()
    assert harness.read_all() == [entry(1)]
    harness.close()


def test_c02_a_vote_survives_a_crash_right_after_a_segment_was_begun(harness: Harness) -> None:
    """Planted bug: not taking the hard state into a new segment's header forgets the vote."""
    segments = harness.log.segments
    while harness.log.segments == segments:
        harness.append(entry(harness.log.last_index + 1), hard_state=HardState(4, 2, 0))
    newest = segment_path(harness.directory, harness.log.segments)
    record = fmt.decode_record(newest.read_bytes(), harness.log.segments, 0)
    assert record is not None
    os.truncate(newest, fmt.FRAME_BYTES + len(record[1]))
    harness.reopen()
    assert harness.log.hard_state == HardState(4, 2, 0)


def test_c32_every_torn_tail_is_cut_to_the_last_durable_record(tmp_path: Path) -> None:
    """Catalogue row 32, first half: whatever part of the unsynced record reached the disk, all before it stands."""
    harness = Harness(tmp_path / "log", segment_bytes=1 << 20)
    harness.append(entry(1), entry(2), hard_state=HardState(1, 2, 0))
    path = segment_path(harness.directory, 1)
    durable = path.stat().st_size
    harness.append(entry(3), hard_state=HardState(2, 2, 2))
    whole = path.read_bytes()
    harness.close()
    for length in range(durable, len(whole)):
        path.write_bytes(whole[:length])
        harness.open()
        assert harness.read_all() == [entry(1), entry(2)]
        assert harness.log.hard_state == HardState(1, 2, 0)
        assert harness.log.cut_bytes == length - durable
        assert path.stat().st_size == durable
        harness.close()


def test_c32_a_torn_tail_with_a_hole_is_cut(tmp_path: Path) -> None:
    """Pages of one write reach the disk in any order: the end may be there and the middle not."""
    harness = Harness(tmp_path / "log", segment_bytes=1 << 20)
    harness.append(entry(1))
    path = segment_path(harness.directory, 1)
    durable = path.stat().st_size
    harness.append(*[entry(index, size=4000) for index in range(2, 5)])
    harness.close()
    data = bytearray(path.read_bytes())
    data[durable + 4096 : durable + 8192] = bytes(4096)
    path.write_bytes(data)
    harness.open()
    assert harness.read_all() == [entry(1)]
    harness.close()


@pytest.mark.parametrize("step", [1, 7])
def test_c32_damage_in_durable_data_is_refused(tmp_path: Path, step: int) -> None:
    """Catalogue row 32, second half: a flipped byte anywhere before the last record is found, and never passed over.

    Planted bug: cutting at the first invalid record without looking for a valid one behind it.
    """
    harness = Harness(tmp_path / "log", segment_bytes=1 << 20)
    for index in range(1, 4):
        harness.append(entry(index), hard_state=HardState(1, 2, index - 1))
    path = segment_path(harness.directory, 1)
    before_last = path.stat().st_size
    harness.append(entry(4))
    harness.close()
    whole = path.read_bytes()
    for position in range(step // 2, before_last, step):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CorruptData):
            WriteAheadLog(harness.directory, "test", 3, VOTERS)
    path.write_bytes(whole)
    harness.open()
    assert len(harness.read_all()) == 4
    harness.close()


def test_c32_damage_in_an_older_segment_is_refused_even_at_its_end(harness: Harness) -> None:
    for index in range(1, 41):
        harness.append(entry(index))
    first = harness.files[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    with pytest.raises(CorruptData, match=first.name):
        WriteAheadLog(harness.directory, "test", 3, VOTERS)


def test_a_missing_segment_is_refused(harness: Harness) -> None:
    for index in range(1, 41):
        harness.append(entry(index))
    harness.files[1].unlink()
    with pytest.raises(CorruptData, match="missing"):
        WriteAheadLog(harness.directory, "test", 3, VOTERS)


def test_a_log_shorter_than_its_commit_is_refused(tmp_path: Path) -> None:
    """A log that lost what it had recorded as committed must not vote: here its last record names a later commit."""
    harness = Harness(tmp_path / "log")
    harness.append(entry(1), hard_state=HardState(1, 2, 5))
    harness.close()
    with pytest.raises(CorruptData, match="ends at index 1, but 5 was committed"):
        WriteAheadLog(tmp_path / "log", "test", 3, VOTERS)


@pytest.mark.parametrize("length", [0, 1, 12, 20])
def test_c03_a_crash_while_a_segment_is_begun_leaves_the_log_whole(harness: Harness, length: int) -> None:
    """The new file was made, its header not synced: nothing was written behind it, so it goes."""
    for index in range(1, 11):
        harness.append(entry(index))
    number = harness.log.segments
    newest = segment_path(harness.directory, number)
    unborn = segment_path(harness.directory, number + 1)
    unborn.write_bytes(newest.read_bytes()[:length])
    harness.reopen()
    assert not unborn.exists()
    assert [e.index for e in harness.read_all()] == list(range(1, 11))


def test_a_crash_while_the_very_first_segment_is_begun(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    segment_path(directory, 1).write_bytes(b"VL")
    harness = Harness(directory)
    harness.append(entry(1))
    harness.reopen()
    assert harness.read_all() == [entry(1)]
    harness.close()


@pytest.mark.parametrize(("cluster", "node"), [("other", 3), ("test", 4)])
def test_another_nodes_log_is_refused(harness: Harness, cluster: str, node: int) -> None:
    with pytest.raises(WrongIdentity, match="belongs to node 3 of cluster 'test'"):
        WriteAheadLog(harness.directory, cluster, node, VOTERS)


# Memberships.


def test_memberships_are_recovered_in_their_place(harness: Harness) -> None:
    """Across segments, and kept current while the log is written. Planted: not reading the entries of recovery."""
    harness.append(entry(1), change(2, GROWN), entry(3))
    harness.begin_segment()
    last = harness.log.last_index
    harness.append(change(last + 1, SHRUNK))
    expected = ((0, VOTERS), (2, GROWN), (last + 1, SHRUNK))
    assert harness.log.memberships == expected
    harness.reopen()
    assert harness.log.restored.memberships == expected


def test_an_overwritten_membership_is_taken_back(harness: Harness) -> None:
    """A membership goes back with the log (paper §6). Planted bug: keeping what an overwrite removed."""
    harness.append(entry(1), change(2, GROWN), entry(3), change(4, SHRUNK))
    harness.append(entry(3, term=2))
    assert harness.log.memberships == ((0, VOTERS), (2, GROWN))
    harness.reopen()
    assert harness.log.memberships == ((0, VOTERS), (2, GROWN))
    harness.append(change(2, SHRUNK, term=3))
    assert harness.log.memberships == ((0, VOTERS), (2, SHRUNK))
    harness.reopen()
    assert harness.log.memberships == ((0, VOTERS), (2, SHRUNK))


@pytest.mark.parametrize("reopened", [False, True])
def test_a_new_segments_header_holds_the_membership_at_its_base(harness: Harness, *, reopened: bool) -> None:
    """So that a log which begins there knows it. Planted bug: the tail does not take back what was overwritten."""
    harness.append(entry(1), change(2, GROWN))
    harness.append(entry(3), change(4, SHRUNK))
    harness.append(entry(4, term=2))
    if reopened:
        harness.reopen()
    harness.begin_segment()
    harness.begin_segment()
    base = harness.log.cut(harness.log.last_index)
    assert base > 4
    assert harness.log.memberships == ((base, GROWN),)
    harness.reopen()
    assert harness.log.memberships == ((base, GROWN),)


def test_cut_keeps_the_membership_in_force_at_the_new_base(harness: Harness) -> None:
    harness.append(change(1, GROWN))
    harness.begin_segment()
    harness.append(change(harness.log.last_index + 1, SHRUNK))
    above = harness.log.last_index
    harness.begin_segment()
    base = harness.log.cut(above - 1)
    assert 1 <= base < above
    assert harness.log.memberships == ((base, GROWN), (above, SHRUNK))
    harness.reopen()
    assert harness.log.memberships == ((base, GROWN), (above, SHRUNK))


def test_a_segment_begun_over_a_membership_that_was_taken_back_never_begins_the_log(harness: Harness) -> None:
    """Its header tells of a membership that the log does not hold. Planted bug: ignoring `overwrites_base`."""
    harness.append(entry(1), entry(2), change(3, SHRUNK))
    harness.begin_segment()
    begun_at = harness.log.last_index - 1
    harness.append(change(2, GROWN, term=2), *[entry(index, term=2) for index in range(3, 20)])
    assert harness.log.cut(begun_at) < 2
    assert harness.log.restored.memberships == ((0, VOTERS), (2, GROWN))
    harness.begin_segment()
    base = harness.log.cut(harness.log.last_index)
    assert base >= 19
    harness.reopen()
    assert harness.log.memberships == ((base, GROWN),)


def test_an_entry_that_is_no_membership_is_refused_before_it_is_written(harness: Harness) -> None:
    """Once it stood in the log, the log could not be opened any more."""
    with pytest.raises(CorruptData, match="no membership"):
        harness.append(Entry(1, 1, EntryKind.MEMBERSHIP, b"{}"))
    harness.reopen()
    assert harness.log.last_index == 0


def test_replacing_what_was_committed_is_a_bug_and_says_so(harness: Harness) -> None:
    """Below the commit index the tail has forgotten which memberships there were, so it could not take one back."""
    harness.append(change(1, GROWN), entry(2), entry(3), hard_state=HardState(1, 1, 3))
    harness.begin_segment()
    with pytest.raises(BrokenInvariant, match="index 2 is replaced, but what is up to 3 is settled"):
        harness.append(entry(2, term=2))


# Notes and incarnation.


def test_the_newest_notes_survive_new_segments_and_cuts(harness: Harness) -> None:
    """Planted bug: a new segment's header without the notes loses them with the segments before it."""
    harness.append(entry(1), notes=b"first")
    harness.append(notes=b"second")
    harness.append(entry(2))
    harness.begin_segment()
    harness.reopen()
    assert harness.log.notes == b"second"
    harness.begin_segment()
    harness.begin_segment()
    assert harness.log.cut(harness.log.last_index) > 2
    harness.reopen()
    assert harness.log.notes == b"second"


def test_the_incarnation_is_drawn_once_for_all_segments(harness: Harness) -> None:
    for _ in range(3):
        harness.begin_segment()
    harness.log.cut(harness.log.last_index)
    harness.close()
    log = open_log(harness.directory, incarnation=7)
    assert log.incarnation == INCARNATION
    log.close()
    harness.open()


def test_two_logs_draw_two_incarnations(tmp_path: Path) -> None:
    """A wiped node must be told from the one that it was."""
    first, second = (WriteAheadLog(tmp_path / name, "test", 3, VOTERS) for name in ("a", "b"))
    assert 0 <= first.incarnation < 1 << 64
    assert first.incarnation != second.incarnation
    first.close()
    second.close()


def test_segments_of_two_incarnations_are_refused(harness: Harness, tmp_path: Path) -> None:
    """Whoever mixes files of two copies must not be told that all is well."""
    harness.begin_segment()
    number = harness.log.segments
    other = open_log(tmp_path / "other", incarnation=7)
    tail = other.tail()
    while other.segments < number:
        other.written(tail.write(None, [entry(other.last_index + 1)], harness.segment_bytes))
    tail.close()
    other.close()
    segment_path(harness.directory, number).write_bytes(segment_path(tmp_path / "other", number).read_bytes())
    with pytest.raises(CorruptData, match="mixed from 2 logs"):
        open_log(harness.directory)


# Snapshots.


def test_a_snapshot_empties_the_log_and_begins_it_anew(harness: Harness) -> None:
    """Catalogue row 27: what conflicts past the snapshot goes too."""
    harness.append(change(1, SHRUNK), hard_state=HardState(1, 2, 1), notes=b"kept")
    for index in range(2, 31):
        harness.append(entry(index))
    harness.append(entry(21, term=4), hard_state=HardState(5, 3, 20), snapshot=Snapshot(20, 4, GROWN))
    assert len(harness.files) == 1, "older segments are deleted"
    for _ in range(2):
        assert (harness.log.base_index, harness.log.base_term) == (20, 4)
        assert harness.read_all() == [entry(21, term=4)]
        assert harness.log.term(20) == 4
        assert harness.log.memberships == ((20, GROWN),)
        harness.reopen()
    assert harness.log.hard_state == HardState(5, 3, 20)
    assert harness.log.notes == b"kept"
    assert harness.log.incarnation == INCARNATION
    harness.append(change(22, SHRUNK, term=5))
    harness.reopen()
    assert harness.log.memberships == ((20, GROWN), (22, SHRUNK))


def test_the_log_goes_on_and_is_cut_after_a_snapshot(harness: Harness) -> None:
    harness.append(entry(1))
    harness.append(snapshot=Snapshot(20, 4, GROWN))
    harness.append(snapshot=Snapshot(30, 4, SHRUNK))
    harness.begin_segment()
    harness.begin_segment()
    assert harness.log.cut(harness.log.last_index) > 30
    written = harness.read_all()
    harness.reopen()
    assert harness.read_all() == written
    assert harness.log.memberships == ((harness.log.base_index, SHRUNK),)


@pytest.mark.parametrize("length", [0, 1, 12, 60])
def test_a_torn_segment_that_would_have_begun_the_log_leaves_the_old_one(harness: Harness, length: int) -> None:
    for index in range(1, 11):
        harness.append(entry(index), hard_state=HardState(1, 2, 0))
    harness.append(change(11, GROWN))
    before = harness.read_all()
    kept = {path: path.read_bytes() for path in harness.files}
    number = harness.log.segments + 1
    harness.append(snapshot=Snapshot(20, 4, SHRUNK), hard_state=HardState(4, 1, 20))
    harness.close()
    begun = segment_path(harness.directory, number)
    os.truncate(begun, length)
    for path, data in kept.items():
        path.write_bytes(data)
    harness.open()
    assert not begun.exists()
    assert harness.read_all() == before
    assert harness.log.memberships == ((0, VOTERS), (11, GROWN))
    assert harness.log.hard_state == HardState(1, 2, 0)


def test_what_stands_before_a_segment_that_begins_the_log_is_neither_read_nor_kept(harness: Harness) -> None:
    """Some of it may be gone already. Planted bug: `begins` ignored finds segments missing, or the old entries."""
    for index in range(1, 21):
        harness.append(entry(index))
    old = {path: path.read_bytes() for path in harness.files}
    harness.append(snapshot=Snapshot(20, 1, GROWN))
    harness.close()
    for at, (path, data) in enumerate(old.items()):
        if at % 2 == 0:
            path.write_bytes(b"damaged" + data)
    harness.open()
    assert not any(path.exists() for path in old)
    assert (harness.log.base_index, harness.log.last_index) == (20, 20)
    assert harness.log.memberships == ((20, GROWN),)


def test_c32_damage_in_a_header_that_begins_the_log_never_brings_the_old_one_back(harness: Harness) -> None:
    """Catalogue row 32, with the old segments still there. Planted bug: recovery that deletes them and leaves the
    header alone in its file, where damage looks like a header that was never durable."""
    for index in range(1, 11):
        harness.append(entry(index))
    old = {path: path.read_bytes() for path in harness.files}
    number = harness.log.segments + 1
    harness.append(snapshot=Snapshot(20, 1, GROWN))
    begun = segment_path(harness.directory, number)
    harness.close()
    _, _, write = begun.read_bytes().rpartition(fmt.MAGIC)
    os.truncate(begun, begun.stat().st_size - len(fmt.MAGIC) - len(write))
    for path, data in old.items():
        path.write_bytes(data)
    harness.open()
    for path, data in old.items():
        path.write_bytes(data)
    damaged = bytearray(begun.read_bytes())
    damaged[30] ^= 1
    begun.write_bytes(damaged)
    with pytest.raises(CorruptData, match=begun.name):
        open_log(harness.directory)
