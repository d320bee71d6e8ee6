"""How far every log in the cluster has been promised to be durable, so that an old copy of a disk is recognised.

A node that acknowledges entries, or grants a vote, promises that its disk holds a position (term, index); in a term
that never goes back, and a log is shortened only in a later term, so a disk's positions only grow. A process that
starts from a disk below what an earlier process of the same incarnation has promised runs on an old copy, and may have
forgotten votes and entries that others rely on.

    incarnation → (life, term, index)

The life is the process that made the promise: what it started from is no news. Each node remembers what it was promised
itself; a leader shares its table once a second, and the table lies beside the hard state in the log (`notes`). So what
was promised in the last second before the leader that heard it died can be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from vaultdb.consensus.peer_format import Sender
from vaultdb.errors import BadRequest
from vaultdb.wire.codec import pack, unpack

_VERSION = 1
_ROW_TYPES = (int, int, int, int)
_ROWS_MAX = 256


class Promise(NamedTuple):
    life: int
    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs


class PromiseTable:
    """Owns the table. Rows only grow."""

    def __init__(self, notes: bytes = b"") -> None:
        """`notes`: what `notes()` gave an earlier process; of another version they say nothing."""
        self._rows: dict[int, Promise] = {}
        try:
            match unpack(notes) if notes else None:
                case [version, list(rows)] if version == _VERSION and all(map(_is_row, rows)):
                    self.merge(rows)
        except BadRequest:
            pass  # written by another release
        self.is_changed = False
        """Since `notes` was last called."""

    def note(self, incarnation: int, life: int, term: int, index: int) -> None:
        """`life` of `incarnation` promised that its log is durable up to (term, index)."""
        known = self._rows.get(incarnation)
        if (known is None and len(self._rows) < _ROWS_MAX) or (known is not None and (term, index) > known[1:]):
            self._rows[incarnation] = Promise(life, term, index)
            self.is_changed = True

    def is_broken_by(self, sender: Sender) -> bool:
        """Whether the sender started from less than what an earlier life of it has promised."""
        known = self._rows.get(sender.incarnation)
        if known is None or known.life == sender.life:
            return False
        return (sender.start_term, sender.start_index) < (known.term, known.index)

    def merge(self, rows: Iterable[Iterable[int]]) -> None:
        for incarnation, life, term, index in rows:
            self.note(incarnation, life, term, index)

    def keep(self, incarnations: Collection[int]) -> None:
        """Forget all but these."""
        for incarnation in self._rows.keys() - incarnations:
            del self._rows[incarnation]
            self.is_changed = True

    def rows(self) -> list[tuple[int, int, int, int]]:
        return [(incarnation, *promise) for incarnation, promise in sorted(self._rows.items())]

    def notes(self) -> bytes:
        self.is_changed = False
        return pack([_VERSION, self.rows()])


def _is_row(value: object) -> bool:
    return isinstance(value, list) and tuple(map(type, value)) == _ROW_TYPES
