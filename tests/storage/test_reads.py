"""Reads that wait: answered in order, bounded, and forgotten past their deadline."""

from __future__ import annotations

from vaultdb import limits
from vaultdb.clock import NS_PER_S
from vaultdb.storage.reads import Read, WaitingReads


def read(min_index: int, batch: int = 0, deadline_ns: int = NS_PER_S) -> Read:
    return Read(min_index, deadline_ns, b"api", 1, batch, [b"k"])


def test_reads_come_out_when_their_index_is_reached_lowest_first_then_oldest() -> None:
    waiting = WaitingReads()
    for min_index, batch in ((7, 1), (5, 2), (5, 3), (6, 4)):
        assert waiting.add(read(min_index, batch))
    assert waiting.reached(4, now_ns=0) == []
    assert [ready.batch for ready in waiting.reached(6, now_ns=0)] == [2, 3, 4]
    assert [ready.batch for ready in waiting.reached(7, now_ns=0)] == [1]
    assert len(waiting) == 0


def test_a_read_at_its_deadline_is_not_answered() -> None:
    waiting = WaitingReads()
    waiting.add(read(5, 1, deadline_ns=10))
    waiting.add(read(5, 2, deadline_ns=11))
    assert [ready.batch for ready in waiting.reached(5, now_ns=10)] == [2]
    assert waiting.expired == 1


def test_full_means_refused_and_leaves_the_others() -> None:
    waiting = WaitingReads()
    accepted = [waiting.add(read(number)) for number in range(limits.READS_WAITING_MAX + 1)]
    assert accepted.count(False) == 1
    assert not accepted[-1]
    assert len(waiting) == limits.READS_WAITING_MAX
    assert len(waiting.reached(limits.READS_WAITING_MAX, now_ns=0)) == limits.READS_WAITING_MAX


def test_sweep_frees_what_has_expired_though_its_index_never_came() -> None:
    waiting = WaitingReads(capacity=2)
    waiting.add(read(9, 1, deadline_ns=10))
    waiting.add(read(8, 2, deadline_ns=NS_PER_S))
    waiting.sweep(now_ns=10)
    assert waiting.add(read(7, 3))
    assert waiting.expired == 1
    assert [ready.batch for ready in waiting.reached(9, now_ns=11)] == [3, 2]
