"""The roster: the same string for the same facts, ids never given twice, incarnations bound once and retired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.consensus.cluster import config
from vaultdb.consensus import members
from vaultdb.consensus.members import UNFORMED, Member, Roster
from vaultdb.errors import CorruptData
from vaultdb.raft.membership import Membership
from vaultdb.raft.progress import Progress

CLUSTER_ID = "ab" * 16
A, B, C = (f"{n:016x}" for n in (1, 2, 3))
EVERYBODY = Membership((0, 1, 2))


def formed(tmp_path: Path, **heard: str) -> Roster:
    spoken = {int(node[1:]): incarnation for node, incarnation in heard.items()}
    return members.reconciled(UNFORMED, EVERYBODY, config(3, tmp_path).nodes, spoken, CLUSTER_ID)


def test_the_first_leader_names_the_cluster_and_binds_whom_it_has_heard(tmp_path: Path) -> None:
    roster = formed(tmp_path, n0=A, n2=C)
    assert (roster.cluster_id, roster.next_id, roster.retired) == (CLUSTER_ID, 3, ())
    assert roster.members[1] == Member("node1", "127.0.0.1", 1001, 2001, 3001, "")
    assert [member.incarnation for member in roster.members.values()] == [A, "", C]


def test_the_context_comes_back_equal_and_is_the_same_for_the_same_facts(tmp_path: Path) -> None:
    roster = formed(tmp_path, n0=A)
    assert members.parse(members.render(roster)) == roster
    backwards = roster._replace(members=dict(reversed(list(roster.members.items()))))
    assert members.render(backwards) == members.render(roster)
    assert members.render(UNFORMED) == ""
    assert members.parse("") == UNFORMED


@pytest.mark.parametrize(
    "context",
    [
        "{",
        "[]",
        "{}",
        '{"cluster_id":"","next_id":1,"members":{},"retired":[]}',
        '{"cluster_id":"ab","next_id":"1","members":{},"retired":[]}',
        '{"cluster_id":"ab","next_id":1,"members":{},"retired":[1]}',
        '{"cluster_id":"ab","next_id":1,"members":{},"retired":[],"more":1}',
        '{"cluster_id":"ab","next_id":1,"members":{"x":{}},"retired":[]}',
        '{"cluster_id":"ab","next_id":1,"members":{"0":{"name":"a"}},"retired":[]}',
        '{"cluster_id":"ab","next_id":1,"retired":[],"members":{"0":{"name":"a","host":"h","http_port":"1",'
        '"peer_port":2,"native_port":3,"incarnation":""}}}',
    ],
)
def test_what_is_no_roster_is_said_to_be_none(context: str) -> None:
    with pytest.raises(CorruptData, match="roster"):
        members.parse(context)


def test_an_incarnation_is_bound_once_and_never_comes_back(tmp_path: Path) -> None:
    """Planted bugs: binding whoever speaks last; taking the disk of a removed member for the new one of its id."""
    roster = members.bound(formed(tmp_path), 0, A)
    assert members.bound(roster, 0, B) == roster
    removed = members.without_member(roster, 0)
    assert removed.retired == (A,)
    anew = members.with_member(removed, 0, roster.members[0]._replace(incarnation=""))
    assert members.bound(anew, 0, A) == anew
    assert members.bound(anew, 0, B).members[0].incarnation == B


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    roster = formed(tmp_path)
    grown = members.with_member(roster, 7, roster.members[0])
    assert members.without_member(grown, 7).next_id == 8


def test_retired_incarnations_are_bounded(tmp_path: Path) -> None:
    roster = formed(tmp_path)
    for n in range(members.RETIRED_MAX + 5):
        member = roster.members[0]._replace(incarnation=f"{n:016x}")
        roster = members.without_member(members.with_member(roster, 9, member), 9)
    assert len(roster.retired) == members.RETIRED_MAX
    assert roster.retired[-1] == f"{members.RETIRED_MAX + 4:016x}"


def test_a_leader_corrects_addresses_that_its_own_configuration_knows_better(tmp_path: Path) -> None:
    """The incarnation stays bound. Planted bug: taking the configuration's member whole."""
    roster = formed(tmp_path, n0=A)
    whole = config(3, tmp_path)
    moved = replace(whole, nodes=(replace(whole.nodes[0], host="elsewhere"), *whole.nodes[1:]))
    found = members.reconciled(roster, EVERYBODY, moved.nodes, {}, "unused")
    assert found.members[0] == roster.members[0]._replace(host="elsewhere")
    assert found.cluster_id == CLUSTER_ID
    assert members.reconciled(found, EVERYBODY, moved.nodes, {}, "unused") == found


def test_who_is_a_member_no_more_is_retired_and_who_is_leaving_stays_until_then(tmp_path: Path) -> None:
    """A joint membership still needs the address of an old voter. Planted bug: pruning by the new voters."""
    roster = formed(tmp_path, n0=A, n1=B, n2=C)
    joint = Membership((0, 1), outgoing=(0, 1, 2), auto_leave=True)
    whole = config(3, tmp_path)
    assert members.reconciled(roster, joint, whole.nodes, {}, "") == roster
    left = members.reconciled(roster, Membership((0, 1)), whole.nodes, {}, "")
    assert list(left.members) == [0, 1]
    assert left.retired == (C,)


def test_roles_while_joint_and_after() -> None:
    joint = Membership((0, 3), outgoing=(0, 1), learners=(4,), learners_next=(1,), auto_leave=True)
    assert [members.role_of(node, joint) for node in joint.nodes] == ["voter", "leaving", "joining", "learner"]
    assert members.role_of(3, Membership((0, 3))) == "voter"


def test_the_members_document_says_who_is_connected_and_how_far(tmp_path: Path) -> None:
    progress = Progress(101)
    progress.match_index = 90
    progress.become_replicate()
    document = members.members_document(
        formed(tmp_path, n0=A),
        Membership((0, 1), learners=(2,)),
        index=7,
        is_committed=True,
        leader=0,
        term=3,
        progress={2: progress},
        me=0,
        my_match_index=100,
        connected={2},
        caught_up_from=95,
        can_add=True,
    )
    assert {field: document[field] for field in ("cluster_id", "leader", "term", "index", "committed", "joint")} == {
        "cluster_id": CLUSTER_ID,
        "leader": 0,
        "term": 3,
        "index": 7,
        "committed": True,
        "joint": False,
    }
    view = {m["id"]: (m["role"], m["connected"], m["match_index"], m["state"]) for m in document["members"]}
    assert view == {
        0: ("voter", True, 100, None),
        1: ("voter", False, None, None),
        2: ("learner", True, 90, "replicate"),
    }
    assert [member["caught_up"] for member in document["members"]] == [True, None, False]
    assert document["members"][0]["incarnation"] == A
