"""What the node answers, as plain values: made by the gateway, turned into responses by `responses`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

Fields = dict[str, Any]
"""What a process says of itself (STATUS_IS)."""


class WriteResult(NamedTuple):
    """A write that is done, or with `queued` one that stands in the leader's replication queue and has no
    revision yet.
    """

    revision: int
    """Of this command; the store's current one when the command changed nothing. 0 when queued."""
    keys: int
    """Written or deleted. 0 when queued."""
    queued: bool = False


class ReadResult(NamedTuple):
    """One key as storage had it at `applied_index`."""

    value: bytes | None
    """None: there is no such key."""
    value_revision: int
    """Of the command that wrote the value; 0 without a value."""
    applied_index: int
    revision: int
    """The store's, at `applied_index`."""


class Digest(NamedTuple):
    """The state hash of this node's storage. Equal indexes must have equal digests."""

    applied_index: int
    revision: int
    keys: int
    digest: str


class Siblings(NamedTuple):
    """What consensus and storage said of themselves; None for one that did not answer in time."""

    consensus: Fields | None
    storage: Fields | None


@dataclass(slots=True)
class Counters:
    """Counted by the api process. Plain integers, only touched in the event loop."""

    writes: int = 0
    reads: int = 0
    done: int = 0
    """HTTP requests answered below 400."""
    rejected: int = 0
    unknown: int = 0
    failed: int = 0
    """Answered with 500: a fault of ours."""
    refused: int = 0
    """Refused by the HTTP parser or its limits, before any route."""
    resent: int = 0
    """Questions asked again after a sibling process went away or fell silent."""
    stray: int = 0
    """Messages for a former incarnation, or for a request that had been answered."""

    def count(self, status: int) -> None:
        if status < 400:
            self.done += 1
        elif status == 504:
            self.unknown += 1
        elif status == 500:
            self.failed += 1
        else:
            self.rejected += 1
