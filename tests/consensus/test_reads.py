"""Questions for a read index: shared, bounded, and never answered by a confirmation older than themselves."""

from __future__ import annotations

import pytest

from vaultdb import limits
from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.reads import Question, ReadQuestions
from vaultdb.errors import Busy


def questions() -> ReadQuestions:
    return ReadQuestions(wait_ms=100, retry_ms=30, first_context=1000)


def batches(found: list[Question]) -> list[int]:
    return [question.batch for question in found]


def test_all_that_wait_share_one_context() -> None:
    reads = questions()
    reads.add(7, 1, 10**12, 0)
    reads.add(7, 2, 10**12, 0)
    context = reads.ask(0)
    assert not reads.wants_context
    assert batches(reads.confirmed(context)) == [1, 2]
    assert len(reads) == 0


def test_c11_a_later_question_is_not_answered_by_an_earlier_context() -> None:
    """Catalogue row 11. Planted bug: reusing the context of the retry lets an old confirmation answer."""
    reads = questions()
    reads.add(7, 1, 10**12, 0)
    first = reads.ask(0)
    reads.add(7, 2, 10**12, 0)
    assert batches(reads.confirmed(first)) == [1]
    second = reads.ask(0)
    assert second != first
    reads.ask_again()
    assert reads.confirmed(second) == []
    third = reads.ask(0)
    assert third not in (first, second)
    assert batches(reads.confirmed(third)) == [2]


def test_an_unanswered_context_is_given_up_and_asked_again() -> None:
    reads = questions()
    reads.add(7, 1, 10**12, 0)
    lost = reads.ask(0)
    assert reads.expire(30 * NS_PER_MS) == []
    assert reads.wants_context
    assert reads.confirmed(lost) == []


def test_a_question_is_refused_when_its_time_is_up() -> None:
    reads = questions()
    reads.add(7, 1, 10**12, 0)
    reads.add(7, 2, 50 * NS_PER_MS, 0)
    assert batches(reads.expire(60 * NS_PER_MS)) == [2]
    assert batches(reads.expire(100 * NS_PER_MS)) == [1]


def test_the_number_of_questions_is_bounded() -> None:
    reads = questions()
    for batch in range(limits.READS_WAITING_MAX):
        reads.add(7, batch, 10**12, 0)
    with pytest.raises(Busy):
        reads.add(7, -1, 10**12, 0)
