"""Memberships as plain values: what changes lead where, and which are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultdb.errors import ChangeRefused, CorruptData
from vaultdb.raft.membership import (
    NOBODY_YET,
    Change,
    ChangeKind,
    Membership,
    checked,
    decode,
    encode,
    enter_joint,
    leave_joint,
    simple,
    voters_changed,
)

V, L, R = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVE
THREE = Membership((0, 1, 2))
FOUR = Membership((0, 1, 2), learners=(3,))


def changes(text: str) -> list[Change]:
    """`v3 l1 r0`: 3 a voter, 1 a learner, 0 removed."""
    kinds = {"v": V, "l": L, "r": R}
    return [Change(kinds[word[0]], int(word[1:])) for word in text.split()]


@pytest.mark.parametrize(
    ("current", "text", "wanted"),
    [
        (THREE, "", THREE),
        (THREE, "v3", Membership((0, 1, 2, 3))),
        (THREE, "l3", FOUR),
        (THREE, "l3 l4", Membership((0, 1, 2), learners=(3, 4))),
        (THREE, "r2", Membership((0, 1))),
        (THREE, "l2", Membership((0, 1), learners=(2,))),
        (FOUR, "v3", Membership((0, 1, 2, 3))),
        (FOUR, "r3", THREE),
        (FOUR, "v3 l4", Membership((0, 1, 2, 3), learners=(4,))),
        (THREE, "v1 v1", THREE),
        (THREE, "r7 r7", THREE),
        (FOUR, "l3 l3", FOUR),
        (THREE, "v3 r3", THREE),
        (THREE, "r2 v2", THREE),
        (THREE, "l2 v2", THREE),
        (THREE, "v3 l3", FOUR),
        (THREE, "l2 r2", Membership((0, 1))),
        (THREE, "l2 l2", Membership((0, 1), learners=(2,))),
        (Membership((0,)), "v1", Membership((0, 1))),
    ],
    ids=str,
)
def test_simple_changes(current: Membership, text: str, wanted: Membership) -> None:
    """The last word about a node counts, and saying it again changes nothing."""
    assert simple(current, changes(text)) == wanted
    assert simple(wanted, changes(text)) == wanted


@pytest.mark.parametrize(
    ("current", "text", "reason"),
    [
        (THREE, "v3 v4", "more than one voter would change"),
        (THREE, "r1 r2", "more than one voter would change"),
        (THREE, "v3 r2", "more than one voter would change"),
        (THREE, "l1 v3", "more than one voter would change"),
        (Membership((0,)), "r0", "no voter would be left"),
        (Membership((0,)), "l0", "no voter would be left"),
        (NOBODY_YET, "l0", "no voter would be left"),
        (enter_joint(THREE, changes("v3")), "l4", "the membership is joint"),
    ],
    ids=str,
)
def test_simple_changes_that_are_refused(current: Membership, text: str, reason: str) -> None:
    """Thesis §4.1: majorities must overlap."""
    with pytest.raises(ChangeRefused, match=reason):
        simple(current, changes(text))


@pytest.mark.parametrize(
    ("current", "text", "joint", "after"),
    [
        (THREE, "", Membership((0, 1, 2), (0, 1, 2)), THREE),
        (THREE, "v3", Membership((0, 1, 2, 3), (0, 1, 2)), Membership((0, 1, 2, 3))),
        (THREE, "v3 v4 r0 r1", Membership((2, 3, 4), (0, 1, 2)), Membership((2, 3, 4))),
        (THREE, "v3 v4 v5 r0 r1 r2", Membership((3, 4, 5), (0, 1, 2)), Membership((3, 4, 5))),
        (FOUR, "v3 r0", Membership((1, 2, 3), (0, 1, 2)), Membership((1, 2, 3))),
        (THREE, "l1 l2", Membership((0,), (0, 1, 2), (), (1, 2)), Membership((0,), learners=(1, 2))),
        (FOUR, "l2", Membership((0, 1), (0, 1, 2), (3,), (2,)), Membership((0, 1), learners=(2, 3))),
        (FOUR, "l2 v3", Membership((0, 1, 3), (0, 1, 2), (), (2,)), Membership((0, 1, 3), learners=(2,))),
        (THREE, "l2 v2", Membership((0, 1, 2), (0, 1, 2)), THREE),
        (THREE, "l2 r2", Membership((0, 1), (0, 1, 2)), Membership((0, 1))),
        (THREE, "r2 l2", Membership((0, 1), (0, 1, 2), (), (2,)), Membership((0, 1), learners=(2,))),
        (THREE, "l3 l3", Membership((0, 1, 2), (0, 1, 2), (3,)), FOUR),
        (FOUR, "r3", Membership((0, 1, 2), (0, 1, 2)), THREE),
    ],
    ids=str,
)
@pytest.mark.parametrize("auto_leave", [False, True])
def test_joint_changes(current: Membership, text: str, joint: Membership, after: Membership, auto_leave: bool) -> None:
    """Thesis §4.3. A voter that is to be a learner counts among the old voters until the end, so it is none before."""
    entered = enter_joint(current, changes(text), auto_leave=auto_leave)
    assert entered == joint._replace(auto_leave=auto_leave)
    assert leave_joint(entered) == after


def test_joint_changes_that_are_refused() -> None:
    joint = enter_joint(THREE, changes("v3 v4"))
    for current, text, reason in (
        (joint, "v5", "joint already"),
        (NOBODY_YET, "v0", "without voters"),
        (THREE, "r0 r1 r2", "no voter would be left"),
        (THREE, "l0 l1 l2", "no voter would be left"),
    ):
        with pytest.raises(ChangeRefused, match=reason):
            enter_joint(current, changes(text))
    with pytest.raises(ChangeRefused, match="not joint"):
        leave_joint(THREE)
    with pytest.raises(ChangeRefused, match="not joint"):
        leave_joint(leave_joint(joint))


@pytest.mark.parametrize(
    ("membership", "reason"),
    [
        (Membership(()), "no voter"),
        (Membership((), (0, 1)), "no voter"),
        (Membership((0, 1), learners=(1,)), r"nodes \(1,\) are voters and learners"),
        (Membership((0,), (1,), (1,)), r"nodes \(1,\) are voters and learners"),
        (Membership((0,), learners_next=(1,)), "only if they are old voters"),
        (Membership((0, 1), (0, 1), (), (1,)), "only if they are old voters and no new ones"),
        (Membership((0,), auto_leave=True), "only a joint membership can be left"),
    ],
    ids=str,
)
def test_rules_of_a_membership(membership: Membership, reason: str) -> None:
    with pytest.raises(ChangeRefused, match=reason):
        checked(membership)


def test_what_a_membership_says() -> None:
    joint = Membership((1, 3), (0, 1, 2), (5,), (2,))
    assert (joint.is_joint, THREE.is_joint) == (True, False)
    assert joint.voter_sets == ((1, 3), (0, 1, 2))
    assert joint.nodes == (0, 1, 2, 3, 5)
    assert [node for node in range(6) if joint.is_voter(node)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("v0", 0), ("v3", 1), ("r0", 1), ("l0", 1), ("l3", 0), ("v3 r0", 2), ("v3 v4 r0", 3)]
)
def test_voters_changed(text: str, count: int) -> None:
    assert voters_changed(THREE, changes(text)) == count


def test_the_context_is_kept() -> None:
    current = THREE._replace(context="who they are")
    assert simple(current, changes("v3")).context == "who they are"
    assert leave_joint(enter_joint(current, changes("v3 v4"))).context == "who they are"


# Encoding.

nodes = st.integers(0, 6)
any_changes = st.lists(st.builds(Change, st.sampled_from(ChangeKind), nodes), max_size=6)
groups = st.builds(
    lambda voters, learners: Membership(tuple(sorted(voters)), learners=tuple(sorted(learners - voters))),
    st.frozensets(nodes, min_size=1, max_size=4),
    st.frozensets(nodes, max_size=3),
)


@given(current=groups, wanted=any_changes, context=st.text(max_size=5))
def test_a_membership_survives_the_log(current: Membership, wanted: list[Change], context: str) -> None:
    current = current._replace(context=context)
    try:
        joint = enter_joint(current, wanted)
    except ChangeRefused:
        joint = current
    for membership in (current, joint, NOBODY_YET):
        assert decode(encode(membership)) == membership


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"null",
        encode(THREE).replace(b"0", b'"0"'),
        encode(THREE).replace(b"[0", b"[true"),
        encode(THREE).replace(b"false", b"0"),
        encode(THREE).replace(b'"context":""', b'"context":1'),
        encode(THREE)[:-1] + b',"observers":[4]}',
    ],
)
def test_what_is_no_membership_is_corrupt(payload: bytes) -> None:
    """A node that cannot tell who votes must not vote."""
    with pytest.raises(CorruptData, match="an entry of the log is no membership"):
        decode(payload)


# What holds for all changes.


@given(current=groups, wanted=any_changes)
def test_a_joint_change_ends_where_its_changes_one_by_one_would(current: Membership, wanted: list[Change]) -> None:
    """And every membership on either way keeps its own rules."""
    try:
        after = leave_joint(checked(enter_joint(current, wanted)))
    except ChangeRefused:
        return
    # The last word about each node; new voters first, so that there is always one.
    last = {change.node: change for change in wanted}
    steps = [current]
    for change in sorted(last.values(), key=lambda change: change.kind is not V):
        steps.append(checked(simple(steps[-1], [change])))
    assert steps[-1] == after
    assert all(len({*a.voters} ^ {*b.voters}) <= 1 for a, b in pairwise(steps))


@given(current=groups, wanted=any_changes)
def test_a_change_made_twice_is_a_change_made_once(current: Membership, wanted: list[Change]) -> None:
    try:
        after = leave_joint(enter_joint(current, wanted))
    except ChangeRefused:
        return
    assert leave_joint(enter_joint(after, wanted)) == after
    assert voters_changed(after, wanted) == 0
