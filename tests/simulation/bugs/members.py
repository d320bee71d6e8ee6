"""Membership and snapshots."""

from __future__ import annotations

from typing import Any

from tests.simulation.bugs.planting import FOLLOWERS, LOST, Patches, bug
from vaultdb.consensus.admission import Admission, Reason, Standing, _Judgement
from vaultdb.consensus.peer_format import Sender
from vaultdb.consensus.promises import PromiseTable
from vaultdb.errors import ChangeRefused
from vaultdb.raft import changes, membership
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import (
    AppendResponse,
    InstallSnapshot,
)
from vaultdb.raft.protocol import HANDLERS, Protocol
from vaultdb.raft.quorum import committed_index, majority
from vaultdb.raft.replication import Replication
from vaultdb.raft.state import Snapshot


@bug(20, seeds=500, symptom="has two leaders|" + LOST)
def two_voters_change_without_a_joint_membership(patches: Patches) -> None:
    def target(current: Membership, wanted: Any, context: str | None, *, joint: bool | None) -> Membership:  # noqa: ARG001
        changed = membership.leave_joint(membership.enter_joint(current, wanted)) if wanted else current
        return changed if context is None else changed._replace(context=context)

    patches.setattr(changes, "target", target)


@bug(20, seeds=1000, symptom="has two leaders|" + LOST)
def a_change_begins_before_the_terms_first_commit(patches: Patches) -> None:
    """The bug of the thesis' single-server changes."""

    def check_may_begin(_log: RaftLog, _replication: Replication) -> None:
        pass

    patches.setattr(changes, "check_may_begin", check_may_begin)


@bug(20, 25, seeds=1000, symptom="has two leaders|" + LOST)
def two_changes_are_under_way_at_once(patches: Patches) -> None:
    def check_may_begin(_log: RaftLog, replication: Replication) -> None:
        if not replication.has_term_commit:
            raise ChangeRefused("the leader has committed nothing in its term yet")

    patches.setattr(changes, "check_may_begin", check_may_begin)


@bug(21, seeds=200, symptom="is durable on|" + LOST)
def learners_count_towards_the_commit(patches: Patches) -> None:
    def maybe_commit(self: Replication) -> None:
        held = self._log.membership
        matched = {peer: progress.match_index for peer, progress in self.progress.items()}
        matched[self._config.id] = self._log.stable_index
        everybody = sorted((matched.get(node, 0) for node in held.nodes), reverse=True)
        index = min(everybody[majority(len(held.voters)) - 1], committed_index(held.outgoing, matched))
        if index >= self.first_index:
            self._log.commit_to(index)

    patches.setattr(Replication, "maybe_commit", maybe_commit)


@bug(19, seeds=500, symptom="is durable on|" + LOST)
def a_leader_counts_itself_after_removing_itself(patches: Patches) -> None:
    def maybe_commit(self: Replication) -> None:
        me, log = self._config.id, self._log
        matched = {peer: progress.match_index for peer, progress in self.progress.items()}
        matched[me] = log.stable_index
        index = min(
            sorted((matched.get(node, 0) for node in {*voters, me}), reverse=True)[majority(len(voters)) - 1]
            for voters in log.membership.voter_sets
            if voters
        )
        if index >= self.first_index:
            log.commit_to(index)

    patches.setattr(Replication, "maybe_commit", maybe_commit)


@bug(23, seeds=1000, symptom="has two leaders|" + LOST)
def a_wiped_disk_is_trusted(patches: Patches) -> None:
    original = Admission._judge

    def judge(self: Admission, sender: Sender) -> _Judgement:
        judged = original(self, sender)
        return judged._replace(standing=Standing.MEMBER, reason=None) if judged.reason is Reason.WIPED else judged

    patches.setattr(Admission, "_judge", judge)


@bug(24, seeds=1000, symptom="has two leaders|" + LOST)
def an_old_copy_is_trusted(patches: Patches) -> None:
    def is_broken_by(_table: PromiseTable, _sender: Sender) -> bool:
        return False

    patches.setattr(PromiseTable, "is_broken_by", is_broken_by)


@bug(26, seeds=200, symptom="moved its|" + LOST)
def a_late_snapshot_takes_the_commit_back(patches: Patches) -> None:
    original = RaftLog.restore

    def restore(self: RaftLog, snapshot: Snapshot) -> None:
        self.commit_index = min(self.commit_index, snapshot.index - 1)
        original(self, snapshot)

    def on_install_snapshot(self: Protocol, message: InstallSnapshot) -> None:
        self._follow(message.src)
        held = membership.decode(message.membership)
        self.log.restore(Snapshot(message.index, message.index_term, held))
        answer = AppendResponse(self.id, message.src, self.term, True, self.log.commit_index, 0, 0)
        self.after_sync.append(answer)

    patches.setattr(RaftLog, "restore", restore)
    for role in FOLLOWERS:
        patches.setitem(HANDLERS[role], InstallSnapshot, on_install_snapshot)


@bug(27, seeds=500, symptom="takes .* for durable|" + LOST)
def a_snapshot_confirms_a_conflicting_log(patches: Patches) -> None:
    """A follower believes that its log holds an index, whatever the term there."""
    original = Protocol.on_install_snapshot

    def on_install_snapshot(self: Protocol, message: InstallSnapshot) -> None:
        if self.log.commit_index < message.index <= self.log.last_index:
            message = message._replace(index_term=self.log.term(message.index))
        original(self, message)

    for role in FOLLOWERS:
        patches.setitem(HANDLERS[role], InstallSnapshot, on_install_snapshot)
