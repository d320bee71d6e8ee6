"""A log that the previous release wrote opens, keeps what it held, and is of this version from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consensus.log_harness import INCARNATION, VOTERS, change, entry, image_of, open_log
from tests.consensus.power_cuts import PowerCuts, State, restore
from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log_files import read_header, segment_path
from vaultdb.errors import CorruptData
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState

VERSION_1: State = {
    "0000000000000001.log": bytes.fromhex(
        "564c52310e00000053bcdf21019901a4746573740301000000ff00564c523141000000d1ce1cdb02010000000000000002000000000000"
        "00000000000000000001000000000000000200000001000000000000000000000000010000000000000001030000006f6e65"
    ),
    "0000000000000002.log": bytes.fromhex(
        "564c52310e000000ed250a10019901a47465737403020201010200564c523141000000a2ea5748020200000000000000ffffffffffffff"
        "ff0100000000000000020000000000000002000000020000000000000000000000000200000000000000010300000074776f"
    ),
    "0000000000000003.log": bytes.fromhex(
        "564c52310e000000f19f4d41019901a4746573740303030202ff01564c52313600000025f2506502020000000000000003000000000000"
        "000200000000000000040000000000000001000000020000000000000001050000007468726565"
    ),
}
"""Three segments of node 3 of cluster "test"; the second overwrites index 2, below which the third begins."""
ENTRIES = [
    Entry(1, 1, EntryKind.NOOP, b""),
    Entry(2, 2, EntryKind.NOOP, b""),
    Entry(2, 3, EntryKind.COMMAND, b"two"),
    Entry(2, 4, EntryKind.COMMAND, b"three"),
]
OTHERS = Membership((3, 4))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return restore(VERSION_1, tmp_path / "log")


def test_it_opens_with_all_that_it_held(directory: Path) -> None:
    log = open_log(directory)
    assert log.restored == (HardState(2, 3, 2), 0, 0, 4, 2, ((0, VOTERS),))
    assert image_of(log).entries == ENTRIES
    assert log.notes == b""
    log.close()


def test_it_is_given_an_incarnation_that_lasts(directory: Path) -> None:
    """Planted bug: an incarnation that is drawn and not written is another one after a restart."""
    for drawn in (INCARNATION, 7):
        log = open_log(directory, incarnation=drawn)
        assert log.incarnation == INCARNATION
        assert log.segments == 4, "opened once, it is of this version"
        log.close()


def test_the_membership_that_it_was_given_first_lasts(directory: Path) -> None:
    """Planted bug: a configuration that was edited later changes who belongs to the group."""
    for given in (VOTERS, OTHERS):
        log = open_log(directory, given)
        assert log.memberships == ((0, VOTERS),)
        log.close()


def test_it_is_written_and_cut(directory: Path) -> None:
    log = open_log(directory)
    tail = log.tail()
    log.written(tail.write(None, [entry(5, term=2), change(6, OTHERS, term=2)], 1))
    log.written(tail.write(HardState(2, 3, 6), [entry(7, term=2)], 1, notes=b"promises"))
    assert log.cut(2) == 0, "the segment that overwrote index 2 cannot be the first"
    assert log.cut(3) == 3
    assert log.memberships == ((3, VOTERS), (6, OTHERS))
    tail.close()
    log.close()
    log = open_log(directory, OTHERS)
    assert log.memberships == ((3, VOTERS), (6, OTHERS))
    assert image_of(log).entries == [ENTRIES[3], entry(5, term=2), change(6, OTHERS, term=2), entry(7, term=2)]
    assert log.notes == b"promises"
    log.close()


def test_a_torn_tail_is_cut_before_the_new_segment_is_begun(directory: Path) -> None:
    newest = segment_path(directory, 3)
    newest.write_bytes(newest.read_bytes() + b"VLR1torn")
    log = open_log(directory)
    assert log.cut_bytes == 8
    assert newest.read_bytes() == VERSION_1[newest.name]
    log.close()
    log = open_log(directory)
    assert image_of(log).entries == ENTRIES
    log.close()


def test_c32_damage_in_it_is_refused(directory: Path) -> None:
    path = segment_path(directory, 2)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptData, match=path.name):
        open_log(directory)


def test_a_power_cut_at_any_step_of_its_first_opening(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and an incarnation that anybody was told stays."""
    disk = PowerCuts(directory)
    disk.watch(monkeypatch)
    log = open_log(directory)
    disk.is_acknowledged = True
    states = disk.take()
    log.close()
    monkeypatch.undo()
    for state, was_opened in states:
        log = open_log(restore(state, tmp_path / "cut"), OTHERS if was_opened else VOTERS, incarnation=7)
        assert log.memberships == ((0, VOTERS),)
        assert image_of(log).entries == ENTRIES
        assert log.incarnation in ({INCARNATION} if was_opened else {INCARNATION, 7})
        assert read_header(tmp_path / "cut", 4)[0].version == fmt.VERSION
        log.close()
