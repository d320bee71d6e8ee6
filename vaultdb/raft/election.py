"""Elections: when to stand, whom to vote for, how votes are counted (paper §5.2, §5.4.1; thesis §4.2.3, §6.4.1, §9.6).

A campaign that the leader itself asked for (thesis §3.10) passes the timer, and the voters' loyalty to that leader.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from vaultdb.raft.messages import NOBODY, NodeId, VoteRequest
from vaultdb.raft.quorum import VoteResult, joint_vote_result
from vaultdb.raft.state import RaftConfig


class ElectionTimer:
    """Counts ticks towards the next campaign, since the leader was heard, and of a lease promise.

    `hears_leader` is what makes voters stick to a working leader: while true, campaigns of others are not supported.
    A promise keeps it true whatever else happens: the leader relies on it to answer reads alone (thesis §6.4.1).
    """

    def __init__(self, config: RaftConfig, rng: random.Random, *, may_have_promised: bool) -> None:
        """`may_have_promised`: a former life of this node may have given a promise that still binds it."""
        self._config = config
        self._rng = rng
        self._elapsed = 0
        self._timeout = 0
        self._silent = config.election_ticks_min
        """Ticks since the leader was heard; at the minimum it is not heard any more."""
        self._promised = config.election_ticks_min if may_have_promised else 0
        """Ticks that the promise still lasts."""
        self.reset()

    @property
    def hears_leader(self) -> bool:
        return self._silent < self._config.election_ticks_min or self._promised > 0

    @property
    def is_bound(self) -> bool:
        """A promise stands."""
        return self._promised > 0

    @property
    def ticks_left(self) -> int:
        return max(1, self._timeout - self._elapsed)

    def tick(self) -> bool:
        """Returns whether it is time for a campaign."""
        self._elapsed += 1
        self._silent += 1
        self._promised -= self._promised > 0
        return self._elapsed >= self._timeout

    def reset(self) -> None:
        """Wait for a whole timeout, drawn anew."""
        self._elapsed = 0
        self._timeout = self._rng.randrange(self._config.election_ticks_min, self._config.election_ticks_max)

    def heard_leader(self) -> None:
        self._silent = 0
        self.reset()

    def promise(self) -> None:
        """Support nobody else for `bound_ticks` from now."""
        self._promised = max(self._promised, self._config.bound_ticks)

    def release(self) -> None:
        """Whoever was promised something leads no more."""
        self._promised = 0

    def lost_leader(self) -> None:
        """Nobody is heard any more. The timeout runs on, and so does a promise."""
        self._silent = self._config.election_ticks_min

    def hurry(self) -> None:
        """Stand within `unreachable_ticks_max` ticks after a promise has run out, or earlier if that was due. Hearing
        a leader undoes it.
        """
        delay = self._promised + self._rng.randint(1, self._config.unreachable_ticks_max)
        self._timeout = min(self._timeout, self._elapsed + delay)


class Ballot:
    """The answers to one campaign. The first answer of each voter counts."""

    def __init__(self, voter_sets: Sequence[Collection[NodeId]], *, pre: bool) -> None:
        self.pre = pre
        self._voter_sets = voter_sets
        self._granted: set[NodeId] = set()
        self._refused: set[NodeId] = set()

    def record(self, voter: NodeId, granted: bool) -> VoteResult:
        if voter not in self._granted and voter not in self._refused:
            (self._granted if granted else self._refused).add(voter)
        return joint_vote_result(self._voter_sets, self._granted, self._refused)


def deserves_vote(
    request: VoteRequest,
    *,
    term: int,
    vote: NodeId,
    leader: NodeId,
    hears_leader: bool,
    is_bound: bool,
    last_index: int,
    last_term: int,
) -> bool:
    """Whether a voter in `term`, with this vote cast and this log, supports `request`, whose term is not older than
    `term`.

    One vote per term; none for a log that is behind the voter's own (§5.4.1); a pre-vote, which binds nobody, is
    refused by whoever hears a leader; a promise of loyalty binds until it runs out or that leader hands over.
    """
    if (request.last_term, request.last_index) < (last_term, last_index):
        return False
    if request.pre and hears_leader:
        return False
    if is_bound and not request.transfer:
        return False
    if request.pre and request.term > term:
        return True
    return vote == request.src or (vote == NOBODY and leader == NOBODY)
