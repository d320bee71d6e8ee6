"""Who is listened to, who is told that it is not, and who takes such a notice to heart."""

from __future__ import annotations

import pytest

from vaultdb.clock import NS_PER_S
from vaultdb.consensus.admission import Admission, Reason, Standing
from vaultdb.consensus.members import UNFORMED, Member, Roster, incarnation_text
from vaultdb.consensus.peer_format import Admin, Floor, Forward, Hello, Item, Notice, Sender
from vaultdb.consensus.promises import PromiseTable
from vaultdb.raft.membership import NOBODY_YET, Membership
from vaultdb.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndex,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)

CLUSTER = "ab" * 16
MEMBERS = Membership((0, 1, 2), learners=(3,))
INDEX = 40
LIFE = 77


def sender(
    src: int, *, disk: int = 0, life: int = LIFE, start: tuple[int, int] = (5, 50), cluster: str = CLUSTER
) -> Sender:
    """Of node `src`; its disk has the incarnation 100 + src unless another is named."""
    return Sender("local", cluster, src, disk or 100 + src, life, *start)


def roster(*, retired: tuple[int, ...] = (), unbound: tuple[int, ...] = ()) -> Roster:
    members = {
        n: Member(f"node{n}", "h", 10 + n, 20 + n, 30 + n, "" if n in unbound else incarnation_text(100 + n))
        for n in MEMBERS.nodes
    }
    return Roster(CLUSTER, 5, members, tuple(map(incarnation_text, retired)))


def admission(
    known: Roster | None = None, membership: Membership = MEMBERS, promises: PromiseTable | None = None
) -> Admission:
    """Node 0's."""
    made = Admission(sender(0, cluster=""), promises or PromiseTable())
    made.membership_changed(membership, INDEX, roster() if known is None else known)
    return made


ASSERTIONS: list[Item] = [
    AppendResponse(1, 0, 5, True, 50, 0, 0),
    VoteResponse(1, 0, 5, True, False),
    HeartbeatResponse(1, 0, 5, 1, 0),
    ReadIndex(1, 0, 5, 1),
    Forward(5, []),
    Floor(5, 1),
    Admin(1, "change", [], False),
    Notice(LIFE, 41, Reason.WIPED, ""),
]
REQUESTS: list[Item] = [
    VoteRequest(1, 0, 5, 50, 5, False, False),
    Append(1, 0, 5, 0, 0, 0, []),
    Heartbeat(1, 0, 5, 0, 0, 0),
]


def heard(made: Admission, who: Sender, items: list[Item]) -> list[type[Item]]:
    standing = made.standing(who)
    return [type(item) for item in items if made.counts(standing, item)]


def types(items: list[Item]) -> list[type[Item]]:
    return [type(item) for item in items]


def test_a_member_with_the_disk_that_it_is_known_by_is_heard_in_everything() -> None:
    made = admission()
    assert heard(made, sender(1), ASSERTIONS + REQUESTS) == types(ASSERTIONS + REQUESTS)
    assert made.objection(sender(1), 0, is_committed=True) is None


def test_c23_a_member_with_another_disk_may_ask_and_lead_but_asserts_nothing() -> None:
    """It may have been admitted anew by a membership that this node does not know yet, and then it may even lead.

    Planted bug: comparing ids alone; the vote of a wiped disk makes a leader that lacks what the disk had.
    """
    made = admission()
    wiped = sender(1, disk=999)
    assert heard(made, wiped, ASSERTIONS) == []
    assert heard(made, wiped, REQUESTS) == types(REQUESTS)
    assert made.dropped_total == len(ASSERTIONS)
    notice = made.objection(wiped, 0, is_committed=True)
    assert notice is not None
    assert (notice.life, notice.index, notice.reason) == (LIFE, INDEX, Reason.WIPED)


def test_c24_nothing_of_an_old_copy_counts_not_even_its_candidacy() -> None:
    """It may have forgotten a vote, and would count itself for the same term again."""
    promises = PromiseTable()
    promises.note(101, LIFE, 5, 60)
    made = admission(promises=promises)
    old = sender(1, life=LIFE + 1)
    assert heard(made, old, [*ASSERTIONS, *REQUESTS]) == []
    assert heard(made, old, [Hello("h", 1)]) == [Hello]
    assert heard(made, sender(1), ASSERTIONS) == types(ASSERTIONS)


def test_a_removed_disk_is_not_heard_but_answered() -> None:
    made = admission(roster(retired=(104,)))
    removed = sender(4)
    assert heard(made, removed, ASSERTIONS + REQUESTS) == []
    notice = made.objection(removed, 0, is_committed=True)
    assert notice is not None
    assert "not a member of the cluster any more" in notice.sentence


def test_a_node_that_came_later_than_this_log_may_ask_and_lead() -> None:
    """Catalogue row 22. Planted bug: hearing members only; a follower that lags is lost once a new member leads."""
    made = admission()
    newer = sender(5)
    assert heard(made, newer, ASSERTIONS + REQUESTS) == types(REQUESTS)
    assert made.objection(newer, 0, is_committed=True) is None


def test_another_clusters_frames_mean_nothing_and_are_not_answered() -> None:
    made = admission()
    foreign = sender(1, cluster="cd" * 16)
    assert heard(made, foreign, [*ASSERTIONS, *REQUESTS, Hello("h", 1)]) == []
    assert made.objection(foreign, 0, is_committed=True) is None


def test_who_has_not_been_told_the_clusters_id_yet_is_judged_by_its_disk() -> None:
    made = admission()
    assert made.standing(sender(1, cluster="")) is Standing.MEMBER
    assert made.standing(sender(1, cluster="", disk=999)) is Standing.OUTCAST


@pytest.mark.parametrize("known", [UNFORMED, roster()])
def test_a_stranger_without_a_cluster_may_not_even_ask(known: Roster) -> None:
    """It cannot lead here, and its log is another one. Planted bug: hearing it; "two leaders" ends this process."""
    assert heard(admission(known), sender(7, cluster=""), ASSERTIONS + REQUESTS) == []


@pytest.mark.parametrize("membership", [NOBODY_YET, MEMBERS])
def test_before_the_cluster_is_formed_everybody_who_could_belong_is_heard(membership: Membership) -> None:
    made = admission(UNFORMED, membership)
    assert made.standing(sender(1)) is Standing.MEMBER


def test_a_member_that_is_not_bound_yet_is_heard_and_remembered_for_the_binding() -> None:
    made = admission(roster(unbound=(1,)))
    assert made.standing(sender(1, disk=999)) is Standing.MEMBER
    assert made.heard == {0: incarnation_text(100), 1: incarnation_text(999)}


def test_a_membership_changes_the_judgement_of_the_same_sender() -> None:
    """Planted bug: keeping what was judged by the membership before."""
    made = admission(roster(unbound=(1,)))
    assert made.standing(sender(1, disk=999)) is Standing.MEMBER
    made.membership_changed(MEMBERS, INDEX + 1, roster())
    assert made.standing(sender(1, disk=999)) is Standing.ASKER


def test_notices_are_sent_once_a_second_and_not_for_what_may_be_taken_back() -> None:
    made = admission()
    wiped = sender(1, disk=999)
    made.standing(wiped)
    assert made.objection(wiped, 0, is_committed=False) is None
    assert made.objection(wiped, NS_PER_S, is_committed=True) is not None
    assert made.objection(wiped, 2 * NS_PER_S - 1, is_committed=True) is None
    assert made.objection(wiped, 2 * NS_PER_S, is_committed=True) is not None


# What a node does that is told so.


def told(made: Admission, *, reason: Reason = Reason.WIPED, index: int = INDEX + 5, life: int = LIFE) -> Admission:
    made.on_notice(Notice(life, index, reason, "the sentence"))
    return made


def test_a_node_that_is_not_listened_to_neither_stands_nor_votes_but_follows() -> None:
    made = told(admission())
    assert made.is_silenced
    assert made.notice == "the sentence"
    both: list[Item] = [*REQUESTS, TimeoutNow(1, 0, 5, 50)]
    assert heard(made, sender(1), both) == [Append, Heartbeat]


def test_a_notice_to_a_predecessor_or_of_an_older_membership_says_nothing() -> None:
    """A follower that lags has not heard that this disk was admitted. Planted bug: believing any notice."""
    assert not told(admission(), life=LIFE - 1).is_silenced
    assert not told(admission(), index=INDEX).is_silenced
    assert told(admission(), index=INDEX, reason=Reason.OLD_COPY).is_silenced


def test_a_later_membership_that_knows_the_disk_well_ends_it() -> None:
    """Planted bug: silenced for ever."""
    made = told(admission())
    made.membership_changed(MEMBERS, INDEX + 5, roster())
    assert made.is_silenced
    made.membership_changed(MEMBERS, INDEX + 6, roster(unbound=(0,)))
    assert not made.is_silenced


def test_an_old_copy_stays_one_while_the_process_lives() -> None:
    made = told(admission(), reason=Reason.OLD_COPY)
    made.membership_changed(MEMBERS, INDEX + 6, roster())
    told(made, index=INDEX + 9)
    made.membership_changed(MEMBERS, INDEX + 10, roster())
    assert made.is_silenced


def test_a_node_that_its_own_log_removes_goes_on_until_that_is_said_to_be_committed() -> None:
    """Before, the others may need its log (thesis §4.2.2). Planted bug: silenced at once; where the entry is truncated
    it would stay so for ever.
    """
    made = admission()
    without_me = roster()._replace(retired=(incarnation_text(100),))
    made.membership_changed(Membership((1, 2)), INDEX + 1, without_me, roster())
    assert not made.is_silenced
    made.membership_changed(Membership((1, 2)), INDEX + 1, roster(), roster())  # the details follow later
    assert not made.is_silenced
    told(made, index=INDEX + 1, reason=Reason.REMOVED)
    assert made.is_silenced


def test_a_node_that_its_own_committed_log_removes_needs_nobody_to_tell_it() -> None:
    """After a restart perhaps nobody does. Planted bug: only a notice silences."""
    made = admission()
    made.membership_changed(Membership((1, 2)), INDEX + 1, roster()._replace(retired=(incarnation_text(100),)))
    assert made.is_silenced
    assert "not a member" in str(made.notice)


def test_an_old_copy_is_unmasked_by_a_promise_that_is_heard_of_later() -> None:
    """Planted bug: the judgement of its first frame stands."""
    table = PromiseTable()
    made = admission(promises=table)
    old = sender(1)
    assert made.standing(old) is Standing.MEMBER
    table.note(old.incarnation, old.life + 1, old.start_term + 1, 1)
    assert made.standing(old) is Standing.OUTCAST


def test_a_removal_that_was_taken_back_silences_nobody() -> None:
    made = admission()
    without_me = roster()._replace(retired=(incarnation_text(100),))
    made.membership_changed(Membership((1, 2)), INDEX + 1, without_me, roster())
    made.membership_changed(MEMBERS, INDEX, roster())
    assert not made.is_silenced
    told(made, index=INDEX, reason=Reason.REMOVED)
    assert not made.is_silenced


def test_a_node_finds_in_its_own_log_that_its_disk_is_another_one() -> None:
    """It could count a vote of its own that its former disk has given to somebody else."""
    made = admission()
    known = roster()
    other = known.members[0]._replace(incarnation=incarnation_text(999))
    made.membership_changed(MEMBERS, INDEX + 1, known._replace(members={**known.members, 0: other}))
    assert made.is_silenced


def test_invented_senders_take_no_memory() -> None:
    made = admission()
    for src in range(10_000):
        made.standing(sender(src))
        made.objection(sender(src), src, is_committed=True)
    assert len(made.heard) < 1_000
    assert made.standing(sender(1)) is Standing.MEMBER
