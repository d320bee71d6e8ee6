"""The state hash: equal on two replicas exactly if they hold the same data at the same revision.

    blake2b-256 over, for every key in byte order,
        key length (4 bytes) · stored length (4 bytes) · key · stored (revision, 8 bytes, then the value)
    and at the end the revision of the state (8 bytes).

All numbers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from vaultdb import limits
from vaultdb.kv.machine import Position
from vaultdb.storage.engine import Engine

_LENGTHS = struct.Struct(">II")
_REVISION = struct.Struct(">Q")
_DIGEST_BYTES = 32
_ASKERS_WAITING_MAX = 16
_SLICE_KEYS_MAX = 2_000
_SLICE_BYTES_MAX = 1 * limits.MIB
"""A slice takes some 2 ms, so that requests get their turn in between."""


class StateDigest:
    """The hash of the state at one instant, computed in slices while the state moves on. Close it before the engine."""

    def __init__(self, engine: Engine) -> None:
        self.position: Position = engine.position()
        self.keys = 0
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._scan = engine.scan()

    def advance(self) -> bool:
        """Hash one slice. True when that was the last. Raises CorruptData rather than leave anything out."""
        slice_ = self._scan.take(_SLICE_KEYS_MAX, _SLICE_BYTES_MAX)
        if not slice_:
            self._hash.update(_REVISION.pack(self.position.revision))
            self.close()
            return True
        parts: list[bytes] = []
        for key, stored in slice_:
            parts += (_LENGTHS.pack(len(key), len(stored)), key, stored)
        self._hash.update(b"".join(parts))
        self.keys += len(slice_)
        return False

    def hexdigest(self) -> str:
        """Meaningful once `advance` returned True."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Let go of the pinned view."""
        self._scan.close()


class Asker(NamedTuple):
    """Who wants the hash; `incarnation` and `batch` are its own and are sent back as they came."""

    sender: bytes
    incarnation: int
    batch: int


class DigestQueue:
    """At most one scan at a time; all who asked before it began get its result."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[Asker] = []
        self._served: list[Asker] = []
        self._digest: StateDigest | None = None

    @property
    def busy(self) -> bool:
        return self._digest is not None or bool(self._waiting)

    def add(self, asker: Asker) -> bool:
        """False, and the asker is forgotten, when too many wait."""
        if len(self._waiting) >= _ASKERS_WAITING_MAX:
            return False
        self._waiting.append(asker)
        return True

    def advance(self) -> tuple[list[Asker], StateDigest] | None:
        """Do one slice, if there is anything to do. At the end of a scan: who asked, and the finished digest."""
        if self._digest is None:
            if not self._waiting:
                return None
            self._digest = StateDigest(self._engine)
            self._served, self._waiting = self._waiting, []
        if not self._digest.advance():
            return None
        finished, self._digest = self._digest, None
        return self._served, finished

    def close(self) -> None:
        """Let go of the pinned view; a scan under way is given up."""
        if self._digest is not None:
            self._digest.close()
            self._digest = None
