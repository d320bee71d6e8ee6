"""Log replication (paper §5.3, §5.4.2): the leader's side as `Replication`, the follower's as `accept_append`."""

from __future__ import annotations

from vaultdb.errors import BrokenInvariant
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import encode
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    InstallSnapshot,
    NodeId,
)
from vaultdb.raft.progress import Progress, ProgressState
from vaultdb.raft.quorum import UNLIMITED, has_quorum, joint_committed_index
from vaultdb.raft.state import RaftConfig

QUIET_HEARTBEATS_MAX = 3
"""Appends in flight count as lost when the follower answers heartbeats, but acknowledged nothing while this many were
sent.
"""


class Replication:
    """One leader's term: who holds what, and what to send next.

    Owns the progress of every peer and the two clocks of a leader: heartbeats, and CheckQuorum, which looks every
    `election_ticks_min` ticks whether a quorum was heard since the last look. So a leader that lost its quorum steps
    down between one and two times `election_ticks_min` after it was last heard. Quorums are those of the log's newest
    membership; the leader counts only where it is a voter (thesis §4.2.2).
    """

    def __init__(self, config: RaftConfig, term: int, log: RaftLog) -> None:
        """Begins the term with its no-op entry, without which nothing older can be committed (§5.4.2, §8)."""
        self._config = config
        self._term = term
        self._log = log
        self.progress: dict[NodeId, Progress] = {}
        self.first_index = log.last_index + 1
        """The first entry of this term."""
        self._heartbeat_elapsed = 0
        self._quiet_elapsed = 0
        self._check_elapsed = 0
        self.is_leasing = False
        """Leases are in use: heartbeats come often enough to renew them."""
        self.snapshots_wanted: list[NodeId] = []
        self.membership_changed()
        log.append([Entry(term, self.first_index, EntryKind.NOOP, b"")])

    # Members.

    def membership_changed(self) -> None:
        """The log has a new membership. Who is not in it any more gets the log until that is committed: to be told."""
        membership = self._log.membership
        self._voter_sets = tuple(voters for voters in membership.voter_sets if voters)
        for node in membership.nodes:
            if node != self._config.id and node not in self.progress:
                self.progress[node] = Progress(self._log.last_index + 1)
        self.is_unsettled = True
        """Something is to be done once the membership is committed."""

    def settle(self) -> None:
        """The membership is committed, simple, and everybody was sent that: forget those who are out."""
        for node in self.progress.keys() - self._log.membership.nodes:
            del self.progress[node]
        self.is_unsettled = False

    @property
    def has_term_commit(self) -> bool:
        """An entry of this term is committed: only then the commit index is known to be up to date (thesis §6.4)."""
        return self._log.commit_index >= self.first_index

    @property
    def alive(self) -> set[NodeId]:
        """Who was heard lately, this node included."""
        return {self._config.id, *(peer for peer, progress in self.progress.items() if progress.is_alive)}

    def best_voter(self) -> NodeId:
        """Whom to hand over to: of the voters that are heard, the one with the longest log. NOBODY if there is none."""
        candidates = [
            (progress.match_index, -peer)
            for peer, progress in self.progress.items()
            if progress.is_alive and peer in self._log.membership.voters
        ]
        return -max(candidates)[1] if candidates else NOBODY

    # Time.

    @property
    def ticks_left(self) -> int:
        """Ticks until `heartbeat_due` or `check_due` next says yes."""
        heartbeat = self._heartbeat_ticks - self._heartbeat_elapsed
        return max(1, min(heartbeat, self._config.election_ticks_min - self._check_elapsed))

    def tick(self) -> None:
        self._heartbeat_elapsed += 1
        self._quiet_elapsed += 1
        self._check_elapsed += 1

    @property
    def _heartbeat_ticks(self) -> int:
        return self._config.lease_heartbeat_ticks if self.is_leasing else self._config.heartbeat_ticks

    def heartbeat_due(self) -> bool:
        if self._heartbeat_elapsed < self._heartbeat_ticks:
            return False
        self._heartbeat_elapsed = 0
        if self._quiet_elapsed >= self._config.heartbeat_ticks:
            self._quiet_elapsed = 0
            for progress in self.progress.values():
                progress.quiet_heartbeats += progress.inflight_appends > 0
        return True

    def check_due(self) -> bool:
        if self._check_elapsed < self._config.election_ticks_min:
            return False
        self._check_elapsed = 0
        return True

    def hears_quorum(self) -> bool:
        """Whether a quorum, this node included, was heard since the last call."""
        heard = {self._config.id, *(peer for peer, progress in self.progress.items() if progress.active)}
        for progress in self.progress.values():
            progress.checked()
        return has_quorum(self._voter_sets, heard)

    def promised_us(self) -> int:
        """The latest time such that a quorum answered a lease request sent then or later; 0 if none did."""
        stamps = {peer: progress.lease_us for peer, progress in self.progress.items()}
        stamps[self._config.id] = UNLIMITED
        return joint_committed_index(self._voter_sets, stamps)

    # What to send.

    @property
    def has_work(self) -> bool:
        return any(self._wants(progress) for progress in self.progress.values())

    def heartbeats(self, read_round: int, lease_us: int) -> list[Heartbeat]:
        """The commit index never exceeds what the follower is known to match: what lies above may conflict there."""
        commit = self._log.commit_index
        return [
            Heartbeat(self._config.id, peer, self._term, min(progress.match_index, commit), read_round, lease_us)
            for peer, progress in self.progress.items()
        ]

    def appends(self) -> list[Append]:
        """Everything that the windows allow now. Peers that are at the same position get the same list of entries."""
        messages: list[Append] = []
        batches: dict[int, tuple[list[Entry], int]] = {}
        for peer, progress in self.progress.items():
            while self._wants(progress):
                messages.append(self._next_append(peer, progress, batches))
        return messages

    def _wants(self, progress: Progress) -> bool:
        if progress.state is ProgressState.REPLICATE:
            if progress.next_index <= self._log.last_index:
                return self._window_open(progress)
            return progress.commit_sent < self._log.commit_index
        if progress.state is ProgressState.PROBE:
            return not progress.probe_sent
        return progress.pending_snapshot > 0 and not progress.probe_sent

    def _window_open(self, progress: Progress) -> bool:
        return (
            progress.inflight_bytes < self._config.inflight_bytes_max
            and progress.inflight_appends < self._config.inflight_appends_max
        )

    def _next_append(self, peer: NodeId, progress: Progress, batches: dict[int, tuple[list[Entry], int]]) -> Append:
        log = self._log
        entries, size_bytes = list[Entry](), 0
        if progress.state is ProgressState.SNAPSHOT:
            progress.next_index = log.base_index + 1  # does it hold that by now?
        elif progress.next_index <= log.base_index:
            # The next entry was cut off. The peer may hold it all the same: ask, without entries, where the log begins.
            progress.become_probe()
            progress.next_index = log.base_index + 1
        elif progress.next_index in batches:
            entries, size_bytes = batches[progress.next_index]
        else:
            entries, size_bytes = log.slice(progress.next_index, log.last_index, self._config.append_bytes_max)
            batches[progress.next_index] = entries, size_bytes
        previous = progress.next_index - 1
        last = previous + len(entries)
        if progress.state is not ProgressState.REPLICATE:
            progress.probe_sent = True
        elif entries:
            progress.sent(last, size_bytes)
        progress.commit_sent = min(log.commit_index, last)
        return Append(self._config.id, peer, self._term, previous, log.term(previous), log.commit_index, entries)

    # Snapshots. The state itself travels apart from the core.

    def send_snapshot(self, peer: NodeId, index: int) -> list[InstallSnapshot]:
        """The driver has a state of `index` for `peer`. Nothing, if the peer needs none any more."""
        progress, log = self.progress.get(peer), self._log
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return []
        decided = max(log.commit_index, log.applied_index)
        if not log.base_index <= index <= decided:
            raise BrokenInvariant(f"a snapshot of {index} offered; the log has ({log.base_index}, {decided}]")
        progress.pending_snapshot = index
        progress.probe_sent = True
        held = encode(log.membership_at(index))
        return [InstallSnapshot(self._config.id, peer, self._term, index, log.term(index), held)]

    def snapshot_failed(self, peer: NodeId) -> None:
        """The next heartbeat's answer begins it anew."""
        progress = self.progress.get(peer)
        if progress is not None and progress.state is ProgressState.SNAPSHOT:
            progress.become_probe()
            progress.probe_sent = True

    # What comes back. From a peer that is no member any more, nothing counts.

    def accepted(self, response: AppendResponse) -> None:
        progress = self.progress.get(response.src)
        if progress is None:
            return
        progress.active = True
        if response.index <= self._log.last_index and progress.acknowledged(response.index, self._log.base_index):
            self.maybe_commit()

    def refused(self, response: AppendResponse) -> None:
        """Step back: to what is known to match if appends were sent ahead, else past all entries that cannot match."""
        progress, log = self.progress.get(response.src), self._log
        if progress is None:
            return
        progress.active = True
        if progress.is_stale_refusal(response.index):
            return
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
            return
        lowest = max(progress.match_index, log.base_index)
        hint = min(response.hint_index, response.index - 1, log.last_index)
        if max(hint, progress.match_index) < log.base_index:
            progress.become_snapshot()
            self.snapshots_wanted.append(response.src)
            return
        candidate = log.last_at_most(response.hint_term, lowest, hint) if hint > lowest else hint
        refused_next, progress.next_index = progress.next_index, max(candidate, lowest) + 1
        # Where no step back is left, asking again waits for the next heartbeat.
        progress.probe_sent = progress.next_index >= refused_next

    def heartbeat_answered(self, peer: NodeId, lease_us: int) -> None:
        """The peer is alive. Appends that it should have answered by now were lost: send them again. The answer to a
        snapshot may have been lost too: ask whether it holds the log's beginning.
        """
        progress = self.progress.get(peer)
        if progress is None:
            return
        progress.active = True
        progress.lease_us = max(progress.lease_us, lease_us)
        if progress.state is ProgressState.SNAPSHOT and 0 < progress.pending_snapshot < self._log.base_index:
            progress.become_probe()  # what it was sent does not reach the log any more
        elif progress.state is not ProgressState.REPLICATE:
            progress.probe_sent = False
        elif progress.quiet_heartbeats >= QUIET_HEARTBEATS_MAX:
            progress.become_probe()

    def unreachable(self, peer: NodeId) -> None:
        """What was on the way to it may be lost, a snapshot that it had received and not installed yet included."""
        progress = self.progress.get(peer)
        if progress is not None and (progress.state is not ProgressState.SNAPSHOT or progress.pending_snapshot):
            progress.become_probe()

    # Commit.

    def maybe_commit(self) -> None:
        """Commit what a quorum holds durably, if it is of this term; older entries go with it (§5.4.2, figure 8)."""
        matched = {peer: progress.match_index for peer, progress in self.progress.items()}
        matched[self._config.id] = self._log.stable_index
        index = joint_committed_index(self._voter_sets, matched)
        if index >= self.first_index:
            self._log.commit_to(index)


def accept_append(log: RaftLog, append: Append) -> tuple[bool, int, int, int] | None:
    """Merge a current leader's append into a follower's log (paper figure 2, AppendEntries 2-5).

    Returns (accepted, index, hint_index, hint_term) for the answer, None for a malformed message. Accepted: the log
    equals the leader's up to `index`, durably once what is unwritten now has been written. Refused: the log is
    unchanged.

    Everything up to the commit index matches by Leader Completeness, so it is skipped: what was cut off needs no
    comparison, and a late append cannot touch it. BrokenInvariant if the message itself shows otherwise.
    """
    previous, entries, commit = append.prev_index, append.entries, log.commit_index
    if not _is_well_formed(append):
        return None
    if previous < commit:
        skipped = commit - previous
        if len(entries) >= skipped and entries[skipped - 1].term != log.term(commit):
            raise BrokenInvariant(
                f"leader {append.src} of term {append.term} has term {entries[skipped - 1].term} at {commit},"
                f" where term {log.term(commit)} is committed"
            )
        entries = entries[skipped:]
        previous = commit
    elif not log.matches(previous, append.prev_term):
        hint_index = log.last_at_most(append.prev_term, commit, min(previous, log.last_index))
        return False, previous, hint_index, log.term(hint_index)
    last = previous + len(entries)
    log.merge(entries)
    log.commit_to(min(append.commit, last))
    return True, last, 0, 0


def _is_well_formed(append: Append) -> bool:
    """Both ends hold that entries follow `prev_index` without a gap, in terms that grow from `prev_term` to at most the
    leader's.
    """
    entries = append.entries
    if append.prev_index < 0:
        return False
    if not entries:
        return True
    return (
        entries[0].index == append.prev_index + 1
        and entries[-1].index == append.prev_index + len(entries)
        and append.prev_term <= entries[0].term <= entries[-1].term <= append.term
    )
