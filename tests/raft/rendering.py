"""Messages and Readys as one readable line each, for traces."""

from __future__ import annotations

from collections.abc import Iterable

from vaultdb.raft.membership import Membership, decode
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    NodeId,
    ReadIndex,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.state import Ready


def name(node: NodeId) -> str:
    return "nobody" if node == NOBODY else f"n{node}"


def entries_text(entries: Iterable[Entry]) -> str:
    """`5/2 x`: index 5, term 2, payload x."""
    return ", ".join(f"{entry.index}/{entry.term} {payload_text(entry)}" for entry in entries)


def payload_text(entry: Entry) -> str:
    if entry.kind == EntryKind.NOOP:
        return "noop"
    if entry.kind == EntryKind.MEMBERSHIP:
        return membership_text(decode(entry.payload))
    return entry.payload.decode(errors="replace")


def membership_text(membership: Membership) -> str:
    """`voters 0 1 2 ← 0 1, learners 3`: joint, on the way from 0 1 to 0 1 2."""
    voters = " ".join(map(str, membership.voters)) or "nobody"
    outgoing = f" ← {' '.join(map(str, membership.outgoing))}" if membership.outgoing else ""
    learners = f", learners {' '.join(map(str, membership.learners))}" if membership.learners else ""
    demoted = f", then learners {' '.join(map(str, membership.learners_next))}" if membership.learners_next else ""
    return f"voters {voters}{outgoing}{learners}{demoted}"


def message_text(message: Message) -> str:
    head = f"{name(message.src)} → {name(message.dst)}  term {message.term}  "
    match message:
        case VoteRequest(pre=pre, last_index=last_index, last_term=last_term, transfer=transfer):
            handed_over = " handed over" if transfer else ""
            return head + f"{'pre-vote' if pre else 'vote'}? last {last_index}/{last_term}{handed_over}"
        case VoteResponse(pre=pre, granted=granted):
            return head + f"{'pre-vote' if pre else 'vote'} {'granted' if granted else 'refused'}"
        case Append():
            return head + (
                f"append after {message.prev_index}/{message.prev_term} commit {message.commit}"
                f" [{entries_text(message.entries)}]"
            )
        case AppendResponse(accepted=True):
            return head + f"accepted to {message.index}"
        case AppendResponse():
            return head + f"refused after {message.index}, hint {message.hint_index}/{message.hint_term}"
        case Heartbeat():
            return head + f"heartbeat commit {message.commit}" + _round_and_lease(message)
        case HeartbeatResponse():
            return head + "heartbeat heard" + _round_and_lease(message)
        case ReadIndex():
            return head + f"read index? context {message.context}"
        case ReadIndexResponse():
            return head + f"read index {message.index} context {message.context}"
        case TimeoutNow():
            return head + f"stand now, your log reaching {message.index}"
        case InstallSnapshot():
            held = membership_text(decode(message.membership))
            return head + f"snapshot of {message.index}/{message.index_term} ({held})"


def _round_and_lease(message: Heartbeat | HeartbeatResponse) -> str:
    running = f" round {message.round}" if message.round else ""
    return running + (f" lease {message.lease_us}" if message.lease_us else "")


def ready_lines(node: NodeId, ready: Ready) -> list[str]:
    """What a Ready asks for, without its messages: those are rendered where they leave."""
    lines = []
    if ready.soft_state is not None:
        role, leader, term = ready.soft_state
        lines.append(f"{name(node)} is {role.value} in term {term}, leader {name(leader)}")
    if ready.must_sync:
        parts = []
        if ready.hard_state is not None:
            parts.append(f"term {ready.hard_state.term} vote {name(ready.hard_state.vote)}")
        if ready.snapshot is not None:
            parts.append(f"snapshot of {ready.snapshot.index}/{ready.snapshot.term}")
        if ready.entries:
            parts.append(f"[{entries_text(ready.entries)}]")
        lines.append(f"{name(node)} writes {' '.join(parts)}")
    lines += [f"{name(node)} may serve read {context} at {index}" for context, index in ready.read_states]
    return lines
