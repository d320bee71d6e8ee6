"""The in-memory twin of the storage engine."""

from __future__ import annotations

from collections.abc import Sequence

from vaultdb.kv.machine import Changes, Position, Versioned


class MemoryStore:
    """A Store that is two attributes."""

    def __init__(self) -> None:
        self.data: dict[bytes, Versioned] = {}
        self.at = Position()

    def position(self) -> Position:
        return self.at

    def existing(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key in self.data]

    def write(self, changes: Changes, position: Position) -> None:
        for key, versioned in changes.items():
            if versioned is None:
                self.data.pop(key, None)
            else:
                self.data[key] = versioned
        self.at = position

    def read(self, keys: Sequence[bytes]) -> list[Versioned | None]:
        return [self.data.get(key) for key in keys]
