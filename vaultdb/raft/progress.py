"""Progress: what a leader knows about one follower."""

from __future__ import annotations

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How entries are sent. The next state to come is SNAPSHOT, entered where `behind` is set now."""

    PROBE = "probe"
    """The follower's log is not known to match: one append at a time, until it is accepted."""
    REPLICATE = "replicate"
    """It matches: appends are sent ahead of their acknowledgements, within the window."""


class Progress:
    """Invariant: match < next. In PROBE nothing is counted as in flight.

    match_index     durable at the follower, and equal to the leader's log up to it; never goes back within a term
    next_index      the next entry to send; runs ahead of match in REPLICATE
    inflight_bytes  payload sent and not acknowledged
    commit_sent     the commit index that the follower knows once all messages sent have arrived
    active          heard since the last quorum check
    behind          it needs entries that the leader's log no longer has
    """

    __slots__ = (
        "_inflight",
        "active",
        "behind",
        "commit_sent",
        "inflight_bytes",
        "match_index",
        "next_index",
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
        self.active = False
        self.behind = False
        self.probe_sent = False
        self.quiet_heartbeats = 0
        """Heartbeats sent since the last acknowledgement, while appends are in flight."""
        self._inflight: deque[tuple[int, int]] = deque()
        """(last index, payload bytes) of every append in flight, in order."""

    @property
    def inflight_appends(self) -> int:
        return len(self._inflight)

    def become_probe(self) -> None:
        """Start again right above what is known to match; what was in flight may be lost."""
        self.state = ProgressState.PROBE
        self.next_index = self.match_index + 1
        self.probe_sent = False
        self._inflight.clear()
        self.inflight_bytes = self.quiet_heartbeats = 0

    def become_replicate(self) -> None:
        self.become_probe()
        self.state = ProgressState.REPLICATE

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append that ends at `last_index` is on its way (REPLICATE)."""
        self.next_index = last_index + 1
        self._inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes

    def acknowledged(self, index: int) -> bool:
        """The follower holds everything up to `index`. Returns whether match moved; late acknowledgements change
        nothing.
        """
        self.quiet_heartbeats = 0
        self.behind = False
        moved = index > self.match_index
        if moved:
            self.match_index = index
            self.next_index = max(self.next_index, index + 1)
        if self.state is ProgressState.PROBE and index == self.match_index:
            self.become_replicate()
        while self._inflight and self._inflight[0][0] <= index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        return moved

    def is_stale_refusal(self, index: int) -> bool:
        """Whether a refusal of an append after `index` answers something older than what is known now."""
        if self.state is ProgressState.REPLICATE:
            return index <= self.match_index
        return index != self.next_index - 1
