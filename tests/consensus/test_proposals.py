"""The fate of proposals: never lost silently, never sent again while an earlier send could still commit."""

from __future__ import annotations

import pytest

from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.proposals import Proposals
from vaultdb.errors import Busy

WAIT_MS = 100
A, B, C = (7, 1), (7, 2), (7, 3)


def table(*keys: tuple[int, int], deadline_ms: int = 1000) -> Proposals:
    proposals = Proposals(WAIT_MS)
    for key in keys:
        proposals.add(key, b"x" * 10, queued=False, deadline_ns=deadline_ms * NS_PER_MS, now_ns=0)
    return proposals


def parked_keys(proposals: Proposals) -> list[tuple[int, int]]:
    return [proposal.key for proposal in proposals.parked(1 << 30)]


def test_parked_ones_leave_in_order_and_in_bounded_batches() -> None:
    proposals = table(A, B, C)
    assert [p.key for p in proposals.parked(20)] == [A, B]
    assert [p.key for p in proposals.parked(1)] == [A]
    assert proposals.parked_bytes == 30


def test_a_sent_one_is_sent_again_only_when_its_term_is_over_and_it_was_not_committed() -> None:
    """Planted bug: parking again at any change of leader, before a later term committed: a write happens twice."""
    proposals = table(A, B)
    proposals.sent(proposals.parked(100), term=3)
    assert parked_keys(proposals) == []
    proposals.term_committed(3, now_ns=0)
    assert parked_keys(proposals) == []
    assert proposals.remove(A) is not None
    proposals.term_committed(4, now_ns=0)
    assert parked_keys(proposals) == [B]
    assert proposals.resent_total == 1


def test_a_leaders_refusal_parks_again_but_only_for_the_term_it_was_sent_in() -> None:
    """A late refusal of an earlier send says nothing about the later one."""
    proposals = table(A)
    proposals.sent(proposals.parked(100), term=3)
    proposals.refused(A, term=3)
    assert parked_keys(proposals) == [A]
    proposals.sent(proposals.parked(100), term=4)
    proposals.refused(A, term=3)
    assert parked_keys(proposals) == []


def test_what_a_snapshot_may_hold_leaves_silently() -> None:
    """It will not be seen in the log. Planted bug: leaving it, so that a later term sends it a second time."""
    proposals = table(A, B)
    proposals.sent([p for p in proposals.parked(100) if p.key == A], term=3)
    proposals.forget_sent(3)
    proposals.term_committed(4, now_ns=0)
    assert parked_keys(proposals) == [B]
    assert len(proposals) == 1


def test_parked_ones_are_refused_when_the_wait_is_over() -> None:
    proposals = table(A)
    assert proposals.expire((WAIT_MS - 1) * NS_PER_MS) == []
    assert [p.key for p in proposals.expire(WAIT_MS * NS_PER_MS)] == [A]
    assert len(proposals) == 0
    assert proposals.parked_bytes == 0


def test_sent_ones_are_never_refused_for_time_they_leave_silently_at_their_deadline() -> None:
    """Their outcome is unknown here, so no answer of ours may say that nothing happened."""
    proposals = table(A)
    proposals.sent(proposals.parked(100), term=3)
    assert proposals.expire(999 * NS_PER_MS) == []
    assert len(proposals) == 1
    assert proposals.expire(1000 * NS_PER_MS) == []
    assert len(proposals) == 0


def test_parked_again_waits_anew_but_not_past_the_clients_deadline() -> None:
    proposals = table(A, deadline_ms=150)
    proposals.sent(proposals.parked(100), term=3)
    proposals.term_committed(4, now_ns=90 * NS_PER_MS)
    assert proposals.expire(149 * NS_PER_MS) == []
    assert [p.key for p in proposals.expire(150 * NS_PER_MS)] == [A]


def test_parking_space_is_bounded() -> None:
    proposals = Proposals(WAIT_MS, parked_bytes_max=20)
    proposals.add(A, b"x" * 20, queued=False, deadline_ns=1, now_ns=0)
    with pytest.raises(Busy, match="limit is 20"):
        proposals.add(B, b"x", queued=False, deadline_ns=1, now_ns=0)
    proposals.sent(proposals.parked(100), term=1)
    proposals.add(B, b"x" * 20, queued=False, deadline_ns=1, now_ns=0)
    assert proposals.remove(B) is not None
    assert proposals.parked_bytes == 0
