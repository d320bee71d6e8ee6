"""The values used last, in memory, within a fixed number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from vaultdb.kv.machine import Changes, Versioned

ENTRY_OVERHEAD_BYTES = 256
"""Object headers, tuple, revision and table slot of one entry, as measured on CPython 3.11 (230 to 270)."""
LARGEST_VALUE_FRACTION = 16
"""A value larger than this part of the capacity would push out too many others and is not kept."""


class Cache:
    """Key → (value, revision), least recently used out first. Holds only what the store holds too."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._value_bytes_max = capacity_bytes // LARGEST_VALUE_FRACTION
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[bytes, Versioned] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        """Neither counts as a use nor in the statistics."""
        return key in self._entries

    def lookup(self, keys: Sequence[bytes]) -> tuple[list[Versioned | None], list[int]]:
        """What is cached for each key, and the places in `keys` of those that are not."""
        entries = self._entries
        found = [entries.get(key) for key in keys]
        missing = []
        use = entries.move_to_end
        for place, key in enumerate(keys):
            if found[place] is None:
                missing.append(place)
            else:
                use(key)
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        return found, missing

    def take_over(self, changes: Changes) -> None:
        """Let the cache agree with the store about these keys. Too large a value is only taken out."""
        entries = self._entries
        size_bytes = self.size_bytes
        for key, versioned in changes.items():
            old = entries.pop(key, None)
            if old is not None:
                size_bytes -= len(key) + len(old[0]) + ENTRY_OVERHEAD_BYTES
            if versioned is not None and len(versioned[0]) <= self._value_bytes_max:
                entries[key] = versioned
                size_bytes += len(key) + len(versioned[0]) + ENTRY_OVERHEAD_BYTES
        while size_bytes > self.capacity_bytes:
            key, (value, _) = entries.popitem(last=False)
            size_bytes -= len(key) + len(value) + ENTRY_OVERHEAD_BYTES
            self.evictions += 1
        self.size_bytes = size_bytes

    def statistics(self) -> dict[str, int]:
        return {
            "bytes": self.size_bytes,
            "capacity": self.capacity_bytes,
            "entries": len(self._entries),
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
        }
