"""Whether this node can get anything done, and if not, why."""

from __future__ import annotations

from vaultdb.consensus.admission import Admission
from vaultdb.consensus.surroundings import Peers, Writer
from vaultdb.raft.messages import NOBODY, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.quorum import majority
from vaultdb.raft.state import Role

STALLED_MS = 1_000
"""A leader whose disk has kept one write waiting for longer takes no proposals, and hands over leadership."""


class Availability:
    def __init__(self, raft: RaftNode, peers: Peers, writer: Writer, admission: Admission) -> None:
        self._raft = raft
        self._peers = peers
        self._writer = writer
        self._admission = admission
        self.is_stalled = False
        """The disk has kept one write waiting for longer than STALLED_MS, as of the last `look`."""

    def look(self, now_ns: int) -> None:
        self.is_stalled = self._writer.busy_ms(now_ns) > STALLED_MS

    @property
    def leads_quorum(self) -> bool:
        """Leader, with a disk that works, and connected to enough voters: otherwise a proposal would end as unknown."""
        if self._raft.role is not Role.LEADER or self.is_stalled or self._admission.is_silenced:
            return False
        connected, me = self._peers.connected, self._raft.id
        return all(
            sum(voter == me or voter in connected for voter in voters) >= majority(len(voters))
            for voters in self._raft.membership.voter_sets
            if voters
        )

    @property
    def reaches_leader(self) -> bool:
        """Another node leads that would listen to this one."""
        return self._raft.leader in self._peers.connected and not self._admission.is_silenced

    def why_not(self) -> str:
        """The reason why a request was not served, as a sentence."""
        raft = self._raft
        if self._admission.notice is not None:
            return f"the cluster does not listen to this node: {self._admission.notice}"
        for voters in raft.membership.voter_sets:
            present, needed = len(self._reached.intersection(voters)), majority(len(voters))
            if voters and present < needed:
                return f"no quorum: {present} of {len(voters)} nodes reach each other; {needed} are needed"
        if raft.leader == NOBODY:
            return "no leader is known; an election is under way"
        if self.is_stalled:
            return f"the disk of node {raft.id} has not completed a write for more than {STALLED_MS} ms"
        if raft.transferring != NOBODY:
            return f"leadership is being handed over to node {raft.transferring}"
        return f"the leader, node {raft.leader}, did not confirm in time"

    @property
    def _reached(self) -> set[NodeId]:
        return {self._raft.id, *self._peers.connected}
