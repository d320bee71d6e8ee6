"""The messages of Raft, as immutable values.

Names follow the paper (Ongaro, Ousterhout 2014) and the thesis (Ongaro 2014); a pre-vote is a vote request with `pre`
set (thesis §9.6), a ReadIndex round rides on heartbeats (§6.4). `src` and `dst` are node ids, small non-negative
integers. Every message carries its sender's term, except a pre-vote request, which carries the term that the sender
would campaign in.

All of them are named tuples of integers, booleans and bytes, so a codec packs them as they are: `KINDS` numbers the
types for the wire and never reuses a number.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

NodeId = int
NOBODY: NodeId = -1
"""No vote cast, no leader known."""


class EntryKind(IntEnum):
    """What an entry's payload is. Only COMMAND reaches the state machine; MEMBERSHIP is read by the core itself."""

    NOOP = 0
    COMMAND = 1
    MEMBERSHIP = 2


class Entry(NamedTuple):
    """One position of the replicated log. `index` starts at 1 and has no gaps; `term` never decreases along it."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    kind: int
    payload: bytes


class VoteRequest(NamedTuple):
    """RequestVote (paper §5.2, §5.4.1), or PreVote (thesis §9.6) when `pre`. `transfer`: the leader itself asked for
    this campaign, so voters support it although they hear the leader (§4.2.3).
    """

    src: NodeId
    dst: NodeId
    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool


class VoteResponse(NamedTuple):
    """Answer to a VoteRequest. For a granted pre-vote, `term` is the term asked for; otherwise the voter's own."""

    src: NodeId
    dst: NodeId
    term: int
    granted: bool
    pre: bool


class Append(NamedTuple):
    """AppendEntries (paper §5.3): `entries` follow (`prev_index`, `prev_term`). Empty to probe or to move the commit
    index.
    """

    src: NodeId
    dst: NodeId
    term: int
    prev_index: int
    prev_term: int
    commit: int
    entries: list[Entry]


class AppendResponse(NamedTuple):
    """Accepted: the follower's durable log equals the leader's up to `index`.

    Refused: `index` is the refused `prev_index`; (`hint_index`, `hint_term`) is the last position of the follower's
    log that could match (fast back-tracking, end of paper §5.3).
    """

    src: NodeId
    dst: NodeId
    term: int
    accepted: bool
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    hint_index: int
    hint_term: int


class Heartbeat(NamedTuple):
    """Leadership asserted. `commit` never exceeds what the follower is known to match; `round` numbers the leader's
    read rounds (0: none). `lease_us`, if not 0, asks for a lease promise (§6.4.1): it is the leader's clock when it
    sent this, and means something to the leader only.
    """

    src: NodeId
    dst: NodeId
    term: int
    commit: int
    round: int
    lease_us: int


class HeartbeatResponse(NamedTuple):
    """Echoes `round` and `lease_us`. With `lease_us` the follower promises to support no other leader for
    `bound_ticks` from now, unless this leader hands over itself.
    """

    src: NodeId
    dst: NodeId
    term: int
    round: int
    lease_us: int


class ReadIndex(NamedTuple):
    """A follower asks its leader for a read index (thesis §6.4). `context` is unique per try and node."""

    src: NodeId
    dst: NodeId
    term: int
    context: int


class ReadIndexResponse(NamedTuple):
    src: NodeId
    dst: NodeId
    term: int
    context: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs


class TimeoutNow(NamedTuple):
    """The leader hands over (thesis §3.10): stand at once, if this is still the term and your log reaches `index`."""

    src: NodeId
    dst: NodeId
    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs


class InstallSnapshot(NamedTuple):
    """The follower's log is to begin after (`index`, `index_term`), with `membership` (encoded) in force there.

    The state itself travels apart from the core; this message is handed to the follower's core once its data is there.
    Answered by an AppendResponse.
    """

    src: NodeId
    dst: NodeId
    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    index_term: int
    membership: bytes


Message = (
    VoteRequest
    | VoteResponse
    | Append
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | ReadIndex
    | ReadIndexResponse
    | TimeoutNow
    | InstallSnapshot
)

KINDS: tuple[type[Message], ...] = (
    VoteRequest,
    VoteResponse,
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndex,
    ReadIndexResponse,
    TimeoutNow,
    InstallSnapshot,
)
"""Wire number = position. Append only."""
