"""What a consensus process tells of itself, as plain data for /status and /cluster/members."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.members import Roster, members_document
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.raft.messages import NOBODY, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import RaftConfig, Role

_PROMOTION_LAG_MAX = RaftConfig(NOBODY).promotion_lag_max
"""Nothing sets another."""


def figures(raft: RaftNode, log: WriteAheadLog, storage: StorageStream) -> dict[str, Any]:
    return {
        "role": raft.role.value,
        "term": raft.term,
        "leader": raft.leader,
        "commit_index": raft.commit_index,
        "applied_index": storage.applied_index,
        "flushed_index": storage.flushed_index,
        "last_index": raft.last_index,
        "stable_index": raft.stable_index,
        "log_base_index": log.base_index,
        "log_segments": log.segments,
        "uncommitted_bytes": raft.uncommitted_bytes,
        "has_lease": raft.has_lease,
        "transferring": None if raft.transferring == NOBODY else raft.transferring,
    }


def peers_of(raft: RaftNode, connected: Collection[NodeId]) -> list[dict[str, Any]]:
    found = []
    for peer in raft.membership.nodes:
        if peer != raft.id:
            progress = raft.progress.get(peer)
            found.append(
                {
                    "id": peer,
                    "connected": peer in connected,
                    "match_index": None if progress is None else progress.match_index,
                    "state": None if progress is None else progress.state.value,
                }
            )
    return found


def members_of(raft: RaftNode, log: WriteAheadLog, roster: Roster, connected: Collection[NodeId]) -> dict[str, Any]:
    """The members document from this node's point of view."""
    leads = raft.role is Role.LEADER
    return members_document(
        roster,
        raft.membership,
        index=raft.membership_index,
        is_committed=raft.is_membership_committed,
        leader=None if raft.leader == NOBODY else raft.leader,
        term=raft.term,
        progress=raft.progress,
        me=raft.id,
        my_match_index=raft.stable_index if leads else None,
        connected=connected,
        can_add=log.base_index == 0,
        caught_up_from=raft.last_index - _PROMOTION_LAG_MAX,
    )
