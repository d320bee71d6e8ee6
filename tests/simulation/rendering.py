"""The trace of a run as readable lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tests.raft.rendering import message_text, ready_lines
from vaultdb.clock import NS_PER_MS
from vaultdb.raft.messages import KINDS, Append, Entry, EntryKind
from vaultdb.raft.state import Ready
from vaultdb.wire.codec import unpack

_RAFT = frozenset(KINDS)
_WIDTH = 160
"""Of items whose content is long."""


def _readable(entries: Iterable[Entry]) -> list[Entry]:
    """With the payloads of commands in words: who swaps which value into which key."""
    return [
        entry._replace(payload=_commands(entry.payload).encode()) if entry.kind == EntryKind.COMMAND else entry
        for entry in entries
    ]


def _commands(payload: bytes) -> str:
    return " ".join(
        "n{}:{} session {}.{} k{}={}".format(origin, batch, *unpack(command))
        for origin, _, batch, command in unpack(payload)[1]
    )


def lines(trace: Iterable[tuple[int, Any]]) -> list[str]:
    return [f"{when / NS_PER_MS:11.3f}  {line}" for when, what in trace for line in _lines(what)]


def _lines(what: Any) -> list[str]:
    match what:
        case str():
            return [what]
        case (int(node), Ready() as ready):
            return ready_lines(node, replace(ready, entries=_readable(ready.entries)))
        case (str(verb), (src, dst), item):
            if isinstance(item, Append):
                item = item._replace(entries=_readable(item.entries))
            text = message_text(item) if type(item) in _RAFT else f"n{src} → n{dst}  {str(item)[:_WIDTH]}"
            return [f"{verb}  {text}"]
    raise AssertionError(what)
