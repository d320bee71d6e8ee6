"""Messages and Readys as one readable line each, for traces."""

from __future__ import annotations

from collections.abc import Iterable

from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Message,
    NodeId,
    ReadIndex,
    ReadIndexResponse,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.state import Ready


def name(node: NodeId) -> str:
    return "nobody" if node == NOBODY else f"n{node}"


def entries_text(entries: Iterable[Entry]) -> str:
    """`5/2 x`: index 5, term 2, payload x."""
    return ", ".join(
        f"{entry.index}/{entry.term} {'noop' if entry.kind == EntryKind.NOOP else entry.payload.decode()}"
        for entry in entries
    )


def message_text(message: Message) -> str:
    head = f"{name(message.src)} → {name(message.dst)}  term {message.term}  "
    match message:
        case VoteRequest(pre=pre, last_index=last_index, last_term=last_term):
            return head + f"{'pre-vote' if pre else 'vote'}? last {last_index}/{last_term}"
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
            return head + f"heartbeat commit {message.commit}" + (f" round {message.round}" if message.round else "")
        case HeartbeatResponse():
            return head + "heartbeat heard" + (f" round {message.round}" if message.round else "")
        case ReadIndex():
            return head + f"read index? context {message.context}"
        case ReadIndexResponse():
            return head + f"read index {message.index} context {message.context}"


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
        if ready.entries:
            parts.append(f"[{entries_text(ready.entries)}]")
        lines.append(f"{name(node)} writes {' '.join(parts)}")
    lines += [f"{name(node)} may serve read {context} at {index}" for context, index in ready.read_states]
    return lines
