"""Log replication (paper §5.3, §5.4.2): the leader's side as `Replication`, the follower's as `accept_append`.

Snapshots will be sent by `Replication.appends` where a follower is `behind`; learners will be progress entries that
count in no quorum; in a joint configuration `maybe_commit` and `hears_quorum` ask both voter sets.
"""

from __future__ import annotations

from vaultdb.errors import BrokenInvariant
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import (
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    NodeId,
)
from vaultdb.raft.progress import Progress, ProgressState
from vaultdb.raft.quorum import committed_index, majority
from vaultdb.raft.state import RaftConfig

QUIET_HEARTBEATS_MAX = 3
"""Appends in flight count as lost when the follower answers heartbeats, but acknowledged nothing while this many were
sent.
"""


class Replication:
    """One leader's term: who holds what, and what to send next.

    Owns the progress of every peer and the two clocks of a leader: heartbeats, and CheckQuorum, which looks every
    `election_ticks_min` ticks whether a majority was heard since the last look. So a leader that lost its quorum steps
    down between one and two times `election_ticks_min` after it was last heard.
    """

    def __init__(self, config: RaftConfig, term: int, log: RaftLog) -> None:
        """Begins the term with its no-op entry, without which nothing older can be committed (§5.4.2, §8)."""
        self._config = config
        self._term = term
        self._log = log
        self.progress = {peer: Progress(log.last_index + 1) for peer in config.voters if peer != config.id}
        self.first_index = log.last_index + 1
        """The first entry of this term."""
        self._heartbeat_elapsed = 0
        self._check_elapsed = 0
        log.append([Entry(term, self.first_index, EntryKind.NOOP, b"")])

    # Time.

    @property
    def ticks_left(self) -> int:
        """Ticks until `heartbeat_due` or `check_due` next says yes."""
        heartbeat = self._config.heartbeat_ticks - self._heartbeat_elapsed
        return max(1, min(heartbeat, self._config.election_ticks_min - self._check_elapsed))

    def tick(self) -> None:
        self._heartbeat_elapsed += 1
        self._check_elapsed += 1

    def heartbeat_due(self) -> bool:
        if self._heartbeat_elapsed < self._config.heartbeat_ticks:
            return False
        self._heartbeat_elapsed = 0
        for progress in self.progress.values():
            progress.quiet_heartbeats += progress.inflight_appends > 0
        return True

    def check_due(self) -> bool:
        if self._check_elapsed < self._config.election_ticks_min:
            return False
        self._check_elapsed = 0
        return True

    def hears_quorum(self) -> bool:
        """Whether a majority, this node included, was heard since the last call."""
        heard = 1 + sum(progress.active for progress in self.progress.values())
        for progress in self.progress.values():
            progress.active = False
        return heard >= majority(len(self._config.voters))

    # What to send.

    @property
    def has_work(self) -> bool:
        return any(self._wants(progress) for progress in self.progress.values())

    def heartbeats(self, read_round: int) -> list[Heartbeat]:
        """The commit index never exceeds what the follower is known to match: what lies above may conflict there."""
        commit = self._log.commit_index
        return [
            Heartbeat(self._config.id, peer, self._term, min(progress.match_index, commit), read_round)
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
        if progress.state is ProgressState.PROBE:
            return not progress.probe_sent
        if progress.next_index <= self._log.last_index:
            return self._window_open(progress)
        return progress.commit_sent < self._log.commit_index

    def _window_open(self, progress: Progress) -> bool:
        return (
            progress.inflight_bytes < self._config.inflight_bytes_max
            and progress.inflight_appends < self._config.inflight_appends_max
        )

    def _next_append(self, peer: NodeId, progress: Progress, batches: dict[int, tuple[list[Entry], int]]) -> Append:
        log = self._log
        if progress.next_index <= log.base_index:
            self._meet_cut(progress)
        previous = progress.next_index - 1
        if progress.behind:
            entries, size_bytes = list[Entry](), 0
        elif progress.next_index in batches:
            entries, size_bytes = batches[progress.next_index]
        else:
            entries, size_bytes = log.slice(progress.next_index, log.last_index, self._config.append_bytes_max)
            batches[progress.next_index] = entries, size_bytes
        last = previous + len(entries)
        if progress.state is ProgressState.PROBE:
            progress.probe_sent = True
        elif entries:
            progress.sent(last, size_bytes)
        progress.commit_sent = min(log.commit_index, last)
        return Append(self._config.id, peer, self._term, previous, log.term(previous), log.commit_index, entries)

    def _meet_cut(self, progress: Progress) -> None:
        """The next entry was cut off. The follower may hold it all the same: ask, without entries, where the log
        begins.
        """
        progress.become_probe()
        progress.next_index = self._log.base_index + 1
        progress.behind = True

    # What comes back.

    def accepted(self, response: AppendResponse) -> None:
        progress = self.progress[response.src]
        progress.active = True
        if response.index <= self._log.last_index and progress.acknowledged(response.index):
            self.maybe_commit()

    def refused(self, response: AppendResponse) -> None:
        """Step back: to what is known to match if appends were sent ahead, else past all entries that cannot match."""
        progress, log = self.progress[response.src], self._log
        progress.active = True
        if progress.is_stale_refusal(response.index):
            return
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
            return
        lowest = max(progress.match_index, log.base_index)
        hint = min(response.hint_index, response.index - 1, log.last_index)
        candidate = log.last_at_most(response.hint_term, lowest, hint) if hint > lowest else hint
        refused_next, progress.next_index = progress.next_index, max(candidate, lowest) + 1
        progress.behind = candidate < log.base_index
        # Where no step back is left, asking again waits for the next heartbeat.
        progress.probe_sent = progress.next_index >= refused_next

    def heartbeat_answered(self, peer: NodeId) -> None:
        """The peer is alive. Appends that it should have answered by now were lost: send them again."""
        progress = self.progress[peer]
        progress.active = True
        if progress.state is ProgressState.PROBE:
            progress.probe_sent = False
        elif progress.quiet_heartbeats >= QUIET_HEARTBEATS_MAX:
            progress.become_probe()

    def unreachable(self, peer: NodeId) -> None:
        if peer in self.progress:
            self.progress[peer].become_probe()

    # Commit.

    def maybe_commit(self) -> None:
        """Commit what a majority holds durably, if it is of this term; older entries go with it (§5.4.2, figure 8)."""
        matched = [progress.match_index for progress in self.progress.values()]
        index = committed_index([self._log.stable_index, *matched])
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
