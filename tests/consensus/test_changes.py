"""Requests about members: what is proposed for them, and what is refused with which sentence."""

from __future__ import annotations

from typing import Any

import pytest

from vaultdb.consensus import changes
from vaultdb.consensus.members import UNFORMED, Member, Roster
from vaultdb.errors import BadRequest, ChangeRefused, NotFound, VaultError
from vaultdb.raft.membership import Change, ChangeKind, Membership

A = f"{1:016x}"
ROSTER = Roster(
    "ab",
    4,
    {n: Member(f"node{n}", "h", 10 + n, 20 + n, 30 + n, A if n != 3 else "") for n in range(4)},
    (),
)
MEMBERSHIP = Membership((0, 1), learners=(2, 3))
ADDRESS = {"name": "node9", "host": "h", "http_port": 19, "peer_port": 29, "native_port": 39}
ADD = {"change": "add", **ADDRESS}


def plan(*argument: Any) -> changes.Planned:
    return changes.plan(list(argument), MEMBERSHIP, ROSTER, log_is_whole=True)


def test_a_new_node_becomes_a_learner_under_an_id_that_was_never_used() -> None:
    planned = plan(ADD)
    assert planned.changes == [Change(ChangeKind.LEARNER, 4)]
    assert planned.roster.members[4] == Member("node9", "h", 19, 29, 39, "")
    assert planned.roster.next_id == 5


def test_several_changes_go_together() -> None:
    other = {**ADD, "name": "node8", "http_port": 18, "peer_port": 28, "native_port": 38}
    planned = plan(
        {"change": "promote", "id": 2}, {"change": "demote", "id": 1}, ADD, other, {"change": "remove", "id": 0}
    )
    assert planned.changes == [
        Change(ChangeKind.VOTER, 2),
        Change(ChangeKind.LEARNER, 1),
        Change(ChangeKind.LEARNER, 4),
        Change(ChangeKind.LEARNER, 5),
        Change(ChangeKind.REMOVE, 0),
    ]


def test_a_removed_members_id_may_be_given_again_and_its_old_disk_is_retired() -> None:
    """The roster may not have been pruned yet. Planted bug: the former incarnation stays bound to the new node."""
    planned = changes.plan([{**ADD, "id": 1}], Membership((0,)), ROSTER, log_is_whole=True)
    assert planned.changes == [Change(ChangeKind.LEARNER, 1)]
    assert planned.roster.members[1].incarnation == ""
    assert A in planned.roster.retired


@pytest.mark.parametrize(
    ("argument", "error", "sentence"),
    [
        (None, BadRequest, "at least one"),
        ([], BadRequest, "at least one"),
        (["add"], BadRequest, "map"),
        ([{"change": "grow", "id": 1}], BadRequest, "grow"),
        ([{"change": "promote"}], BadRequest, "with an id"),
        ([{"change": "promote", "id": "1"}], BadRequest, "with an id"),
        ([{"change": ["promote"], "id": 1}], BadRequest, "with an id"),
        ([{"change": "promote", "id": 1, "host": "h"}], BadRequest, "with an id"),
        ([{"change": "promote", "id": 9}], NotFound, "node 9 is not a member"),
        ([{"change": "promote", "id": 1}], ChangeRefused, "voter already"),
        ([{"change": "promote", "id": 3}], ChangeRefused, "not been heard"),
        ([{"change": "demote", "id": 2}], ChangeRefused, "learner already"),
        ([{"change": "remove", "id": 9}], NotFound, "node 9"),
        ([{"change": "promote", "id": 2}, {"change": "remove", "id": 2}], BadRequest, "twice"),
        ([{"change": "add", "name": "x"}], BadRequest, "http_port"),
        ([{**ADD, "extra": 1}], BadRequest, "extra"),
        ([{**ADD, "name": "No Name"}], BadRequest, "name"),
        ([{**ADD, "peer_port": 70_000}], BadRequest, "70000"),
        ([{**ADD, "peer_port": "29"}], BadRequest, "peer_port"),
        ([{**ADD, "id": -1}], BadRequest, "-1"),
        ([{**ADD, "native_port": 19}], BadRequest, "different"),
        ([{**ADD, "id": 1}], ChangeRefused, "node 1 is a member already"),
        ([{**ADD, "name": "node0"}], ChangeRefused, "'node0' is that of node 0"),
        ([{**ADD, "peer_port": 31}], ChangeRefused, "h:31 is that of node 1"),
        ([ADD, ADD], ChangeRefused, "node 4"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(argument: Any, error: type[VaultError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        changes.plan(argument, MEMBERSHIP, ROSTER, log_is_whole=True)


def test_a_node_is_not_added_to_a_log_that_was_cut_or_to_a_cluster_that_is_not_formed() -> None:
    with pytest.raises(ChangeRefused, match="snapshot"):
        changes.plan([ADD], MEMBERSHIP, ROSTER, log_is_whole=False)
    with pytest.raises(ChangeRefused, match="being formed"):
        changes.plan([ADD], MEMBERSHIP, UNFORMED, log_is_whole=True)


@pytest.mark.parametrize(
    ("fields", "is_so"),
    [
        ({"change": "promote", "id": 1}, True),
        ({"change": "promote", "id": 2}, False),
        ({"change": "demote", "id": 2}, True),
        ({"change": "demote", "id": 1}, False),
        ({"change": "remove", "id": 9}, True),
        ({"change": "remove", "id": 1}, False),
        (ADD, False),
        ({"change": "add", "name": "node1", "host": "h", "http_port": 11, "peer_port": 21, "native_port": 31}, True),
        ({"change": "add", "name": "node1", "host": "h", "http_port": 11, "peer_port": 21, "native_port": 32}, False),
        ({"change": "grow"}, False),
        ({}, False),
    ],
)
def test_whether_a_change_is_in_effect(fields: dict[str, Any], is_so: bool) -> None:
    assert changes.is_in_effect([fields], MEMBERSHIP, ROSTER) is is_so
    assert changes.is_in_effect([fields, {"change": "promote", "id": 0}], MEMBERSHIP, ROSTER) is is_so
    assert not changes.is_in_effect("nonsense", MEMBERSHIP, ROSTER)
