"""One contract for every store the machine may stand on: the in-memory twin, RocksDB, and RocksDB with its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kv.memory_store import MemoryStore
from tests.storage.databases import SMALL, open_engine
from vaultdb import limits
from vaultdb.kv.machine import Position, Store, Versioned
from vaultdb.storage.cache import Cache
from vaultdb.storage.store import CachedStore


class ReadableStore(Store, Protocol):
    def read(self, keys: list[bytes]) -> list[Versioned | None]: ...


OpenStore = Callable[[Path], tuple[ReadableStore, Callable[[], None]]]
"""A store and how to close it."""


def memory(_path: Path) -> tuple[ReadableStore, Callable[[], None]]:
    return MemoryStore(), lambda: None


def rocksdb(path: Path) -> tuple[ReadableStore, Callable[[], None]]:
    engine = open_engine(path)
    return engine, engine.close


def cached(path: Path) -> tuple[ReadableStore, Callable[[], None]]:
    engine = open_engine(path)
    return CachedStore(engine, Cache(SMALL.cache_bytes)), engine.close


@pytest.fixture(params=[memory, rocksdb, cached], ids=lambda kind: kind.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReadableStore]:
    opened, close = request.param(tmp_path / "db")
    yield opened
    close()


def test_a_new_store_is_empty_and_at_zero(store: ReadableStore) -> None:
    assert store.position() == Position(0, 0, 0)
    assert store.read([b"a"]) == [None]
    assert store.existing([b"a"]) == []


def test_a_write_shows_at_once_and_moves_the_position(store: ReadableStore) -> None:
    store.write({b"a": (b"1", 1), b"b": (b"", 2)}, Position(3, 2, 99))
    assert store.read([b"b", b"x", b"a"]) == [(b"", 2), None, (b"1", 1)]
    assert store.position() == Position(3, 2, 99)


def test_none_removes_and_may_name_what_is_not_there(store: ReadableStore) -> None:
    store.write({b"a": (b"1", 1)}, Position(1, 1, 0))
    store.write({b"a": None, b"never": None}, Position(2, 2, 0))
    assert store.read([b"a", b"never"]) == [None, None]
    assert store.existing([b"a", b"never"]) == []


def test_reads_come_in_the_order_asked_with_repetitions(store: ReadableStore) -> None:
    store.write({b"%d" % number: (b"v%d" % number, number) for number in range(1, 6)}, Position(1, 5, 0))
    assert store.read([b"5", b"1", b"5", b"x", b"3"]) == [(b"v5", 5), (b"v1", 1), (b"v5", 5), None, (b"v3", 3)]
    assert store.existing([b"5", b"x", b"1"]) == [b"5", b"1"]


def test_nothing_asked_nothing_answered(store: ReadableStore) -> None:
    assert (store.read([]), store.existing([])) == ([], [])


def test_an_empty_write_moves_only_the_position(store: ReadableStore) -> None:
    store.write({}, Position(7, 0, 5))
    assert store.position() == Position(7, 0, 5)


def test_keys_and_values_of_any_bytes_up_to_the_limits(store: ReadableStore) -> None:
    longest = b"\xff" * limits.KEY_BYTES_MAX
    changes = {b"\x00": (b"\x00" * 8, 1), longest: (b"\xff" * limits.VALUE_BYTES_MAX, 1), b"\x00position": (b"mine", 1)}
    store.write(dict(changes), Position(1, 1, 0))
    assert store.read(list(changes)) == list(changes.values())
    assert store.position() == Position(1, 1, 0)


def test_the_largest_numbers_survive(store: ReadableStore) -> None:
    huge = 2**63 - 1
    store.write({b"a": (b"1", huge)}, Position(huge, huge, huge))
    assert store.read([b"a"]) == [(b"1", huge)]
    assert store.position() == Position(huge, huge, huge)


KEYS = st.sampled_from([b"a", b"b", b"c", b"\x00", b"aa"])
CHANGES = st.dictionaries(KEYS, st.one_of(st.none(), st.tuples(st.binary(max_size=3), st.integers(1, 9))), max_size=5)


@given(writes=st.lists(CHANGES, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", [rocksdb, cached], ids=lambda kind: kind.__name__)
def test_every_store_does_what_the_twin_does(
    kind: OpenStore,
    writes: list[dict[bytes, Versioned | None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    twin = MemoryStore()
    real, close = kind(tmp_path_factory.mktemp("db"))
    everything = [b"a", b"b", b"c", b"\x00", b"aa"]
    try:
        for index, changes in enumerate(writes, start=1):
            for target in (twin, real):
                target.write(dict(changes), Position(index, index, 0))
            assert real.existing(everything) == twin.existing(everything)
            assert real.read(everything) == twin.read(everything)
            assert real.position() == twin.position()
    finally:
        close()
