"""The write-ahead log on disk, format version 2.

A log is a run of segment files, `0000000000000001.log` and so on, numbered without gaps. A segment is a run of
records. Integers are little-endian.

    record    magic 4 | length 4 | crc 4 | kind 1 | payload (length bytes)
              magic: b"VLR1". crc: CRC32C of segment number 8, offset of the record 8, kind 1 and the payload: bytes of
              a log that are stored as a value elsewhere in a log are no record there.

    SEGMENT   (kind 1) the first record of every file, synced before any other is written:
              msgpack [version, cluster name, node id, incarnation, number, base index, base term, term, vote, commit,
              membership, notes, begins]
              incarnation: 64 random bits, drawn when the log was created, the same in all its segments.
              base: the log's last position when the segment was begun. term, vote, commit: the hard state then.
              membership: the one in force at the base then, as raft/membership.py encodes it. notes: the newest then.
              begins: the log begins here, at base, the position of a snapshot. Segments before this one count for
              nothing, whatever they hold and however many of them are still there.

    WRITE     (kind 2) everything that one fdatasync made durable:
              term 8 | vote 8 signed | commit 8 | first index 8 | count 4 | notes length 4
              count × (term 8 | kind 1 | length 4)
              count × payload
              notes
              The entries replace whatever the log held from first index on: a conflict truncates by being overwritten.
              count 0: the hard state alone; first index is then 0.
              notes: opaque bytes of the driver; the last ones that are not empty count.

One record is one sync, and a record is written only after the one before it is durable. Hence the rule of recovery:
an invalid record with a valid one behind it, or in any but the last segment, was once durable, so the disk has lost
what this node promised: `CorruptData`. An invalid record with nothing valid behind it was never acknowledged: the
tail is cut there.

A segment that begins the log is followed by a WRITE, even an empty one, or by another segment, before anybody is told
of it and before anything older is deleted. So its header, if damaged, is never taken for one that was not yet durable.

Worked example, node 3 in term 2 (vote for 3, commit 7) appending (term 2, index 8, command, b"hi") with notes b"ok", at
offset 100 of segment 1:

    564c5231 39000000 bb79d781 02                            magic, 57 bytes, crc, WRITE
    0200000000000000 0300000000000000 0700000000000000       term 2, vote 3, commit 7
    0800000000000000 01000000 02000000                       first index 8, one entry, 2 bytes of notes
    0200000000000000 01 02000000                             term 2, COMMAND, 2 bytes
    6869                                                     b"hi"
    6f6b                                                     b"ok"

Version 1, which is read and never written: the header is [version, cluster name, node id, number, base index, base
term, term, vote, commit], and a WRITE has neither a notes length nor notes. Such a log holds no membership. When it is
opened a segment of version 2 is begun at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import crc32c

from vaultdb.errors import BadRequest
from vaultdb.raft.messages import Entry
from vaultdb.raft.state import HardState
from vaultdb.wire.codec import unpack

VERSION = 2
VERSION_1 = 1
MAGIC = b"VLR1"
SEGMENT = 1
WRITE = 2

_FRAME = struct.Struct("<4sIIB")
_PLACE = struct.Struct("<QQB")
_WRITE = struct.Struct("<QqQQII")
_WRITE_1 = struct.Struct("<QqQQI")
_HEADER_FIELDS_1 = 9
_ENTRY = struct.Struct("<QBI")

FRAME_BYTES = _FRAME.size


class SegmentHeader(NamedTuple):
    """Of version 1: incarnation 0, membership and notes empty, all of which say nothing."""

    version: int
    cluster: str
    node: int
    incarnation: int
    number: int
    base_index: int
    base_term: int
    term: int
    vote: int
    commit: int
    membership: bytes
    notes: bytes
    begins: bool


class Location(NamedTuple):
    """Where an entry's payload stands in its segment."""

    term: int
    kind: int
    offset: int
    length: int


class WriteRecord(NamedTuple):
    """A WRITE record as recovery needs it: everything but the payloads."""

    hard_state: HardState
    first_index: int
    entries: list[Location]
    notes: bytes


def encode_record(kind: int, payload: bytes, segment: int, offset: int) -> bytes:
    """One framed record, to stand at `offset` of `segment`."""
    crc = crc32c.crc32c(payload, crc32c.crc32c(_PLACE.pack(segment, offset, kind)))
    return _FRAME.pack(MAGIC, len(payload), crc, kind) + payload


def encode_write(
    hard_state: HardState, entries: Sequence[Entry], notes: bytes, segment: int, start: int
) -> tuple[bytes, list[Location]]:
    """The framed WRITE record to stand at offset `start` of `segment`, and where each payload will be."""
    first_index = entries[0].index if entries else 0
    head = [_WRITE.pack(*hard_state, first_index, len(entries), len(notes))]
    head += [_ENTRY.pack(entry.term, entry.kind, len(entry.payload)) for entry in entries]
    offset = start + FRAME_BYTES + _WRITE.size + _ENTRY.size * len(entries)
    locations = []
    for entry in entries:
        locations.append(Location(entry.term, entry.kind, offset, len(entry.payload)))
        offset += len(entry.payload)
    payload = b"".join([*head, *[entry.payload for entry in entries], notes])
    return encode_record(WRITE, payload, segment, start), locations


def record_bytes(frame: bytes) -> int:
    """How long the record that starts with `frame` says it is. `frame` may be cut short or damaged."""
    return FRAME_BYTES + (_FRAME.unpack_from(frame)[1] if len(frame) >= FRAME_BYTES else 0)


def decode_record(data: bytes | memoryview, segment: int, offset: int) -> tuple[int, memoryview] | None:
    """(kind, payload) of the record at `offset` of `segment`, or None when no valid record stands there."""
    view = memoryview(data)
    if len(view) - offset < FRAME_BYTES:
        return None
    magic, length, crc, kind = _FRAME.unpack_from(view, offset)
    payload = view[offset + FRAME_BYTES : offset + FRAME_BYTES + length]
    if magic != MAGIC or len(payload) != length:
        return None
    if crc32c.crc32c(payload, crc32c.crc32c(_PLACE.pack(segment, offset, kind))) != crc:
        return None
    return kind, payload


def decode_segment(payload: memoryview) -> SegmentHeader | None:
    """The header, or None when it is of no version known here."""
    try:
        fields = unpack(payload)
    except BadRequest:
        return None
    if not isinstance(fields, list) or not fields:
        return None
    if fields[0] == VERSION and len(fields) == len(SegmentHeader._fields):
        return SegmentHeader(*fields)
    if fields[0] == VERSION_1 and len(fields) == _HEADER_FIELDS_1:
        return SegmentHeader._make([*fields[:3], 0, *fields[3:], b"", b"", False])
    return None


def decode_write(payload: memoryview, start: int, version: int = VERSION) -> WriteRecord | None:
    """The WRITE record whose frame stands at `start`, or None when its parts do not add up."""
    head = _WRITE_1 if version == VERSION_1 else _WRITE
    if len(payload) < head.size:
        return None
    term, vote, commit, first_index, count, *rest = head.unpack_from(payload)
    notes_bytes = rest[0] if rest else 0
    table_end = head.size + count * _ENTRY.size
    if len(payload) < table_end:
        return None
    offset = start + FRAME_BYTES + table_end
    locations = []
    for entry_term, kind, length in _ENTRY.iter_unpack(payload[head.size : table_end]):
        locations.append(Location(entry_term, kind, offset, length))
        offset += length
    if offset + notes_bytes != start + FRAME_BYTES + len(payload):
        return None
    notes = bytes(payload[len(payload) - notes_bytes :])
    return WriteRecord(HardState(term, vote, commit), first_index, locations, notes)


def has_valid_record(data: bytes, segment: int, offset: int) -> bool:
    """Whether any valid record stands at or behind `offset` of `segment`, whose content is `data`."""
    at = data.find(MAGIC, offset)
    while at >= 0:
        if decode_record(data, segment, at) is not None:
            return True
        at = data.find(MAGIC, at + 1)
    return False
