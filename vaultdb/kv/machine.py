"""The replicated state machine: committed commands in, changes and results out.

Deterministic: the same entries give the same state and the same results on every replica, however they are grouped
into writes. It asks no clock; its time is the highest stamp that the log has shown it. A command that it does not
know, or that is malformed, changes nothing and is answered REFUSED: it is committed on every replica alike, so it
must not stop one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vaultdb.errors import BrokenInvariant
from vaultdb.kv.commands import DELETE, PUT

DONE = 0
REFUSED = 1

Versioned = tuple[bytes, int]
"""A value and the revision that wrote it."""

Changes = dict[bytes, Versioned | None]
"""What a write leaves under each key; None removes it."""

Result = list[int]
"""[request, outcome, revision, count], as it travels to the api."""


class Position(NamedTuple):
    """Where a replica stands. All three only grow."""

    applied_index: int = 0
    revision: int = 0
    """Commands that changed something, counted without gaps."""
    clock_ms: int = 0
    """Log time: the highest stamp of an applied entry."""


class Store(Protocol):
    """What the machine needs of its storage. Any error that it raises passes through and makes the machine unusable."""

    def position(self) -> Position:
        """As of the last write; all zero for a new store."""

    def existing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that hold a value, in the order asked."""

    def write(self, changes: Changes, position: Position) -> None:
        """Make `changes` and `position` the stored state, both or neither."""


class Machine:
    """Applies entries one after another and writes them in groups.

    Between `begin` and `write` the changes exist here only: nothing that was applied may be answered before `write`
    returned. `applied_index`, `revision` and `clock_ms` include what is not yet written. `keys_written` and
    `keys_deleted` are statistics of this object's lifetime, no part of the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: Changes = {}
        self.applied_index, self.revision, self.clock_ms = store.position()
        self.keys_written = 0
        self.keys_deleted = 0

    def begin(self, index: int, stamp_ms: int) -> None:
        """Enter the entry at `index`; its commands follow. Raises BrokenInvariant, changing nothing, if it is not the
        next.
        """
        if index != self.applied_index + 1:
            raise BrokenInvariant(f"entry {index} was given to a machine that has applied {self.applied_index}")
        self.applied_index = index
        self.clock_ms = max(self.clock_ms, stamp_ms)

    def apply(self, requests: object) -> list[Result]:
        """Apply the `[request, command]` pairs of one proposal, in order; one result for each.

        `requests` is as it was decoded, and nothing about its shape is taken for granted. What is not such a pair,
        with an integer for the request, can get no answer and is passed over.
        """
        results: list[Result] = []
        if type(requests) is not list:
            return results
        changes = self._changes
        revision = self.revision
        for pair in requests:
            if type(pair) is not list or len(pair) != 2:
                continue
            request, command = pair
            if type(request) is not int:
                continue
            kind, operands = _checked(command)
            if kind == PUT:
                revision += 1
                written = {key: (value, revision) for key, value in zip(operands[::2], operands[1::2], strict=True)}
                changes.update(written)
                self.keys_written += len(written)
                results.append([request, DONE, revision, len(written)])
            elif kind == DELETE:
                removed = self._remove(operands)
                revision += removed > 0
                results.append([request, DONE, revision, removed])
            else:
                results.append([request, REFUSED, revision, 0])
        self.revision = revision
        return results

    def write(self) -> None:
        """Hand everything applied since the last write to the store, in one piece."""
        self._store.write(self._changes, Position(self.applied_index, self.revision, self.clock_ms))
        self._changes = {}

    def _remove(self, keys: list[bytes]) -> int:
        """Remove those of `keys` that exist, counting what is not yet written as existing or gone. Returns how many."""
        changes = self._changes
        distinct = dict.fromkeys(keys)
        found = [key for key in distinct if changes.get(key) is not None]
        found += self._store.existing([key for key in distinct if key not in changes])
        for key in found:
            changes[key] = None
        self.keys_deleted += len(found)
        return len(found)


_MALFORMED: tuple[int, list[bytes]] = (0, [])


def _checked(command: object) -> tuple[int, list[bytes]]:
    """Kind and operands of a command that can be applied as a whole; kind 0 for any other.

    Limits are no matter of this check: they were enforced at the door, and a later version may have raised them.
    """
    if type(command) is not list or len(command) != 2:
        return _MALFORMED
    kind, operands = command
    if type(kind) is not int or type(operands) is not list or not operands:
        return _MALFORMED
    if set(map(type, operands)) != {bytes}:
        return _MALFORMED
    if kind == PUT:
        whole = len(operands) % 2 == 0 and all(operands[::2])
    elif kind == DELETE:
        whole = all(operands)
    else:
        whole = False
    return (kind, operands) if whole else _MALFORMED
