"""When a leader should not lead any longer: its node is being stopped, or its disk has stalled."""

from __future__ import annotations

from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.surroundings import Peers
from vaultdb.errors import ChangeRefused
from vaultdb.logs import logger
from vaultdb.raft.messages import NOBODY
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Role

STOP_DEADLINE_MS = 1_000
"""A node that leads is stopped only when another one leads, or after this."""
_RETRY_NS = 100 * NS_PER_MS


class Handover:
    def __init__(self, raft: RaftNode, peers: Peers) -> None:
        self._raft = raft
        self._peers = peers
        self._next_ns = 0
        self._stop_by_ns: int | None = None
        self._refusal = ""
        self._logger = logger("consensus")

    def disk_stalled(self, now_ns: int) -> None:
        """Whoever is best prepared leads, if this node does now and anybody can be reached."""
        if self._raft.role is Role.LEADER:
            self._try(now_ns, "the disk of this node has stalled")

    def may_stop(self, now_ns: int) -> bool:
        """Whether there is nothing to wait for any more. To be asked in every turn once the node is to stop.

        A former leader waits until it hears its successor, whose election may need its vote.
        """
        raft = self._raft
        leads = raft.role is Role.LEADER
        if self._stop_by_ns is None:
            if not leads:
                return True
            self._stop_by_ns = now_ns + STOP_DEADLINE_MS * NS_PER_MS
        if now_ns >= self._stop_by_ns or self._peers.connected.isdisjoint(raft.membership.voters):
            return True
        if leads:
            self._try(now_ns, "this node is stopping")
            return False
        return raft.leader != NOBODY

    def _try(self, now_ns: int, why: str) -> None:
        if self._raft.transferring != NOBODY or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + _RETRY_NS
        try:
            self._raft.transfer_leadership(NOBODY)
        except ChangeRefused as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                self._logger.info("leadership cannot be handed over now", why=why, reason=self._refusal)
        else:
            self._logger.info("handing over leadership", why=why, target=self._raft.transferring)
