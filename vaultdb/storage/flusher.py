"""Decides when RocksDB is flushed, and does it beside the main loop.

The flush runs in a thread because it waits for the disk and lets go of the interpreter's lock meanwhile; reads and
writes go on.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from vaultdb.clock import NS_PER_MS
from vaultdb.config import StorageSettings
from vaultdb.storage.engine import Engine


class Flusher:
    """Owns the flush thread of one engine. `flushed_index`: entries up to it survive a crash; it never goes back."""

    def __init__(self, engine: Engine, settings: StorageSettings) -> None:
        self._engine = engine
        self._memtable_bytes = settings.memtable_bytes
        self._interval_ns = settings.flush_interval_ms * NS_PER_MS
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flush")
        self._running: Future[None] | None = None
        self._dirty_since_ns: int | None = None
        self._started_index = self.flushed_index = engine.position().applied_index
        self._started_bytes = engine.written_bytes

    def poll(self, now_ns: int) -> bool:
        """Call once a turn. Starts a flush that is due; True when one has ended and `flushed_index` has moved.

        Raises what the flush raised.
        """
        if self._running is not None:
            if not self._running.done():
                return False
            return self._finish()
        applied_index = self._engine.position().applied_index
        if applied_index == self.flushed_index:
            return False
        if self._dirty_since_ns is None:
            self._dirty_since_ns = now_ns
        unflushed_bytes = self._engine.written_bytes - self._started_bytes
        if unflushed_bytes >= self._memtable_bytes or now_ns - self._dirty_since_ns >= self._interval_ns:
            self._started_index = applied_index
            self._started_bytes = self._engine.written_bytes
            self._dirty_since_ns = None
            self._running = self._pool.submit(self._engine.flush)
        return False

    def close(self) -> None:
        """Flush what is left and end the thread: a restart then has nothing to replay."""
        try:
            if self._running is not None:
                self._finish()
            if self._engine.position().applied_index != self.flushed_index:
                self._engine.flush()
                self.flushed_index = self._engine.position().applied_index
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the thread; wait for a flush under way, and start none."""
        self._pool.shutdown(wait=True)

    def _finish(self) -> bool:
        """Wait for the running flush and take its success into account."""
        assert self._running is not None
        running, self._running = self._running, None
        running.result()
        self.flushed_index = self._started_index
        return True
