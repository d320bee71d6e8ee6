"""Linearizable reads without the log: ReadIndex and leases (thesis §6.4, §6.4.1).

A leader may serve a read at its commit index once it knows that it was still the leader after the read arrived. Rounds
of heartbeats prove that, and all reads that wait share one. A lease proves it without a round.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vaultdb import limits
from vaultdb.errors import Busy
from vaultdb.raft.messages import NodeId
from vaultdb.raft.quorum import has_quorum

Read = tuple[NodeId, int]
"""(who asked, their context)."""

VoterSets = Sequence[Collection[NodeId]]

LEASE_HEARTBEATS = 10
"""Heartbeats go on asking for lease promises for this long after the last read."""


class ReadRounds:
    """A leader's reads of one term. One round is under way at a time; a read that arrives meanwhile joins the next.

    Dropped as a whole when leadership ends: rounds of one term prove nothing in another.
    """

    def __init__(self, leader: NodeId) -> None:
        self._leader = leader
        self._waiting: list[Read] = []
        self._running: list[Read] = []
        self._confirmed_by: set[NodeId] = set()
        self._number = 0
        self._index = 0
        self._lease_heartbeats = 0

    @property
    def is_waiting(self) -> bool:
        """There are reads that no round and no lease has taken up."""
        return bool(self._waiting)

    @property
    def startable(self) -> bool:
        return bool(self._waiting) and not self._running

    @property
    def running_number(self) -> int:
        """For heartbeats: the round that they try to confirm, 0 if none is under way."""
        return self._number if self._running else 0

    def ask(self, origin: NodeId, context: int) -> None:
        """Raises Busy when too many reads wait."""
        if len(self._waiting) + len(self._running) >= limits.READS_WAITING_MAX:
            raise Busy(f"{limits.READS_WAITING_MAX} reads wait for the leader")
        self._waiting.append((origin, context))
        self._lease_heartbeats = LEASE_HEARTBEATS

    def wants_lease(self) -> bool:
        """Whether the heartbeats that leave now should ask for promises: only where reads come in, because a promise
        delays the election after the leader's death. Counts heartbeats.
        """
        wanted = self._lease_heartbeats > 0
        self._lease_heartbeats -= wanted
        return wanted

    def take_waiting(self) -> Sequence[Read]:
        """What waits, to be answered by the lease."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def start(self, commit_index: int) -> None:
        """All waiting reads go into a new round, to be answered with `commit_index`.

        The caller has committed an entry of its own term: before that, its commit index may lag behind its
        predecessor's.
        """
        self._number += 1
        self._index = commit_index
        self._running, self._waiting = self._waiting, []
        self._confirmed_by.clear()

    def confirm(self, voter: NodeId, number: int, voter_sets: VoterSets) -> tuple[int, Sequence[Read]]:
        """`voter` still followed after round `number` began. Returns (read index, reads) when that made a quorum."""
        if number == 0 or number != self.running_number:
            return 0, ()
        self._confirmed_by.add(voter)
        if not has_quorum(voter_sets, self._confirmed_by):
            return 0, ()
        confirmed, self._running = self._running, []
        return self._index, confirmed

    def confirm_self(self, voter_sets: VoterSets) -> tuple[int, Sequence[Read]]:
        """The leader's own part in the round; alone it is a majority of one."""
        return self.confirm(self._leader, self.running_number, voter_sets)


class ReadsAsked:
    """A follower's questions to its leader. Forgotten when the leader or the term changes."""

    def __init__(self, patience_ticks: int) -> None:
        self._patience_ticks = patience_ticks
        self._asked_at: dict[int, int] = {}

    def add(self, context: int, now_ticks: int) -> None:
        """Raises Busy when too many are open. Those whose answer must have been lost make room."""
        if len(self._asked_at) >= limits.READS_WAITING_MAX:
            self._forget_lost(now_ticks)
            if len(self._asked_at) >= limits.READS_WAITING_MAX:
                raise Busy(f"{limits.READS_WAITING_MAX} reads wait for the leader's answer")
        self._asked_at[context] = now_ticks

    def answered(self, context: int) -> bool:
        """Whether `context` was still open; it is not any more."""
        return self._asked_at.pop(context, None) is not None

    def clear(self) -> None:
        self._asked_at.clear()

    def _forget_lost(self, now_ticks: int) -> None:
        for context, asked_at in list(self._asked_at.items()):
            if now_ticks - asked_at <= self._patience_ticks:
                break
            del self._asked_at[context]
