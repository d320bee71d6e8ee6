"""Who belongs to the group, and how that may change: plain functions on plain values (thesis §4, paper §6).

A membership is *simple*, or *joint* while two sets of voters must agree. It takes effect when it is appended to the
log, not when it is committed (paper §6), and goes back with the log when that is truncated.

    simple        changes at most one voter: old and new majorities overlap (thesis §4.1)
    enter_joint   any change: from C to C,C' (§4.3)
    leave_joint   from C,C' to C'

Everything here raises ChangeRefused and changes nothing when a change makes no sense. When a change may begin at all
(the last one is committed, the leader's term has a commit, a quorum would be left) is for the leader to know:
`changes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from vaultdb.errors import ChangeRefused, CorruptData
from vaultdb.raft.messages import NodeId


class ChangeKind(Enum):
    VOTER = "voter"
    """Make it a voter, whatever it was."""
    LEARNER = "learner"
    """Make it a learner, whatever it was: it gets the log and counts in no quorum (thesis §4.2.1)."""
    REMOVE = "remove"


class Change(NamedTuple):
    kind: ChangeKind
    node: NodeId


class Membership(NamedTuple):
    """Sets as ascending tuples. `voters`: those of a simple membership, the new ones of a joint one.

    `outgoing`       the old voters, while joint; otherwise empty
    `learners`       never voters of either set
    `learners_next`  old voters that become learners when the joint membership is left
    `auto_leave`     the leader proposes to leave the joint membership as soon as it is committed
    `context`        what the driver keeps about the members, in the same entry; opaque here
    """

    voters: tuple[NodeId, ...]
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    auto_leave: bool = False
    context: str = ""

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def voter_sets(self) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
        """A quorum is a majority of each of these; an empty one always agrees."""
        return self.voters, self.outgoing

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """Everybody who gets the log."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def is_voter(self, node: NodeId) -> bool:
        return node in self.voters or node in self.outgoing


NOBODY_YET = Membership(())
"""Of a node that waits to be told by a leader which group it belongs to. It never stands."""


def simple(current: Membership, changes: Sequence[Change]) -> Membership:
    """`changes` at once. At most one voter may come or go."""
    if current.is_joint:
        raise ChangeRefused("the membership is joint; it must be left before the next change")
    changed = _changed(current, changes)
    changed = changed._replace(learners=_ordered({*changed.learners, *changed.learners_next}), learners_next=())
    if len({*current.voters} ^ {*changed.voters}) > 1:
        raise ChangeRefused("more than one voter would change at once; that needs a joint membership")
    return checked(changed)


def enter_joint(current: Membership, changes: Sequence[Change], *, auto_leave: bool = True) -> Membership:
    """The joint membership on the way from `current` to `current` with `changes`."""
    if current.is_joint:
        raise ChangeRefused("the membership is joint already")
    if not current.voters:
        raise ChangeRefused("a group without voters cannot change itself")
    changed = _changed(current, changes)
    return checked(changed._replace(outgoing=current.voters, auto_leave=auto_leave))


def leave_joint(current: Membership) -> Membership:
    """The new voters alone."""
    if not current.is_joint:
        raise ChangeRefused("the membership is not joint")
    learners = _ordered({*current.learners, *current.learners_next})
    return checked(
        current._replace(outgoing=(), learners=learners, learners_next=(), auto_leave=False),
    )


def voters_changed(current: Membership, changes: Sequence[Change]) -> int:
    """How many voters `changes` would add and take away, in sum."""
    return len({*current.voters} ^ {*_changed(current, changes).voters})


def checked(membership: Membership) -> Membership:
    """`membership`, if it keeps its own rules; raises ChangeRefused, naming the rule."""
    voters, outgoing, learners, learners_next, auto_leave, _ = membership
    if not voters:
        raise ChangeRefused("no voter would be left")
    if {*learners} & {*voters, *outgoing}:
        raise ChangeRefused(f"nodes {_ordered({*learners} & {*voters, *outgoing})} are voters and learners")
    if not {*learners_next} <= {*outgoing} - {*voters}:
        raise ChangeRefused(f"nodes {learners_next} can become learners only if they are old voters and no new ones")
    if auto_leave and not outgoing:
        raise ChangeRefused("only a joint membership can be left")
    return membership


def _changed(current: Membership, changes: Iterable[Change]) -> Membership:
    """The sets after `changes`, in order. A voter that is to be a learner stays an old voter for now."""
    voters, learners, learners_next = {*current.voters}, {*current.learners}, {*current.learners_next}
    for kind, node in changes:
        voters.discard(node)
        learners.discard(node)
        learners_next.discard(node)
        if kind is ChangeKind.VOTER:
            voters.add(node)
        elif kind is ChangeKind.LEARNER and node in current.voters:
            learners_next.add(node)
        elif kind is ChangeKind.LEARNER:
            learners.add(node)
    if not voters:
        raise ChangeRefused("no voter would be left")
    return current._replace(voters=_ordered(voters), learners=_ordered(learners), learners_next=_ordered(learners_next))


def _ordered(nodes: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(nodes))


# The payload of a MEMBERSHIP entry: JSON, so that a dump of the log can be read.


def encode(membership: Membership) -> bytes:
    """Deterministic: equal memberships have equal bytes."""
    return json.dumps(membership._asdict(), separators=(",", ":"), sort_keys=True).encode()


def decode(payload: bytes) -> Membership:
    """Raises CorruptData when `payload` is no membership: it stood in a log, so the log cannot be trusted."""
    try:
        fields = json.loads(payload)
        sets = {name: _nodes(fields.pop(name)) for name in ("voters", "outgoing", "learners", "learners_next")}
        found = Membership(**sets, auto_leave=fields.pop("auto_leave"), context=fields.pop("context"))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CorruptData(f"an entry of the log is no membership: {error!r}") from error
    if fields or type(found.auto_leave) is not bool or type(found.context) is not str:
        raise CorruptData("an entry of the log is no membership of a version known here")
    return found


def _nodes(value: Any) -> tuple[NodeId, ...]:
    if type(value) is not list or not all(type(node) is int for node in value):
        raise ValueError(f"{value!r} is no list of node ids")
    return _ordered(value)
