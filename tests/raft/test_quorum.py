"""Majorities."""

from __future__ import annotations

from itertools import combinations

import pytest

from vaultdb.raft.quorum import VoteResult, committed_index, majority, vote_result


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority(voters: int, needed: int) -> None:
    """The smallest number of which any two groups overlap."""
    assert majority(voters) == needed
    groups = list(combinations(range(voters), needed))
    assert all(set(a) & set(b) for a in groups for b in groups)
    assert needed == 1 or 2 * (needed - 1) <= voters


@pytest.mark.parametrize(
    ("match_indices", "index"),
    [([7], 7), ([5, 9], 5), ([1, 2, 3], 2), ([9, 0, 9], 9), ([4, 3, 2, 1], 2), ([5, 5, 1, 0, 9], 5), ([0, 0, 0], 0)],
)
def test_committed_index_is_what_a_majority_has_reached(match_indices: list[int], index: int) -> None:
    assert committed_index(match_indices) == index
    assert sum(match >= index for match in match_indices) >= majority(len(match_indices))
    assert sum(match > index for match in match_indices) < majority(len(match_indices))


@pytest.mark.parametrize(
    ("granted", "refused", "result"),
    [
        ((), (), VoteResult.PENDING),
        ((0, 1), (3,), VoteResult.PENDING),
        ((0, 1, 4), (2, 3), VoteResult.WON),
        ((0,), (1, 2), VoteResult.PENDING),
        ((0,), (1, 2, 3), VoteResult.LOST),
        ((0, 8, 9), (), VoteResult.PENDING),
        ((0,), (7, 8, 9), VoteResult.PENDING),
    ],
)
def test_vote_result(granted: tuple[int, ...], refused: tuple[int, ...], result: VoteResult) -> None:
    """Won and lost as soon as it is certain; strangers (7 and up) count for nothing."""
    assert vote_result(range(5), granted, refused) is result
