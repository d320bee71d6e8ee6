"""What goes into a RaftNode and what comes out of it: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from vaultdb import limits
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import NOBODY, Entry, Message, NodeId


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
    heartbeat_ticks: int = 5
    election_ticks_min: int = 30
    election_ticks_max: int = 60
    """A timeout is drawn from [min, max) at every reset."""
    unreachable_ticks_max: int = 8
    """After `leader_unreachable` the pre-vote starts within [1, this] ticks; a lease promise must have run out."""
    lease_us: int = 0
    """A leader may answer reads for this long after it sent what a quorum has answered (thesis §6.4.1). 0: no leases.
    See `lease_us_max` for how long it may be.
    """
    append_bytes_max: int = limits.APPEND_BYTES_MAX
    inflight_bytes_max: int = limits.INFLIGHT_BYTES_MAX
    inflight_appends_max: int = limits.INFLIGHT_APPENDS_MAX
    uncommitted_bytes_max: int = limits.UNCOMMITTED_BYTES_MAX
    log_memory_bytes: int = 16 * limits.MIB
    """Durable, applied entries are dropped from memory, oldest first, above this; the LogReader has them."""
    promise_ticks: int | None = None
    """How long a lease promise binds a follower, at most `election_ticks_min`, which None stands for. Shorter, and a
    leader that dies is replaced sooner; but heartbeats come three times as often while leases are in use.
    """
    bound_at_start: bool = False
    """A former life may have given a lease promise, so none of this node's votes counts for `election_ticks_min` after
    a start. With `lease_us` that is so in any case; it must be so too where leases were just turned off.
    """
    pre_vote: bool = True
    """Off only to measure what it is good for."""
    promotion_lag_max: int = 64
    """A learner is caught up, and may become a voter, when it lacks at most this many entries."""

    @property
    def bound_ticks(self) -> int:
        return self.election_ticks_min if self.promise_ticks is None else self.promise_ticks

    @property
    def lease_heartbeat_ticks(self) -> int:
        return min(self.heartbeat_ticks, max(1, self.bound_ticks // 3))


CLOCK_DRIFT_PERCENT = 20
"""The clocks of two nodes run at rates that differ by at most this."""


def lease_us_max(promise_ticks: int, tick_us: int) -> int:
    """The longest safe lease. A follower's promise lasts `promise_ticks` of its own ticks, of which the first may be
    cut short, and its clock may run faster than the leader's.
    """
    return (promise_ticks - 1) * tick_us * (100 - CLOCK_DRIFT_PERCENT) // 100


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
    """What the disk held at start. The log is (base_index, last_index]; base is (0, 0) unless the log was cut.

    `memberships`: the one in force at the base, then every one that the log holds, as (index, membership), ascending.
    """

    hard_state: HardState
    base_index: int
    base_term: int
    last_index: int
    last_term: int
    memberships: tuple[tuple[int, Membership], ...]


def fresh(voters: tuple[NodeId, ...]) -> RestoredState:
    """A node that has never run, in a group that begins with `voters`."""
    return RestoredState(HardState(0, NOBODY, 0), 0, 0, 0, 0, ((0, Membership(voters)),))


class Snapshot(NamedTuple):
    """A position that a state machine's state stands for, and the membership in force there."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    term: int
    membership: Membership


@dataclass(slots=True)
class Ready:
    """What must be done now, in this order.

    1. `messages_now` may leave at once, before anything is durable.
    2. `snapshot`, `hard_state` and `entries` go to the disk, in this order, as one write. `snapshot`: the state of that
       index, which was received, takes the place of the state machine's, and the log is emptied and begins after it.
       `entries` replace whatever the log holds from their first index on.
    3. When that is durable: `messages_after_sync` may leave, and `RaftNode.persisted(number)` is called. Writes of
       successive Readys may be in flight together, but complete in order; one sync may cover several. If `must_sync` is
       false nothing in this Ready needs the disk and step 3 may happen at once.
    4. Entries up to `commit_index` are committed *and durable here*: `RaftNode.entries` serves them to the state
       machine.
    5. `read_states` are confirmed reads.
    6. `snapshots_wanted` names peers that need entries which the log no longer has. The driver answers each with
       `send_snapshot` once it has a state to send, or with `snapshot_failed`.
    """

    number: int
    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    snapshot: Snapshot | None = None
    must_sync: bool = False
    messages_now: list[Message] = field(default_factory=list)
    messages_after_sync: list[Message] = field(default_factory=list)
    commit_index: int = 0
    read_states: list[ReadState] = field(default_factory=list)
    snapshots_wanted: list[NodeId] = field(default_factory=list)
    soft_state: SoftState | None = None
    """Set when it changed."""
