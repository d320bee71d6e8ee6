"""From requests about the members to changes of the membership and its roster. Plain functions on plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from vaultdb.config import NodeAddress
from vaultdb.consensus.members import Member, Roster, member_of, pruned, with_member
from vaultdb.errors import BadRequest, ChangeRefused, NotFound
from vaultdb.raft.membership import Change, ChangeKind, Membership
from vaultdb.raft.messages import NodeId

_KINDS = {"promote": ChangeKind.VOTER, "demote": ChangeKind.LEARNER, "remove": ChangeKind.REMOVE}
_ADD = "add"
_WILDCARDS = ("0.0.0.0", "0")
_ADDRESS_FIELDS = ("name", "host", "http_port", "peer_port", "native_port")


class Planned(NamedTuple):
    """What to propose: the changes for the core, and the roster that goes with them."""

    changes: list[Change]
    roster: Roster


def plan(argument: Any, membership: Membership, roster: Roster, *, log_is_whole: bool) -> Planned:
    """`argument`: the list of maps of ipc.ADMIN's "change". `log_is_whole`: nothing of it was cut off.

    Raises BadRequest when it is malformed, NotFound for an unknown id, ChangeRefused when it makes no sense. The core
    decides whether it can be done now.
    """
    if not roster.cluster_id:
        raise ChangeRefused("the cluster is still being formed; try again")
    if not isinstance(argument, list) or not argument:
        raise BadRequest("a change of members is a list of at least one change")
    roster = pruned(roster, membership)
    changes: list[Change] = []
    for fields in argument:
        if not isinstance(fields, dict):
            raise BadRequest("a change of a member is a map of fields")
        if fields.get("change") == _ADD:
            if not log_is_whole:
                raise ChangeRefused(
                    "the log does not reach back to its beginning any more, so a new node could not catch up: that"
                    " needs a snapshot, which this release cannot send"
                )
            node, member = _new_member(fields, membership, roster)
            roster = with_member(roster, node, member)
            changes.append(Change(ChangeKind.LEARNER, node))
        else:
            changes.append(_change_of(fields, membership, roster))
    nodes = [change.node for change in changes]
    if len(set(nodes)) < len(nodes):
        raise BadRequest(f"the changes name a member twice: ids {nodes}")
    return Planned(changes, roster)


def is_in_effect(argument: Any, membership: Membership, roster: Roster) -> bool:
    """Whether everything that `argument` asks for is so; not, if it is malformed."""
    if not isinstance(argument, list) or not all(isinstance(fields, dict) for fields in argument):
        return False
    return all(_is_so(fields, membership, roster) for fields in argument)


def _new_member(fields: Mapping[str, Any], membership: Membership, roster: Roster) -> tuple[NodeId, Member]:
    node = fields.get("id", max((roster.next_id, *(known + 1 for known in roster.members))))
    if set(fields) - {"change", "id"} != set(_ADDRESS_FIELDS):
        raise BadRequest(f'"{_ADD}" takes {", ".join(_ADDRESS_FIELDS)}, and perhaps an id; it has {list(fields)}')
    try:
        member = member_of(NodeAddress(id=node, **{name: fields[name] for name in _ADDRESS_FIELDS}))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise BadRequest(f"the new member's {where}: {fault['msg']} (value {fault['input']!r})") from error
    if len(member.addresses) < len({"http", "peer", "native"}):
        raise BadRequest(f"the ports of {member.name!r} must be three different ones")
    if member.host in _WILDCARDS:
        raise BadRequest(f"the new member's host {member.host!r} is no address at which the others could reach it")
    if node in membership.nodes or node in roster.members:
        raise ChangeRefused(f"node {node} is a member already")
    for other, known in roster.members.items():
        if known.name == member.name:
            raise ChangeRefused(f"the name {member.name!r} is that of node {other}")
        for host, port in sorted(known.addresses & member.addresses):
            raise ChangeRefused(f"the address {host}:{port} is that of node {other}, {known.name!r}")
    return node, member


def _change_of(fields: Mapping[str, Any], membership: Membership, roster: Roster) -> Change:
    kind, node = _KINDS.get(str(fields.get("change"))), fields.get("id")
    if kind is None or type(node) is not int or set(fields) != {"change", "id"}:
        raise BadRequest(f"a change is {_ADD}, {', '.join(_KINDS)}, the latter with an id; it is {dict(fields)!r}")
    if node not in membership.nodes:
        raise NotFound(f"node {node} is not a member; the members are {list(membership.nodes)}")
    member = roster.members.get(node)
    if kind is ChangeKind.VOTER:
        if node in membership.voters:
            raise ChangeRefused(f"node {node} is a voter already")
        if member is None or not member.incarnation:
            raise ChangeRefused(f"node {node} has not been heard yet")
    if kind is ChangeKind.LEARNER and node in membership.learners:
        raise ChangeRefused(f"node {node} is a learner already")
    return Change(kind, node)


def _is_so(fields: Mapping[str, Any], membership: Membership, roster: Roster) -> bool:
    node = fields.get("id")
    match fields.get("change"):
        case "promote":
            return node in membership.voters
        case "demote":
            return node in membership.learners
        case "remove":
            return node not in membership.nodes
        case "add":
            wanted = [fields.get(name) for name in _ADDRESS_FIELDS]
            return any(
                [*member[: len(wanted)]] == wanted and known in membership.nodes and node in (None, known)
                for known, member in roster.members.items()
            )
        case _:
            return False
