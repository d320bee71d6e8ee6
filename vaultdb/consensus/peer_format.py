"""What nodes say to each other: one frame per peer and turn of the loop.

    [VERSION, cluster, src, dst, [item, ...]]

An item is a Raft message, `[position in raft.messages.KINDS, field, ...]`, or one of

    [FORWARD, term, [[incarnation, batch, queued, PROPOSAL], ...]]
        A follower passes its api's proposals to the leader of `term`, which takes them only in that term.
    [FORWARD_ANSWER, term, [[incarnation, batch, verdict], ...]]
        TAKEN_QUEUED / TAKEN_SYNC answer proposals with `queued`; REFUSED_BUSY and REFUSED_LEADER mean that the log
        will never hold them.
    [FLOOR, term, index]
        Every member's log holds all up to `index`: nobody will ask for it again.

Peers are not trusted to be well-formed: what does not fit is dropped whole and counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_origin, get_type_hints

from vaultdb.errors import BadRequest
from vaultdb.raft.messages import KINDS, Append, Entry, Message, NodeId
from vaultdb.wire.codec import pack, unpack

VERSION = 1
FORWARD = 32
FORWARD_ANSWER = 33
FLOOR = 34

TAKEN_QUEUED = 0
TAKEN_SYNC = 1
REFUSED_BUSY = 2
REFUSED_LEADER = 3

_FIELD_TYPES = [tuple(get_origin(hint) or hint for hint in get_type_hints(kind).values()) for kind in KINDS]
_OTHER_TYPES = {FORWARD: (int, list), FORWARD_ANSWER: (int, list), FLOOR: (int, int)}
_ENTRY_TYPES = (int, int, int, bytes)
_FORWARD_TYPES = (int, int, bool, bytes)
_ANSWER_TYPES = (int, int, int)


class Forward(NamedTuple):
    term: int
    proposals: list[tuple[int, int, bool, bytes]]


class ForwardAnswer(NamedTuple):
    term: int
    verdicts: list[tuple[int, int, int]]


class Floor(NamedTuple):
    term: int
    floor: int


Item = Message | Forward | ForwardAnswer | Floor

_NUMBERS: dict[type[Item], int] = {kind: number for number, kind in enumerate(KINDS)}
_NUMBERS |= {Forward: FORWARD, ForwardAnswer: FORWARD_ANSWER, Floor: FLOOR}


def encode(cluster: str, src: NodeId, dst: NodeId, items: list[Item]) -> bytes:
    return pack([VERSION, cluster, src, dst, [(_NUMBERS[type(item)], *item) for item in items]])


def payload_bytes(item: Item) -> int:
    """About the size of an item: its payloads."""
    if isinstance(item, Append):
        return sum(len(entry.payload) for entry in item.entries)
    if isinstance(item, Forward):
        return sum(len(payload) for _, _, _, payload in item.proposals)
    return 0


def decode(frame: bytes) -> tuple[str, NodeId, NodeId, list[Item]]:
    """(cluster, src, dst, items). Raises BadRequest when anything does not fit."""
    envelope = unpack(frame)
    if not _fits(envelope, (int, str, int, int, list)) or envelope[0] != VERSION:
        raise BadRequest("not a peer envelope of a version known here")
    return envelope[1], envelope[2], envelope[3], [_item(item) for item in envelope[4]]


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, list) and tuple(map(type, value)) == types


def _item(item: Any) -> Item:
    if not isinstance(item, list) or not item or type(item[0]) is not int:
        raise BadRequest("a peer item is not an array that begins with its kind")
    kind, fields = item[0], item[1:]
    if 0 <= kind < len(KINDS) and _fits(fields, _FIELD_TYPES[kind]):
        if KINDS[kind] is Append:
            fields[-1] = [_entry(entry) for entry in fields[-1]]
        return KINDS[kind](*fields)
    if kind in _OTHER_TYPES and _fits(fields, _OTHER_TYPES[kind]):
        if kind == FORWARD and all(_fits(proposal, _FORWARD_TYPES) for proposal in fields[1]):
            return Forward(*fields)
        if kind == FORWARD_ANSWER and all(_fits(verdict, _ANSWER_TYPES) for verdict in fields[1]):
            return ForwardAnswer(*fields)
        if kind == FLOOR:
            return Floor(*fields)
    raise BadRequest(f"a peer item of kind {kind} does not fit its format")


def _entry(fields: Any) -> Entry:
    if not _fits(fields, _ENTRY_TYPES):
        raise BadRequest("a log entry does not fit its format")
    return Entry(*fields)
