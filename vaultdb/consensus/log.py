"""The write-ahead log: what recovery found, and where every entry stands.

Two threads share the log without a lock, because each owns its half. The *tail* (log_tail.py: the open segment, its
size, the log's last position, the membership there) belongs to the log writer's thread. The *index* (here: term and
place of every entry; the memberships; reading; cutting) belongs to the process's loop, which hears of a finished write
by its `Written`.

The tail makes files, the index deletes them, for it alone reads the older ones. So a segment that begins the log
anew (after a snapshot) is durable when the loop hears of it, and only then the segments before it go; a crash before
that leaves them to recovery, which does the same.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log_files import (
    create_segment,
    is_unborn,
    make_durable,
    read_header,
    segment_numbers,
    segment_path,
    sync_directory,
)
from vaultdb.consensus.log_format import SegmentHeader
from vaultdb.consensus.log_memberships import MembershipHistory
from vaultdb.consensus.log_tail import LogTail, Written
from vaultdb.errors import BrokenInvariant, CorruptData, IoFailed, WrongIdentity
from vaultdb.raft import membership
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import NOBODY, Entry, EntryKind
from vaultdb.raft.state import HardState, RestoredState

_INCARNATION_BYTES = 8


def draw_incarnation() -> int:
    """64 random bits."""
    return int.from_bytes(os.urandom(_INCARNATION_BYTES))


class _ReachesBelowBase(CorruptData):
    """A record replaces entries that lie before the first one of the log."""


@dataclass(slots=True)
class Segment:
    """What the index knows of one file."""

    header: SegmentHeader
    fd: int
    overwrites_base: bool = False
    """It holds an entry at or below its base index, so the log cannot begin with it."""


class WriteAheadLog:
    """The durable log as the loop sees it: the core's LogReader, plus recovery and cutting.

    Invariant: entry `base_index + 1 + i` has term `_terms[i]` and stands at `_offsets[i]`, `_lengths[i]` of segment
    `_numbers[i]`.
    """

    def __init__(
        self,
        directory: Path,
        cluster: str,
        node: int,
        first_membership: Membership,
        *,
        draw: Callable[[], int] = draw_incarnation,
    ) -> None:
        """Open or create the log in `directory`. Raises CorruptData, WrongIdentity or IoFailed.

        `first_membership` is in force at index 0 of a log that is created, or was written before logs told of
        memberships. Such a log also draws its incarnation now.
        """
        self._directory = directory
        self._cluster, self._node = cluster, node
        self._first_membership = first_membership
        self._segments: list[Segment] = []
        self._terms = array("Q")
        self._kinds = array("B")
        self._numbers = array("Q")
        self._offsets = array("Q")
        self._lengths = array("L")
        self._memberships = MembershipHistory(0, first_membership)
        self.base_index, self.base_term = 0, 0
        self.hard_state = HardState(0, NOBODY, 0)
        """As recovered."""
        self.notes = b""
        """As recovered: the newest that were durable."""
        self.incarnation = 0
        """Tells this log from any other that its node had before."""
        self.cut_bytes = 0
        """Bytes of a torn, never acknowledged tail that recovery removed."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._tail_size = self._recover(draw)
        except OSError as error:
            raise IoFailed(f"the log in {directory} cannot be opened: {error.strerror}") from error

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._terms)

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else self.base_term

    @property
    def memberships(self) -> tuple[tuple[int, Membership], ...]:
        """The one in force at the base, with the base index, then every one that the log holds; ascending."""
        return self._memberships.all()

    @property
    def restored(self) -> RestoredState:
        return RestoredState(
            self.hard_state, self.base_index, self.base_term, self.last_index, self.last_term, self.memberships
        )

    @property
    def segments(self) -> int:
        return len(self._segments)

    def tail(self) -> LogTail:
        """The writer's half. To be taken once, before anything is written."""
        return LogTail(
            self._directory,
            self._segments[-1].header,
            self._tail_size,
            last_index=self.last_index,
            last_term=self.last_term,
            hard_state=self.hard_state,
            notes=self.notes,
            memberships=self._memberships.copy(),
        )

    def term(self, index: int) -> int:
        if index == self.base_index:
            return self.base_term
        return self._terms[self._position(index)]

    def entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for at in range(self._position(first), self._position(last) + 1):
            size += self._lengths[at]
            if found and size > bytes_max:
                break
            payload = os.pread(self._fd_of(self._numbers[at]), self._lengths[at], self._offsets[at])
            if len(payload) != self._lengths[at]:
                raise CorruptData(f"log segment {self._numbers[at]} is shorter than what was written to it")
            found.append(Entry(self._terms[at], self.base_index + 1 + at, self._kinds[at], payload))
        return found

    def written(self, record: Written) -> None:
        """Take a durable record into the index, and delete the segments that it made void."""
        if record.begun is not None and record.begun.begins:
            void, self._segments = self._segments, []
            self._begin_with(record.begun)
            for segment in void:
                os.close(segment.fd)
            self._delete_void([segment.header.number for segment in void])
        elif record.begun is not None:
            self._add_segment(record.begun)
        self._index(record.first_index, record.entries, record.memberships)

    def cut(self, index: int) -> int:
        """Delete the segments that hold nothing above `index`; returns the new base index, at most `index`."""
        keep = 0
        for at in range(1, len(self._segments)):
            segment = self._segments[at]
            if segment.header.base_index > index:
                break
            if not any(later.overwrites_base for later in self._segments[at:]):
                keep = at
        if keep == 0:
            return self.base_index
        header = self._segments[keep].header
        base_term = self.term(header.base_index)
        dropped = header.base_index - self.base_index
        for column in self._columns:
            del column[:dropped]
        self.base_index, self.base_term = header.base_index, base_term
        self._memberships.rebase(self.base_index)
        for segment in self._segments[:keep]:
            os.close(segment.fd)
            segment_path(self._directory, segment.header.number).unlink()
            sync_directory(self._directory)
        del self._segments[:keep]
        return self.base_index

    def close(self) -> None:
        for segment in self._segments:
            os.close(segment.fd)
        self._segments.clear()

    @property
    def _columns(self) -> tuple[array[int], ...]:
        return self._terms, self._kinds, self._numbers, self._offsets, self._lengths

    def _position(self, index: int) -> int:
        if not self.base_index < index <= self.last_index:
            raise BrokenInvariant(f"log index {index} is outside ({self.base_index}, {self.last_index}]")
        return index - self.base_index - 1

    def _fd_of(self, number: int) -> int:
        return self._segments[number - self._segments[0].header.number].fd

    def _index(self, first_index: int, entries: list[fmt.Location], memberships: list[tuple[int, Membership]]) -> None:
        if not entries:
            return
        keep = first_index - self.base_index - 1
        segment = self._segments[-1]
        if not 0 <= keep <= len(self._terms):
            fault = _ReachesBelowBase if keep < 0 else CorruptData
            raise fault(
                f"log segment {segment.header.number} continues at index {first_index},"
                f" but the log is ({self.base_index}, {self.last_index}]"
            )
        segment.overwrites_base |= first_index <= segment.header.base_index
        if keep < len(self._terms):
            for column in self._columns:
                del column[keep:]
        self._memberships.replace(first_index, memberships)
        for term, kind, offset, length in entries:
            self._terms.append(term)
            self._kinds.append(kind)
            self._numbers.append(segment.header.number)
            self._offsets.append(offset)
            self._lengths.append(length)

    def _begin_with(self, header: SegmentHeader) -> None:
        """Make `header`'s segment the first of an empty log."""
        for column in self._columns:
            del column[:]
        self.base_index, self.base_term = header.base_index, header.base_term
        self._memberships = MembershipHistory(self.base_index, self._at_base_of(header))
        self._add_segment(header)

    def _at_base_of(self, header: SegmentHeader) -> Membership:
        return self._first_membership if header.version == fmt.VERSION_1 else membership.decode(header.membership)

    def _add_segment(self, header: SegmentHeader) -> None:
        fd = os.open(segment_path(self._directory, header.number), os.O_RDONLY | os.O_CLOEXEC)
        self._segments.append(Segment(header, fd))

    def _begin_segment(self, number: int) -> int:
        """Add a segment of this version to what was recovered; returns its size."""
        header = SegmentHeader(
            fmt.VERSION,
            self._cluster,
            self._node,
            self.incarnation,
            number,
            self.last_index,
            self.last_term,
            *self.hard_state,
            membership.encode(self._memberships.newest),
            self.notes,
            False,
        )
        size = create_segment(self._directory, header)
        self._add_segment(header)
        return size

    def _delete_void(self, numbers: list[int]) -> None:
        """Not synced: a file that comes back after a crash is found void again, and deleted."""
        for number in numbers:
            segment_path(self._directory, number).unlink()

    def _recover(self, draw: Callable[[], int]) -> int:
        """Read every segment that counts; returns the size of the last one."""
        numbers = segment_numbers(self._directory)
        if len(numbers) > 1 and is_unborn(self._directory, numbers[-1]):
            segment_path(self._directory, numbers.pop()).unlink()
        if not numbers or (numbers == [1] and is_unborn(self._directory, 1)):
            self.incarnation = draw()
            return self._begin_segment(1)
        headers = self._read_headers(numbers)
        incarnations = {header.incarnation for header, _ in headers.values() if header.version != fmt.VERSION_1}
        if len(incarnations) > 1:
            raise CorruptData(f"the log in {self._directory} is mixed from {len(incarnations)} logs of this node")
        self.incarnation = incarnations.pop() if incarnations else draw()
        size = self._read_segments(headers)
        if self.hard_state.commit > self.last_index:
            raise CorruptData(
                f"the log in {self._directory} ends at index {self.last_index},"
                f" but {self.hard_state.commit} was committed"
            )
        void = [number for number in numbers if number < min(headers)]
        last = self._segments[-1].header
        if last.version == fmt.VERSION_1 or (last.begins and void):
            size = self._begin_segment(last.number + 1)
        self._delete_void(void)
        return size

    def _read_headers(self, numbers: list[int]) -> dict[int, tuple[SegmentHeader, int]]:
        """By number, each header and where it ends: of the last segment and back to the one that begins the log."""
        headers = {}
        for number in reversed(numbers):
            header, end = read_header(self._directory, number)
            if (header.cluster, header.node) != (self._cluster, self._node):
                raise WrongIdentity(
                    f"the log in {self._directory} belongs to node {header.node} of cluster {header.cluster!r},"
                    f" not to node {self._node} of {self._cluster!r}"
                )
            headers[number] = header, end
            if header.begins:
                break
        return headers

    def _read_segments(self, headers: dict[int, tuple[SegmentHeader, int]]) -> int:
        numbers = sorted(headers)
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise CorruptData(f"log segments are missing in {self._directory}: found {numbers}")
        while True:
            try:
                for number in numbers:
                    size = self._recover_segment(*headers[number], is_last=number == numbers[-1])
                return size
            except _ReachesBelowBase as error:
                if len(numbers) == 1 or headers[numbers[0]][0].begins:
                    raise CorruptData(str(error)) from error
                self._finish_cut(numbers.pop(0))

    def _finish_cut(self, number: int) -> None:
        """A cut was interrupted: it had begun to delete, for only a cut leaves a log that begins with an overwrite."""
        self.close()
        segment_path(self._directory, number).unlink()
        sync_directory(self._directory)

    def _recover_segment(self, header: SegmentHeader, offset: int, *, is_last: bool) -> int:
        path = segment_path(self._directory, header.number)
        data = path.read_bytes()
        self._recover_header(header)
        last = 0
        while offset < len(data):
            framed = fmt.decode_record(data, header.number, offset)
            is_write = framed is not None and framed[0] == fmt.WRITE
            record = fmt.decode_write(framed[1], offset, header.version) if framed is not None and is_write else None
            if framed is None or record is None:
                if not is_last or fmt.has_valid_record(data, header.number, offset + 1):
                    raise CorruptData(
                        f"log segment {path.name} is damaged at offset {offset}, in data that was durable"
                    )
                break
            self.hard_state = record.hard_state
            self.notes = record.notes or self.notes
            self._index(record.first_index, record.entries, _memberships_in(record, data))
            last, offset = offset, offset + fmt.FRAME_BYTES + len(framed[1])
        if is_last:
            self.cut_bytes = len(data) - offset
            make_durable(path, data[last:offset], last)
        return offset

    def _recover_header(self, header: SegmentHeader) -> None:
        if not self._segments:
            self._begin_with(header)
        elif header.base_index > self.last_index:
            raise CorruptData(
                f"log segment {header.number} follows index {header.base_index}; the log ends at {self.last_index}"
            )
        else:
            if self._segments[-1].header.version < header.version:
                # What the log was told when it learnt of memberships holds, whatever it is told now.
                self._memberships = MembershipHistory(self.base_index, self._at_base_of(header))
            self._add_segment(header)
        self.hard_state = HardState(header.term, header.vote, header.commit)
        self.notes = header.notes


def _memberships_in(record: fmt.WriteRecord, data: bytes) -> list[tuple[int, Membership]]:
    return [
        (record.first_index + at, membership.decode(data[entry.offset : entry.offset + entry.length]))
        for at, entry in enumerate(record.entries)
        if entry.kind == EntryKind.MEMBERSHIP
    ]
