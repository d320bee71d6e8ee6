"""Progress: what a leader knows about one peer.

PROBE ── accepted ──► REPLICATE ── refused, lost, unreachable ──► PROBE
PROBE ── it needs what was cut off the log ──► SNAPSHOT ── accepted at or above the cut ──► REPLICATE
SNAPSHOT ── failed ──► PROBE
"""

from __future__ import annotations

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How entries are sent."""

    PROBE = "probe"
    """The peer's log is not known to match: one append at a time, until it is accepted."""
    REPLICATE = "replicate"
    """It matches: appends are sent ahead of their acknowledgements, within the window."""
    SNAPSHOT = "snapshot"
    """It needs entries that the log no longer has: nothing is sent until it has taken a snapshot."""


class Progress:
    """Invariant: match < next. Only in REPLICATE anything is counted as in flight.

    match_index       durable at the peer, and equal to the leader's log up to it; never goes back within a term
    next_index        the next entry to send; runs ahead of match in REPLICATE
    inflight_bytes    payload sent and not acknowledged
    commit_sent       the commit index that the peer knows once all messages sent have arrived
    active            heard since the last quorum check
    is_alive          heard since the last quorum check but one
    lease_us          the latest lease stamp that it has answered
    pending_snapshot  index of the snapshot that was sent to it; 0: none yet (SNAPSHOT)
    """

    __slots__ = (
        "_inflight",
        "_was_active",
        "active",
        "commit_sent",
        "inflight_bytes",
        "lease_us",
        "match_index",
        "next_index",
        "pending_snapshot",
        "probe_sent",
        "quiet_heartbeats",
        "state",
    )

    def __init__(self, next_index: int) -> None:
        self.state = ProgressState.PROBE
        self.match_index = 0
        self.next_index = next_index
        self.inflight_bytes = 0
        self.commit_sent = 0
        self.active = self._was_active = False
        self.lease_us = 0
        self.pending_snapshot = 0
        self.probe_sent = False
        self.quiet_heartbeats = 0
        """Heartbeats sent since the last acknowledgement, while appends are in flight."""
        self._inflight: deque[tuple[int, int]] = deque()
        """(last index, payload bytes) of every append in flight, in order."""

    @property
    def inflight_appends(self) -> int:
        return len(self._inflight)

    @property
    def is_alive(self) -> bool:
        return self.active or self._was_active

    def checked(self) -> None:
        """A quorum check has looked at `active`."""
        self._was_active, self.active = self.active, False

    def become_probe(self) -> None:
        """Start again right above what is known to match; what was in flight may be lost."""
        self.state = ProgressState.PROBE
        self.next_index = self.match_index + 1
        self.probe_sent = False
        self.pending_snapshot = 0
        self._inflight.clear()
        self.inflight_bytes = self.quiet_heartbeats = 0

    def become_replicate(self) -> None:
        self.become_probe()
        self.state = ProgressState.REPLICATE

    def become_snapshot(self) -> None:
        self.become_probe()
        self.state = ProgressState.SNAPSHOT

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append that ends at `last_index` is on its way (REPLICATE)."""
        self.next_index = last_index + 1
        self._inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes

    def acknowledged(self, index: int, base_index: int) -> bool:
        """The peer holds everything up to `index`; the leader's log begins after `base_index`. Returns whether match
        moved; late acknowledgements change nothing.
        """
        self.quiet_heartbeats = 0
        moved = index > self.match_index
        if moved:
            self.match_index = index
            self.next_index = max(self.next_index, index + 1)
        if self.state is ProgressState.PROBE:
            if index == self.match_index:
                self.become_replicate()
        elif self.state is ProgressState.SNAPSHOT and self.match_index >= base_index:
            self.become_replicate()
        while self._inflight and self._inflight[0][0] <= index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        return moved

    def is_stale_refusal(self, index: int) -> bool:
        """Whether a refusal of an append after `index` answers something older than what is known now."""
        if self.state is ProgressState.SNAPSHOT:
            return True
        if self.state is ProgressState.REPLICATE:
            return index <= self.match_index
        return index != self.next_index - 1
