"""When RocksDB is flushed, and what is claimed about it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.storage.databases import SMALL, open_engine
from vaultdb.clock import NS_PER_MS
from vaultdb.errors import IoFailed
from vaultdb.kv.machine import Position
from vaultdb.storage.engine import Engine
from vaultdb.storage.flusher import Flusher

INTERVAL_NS = SMALL.flush_interval_ms * NS_PER_MS


class GatedEngine(Engine):
    """Its flush begins, and waits for the test's word to go on."""

    gate: threading.Event
    action: Callable[[], None] | None = None

    def flush(self) -> None:
        assert self.gate.wait(10)
        if self.action is not None:
            self.action()
        super().flush()


@pytest.fixture
def engine(tmp_path: Path) -> GatedEngine:
    engine = GatedEngine(tmp_path / "db", SMALL)
    engine.gate = threading.Event()
    engine.gate.set()
    return engine


def write(engine: Engine, index: int, value_bytes: int = 1) -> None:
    engine.write({b"k": (bytes(value_bytes), index)}, Position(index, index, 0))


def ended(flusher: Flusher, now_ns: int) -> None:
    wait_until(lambda: flusher.poll(now_ns), "the flush ends")


def test_nothing_written_nothing_flushed(engine: GatedEngine) -> None:
    flusher = Flusher(engine, SMALL)
    assert not any(flusher.poll(now_ns) for now_ns in (0, INTERVAL_NS, 9 * INTERVAL_NS))
    assert flusher._running is None
    flusher.close()
    engine.close()


def test_the_interval_counts_from_the_first_unflushed_write(engine: GatedEngine) -> None:
    flusher = Flusher(engine, SMALL)
    flusher.poll(0)
    write(engine, 1)
    flusher.poll(1_000)
    write(engine, 2)
    flusher.poll(1_000 + INTERVAL_NS - 1)
    assert flusher._running is None
    flusher.poll(1_000 + INTERVAL_NS)
    ended(flusher, 1_000 + INTERVAL_NS)
    assert flusher.flushed_index == 2
    flusher.close()
    engine.close()


def test_a_full_memtable_is_flushed_at_once(engine: GatedEngine) -> None:
    flusher = Flusher(engine, SMALL)
    write(engine, 1, SMALL.memtable_bytes - 1_000)
    flusher.poll(0)
    assert flusher._running is None
    write(engine, 2, 1_000)
    flusher.poll(0)
    ended(flusher, 0)
    assert flusher.flushed_index == 2
    flusher.close()
    engine.close()


def test_only_what_was_written_before_the_flush_began_is_called_flushed(engine: GatedEngine) -> None:
    """The log is cut below this index. Planted bug: taking the applied index when the flush ends."""
    flusher = Flusher(engine, SMALL)
    engine.gate.clear()
    write(engine, 1, SMALL.memtable_bytes)
    assert not flusher.poll(0)
    write(engine, 2)
    assert not flusher.poll(0)
    assert flusher.flushed_index == 0
    engine.gate.set()
    ended(flusher, 0)
    assert flusher.flushed_index == 1
    flusher.close()
    assert flusher.flushed_index == 2
    engine.close()


def test_a_failed_flush_is_raised_in_the_loop_and_claims_nothing(engine: GatedEngine) -> None:
    def fail() -> None:
        raise IoFailed("disk full")

    engine.action = fail
    flusher = Flusher(engine, SMALL)
    write(engine, 1, SMALL.memtable_bytes)
    flusher.poll(0)
    with pytest.raises(IoFailed, match="disk full"):
        ended(flusher, 0)
    assert flusher.flushed_index == 0
    flusher.abandon()
    engine.close()


def test_closing_flushes_the_rest(engine: GatedEngine, tmp_path: Path) -> None:
    flusher = Flusher(engine, SMALL)
    write(engine, 5)
    flusher.close()
    engine.close()
    reopened = open_engine(tmp_path / "db")
    assert reopened.position().applied_index == 5
    assert Flusher(reopened, SMALL).flushed_index == 5, "what a start finds on disk is durable"
    reopened.close()
