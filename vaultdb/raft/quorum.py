"""Majorities, as plain functions on plain values.

Voters come as sets: one for a simple membership, two for a joint one (thesis §4.3), where both must agree. An empty set
always agrees, so a simple membership may be given as (voters, ()).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from vaultdb.raft.messages import NodeId

UNLIMITED = (1 << 63) - 1
"""What an empty set of voters has reached."""


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """The smallest number of `voters` such that any two groups of it overlap."""
    return voters // 2 + 1


def committed_index(voters: Collection[NodeId], reached: Mapping[NodeId, int]) -> int:
    """The highest value that a majority of `voters` has reached; who is not in `reached` has reached 0.

    For the commit index `reached` holds match indices, the leader's own durable index included; it serves as well for
    the time up to which a majority has promised something.
    """
    if not voters:
        return UNLIMITED
    return sorted([reached.get(voter, 0) for voter in voters], reverse=True)[majority(len(voters)) - 1]


def vote_result(voters: Collection[NodeId], granted: Collection[NodeId], refused: Collection[NodeId]) -> VoteResult:
    """WON by a majority of grants, LOST once no majority can be reached. Answers of strangers count for nothing."""
    if not voters:
        return VoteResult.WON
    needed = majority(len(voters))
    if sum(voter in granted for voter in voters) >= needed:
        return VoteResult.WON
    if len(voters) - sum(voter in refused for voter in voters) < needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def joint_committed_index(voter_sets: Iterable[Collection[NodeId]], reached: Mapping[NodeId, int]) -> int:
    """The highest value that a majority of every set has reached."""
    return min(committed_index(voters, reached) for voters in voter_sets)


def joint_vote_result(
    voter_sets: Iterable[Collection[NodeId]], granted: Collection[NodeId], refused: Collection[NodeId]
) -> VoteResult:
    """WON once every set is won, LOST as soon as one is lost."""
    results = {vote_result(voters, granted, refused) for voters in voter_sets}
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def has_quorum(voter_sets: Iterable[Collection[NodeId]], present: Collection[NodeId]) -> bool:
    """Whether `present` holds a majority of every set."""
    return joint_vote_result(voter_sets, present, ()) is VoteResult.WON
