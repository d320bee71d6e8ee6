"""Old copies of a disk are recognised by what was promised, and healthy nodes never are taken for one."""

from __future__ import annotations

import random

import pytest

from vaultdb.consensus.peer_format import Sender
from vaultdb.consensus.promises import PromiseTable

DISK, OTHER_DISK = (1 << 64) - 1, 5
FIRST, SECOND, THIRD = 11, 12, 13


def sender(life: int, term: int, index: int, incarnation: int = DISK) -> Sender:
    return Sender("local", "", 1, incarnation, life, term, index)


def table() -> PromiseTable:
    promises = PromiseTable()
    promises.note(DISK, FIRST, 3, 100)
    return promises


def test_c24_a_process_that_starts_below_what_was_promised_runs_on_an_old_copy() -> None:
    promises = table()
    assert promises.is_broken_by(sender(SECOND, 3, 99))
    assert promises.is_broken_by(sender(SECOND, 2, 500))
    assert not promises.is_broken_by(sender(SECOND, 3, 100))


def test_a_log_that_a_later_term_shortened_is_no_old_copy() -> None:
    """Planted bug: comparing the index alone turns away every node whose tail was overwritten."""
    assert not table().is_broken_by(sender(SECOND, 4, 60))


def test_the_process_that_made_the_promise_started_from_less_and_that_is_right() -> None:
    """Planted bug: comparing what a running process started from with what it has promised since."""
    promises = table()
    promises.note(DISK, FIRST, 3, 50)
    assert not promises.is_broken_by(sender(FIRST, 0, 0))


def test_another_disk_has_promised_nothing() -> None:
    assert not table().is_broken_by(sender(SECOND, 0, 0, OTHER_DISK))


def test_promises_only_grow_whoever_tells_them_and_in_whatever_order() -> None:
    rows = [(DISK, FIRST, 3, 100), (DISK, FIRST, 3, 40), (DISK, SECOND, 3, 120), (DISK, SECOND, 4, 10)]
    for seed in range(20):
        promises = PromiseTable()
        promises.merge(random.Random(seed).sample(rows, len(rows)))
        assert promises.rows() == [(DISK, SECOND, 4, 10)]


def test_notes_are_read_back_and_a_restart_knows_who_made_the_promise() -> None:
    """Planted bug: forgetting the life. A peer that runs on was started below what it has promised since."""
    promises = PromiseTable(table().notes())
    assert promises.rows() == table().rows()
    assert not promises.is_broken_by(sender(FIRST, 0, 0))
    assert promises.is_broken_by(sender(THIRD, 3, 99))


@pytest.mark.parametrize(
    "notes", [b"", b"\xc1", b"\x92\x63\x90", b"\x92\x01\x91\x01", b"\x92\x01\x91\x94\x01\x02\x03\xa1x"]
)
def test_notes_of_another_release_say_nothing(notes: bytes) -> None:
    assert PromiseTable(notes).rows() == []


def test_only_news_are_worth_a_note_and_former_members_are_forgotten() -> None:
    promises = table()
    assert promises.is_changed
    promises.notes()
    promises.note(DISK, FIRST, 3, 100)
    assert not promises.is_changed
    promises.keep({OTHER_DISK})
    assert promises.is_changed
    assert promises.rows() == []
