"""RocksDB as VaultDB uses it. The only module that imports rocksdict, and the only translation of its errors.

Key layout, format 1. The first byte of a RocksDB key is its kind:

    ====  =======================  ===========================  ==================================================
    byte  kind                     rest of the key              value
    ====  =======================  ===========================  ==================================================
    0x00  meta                     "format"                     version, 4 bytes big-endian
    0x00  meta                     "position"                   applied index, revision, clock in ms, 8 bytes each
    0x01  data                     the key                      revision, 8 bytes big-endian, then the value
    0x02  session (reserved)
    0x03  expiry index (reserved)
    0x04  history (reserved)
    ====  =======================  ===========================  ==================================================

RocksDB's own write-ahead log is off: the Raft log is its log. Every write is one batch that holds the position beside
the data, in one column family, so whatever RocksDB has on disk after a crash is a state that existed, and names the
index from which to replay.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import rocksdict

from vaultdb import limits
from vaultdb.config import StorageSettings
from vaultdb.errors import BrokenInvariant, CorruptData, Fatal, IoFailed
from vaultdb.kv.machine import Changes, Position, Versioned

FORMAT_VERSION = 1

DATA = b"\x01"
_DATA_END = b"\x02"
_FORMAT_KEY = b"\x00format"
_POSITION_KEY = b"\x00position"
_FORMAT = struct.Struct(">I")
_POSITION = struct.Struct(">QQQ")
REVISION_BYTES = 8

_MODE_FILE = "rocksdict-config.json"
_WRITE_BUFFERS_MAX = 4
"""Memtables full, being flushed or being filled, before RocksDB stops a write."""
_DIAGNOSTICS_FILE_BYTES = 1 * limits.MIB
_DIAGNOSTICS_FILES_MAX = 2

_STATISTICS = {
    "sst_bytes": "rocksdb.live-sst-files-size",
    "memtable_bytes": "rocksdb.cur-size-all-mem-tables",
    "block_cache_bytes": "rocksdb.block-cache-usage",
    "pending_compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
    "running_flushes": "rocksdb.num-running-flushes",
    "running_compactions": "rocksdb.num-running-compactions",
    "background_errors": "rocksdb.background-errors",
    "write_stopped": "rocksdb.is-write-stopped",
}


class Engine:
    """One open database. Owns its lock. For one thread, except that `flush` may run in another while this one reads
    and writes.

    Any method raises CorruptData (a checksum or a format is wrong) or IoFailed (disk full, failed read or write);
    after a failed write the engine takes no more, and the process has to end.
    """

    def __init__(self, path: Path, settings: StorageSettings) -> None:
        """Open the database at `path`, or make a new one. Call it after the fork."""
        self._translated = _Translated(path)
        _check_mode(path)
        path.mkdir(parents=True, exist_ok=True)
        with self._translated:
            self._db = rocksdict.Rdict(str(path), _options(settings))
        self._write_options = rocksdict.WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]  # an attribute, whatever its stub says
        self.written_bytes = 0
        """Handed to RocksDB since it was opened, keys and framing included."""
        try:
            self._check_format(path)
            self._position = self._load_position(path)
        except Fatal:
            self.close()
            raise

    def position(self) -> Position:
        """As of the last write."""
        return self._position

    def read(self, keys: Sequence[bytes]) -> list[Versioned | None]:
        """The stored values in the order asked, from one MultiGet; None where there is no value."""
        return [
            None if stored is None else (stored[REVISION_BYTES:], int.from_bytes(stored[:REVISION_BYTES], "big"))
            for stored in self._get(keys)
        ]

    def existing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that hold a value, in the order asked."""
        return [key for key, stored in zip(keys, self._get(keys), strict=True) if stored is not None]

    def write(self, changes: Changes, position: Position) -> None:
        """Apply `changes` and move to `position` in one batch. Readable at once, durable after the next `flush`."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        revision, header = -1, b""
        for key, versioned in changes.items():
            if versioned is None:
                delete(DATA + key)
            else:
                if versioned[1] != revision:
                    revision = versioned[1]
                    header = revision.to_bytes(REVISION_BYTES, "big")
                put(DATA + key, header + versioned[0])
        put(_POSITION_KEY, _POSITION.pack(*position))
        size_bytes = batch.size_in_bytes()
        with self._translated:
            self._db.write(batch, self._write_options)
        self.written_bytes += size_bytes
        self._position = position

    def flush(self) -> None:
        """Make everything written before the call durable. Blocks this thread, and no other."""
        with self._translated:
            self._db.flush()

    def scan(self) -> Scan:
        """All data in key order, as it is now: later writes do not show."""
        return Scan(self._db, self._translated)

    def keys_estimate(self) -> int:
        return self._db.property_int_value("rocksdb.estimate-num-keys") or 0

    def statistics(self) -> dict[str, int]:
        return {name: self._db.property_int_value(property_) or 0 for name, property_ in _STATISTICS.items()}

    def close(self) -> None:
        """Give the database and its lock back. No other call may be under way or follow.

        RocksDB may flush on the way, and tells nobody if that fails: call `flush` first to be sure.
        """
        with self._translated:
            self._db.close()

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._translated:
            if len(keys) == 1:
                return [self._db.get(DATA + keys[0])]
            return self._db.get([DATA + key for key in keys])  # type: ignore[return-value]  # a list for a list

    def _check_format(self, path: Path) -> None:
        """An empty database becomes ours; one that holds anything must already be."""
        with self._translated:
            stored = self._db.get(_FORMAT_KEY)
            if stored is None:
                everything = self._db.iter()
                everything.seek_to_first()
                everything.status()
                if everything.valid():
                    raise CorruptData(f"the database {path} names no format version; this is not VaultDB's data")
                self._db.put(_FORMAT_KEY, _FORMAT.pack(FORMAT_VERSION), self._write_options)
                self._db.flush()
                return
        version = _FORMAT.unpack(stored)[0] if len(stored) == _FORMAT.size else stored.hex()
        if version != FORMAT_VERSION:
            raise CorruptData(f"the database {path} has format version {version}; this program knows {FORMAT_VERSION}")

    def _load_position(self, path: Path) -> Position:
        with self._translated:
            stored = self._db.get(_POSITION_KEY)
        if stored is None:
            return Position()
        if len(stored) != _POSITION.size:
            raise CorruptData(
                f"the database {path} has a position of {len(stored)} bytes; it should be {_POSITION.size}"
            )
        return Position(*_POSITION.unpack(stored))


class Scan:
    """A walk over the data as it was when the walk began. Close it before the engine."""

    def __init__(self, db: rocksdict.Rdict, translated: _Translated) -> None:
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(_DATA_END)
        self._translated = translated
        self._iterator: rocksdict.RdictIter | None
        with translated:
            self._iterator = db.iter(options)
            self._iterator.seek(DATA)

    def take(self, keys_max: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """The next keys, each with its stored value (revision first); empty at the end, and only there.

        Stops after `keys_max` keys, or once `bytes_max` bytes are reached.
        """
        taken: list[tuple[bytes, bytes]] = []
        iterator = self._iterator
        if iterator is None:
            return taken
        size_bytes = 0
        with self._translated:
            while len(taken) < keys_max and size_bytes < bytes_max and iterator.valid():
                key, stored = iterator.key()[len(DATA) :], iterator.value()
                taken.append((key, stored))
                size_bytes += len(key) + len(stored)
                iterator.next()
            # A damaged block ends the iteration as if the data ended there: only the status tells.
            iterator.status()
        return taken

    def close(self) -> None:
        self._iterator = None


class _Translated:
    """A context in which rocksdict's errors, which are bare `Exception`s with a text, become VaultDB's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not Exception and kind is not rocksdict.DbClosedError:
            return
        text = str(error)
        if "Corruption" in text:
            raise CorruptData(f"the database {self._path} is damaged: {text}") from error
        if "IO error" in text or "No space left" in text:
            raise IoFailed(f"the database {self._path} failed: {text}") from error
        raise BrokenInvariant(f"RocksDB in {self._path} refused a call: {text}") from error


def _check_mode(path: Path) -> None:
    """Refuse a database of rocksdict's other key encoding: opened in this one it would look empty."""
    mode_file = path / _MODE_FILE
    try:
        raw = json.loads(mode_file.read_text(encoding="utf-8"))["raw_mode"]
    except FileNotFoundError:
        return
    except OSError as error:
        raise IoFailed(f"{mode_file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{mode_file} cannot be understood") from error
    if raw is not True:
        raise CorruptData(f"the database {path} was not written in raw mode; this is not VaultDB's data")


def _options(settings: StorageSettings) -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(settings.bloom_bits_per_key, block_based=False)
    table.set_block_cache(rocksdict.Cache(settings.block_cache_bytes))
    table.set_format_version(5)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(settings.memtable_bytes)
    options.set_max_write_buffer_number(_WRITE_BUFFERS_MAX)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_bytes_per_sync(limits.MIB)
    options.set_max_log_file_size(_DIAGNOSTICS_FILE_BYTES)
    options.set_keep_log_file_num(_DIAGNOSTICS_FILES_MAX)
    return options
