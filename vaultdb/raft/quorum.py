"""Majorities, as plain functions on plain values.

A joint configuration (thesis §4.3) will be the minimum of `committed_index`, and the agreement of `vote_result`, over
its two voter sets.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """The smallest number of `voters` such that any two groups of it overlap."""
    return voters // 2 + 1


def committed_index(match_indices: Collection[int]) -> int:
    """The highest index that a majority has reached; one element per voter, the leader's own durable index included."""
    return sorted(match_indices, reverse=True)[majority(len(match_indices)) - 1]


def vote_result(voters: Collection[int], granted: Collection[int], refused: Collection[int]) -> VoteResult:
    """WON by a majority of grants, LOST once no majority can be reached. Answers of strangers count for nothing."""
    needed = majority(len(voters))
    if sum(voter in granted for voter in voters) >= needed:
        return VoteResult.WON
    if len(voters) - sum(voter in refused for voter in voters) < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
