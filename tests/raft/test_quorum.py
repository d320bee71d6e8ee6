"""Majorities, simple and joint: tables of cases, and a comparison with their definition by enumeration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultdb.raft.quorum import (
    UNLIMITED,
    VoteResult,
    committed_index,
    has_quorum,
    joint_committed_index,
    joint_vote_result,
    majority,
    vote_result,
)

PENDING, WON, LOST = VoteResult.PENDING, VoteResult.WON, VoteResult.LOST


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority(voters: int, needed: int) -> None:
    """The smallest number of which any two groups overlap."""
    assert majority(voters) == needed
    groups = list(combinations(range(voters), needed))
    assert all(set(a) & set(b) for a in groups for b in groups)
    assert needed == 1 or 2 * (needed - 1) <= voters


@pytest.mark.parametrize(
    ("match_indices", "index"),
    [
        ([7], 7),
        ([5, 9], 5),
        ([1, 2, 3], 2),
        ([9, 0, 9], 9),
        ([4, 3, 2, 1], 2),
        ([5, 5, 1, 0, 9], 5),
        ([0, 0, 0], 0),
        ([100, 101, 101, 102, 103], 101),
        ([], UNLIMITED),
    ],
)
def test_committed_index_is_what_a_majority_has_reached(match_indices: list[int], index: int) -> None:
    assert committed_index(range(len(match_indices)), dict(enumerate(match_indices))) == index


@pytest.mark.parametrize(
    ("voters", "reached", "index"),
    [
        ((0, 1, 2), {0: 5}, 0),
        ((0, 1, 2), {0: 5, 1: 3}, 3),
        ((0, 1, 2), {}, 0),
        ((0, 1, 2), {0: 5, 7: 9, 8: 9}, 0),
        ((0,), {7: 9}, 0),
    ],
    ids=["one of three", "two of three", "nobody", "strangers", "a stranger alone"],
)
def test_who_was_not_heard_of_has_reached_nothing(voters: tuple[int, ...], reached: dict[int, int], index: int) -> None:
    assert committed_index(voters, reached) == index


@pytest.mark.parametrize(
    ("old", "new", "reached", "index"),
    [
        ((0, 1, 2), (), {0: 5, 1: 3, 2: 1}, 3),
        ((0, 1, 2), (0, 1, 2), {0: 5, 1: 3, 2: 1}, 3),
        ((0, 1, 2), (3, 4, 5), {0: 9, 1: 9, 2: 9}, 0),
        ((0, 1, 2), (3, 4, 5), {0: 9, 1: 8, 3: 7, 4: 6}, 6),
        ((0, 1, 2), (2, 3, 4), {0: 9, 1: 9, 2: 1, 3: 1, 4: 9}, 1),
        ((0, 1, 2), (2, 3, 4), {0: 1, 1: 1, 2: 9, 3: 9, 4: 9}, 1),
        ((0, 1, 2), (0,), {0: 9, 1: 2, 2: 1}, 2),
        ((0,), (0, 1, 2), {0: 9, 1: 2, 2: 1}, 2),
        ((), (), {0: 9}, UNLIMITED),
    ],
    ids=["simple", "the same twice", "only the old", "disjoint", "old ahead", "new ahead", "shrunk", "grown", "empty"],
)
def test_a_joint_commit_needs_both(
    old: tuple[int, ...], new: tuple[int, ...], reached: dict[int, int], index: int
) -> None:
    """Thesis §4.3."""
    assert joint_committed_index((old, new), reached) == joint_committed_index((new, old), reached) == index


@pytest.mark.parametrize(
    ("granted", "refused", "result"),
    [
        ((), (), PENDING),
        ((0, 1), (3,), PENDING),
        ((0, 1, 4), (2, 3), WON),
        ((0,), (1, 2), PENDING),
        ((0,), (1, 2, 3), LOST),
        ((0, 8, 9), (), PENDING),
        ((0,), (7, 8, 9), PENDING),
    ],
)
def test_vote_result(granted: tuple[int, ...], refused: tuple[int, ...], result: VoteResult) -> None:
    """Won and lost as soon as it is certain; strangers (7 and up) count for nothing."""
    assert vote_result(range(5), granted, refused) is result


@pytest.mark.parametrize(
    ("granted", "refused", "result"),
    [((0,), (), PENDING), ((0, 1), (), WON), ((0,), (1,), LOST), ((), (0,), LOST)],
)
def test_an_even_group_is_lost_by_half(granted: tuple[int, ...], refused: tuple[int, ...], result: VoteResult) -> None:
    assert vote_result((0, 1), granted, refused) is result


@pytest.mark.parametrize(
    ("granted", "refused", "result"),
    [
        ((), (), PENDING),
        ((0, 1), (), PENDING),
        ((3, 4), (), PENDING),
        ((0, 1, 3, 4), (), WON),
        ((0, 2, 3), (1, 4), WON),
        ((0, 1), (3, 4), LOST),
        ((3, 4), (0, 1), LOST),
        ((), (2,), PENDING),
    ],
)
def test_a_joint_vote_needs_both(granted: tuple[int, ...], refused: tuple[int, ...], result: VoteResult) -> None:
    """Thesis §4.3, from 0 1 2 to 2 3 4: 2 counts in both."""
    assert joint_vote_result(((0, 1, 2), (2, 3, 4)), granted, refused) is result


@pytest.mark.parametrize(
    ("voter_sets", "present", "quorum"),
    [
        (((0, 1, 2), ()), (0, 1), True),
        (((0, 1, 2), ()), (0, 7, 8), False),
        (((0, 1, 2), (2, 3, 4)), (0, 1), False),
        (((0, 1, 2), (2, 3, 4)), (0, 2, 3), True),
        (((0, 1), ()), (0,), False),
    ],
)
def test_has_quorum(voter_sets: tuple[tuple[int, ...], ...], present: tuple[int, ...], quorum: bool) -> None:
    assert has_quorum(voter_sets, present) is quorum


# The definition: enumerate all groups of voters, and see which of them decide.

VoterSets = tuple[Collection[int], Collection[int]]


def quorums(voter_sets: VoterSets) -> list[frozenset[int]]:
    """Every group that holds more than half of each set that is not empty."""
    everybody = sorted({*voter_sets[0], *voter_sets[1]})
    groups = (frozenset(group) for size in range(len(everybody) + 1) for group in combinations(everybody, size))
    return [
        group for group in groups if all(2 * len(group & {*voters}) > len(voters) for voters in voter_sets if voters)
    ]


def committed_by_definition(voter_sets: VoterSets, reached: Mapping[int, int]) -> int:
    return max(min((reached.get(voter, 0) for voter in group), default=UNLIMITED) for group in quorums(voter_sets))


def result_by_definition(voter_sets: VoterSets, granted: set[int], refused: set[int]) -> VoteResult:
    if any(group <= granted for group in quorums(voter_sets)):
        return WON
    return PENDING if any(not group & refused for group in quorums(voter_sets)) else LOST


nodes = st.integers(0, 6)
sets_of_voters = st.tuples(st.frozensets(nodes, max_size=5), st.frozensets(nodes, max_size=5))


@given(voter_sets=sets_of_voters, reached=st.dictionaries(st.integers(0, 8), st.integers(0, 9)))
def test_commits_follow_the_definition(voter_sets: VoterSets, reached: dict[int, int]) -> None:
    assert joint_committed_index(voter_sets, reached) == committed_by_definition(voter_sets, reached)


@given(voter_sets=sets_of_voters, answers=st.dictionaries(st.integers(0, 8), st.booleans()))
def test_votes_follow_the_definition(voter_sets: VoterSets, answers: dict[int, bool]) -> None:
    granted = {voter for voter, yes in answers.items() if yes}
    refused = answers.keys() - granted
    assert joint_vote_result(voter_sets, granted, refused) is result_by_definition(voter_sets, granted, refused)
    assert has_quorum(voter_sets, granted) is any(group <= granted for group in quorums(voter_sets))


@given(old=st.frozensets(nodes, min_size=1, max_size=5), new=st.frozensets(nodes, min_size=1, max_size=5))
def test_joint_quorums_meet_the_quorums_of_both_ends(old: frozenset[int], new: frozenset[int]) -> None:
    """That is what makes the way from one to the other safe (paper §6)."""
    joint = quorums((old, new))
    assert all(a & b for a in joint for end in (old, new) for b in quorums((end, ())))
