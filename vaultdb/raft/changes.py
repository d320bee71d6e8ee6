"""When a leader may change the membership, and to what (thesis §4.1-§4.3, and its erratum on single-server changes)."""

from __future__ import annotations

from collections.abc import Sequence

from vaultdb.errors import ChangeNotYet, ChangeRefused
from vaultdb.raft import membership
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Change, Membership
from vaultdb.raft.messages import NodeId
from vaultdb.raft.progress import ProgressState
from vaultdb.raft.quorum import has_quorum
from vaultdb.raft.replication import Replication


def check_may_begin(log: RaftLog, replication: Replication) -> None:
    """One change at a time, and none before the leader has committed in its term: without that, two leaders could each
    change the membership that the other did not know, and have majorities that do not meet. Raises ChangeRefused.
    """
    if not replication.has_term_commit:
        raise ChangeNotYet("the leader has committed nothing in its term yet; try again")
    if log.membership_index > log.commit_index:
        raise ChangeNotYet(f"the change at index {log.membership_index} is not committed yet")


def target(current: Membership, changes: Sequence[Change], context: str | None, *, joint: bool | None) -> Membership:
    """The membership to append: a joint one where more than one voter changes, or where `joint` asks for it. Raises
    ChangeRefused.
    """
    if joint is None:
        joint = membership.voters_changed(current, changes) > 1
    changed = membership.enter_joint(current, changes) if joint else membership.simple(current, changes)
    return changed if context is None else changed._replace(context=context)


def check_safe(wanted: Membership, log: RaftLog, replication: Replication, lag_max: int) -> None:
    """Raises ChangeRefused for a new voter that has not caught up (§4.2.1), and where what would have to agree is not
    heard: the change could not be committed, nor anything after it.
    """
    current = log.membership
    for node in wanted.voters:
        if not current.is_voter(node):
            _check_caught_up(node, log, replication, lag_max)
    if not has_quorum(wanted.voter_sets, replication.alive):
        heard = sorted(replication.alive & {*wanted.voters})
        raise ChangeNotYet(f"of the voters {list(wanted.voters)} only {heard} are heard: there would be no quorum")


def _check_caught_up(node: NodeId, log: RaftLog, replication: Replication, lag_max: int) -> None:
    progress = replication.progress.get(node)
    if progress is None:
        raise ChangeRefused(f"node {node} is no learner; a new voter must have caught up as a learner first")
    if not progress.is_alive:
        raise ChangeNotYet(f"node {node} is not heard")
    lag = log.last_index - progress.match_index
    knows_itself = progress.match_index >= log.membership_index
    if progress.state is not ProgressState.REPLICATE or lag > lag_max or not knows_itself:
        raise ChangeNotYet(f"node {node} has not caught up: it lacks {lag} entries")
