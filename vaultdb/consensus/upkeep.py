"""The leader keeps the roster true: it forms the cluster, binds incarnations, follows its configuration's addresses.

Each is a membership entry that changes the context alone; one at a time, and only while no other change is under way.
"""

from __future__ import annotations

from vaultdb.clock import NS_PER_MS
from vaultdb.config import NodeConfig
from vaultdb.consensus.addresses import own_config
from vaultdb.consensus.admission import Admission
from vaultdb.consensus.members import Roster, reconciled, render
from vaultdb.errors import Busy, ChangeRefused
from vaultdb.logs import logger
from vaultdb.raft.messages import NOBODY
from vaultdb.raft.node import RaftNode

_INTERVAL_NS = 50 * NS_PER_MS
_BACKOFF_NS = 1_000 * NS_PER_MS


class Upkeep:
    def __init__(self, node: NodeConfig, raft: RaftNode, admission: Admission, new_cluster_id: str) -> None:
        """`new_cluster_id`: 32 random hex digits, for a cluster that has none yet."""
        self._own_config = own_config(node)
        self._raft = raft
        self._admission = admission
        self._new_cluster_id = new_cluster_id
        self._next_ns = 0
        self._logger = logger("consensus")

    def turn(self, now_ns: int, roster: Roster) -> None:
        """This node leads, and has committed in its term. `roster`: of the newest membership."""
        raft = self._raft
        if now_ns < self._next_ns or not raft.is_membership_committed or raft.membership.is_joint:
            return
        self._next_ns = now_ns + _INTERVAL_NS
        if raft.transferring != NOBODY:
            return
        wanted = reconciled(roster, raft.membership, self._own_config, self._admission.heard, self._new_cluster_id)
        if wanted == roster:
            return
        try:
            _, index = raft.propose_membership([], context=render(wanted))
        except (ChangeRefused, Busy) as error:
            self._next_ns = now_ns + _BACKOFF_NS
            self._logger.info("the roster cannot be brought up to date now", reason=str(error))
        else:
            self._logger.info("roster brought up to date", index=index, cluster_id=wanted.cluster_id)
