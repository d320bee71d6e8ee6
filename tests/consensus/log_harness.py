"""What the tests of the write-ahead log share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_tail import LogTail
from vaultdb.raft.membership import Membership, encode
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState, RestoredState, Snapshot

SMALL_SEGMENT_BYTES = 600
VOTERS = Membership((1, 2, 3))
INCARNATION = 0xFEDC_BA98_7654_3210


def entry(index: int, term: int = 1, size: int = 50) -> Entry:
    return Entry(term, index, EntryKind.COMMAND, f"{term}/{index}".encode().ljust(size, b"."))


def change(index: int, membership: Membership, term: int = 1) -> Entry:
    return Entry(term, index, EntryKind.MEMBERSHIP, encode(membership))


class Image(NamedTuple):
    """All that a log says of itself."""

    restored: RestoredState
    entries: list[Entry]
    notes: bytes


def open_log(directory: Path, first_membership: Membership = VOTERS, incarnation: int = INCARNATION) -> WriteAheadLog:
    return WriteAheadLog(directory, "test", 3, first_membership, draw=lambda: incarnation)


def image_of(log: WriteAheadLog) -> Image:
    """Of a log that was just opened: it does not keep its hard state and notes current."""
    entries = log.entries(log.base_index + 1, log.last_index, 1 << 40) if log.last_index > log.base_index else []
    return Image(log.restored, entries, log.notes)


class Harness:
    """A log and its tail in one thread, reopened at will."""

    def __init__(self, directory: Path, segment_bytes: int = SMALL_SEGMENT_BYTES) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.open()

    def open(self) -> None:
        self.log = open_log(self.directory)
        self.tail: LogTail = self.log.tail()

    def append(
        self,
        *entries: Entry,
        hard_state: HardState | None = None,
        snapshot: Snapshot | None = None,
        notes: bytes = b"",
    ) -> None:
        self.log.written(self.tail.write(hard_state, list(entries), self.segment_bytes, snapshot=snapshot, notes=notes))

    def begin_segment(self) -> None:
        """Append until a segment is begun."""
        segments = self.log.segments
        while self.log.segments == segments:
            self.append(entry(self.log.last_index + 1, term=self.log.last_term or 1))

    def close(self) -> None:
        self.tail.close()
        self.log.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def read_all(self) -> list[Entry]:
        return image_of(self.log).entries

    @property
    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())
