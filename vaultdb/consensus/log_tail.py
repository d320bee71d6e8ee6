"""The write-ahead log's growing end: the log writer's half of what log.py describes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log_files import create_segment, segment_path, write_all
from vaultdb.consensus.log_format import SegmentHeader
from vaultdb.consensus.log_memberships import MembershipHistory
from vaultdb.errors import IoFailed
from vaultdb.raft import membership
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState, Snapshot


class Written(NamedTuple):
    """One durable WRITE record."""

    segment: int
    first_index: int
    entries: list[fmt.Location]
    memberships: list[tuple[int, Membership]]
    """Those among `entries`, with their index."""
    begun: SegmentHeader | None
    """Set when the record is the first of a new segment. If that segment `begins` the log, all before it is void."""


class LogTail:
    """The growing end. Owned by the log writer's thread."""

    def __init__(
        self,
        directory: Path,
        header: SegmentHeader,
        size: int,
        *,
        last_index: int,
        last_term: int,
        hard_state: HardState,
        notes: bytes,
        memberships: MembershipHistory,
    ) -> None:
        self._directory = directory
        self._header = header
        self._fd = os.open(segment_path(directory, header.number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = size
        self._last_index, self._last_term = last_index, last_term
        self._hard_state = hard_state
        self._notes = notes
        self._memberships = memberships

    def write(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        segment_bytes: int,
        *,
        snapshot: Snapshot | None = None,
        notes: bytes = b"",
    ) -> Written:
        """Append one record and make it durable. With `snapshot` it stands in a segment that begins the log after it.

        Raises CorruptData on an entry that could not be recovered. Raises IoFailed, after which nothing may be written:
        the process must end and read the disk again (a failed fsync must not be retried, Rebello et al., ATC 2020).
        """
        changes = [(e.index, membership.decode(e.payload)) for e in entries if e.kind == EntryKind.MEMBERSHIP]
        try:
            begun = self._begin_segment() if snapshot is None and self._size >= segment_bytes else None
            self._hard_state = hard_state or self._hard_state
            self._notes = notes or self._notes
            if snapshot is not None:
                begun = self._begin_log(snapshot)
            if entries:
                self._memberships.replace(entries[0].index, changes)
                self._last_index, self._last_term = entries[-1].index, entries[-1].term
            record, locations = fmt.encode_write(self._hard_state, entries, notes, self._header.number, self._size)
            write_all(self._fd, record)
            os.fdatasync(self._fd)
        except OSError as error:
            raise IoFailed(f"log segment {self._header.number} cannot be written: {error.strerror}") from error
        self._size += len(record)
        return Written(self._header.number, entries[0].index if entries else 0, locations, changes, begun)

    def close(self) -> None:
        os.close(self._fd)

    def _begin_log(self, snapshot: Snapshot) -> SegmentHeader:
        self._last_index, self._last_term = snapshot.index, snapshot.term
        self._memberships = MembershipHistory(snapshot.index, snapshot.membership)
        return self._begin_segment(begins=True)

    def _begin_segment(self, *, begins: bool = False) -> SegmentHeader:
        """The commit index may name entries that follow in the same write: the header alone must not promise them."""
        term, vote, commit = self._hard_state
        commit = min(commit, self._last_index)
        self._memberships.rebase(commit)
        header = self._header._replace(
            number=self._header.number + 1,
            base_index=self._last_index,
            base_term=self._last_term,
            term=term,
            vote=vote,
            commit=commit,
            membership=membership.encode(self._memberships.newest),
            notes=self._notes,
            begins=begins,
        )
        self._size = create_segment(self._directory, header)
        os.close(self._fd)
        self._fd = os.open(segment_path(self._directory, header.number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._header = header
        return header
