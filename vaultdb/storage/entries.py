"""Opens what consensus streams: an ENTRY and the PROPOSALs in it (formats in wire/ipc.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

from vaultdb.errors import BadRequest, CorruptData
from vaultdb.wire.codec import unpack


class Proposal(NamedTuple):
    """What one api sent in one turn of its loop. `requests` is decoded and unchecked: the machine checks it."""

    origin: int
    incarnation: int
    requests: Any


def decode_entry(index: int, payload: bytes) -> tuple[int, list[Proposal]]:
    """Stamp and proposals of the entry at `index`; an empty payload is a no-op with neither.

    Raises CorruptData if the entry itself cannot be read: a leader wrote it, so either it is damaged or this version
    is too old for it, and passing it over would make this replica differ. A proposal that cannot be read is a
    client's fault, and the same on every replica: it yields no requests.
    """
    if not payload:
        return 0, []
    try:
        entry = unpack(payload)
    except BadRequest as error:
        raise CorruptData(f"the log entry at index {index} cannot be read: {error}") from error
    match entry:
        case [int(stamp_ms), list(proposals)] if 0 <= stamp_ms < 1 << 63:
            return stamp_ms, [_proposal(index, proposal) for proposal in proposals]
    raise CorruptData(f"the log entry at index {index} is not a stamp and a list of proposals")


def _proposal(index: int, proposal: object) -> Proposal:
    match proposal:
        case [int(origin), int(incarnation), _batch, bytes(packed)]:
            pass
        case _:
            raise CorruptData(f"a proposal in the log entry at index {index} does not name its origin")
    try:
        return Proposal(origin, incarnation, unpack(packed))
    except BadRequest:
        return Proposal(origin, incarnation, None)
