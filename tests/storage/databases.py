"""Small databases for tests, and entries as consensus would send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaultdb import limits
from vaultdb.config import StorageSettings
from vaultdb.storage.engine import Engine
from vaultdb.wire.codec import pack

SMALL = StorageSettings(
    cache_bytes=64 * limits.KIB, block_cache_bytes=64 * limits.KIB, memtable_bytes=64 * limits.KIB, flush_interval_ms=50
)


def open_engine(path: Path) -> Engine:
    return Engine(path, SMALL)


def sst_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.sst"))


def flip_byte(file: Path, offset: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)
        handle.seek(offset)
        handle.write(bytes([byte[0] ^ 0xFF]))


def entry(*commands: Any, stamp_ms: int = 1, origin: int = 0, incarnation: int = 1, request: int = 1) -> bytes:
    """An ENTRY with one proposal; its requests are numbered from `request`."""
    requests = [[request + number, command] for number, command in enumerate(commands)]
    return pack([stamp_ms, [[origin, incarnation, 1, pack(requests)]]])
