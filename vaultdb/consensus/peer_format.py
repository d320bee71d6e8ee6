"""What nodes say to each other: one frame per peer and turn of the loop.

    [VERSION, cluster, cluster_id, src, incarnation, life, start_term, start_index, dst, [item, ...]]

The sender introduces itself in every frame, so that a receiver never depends on an earlier one; consensus/admission.py
tells what of it counts. An item is a Raft message, `[position in raft.messages.KINDS, field, ...]`, or one of

    [FORWARD, term, [[incarnation, batch, queued, PROPOSAL], ...]]
        A follower passes its api's proposals to the leader of `term`, which takes them only in that term.
    [FORWARD_ANSWER, term, [[incarnation, batch, verdict], ...]]
        TAKEN_QUEUED / TAKEN_SYNC answer proposals with `queued`; REFUSED_BUSY and REFUSED_LEADER mean that the log
        will never hold them.
    [FLOOR, term, index]
        Every member's log holds all up to `index`: nobody will ask for it again.
    [ADMIN, request, operation, argument, again]
        A follower passes a request of its api about the members to the leader. `request` is unique per sender and life;
        `again`: it was sent before, perhaps to another leader, and may be done already.
    [ADMIN_ANSWER, request, ok, document or [code, sentence]]
    [NOTICE, life, index, reason, sentence]
        What your process `life` says counts for nothing here, for this reason, as of the committed membership at
        `index`.
    [PROMISES, term, [[incarnation, life, term, index], ...]]
        From a leader: how far each member's log has been promised to be durable (consensus/promises.py).
    [HELLO, host, port]
        First on every connection: here the sender listens for peers. For receivers whose roster does not know it yet.

Peers are not trusted to be well-formed: what does not fit is dropped whole and counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_origin, get_type_hints

from vaultdb.errors import BadRequest
from vaultdb.raft.messages import KINDS, Append, Entry, Message, NodeId
from vaultdb.wire.codec import pack, unpack

VERSION = 2
FORWARD = 32
FORWARD_ANSWER = 33
FLOOR = 34
ADMIN = 35
ADMIN_ANSWER = 36
NOTICE = 37
PROMISES = 38
HELLO = 39

TAKEN_QUEUED = 0
TAKEN_SYNC = 1
REFUSED_BUSY = 2
REFUSED_LEADER = 3


class Sender(NamedTuple):
    """Who speaks. `life` is random per process; its disk held (`start_term`, `start_index`) when it started."""

    cluster: str
    cluster_id: str
    src: NodeId
    incarnation: int
    life: int
    start_term: int
    start_index: int


class Forward(NamedTuple):
    term: int
    proposals: list[tuple[int, int, bool, bytes]]


class ForwardAnswer(NamedTuple):
    term: int
    verdicts: list[tuple[int, int, int]]


class Floor(NamedTuple):
    term: int
    floor: int


class Admin(NamedTuple):
    request: int
    operation: str
    argument: Any
    again: bool


class AdminAnswer(NamedTuple):
    request: int
    ok: bool
    answer: Any


class Notice(NamedTuple):
    life: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    reason: int
    sentence: str


class Promises(NamedTuple):
    term: int
    rows: list[tuple[int, int, int, int]]


class Hello(NamedTuple):
    host: str
    port: int


Item = Message | Forward | ForwardAnswer | Floor | Admin | AdminAnswer | Notice | Promises | Hello


class Frame(NamedTuple):
    sender: Sender
    dst: NodeId
    items: list[Item]


_FIELD_TYPES = [tuple(get_origin(hint) or hint for hint in get_type_hints(kind).values()) for kind in KINDS]
_OTHERS: dict[int, tuple[type[Item], tuple[type, ...]]] = {
    FORWARD: (Forward, (int, list)),
    FORWARD_ANSWER: (ForwardAnswer, (int, list)),
    FLOOR: (Floor, (int, int)),
    ADMIN: (Admin, (int, str, object, bool)),
    ADMIN_ANSWER: (AdminAnswer, (int, bool, object)),
    NOTICE: (Notice, (int, int, int, str)),
    PROMISES: (Promises, (int, list)),
    HELLO: (Hello, (str, int)),
}
"""`object` stands for any value."""
_ROW_TYPES: dict[int, tuple[type, ...]] = {
    FORWARD: (int, int, bool, bytes),
    FORWARD_ANSWER: (int, int, int),
    PROMISES: (int, int, int, int),
}
"""Of the items whose second field is a list of arrays."""
_ENVELOPE_TYPES = (int, str, str, int, int, int, int, int, int, list)
_ENTRY_TYPES = (int, int, int, bytes)

_NUMBERS: dict[type[Item], int] = {kind: number for number, kind in enumerate(KINDS)}
_NUMBERS |= {kind: number for number, (kind, _) in _OTHERS.items()}


def encode(sender: Sender, dst: NodeId, items: list[Item]) -> bytes:
    return pack([VERSION, *sender, dst, [(_NUMBERS[type(item)], *item) for item in items]])


def payload_bytes(item: Item) -> int:
    """About the size of an item: its payloads."""
    if isinstance(item, Append):
        return sum(len(entry.payload) for entry in item.entries)
    if isinstance(item, Forward):
        return sum(len(payload) for _, _, _, payload in item.proposals)
    return 0


def decode(frame: bytes) -> Frame:
    """Raises BadRequest when anything does not fit."""
    envelope = unpack(frame)
    if not _fits(envelope, _ENVELOPE_TYPES) or envelope[0] != VERSION:
        raise BadRequest("not a peer envelope of a version known here")
    return Frame(Sender(*envelope[1:8]), envelope[8], [_item(item) for item in envelope[9]])


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
    if kind in _OTHERS and _fits_other(kind, fields):
        return _OTHERS[kind][0](*fields)
    raise BadRequest(f"a peer item of kind {kind} does not fit its format")


def _fits_other(kind: int, fields: list[Any]) -> bool:
    types = _OTHERS[kind][1]
    if object in types and len(fields) == len(types):
        types = tuple(type(field) if one is object else one for field, one in zip(fields, types, strict=True))
    return _fits(fields, types) and (kind not in _ROW_TYPES or all(_fits(row, _ROW_TYPES[kind]) for row in fields[1]))


def _entry(fields: Any) -> Entry:
    if not _fits(fields, _ENTRY_TYPES):
        raise BadRequest("a log entry does not fit its format")
    return Entry(*fields)
