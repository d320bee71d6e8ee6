"""The engine behind its cache: the machine's Store, and what reads are answered from."""

from __future__ import annotations

from collections.abc import Sequence

from vaultdb.kv.machine import Changes, Position, Versioned
from vaultdb.storage.cache import Cache
from vaultdb.storage.engine import Engine


class CachedStore:
    """Cache and engine always agree: every write goes through both, the engine first."""

    def __init__(self, engine: Engine, cache: Cache) -> None:
        self._engine = engine
        self._cache = cache

    def position(self) -> Position:
        return self._engine.position()

    def read(self, keys: Sequence[bytes]) -> list[Versioned | None]:
        """Values in the order asked. What is cached costs RocksDB nothing; all the rest is one MultiGet."""
        found, missing = self._cache.lookup(keys)
        if missing:
            missing_keys = [keys[place] for place in missing]
            stored = self._engine.read(missing_keys)
            self._cache.take_over(dict(zip(missing_keys, stored, strict=True)))
            for place, versioned in zip(missing, stored, strict=True):
                found[place] = versioned
        return found

    def existing(self, keys: Sequence[bytes]) -> list[bytes]:
        uncached = [key for key in keys if key not in self._cache]
        if not uncached:
            return list(keys)
        absent = set(uncached).difference(self._engine.existing(uncached))
        return [key for key in keys if key not in absent]

    def write(self, changes: Changes, position: Position) -> None:
        self._engine.write(changes, position)
        self._cache.take_over(changes)
