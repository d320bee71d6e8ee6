"""The roster: what the nodes know of each other, as the context string of every membership entry.

    {"cluster_id": "<32 hex>", "next_id": 5, "retired": ["<16 hex>", ...], "members":
        {"0": {"name", "host", "http_port", "peer_port", "native_port", "incarnation": "<16 hex>" or ""}, ...}}

An empty string is the roster of a cluster that no leader has formed yet. `cluster_id` is drawn by the first leader.
`next_id` is above every id that was ever given. `incarnation` is drawn when a node's log is created, so a node whose
disk was wiped has another; "" until a leader has heard the member and *bound* the one that spoke. Incarnations of
former members are `retired`: their disks are never taken for members again.

Being part of the log, the roster is the same everywhere and is never in two minds about who is who. Plain functions on
plain values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vaultdb.config import NodeAddress
from vaultdb.errors import CorruptData
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import NodeId
from vaultdb.raft.progress import Progress, ProgressState

RETIRED_MAX = 256
"""Older ones are forgotten: their ids are not members', so they are no members either way."""


class Member(NamedTuple):
    """Where a node listens, and the incarnation that it is known by."""

    name: str
    host: str
    http_port: int
    peer_port: int
    native_port: int
    incarnation: str = ""

    @property
    def addresses(self) -> frozenset[tuple[str, int]]:
        return frozenset((self.host, port) for port in (self.http_port, self.peer_port, self.native_port))


class Roster(NamedTuple):
    cluster_id: str
    next_id: NodeId
    members: Mapping[NodeId, Member]
    retired: tuple[str, ...]


UNFORMED = Roster("", 0, {}, ())

_MEMBER_TYPES = (str, str, int, int, int, str)


def incarnation_text(incarnation: int) -> str:
    return f"{incarnation:016x}"


def member_of(address: NodeAddress) -> Member:
    return Member(address.name, address.host, address.http_port, address.peer_port, address.native_port)


# The context string.


def render(roster: Roster) -> str:
    """Deterministic: equal rosters have equal strings."""
    if roster == UNFORMED:
        return ""
    members = {str(node): member._asdict() for node, member in roster.members.items()}
    return json.dumps(roster._asdict() | {"members": members}, separators=(",", ":"), sort_keys=True)


def parse(context: str) -> Roster:
    """Raises CorruptData when `context` is no roster: it stood in the log, so the log cannot be trusted."""
    if not context:
        return UNFORMED
    try:
        fields = json.loads(context)
        members = {int(node): _member(member) for node, member in fields.pop("members").items()}
        roster = Roster(fields.pop("cluster_id"), fields.pop("next_id"), members, tuple(fields.pop("retired")))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CorruptData(f"the context of a membership in the log is no roster: {error!r}") from error
    types = (type(roster.cluster_id), type(roster.next_id), *map(type, roster.retired))
    if fields or not roster.cluster_id or types != (str, int, *[str] * len(roster.retired)):
        raise CorruptData("the context of a membership in the log is no roster of a version known here")
    return roster


def _member(fields: Any) -> Member:
    member = Member(**fields)
    if tuple(map(type, member)) != _MEMBER_TYPES:
        raise ValueError(f"{fields!r} is no member")
    return member


# Changes. Each returns another roster.


def with_member(roster: Roster, node: NodeId, member: Member) -> Roster:
    """`member` takes the place of what was known of `node`."""
    members = {**roster.members, node: member}
    return roster._replace(members=_ordered(members), next_id=max(roster.next_id, node + 1))


def without_member(roster: Roster, node: NodeId) -> Roster:
    """`node` is forgotten and its incarnation retired."""
    members = dict(roster.members)
    gone = members.pop(node, None)
    if gone is None:
        return roster
    retired = (*roster.retired, gone.incarnation) if gone.incarnation else roster.retired
    return roster._replace(members=members, retired=retired[-RETIRED_MAX:])


def bound(roster: Roster, node: NodeId, incarnation: str) -> Roster:
    """The member `node`, which had none, is known by `incarnation` from now on; a retired one binds nothing."""
    member = roster.members.get(node)
    if member is None or member.incarnation or incarnation in roster.retired:
        return roster
    return with_member(roster, node, member._replace(incarnation=incarnation))


def pruned(roster: Roster, membership: Membership) -> Roster:
    """Without those who are members no more."""
    for node in set(roster.members).difference(membership.nodes):
        roster = without_member(roster, node)
    return roster


def reconciled(
    roster: Roster,
    membership: Membership,
    own_config: Iterable[NodeAddress],
    heard: Mapping[NodeId, str],
    new_cluster_id: str,
) -> Roster:
    """What a leader's roster should say: every member with its details, as the leader's own configuration has them, and
    with an incarnation once one of it was heard. `own_config` may leave members out; they stay as they are.
    `new_cluster_id` is for a cluster that has none.
    """
    listed = {address.id: member_of(address) for address in own_config}
    if not roster.cluster_id:
        roster = roster._replace(cluster_id=new_cluster_id, next_id=max((0, *membership.nodes, *listed)) + 1)
    roster = pruned(roster, membership)
    for node in membership.nodes:
        known, own = roster.members.get(node), listed.get(node)
        if own is not None and (known is None or known._replace(incarnation="") != own):
            roster = with_member(roster, node, own._replace(incarnation=known.incarnation if known else ""))
        if node in heard:
            roster = bound(roster, node, heard[node])
    return roster


# Views.


def members_document(
    roster: Roster,
    membership: Membership,
    *,
    index: int,
    is_committed: bool,
    leader: NodeId | None,
    term: int,
    progress: Mapping[NodeId, Progress],
    me: NodeId,
    my_match_index: int | None,
    connected: Iterable[NodeId],
    caught_up_from: int,
    can_add: bool,
) -> dict[str, Any]:
    """The members as one node sees them, for people and programs. `progress` and `my_match_index` are a leader's;
    `caught_up_from`: the match index from which a learner may be promoted; `can_add`: a new node could be brought up.
    """
    reached = {*connected, me}

    def fields(node: NodeId) -> dict[str, Any]:
        member = roster.members.get(node)
        known = progress.get(node)
        match_index = known.match_index if known is not None else my_match_index if node == me else None
        return {
            "id": node,
            "name": member.name if member else None,
            "host": member.host if member else None,
            "http_port": member.http_port if member else None,
            "peer_port": member.peer_port if member else None,
            "native_port": member.native_port if member else None,
            "role": role_of(node, membership),
            "incarnation": member.incarnation if member else "",
            "connected": node in reached,
            "match_index": match_index,
            "state": known.state.value if known is not None else None,
            "caught_up": None if match_index is None else _is_caught_up(known, match_index, caught_up_from),
        }

    return {
        "cluster_id": roster.cluster_id,
        "leader": leader,
        "term": term,
        "index": index,
        "committed": is_committed,
        "joint": membership.is_joint,
        "can_add": can_add,
        "members": [fields(node) for node in membership.nodes],
    }


def _is_caught_up(progress: Progress | None, match_index: int, caught_up_from: int) -> bool:
    """`progress`: None for the leader itself."""
    return match_index >= caught_up_from and (progress is None or progress.state is ProgressState.REPLICATE)


def role_of(node: NodeId, membership: Membership) -> str:
    """While the membership is joint, new voters are joining, and old ones that are no new ones leaving."""
    if node not in membership.voters:
        return "leaving" if node in membership.outgoing else "learner"
    return "joining" if membership.is_joint and node not in membership.outgoing else "voter"


def _ordered(members: Mapping[NodeId, Member]) -> dict[NodeId, Member]:
    return dict(sorted(members.items()))
