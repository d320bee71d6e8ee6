"""What goes into a RaftNode and what comes out of it: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from vaultdb import limits
from vaultdb.raft.messages import Entry, Message, NodeId


class Role(Enum):
    """A node's part (paper §5.1); PRE_CANDIDATE is the thesis' §9.6."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class HardState(NamedTuple):
    """What must survive a crash (paper figure 2). `commit` may lag: it is written along, never waited for."""

    term: int
    vote: NodeId
    commit: int


class SoftState(NamedTuple):
    """For status and for routing; needs no disk."""

    role: Role
    leader: NodeId
    term: int


class ReadState(NamedTuple):
    """A confirmed read: whatever has applied `index` may answer the reads of `context`."""

    context: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Fixed for the life of a node. Ticks are the driver's unit of time."""

    id: NodeId
    voters: tuple[NodeId, ...]
    heartbeat_ticks: int = 5
    election_ticks_min: int = 30
    election_ticks_max: int = 60
    """A timeout is drawn from [min, max) at every reset."""
    unreachable_ticks_max: int = 8
    """After `leader_unreachable` the pre-vote starts within [1, this] ticks."""
    append_bytes_max: int = limits.APPEND_BYTES_MAX
    inflight_bytes_max: int = limits.INFLIGHT_BYTES_MAX
    inflight_appends_max: int = limits.INFLIGHT_APPENDS_MAX
    uncommitted_bytes_max: int = limits.UNCOMMITTED_BYTES_MAX
    log_memory_bytes: int = 16 * limits.MIB
    """Durable, applied entries are dropped from memory, oldest first, above this; the LogReader has them."""
    pre_vote: bool = True


class LogReader(Protocol):
    """The durable log, as the core reads it. Owned by the driver.

    Serves (`base_index`, `last_index`]; the core asks only for what it has been told is durable (`restored`,
    `persisted`).
    """

    def term(self, index: int) -> int:
        """Term of the durable entry at `index`, base_index included."""
        ...

    def entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries [first, last] in order, at least one, cut off once the payloads exceed `bytes_max`."""
        ...


class RestoredState(NamedTuple):
    """What the disk held at start. The log is (base_index, last_index]; base is (0, 0) unless the log was cut."""

    hard_state: HardState
    base_index: int
    base_term: int
    last_index: int
    last_term: int


FRESH = RestoredState(HardState(0, -1, 0), 0, 0, 0, 0)
"""A node that has never run."""


@dataclass(slots=True)
class Ready:
    """What must be done now, in this order.

    1. `messages_now` may leave at once, before anything is durable.
    2. `hard_state` and `entries` go to the log, in one record. `entries` replace whatever the log holds from their
       first index on.
    3. When that is durable: `messages_after_sync` may leave, and `RaftNode.persisted(number)` is called. Writes of
       successive Readys may be in flight together, but complete in order; one sync may cover several. If `must_sync` is
       false nothing in this Ready needs the disk and step 3 may happen at once.
    4. Entries up to `commit_index` are committed *and durable here*: `RaftNode.entries` serves them to the state
       machine.
    5. `read_states` are confirmed reads.
    """

    number: int
    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    must_sync: bool = False
    messages_now: list[Message] = field(default_factory=list)
    messages_after_sync: list[Message] = field(default_factory=list)
    commit_index: int = 0
    read_states: list[ReadState] = field(default_factory=list)
    soft_state: SoftState | None = None
    """Set when it changed."""
