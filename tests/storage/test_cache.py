"""The cache: always right, never over its bounds, and no RocksDB for a hit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.storage.databases import open_engine
from vaultdb import limits
from vaultdb.kv.machine import Position, Versioned
from vaultdb.storage.cache import ENTRY_OVERHEAD_BYTES, LARGEST_VALUE_FRACTION, Cache
from vaultdb.storage.store import CachedStore

CAPACITY_BYTES = 64 * limits.KIB


def cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(3 * cost(b"a", b"1"))
    cache._value_bytes_max = 1
    cache.take_over({b"a": (b"1", 1), b"b": (b"1", 1), b"c": (b"1", 1)})
    cache.lookup([b"a"])
    cache.take_over({b"d": (b"1", 2)})
    assert [key for key in (b"a", b"b", b"c", b"d") if key in cache] == [b"a", b"c", b"d"]
    assert cache.evictions == 1


def test_a_value_at_the_limit_is_kept_and_one_byte_more_is_not() -> None:
    cache = Cache(CAPACITY_BYTES)
    largest = b"v" * (CAPACITY_BYTES // LARGEST_VALUE_FRACTION)
    cache.take_over({b"fits": (largest, 1), b"too large": (largest + b"v", 1)})
    assert b"fits" in cache
    assert b"too large" not in cache


def test_a_value_that_grew_too_large_leaves_no_old_one_behind() -> None:
    """Planted bug: returning before the old entry is removed. The cache then answers with a value long overwritten."""
    cache = Cache(CAPACITY_BYTES)
    cache.take_over({b"k": (b"old", 1)})
    cache.take_over({b"k": (b"v" * CAPACITY_BYTES, 2)})
    assert cache.lookup([b"k"]) == ([None], [0])
    assert cache.size_bytes == 0


def test_statistics() -> None:
    cache = Cache(CAPACITY_BYTES)
    cache.take_over({b"a": (b"1", 1)})
    assert cache.lookup([b"a", b"x", b"a", b"y"]) == ([(b"1", 1), None, (b"1", 1), None], [1, 3])
    assert cache.statistics() == {
        "bytes": cost(b"a", b"1"),
        "capacity": CAPACITY_BYTES,
        "entries": 1,
        "hits": 2,
        "misses": 2,
        "evictions": 0,
    }


CHANGES = st.dictionaries(
    st.binary(min_size=1, max_size=2),
    st.one_of(st.none(), st.tuples(st.integers(0, 5_000).map(bytes), st.integers(1, 9))),
    max_size=30,
)


@given(st.lists(CHANGES, max_size=20))
def test_never_over_capacity_and_never_wrong(writes: list[dict[bytes, Versioned | None]]) -> None:
    cache = Cache(CAPACITY_BYTES)
    truth: dict[bytes, Versioned] = {}
    for changes in writes:
        cache.take_over(changes)
        truth |= {key: versioned for key, versioned in changes.items() if versioned is not None}
        truth = {key: versioned for key, versioned in truth.items() if changes.get(key, versioned) is not None}
        assert cache.size_bytes <= CAPACITY_BYTES
        keys = list(truth)
        found, missing = cache.lookup(keys)
        assert all(versioned in (None, truth[key]) for key, versioned in zip(keys, found, strict=True))
        assert missing == [place for place, versioned in enumerate(found) if versioned is None]
        held = [(key, truth[key][0]) for key in keys if key in cache]
        assert len(cache) == len(held)
        assert cache.size_bytes == sum(cost(key, value) for key, value in held)


def test_the_capacity_is_about_the_memory_it_takes() -> None:
    """The fixed overhead is a measurement; this one tells when it no longer holds."""
    entries = 50_000
    cache = Cache(1 << 40)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(entries):
            cache.take_over({b"key%08d" % number: (b"%0100d" % number, 1_000_000 + number)})
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 < taken / cache.size_bytes < 1.25, f"{taken} bytes of memory counted as {cache.size_bytes}"


class Unreachable:
    """Stands where RocksDB must not be asked."""

    def read(self, keys: Sequence[bytes]) -> list[Versioned | None]:
        raise AssertionError(f"RocksDB was asked for {keys}")

    existing = read


def test_a_hit_touches_no_rocksdb(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    store = CachedStore(engine, Cache(CAPACITY_BYTES))
    store.write({b"a": (b"1", 1), b"b": (b"2", 1)}, Position(1, 1, 0))
    store._engine = Unreachable()  # type: ignore[assignment]
    assert store.read([b"b", b"a"]) == [(b"2", 1), (b"1", 1)]
    assert store.existing([b"a", b"b"]) == [b"a", b"b"]
    engine.close()


def test_a_miss_is_kept_for_the_next_time(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write({b"a": (b"1", 1)}, Position(1, 1, 0))
    cache = Cache(CAPACITY_BYTES)
    store = CachedStore(engine, cache)
    assert store.read([b"a", b"x"]) == store.read([b"a", b"x"]) == [(b"1", 1), None]
    assert (cache.hits, cache.misses) == (1, 3)
    engine.close()
