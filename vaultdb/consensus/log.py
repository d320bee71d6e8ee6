"""The write-ahead log: what recovery found, where every entry stands, and the file that grows.

Two threads share it without a lock, because each owns its half. The *tail* (the open segment, its size, the log's
last position) belongs to the log writer's thread. The *index* (term and place of every entry; reading; cutting)
belongs to the process's loop, which hears of a finished write by its `Written`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log_format import SegmentHeader
from vaultdb.errors import BrokenInvariant, CorruptData, IoFailed, WrongIdentity
from vaultdb.raft.messages import NOBODY, Entry
from vaultdb.raft.state import HardState, RestoredState
from vaultdb.wire.codec import pack

_SUFFIX = ".log"


class _ReachesBelowBase(CorruptData):
    """A record replaces entries that lie before the first one of the log."""


class Written(NamedTuple):
    """One durable WRITE record."""

    segment: int
    first_index: int
    entries: list[fmt.Location]
    begun: SegmentHeader | None
    """Set when the record is the first of a new segment."""


@dataclass(slots=True)
class Segment:
    """What the index knows of one file."""

    header: SegmentHeader
    fd: int
    overwrites_base: bool = False
    """It holds an entry at or below its base index, so the log cannot begin with it."""


class LogTail:
    """The growing end. Owned by the log writer's thread."""

    def __init__(
        self, directory: Path, header: SegmentHeader, size: int, last_index: int, last_term: int, hard_state: HardState
    ) -> None:
        self._directory = directory
        self._header = header
        self._fd = os.open(segment_path(directory, header.number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = size
        self._last_index, self._last_term = last_index, last_term
        self._hard_state = hard_state

    def write(self, hard_state: HardState | None, entries: Sequence[Entry], segment_bytes: int) -> Written:
        """Append one record and make it durable. Raises IoFailed, after which nothing may be written: the process
        must end and read the disk again (a failed fsync must not be retried, Rebello et al., ATC 2020)."""
        try:
            begun = self._begin_segment() if self._size >= segment_bytes else None
            if hard_state is not None:
                self._hard_state = hard_state
            record, locations = fmt.encode_write(self._hard_state, entries, self._header.number, self._size)
            write_all(self._fd, record)
            os.fdatasync(self._fd)
        except OSError as error:
            raise IoFailed(f"log segment {self._header.number} cannot be written: {error.strerror}") from error
        self._size += len(record)
        if entries:
            self._last_index, self._last_term = entries[-1].index, entries[-1].term
        return Written(self._header.number, entries[0].index if entries else 0, locations, begun)

    def close(self) -> None:
        os.close(self._fd)

    def _begin_segment(self) -> SegmentHeader:
        header = self._header._replace(
            number=self._header.number + 1,
            base_index=self._last_index,
            base_term=self._last_term,
            term=self._hard_state.term,
            vote=self._hard_state.vote,
            commit=self._hard_state.commit,
        )
        self._size = create_segment(self._directory, header)
        os.close(self._fd)
        self._fd = os.open(segment_path(self._directory, header.number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._header = header
        return header


class WriteAheadLog:
    """The durable log as the loop sees it: the core's LogReader, plus recovery and cutting.

    Invariant: entry `base_index + 1 + i` has term `_terms[i]` and stands at `_offsets[i]`, `_lengths[i]` of segment
    `_numbers[i]`.
    """

    def __init__(self, directory: Path, cluster: str, node: int) -> None:
        """Open or create the log in `directory`. Raises CorruptData, WrongIdentity or IoFailed."""
        self._directory = directory
        self._cluster, self._node = cluster, node
        self._segments: list[Segment] = []
        self._terms = array("Q")
        self._kinds = array("B")
        self._numbers = array("Q")
        self._offsets = array("Q")
        self._lengths = array("L")
        self.base_index, self.base_term = 0, 0
        self.hard_state = HardState(0, NOBODY, 0)
        self.cut_bytes = 0
        """Bytes of a torn, never acknowledged tail that recovery removed."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._tail_size = self._recover()
        except OSError as error:
            raise IoFailed(f"the log in {directory} cannot be opened: {error.strerror}") from error
        if self.hard_state.commit > self.last_index:
            raise CorruptData(
                f"the log in {directory} ends at index {self.last_index}, but {self.hard_state.commit} was committed"
            )

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._terms)

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else self.base_term

    @property
    def restored(self) -> RestoredState:
        return RestoredState(self.hard_state, self.base_index, self.base_term, self.last_index, self.last_term)

    @property
    def segments(self) -> int:
        return len(self._segments)

    def tail(self) -> LogTail:
        """The writer's half. To be taken once, before anything is written."""
        header = self._segments[-1].header
        return LogTail(self._directory, header, self._tail_size, self.last_index, self.last_term, self.hard_state)

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
        """Take a durable record into the index."""
        if record.begun is not None:
            self._add_segment(record.begun)
        self._index(record.first_index, record.entries)

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
        for column in (self._terms, self._kinds, self._numbers, self._offsets, self._lengths):
            del column[:dropped]
        self.base_index, self.base_term = header.base_index, base_term
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

    def _position(self, index: int) -> int:
        if not self.base_index < index <= self.last_index:
            raise BrokenInvariant(f"log index {index} is outside ({self.base_index}, {self.last_index}]")
        return index - self.base_index - 1

    def _fd_of(self, number: int) -> int:
        return self._segments[number - self._segments[0].header.number].fd

    def _index(self, first_index: int, entries: list[fmt.Location]) -> None:
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
            for column in (self._terms, self._kinds, self._numbers, self._offsets, self._lengths):
                del column[keep:]
        for term, kind, offset, length in entries:
            self._terms.append(term)
            self._kinds.append(kind)
            self._numbers.append(segment.header.number)
            self._offsets.append(offset)
            self._lengths.append(length)

    def _add_segment(self, header: SegmentHeader) -> None:
        fd = os.open(segment_path(self._directory, header.number), os.O_RDONLY | os.O_CLOEXEC)
        self._segments.append(Segment(header, fd))

    def _recover(self) -> int:
        """Read every segment; returns the size of the last one."""
        numbers = segment_numbers(self._directory)
        if len(numbers) > 1 and self._is_unborn(numbers[-1]):
            segment_path(self._directory, numbers.pop()).unlink()
        if not numbers or (numbers == [1] and self._is_unborn(1)):
            header = SegmentHeader(fmt.VERSION, self._cluster, self._node, 1, 0, 0, *self.hard_state)
            size = create_segment(self._directory, header)
            self._add_segment(header)
            return size
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise CorruptData(f"log segments are missing in {self._directory}: found {numbers}")
        while True:
            try:
                for number in numbers:
                    size = self._recover_segment(number, is_last=number == numbers[-1])
                return size
            except _ReachesBelowBase as error:
                if len(numbers) == 1:
                    raise CorruptData(str(error)) from error
                self._finish_cut(numbers.pop(0))

    def _finish_cut(self, number: int) -> None:
        """A cut was interrupted: it had begun to delete, for only a cut leaves a log that begins with an overwrite."""
        self.close()
        for column in (self._terms, self._kinds, self._numbers, self._offsets, self._lengths):
            del column[:]
        segment_path(self._directory, number).unlink()
        sync_directory(self._directory)

    def _is_unborn(self, number: int) -> bool:
        """Whether the crash came while the segment was begun: no header was durable, so nothing stands behind it."""
        data = segment_path(self._directory, number).read_bytes()
        return fmt.decode_record(data, number, 0) is None and not fmt.has_valid_record(data, number, 0)

    def _recover_segment(self, number: int, *, is_last: bool) -> int:
        path = segment_path(self._directory, number)
        data = path.read_bytes()
        framed = fmt.decode_record(data, number, 0)
        header = fmt.decode_segment(framed[1]) if framed is not None and framed[0] == fmt.SEGMENT else None
        if framed is None or header is None:
            raise CorruptData(f"log segment {path.name} has a damaged or unknown header")
        if (header.cluster, header.node) != (self._cluster, self._node):
            raise WrongIdentity(
                f"the log in {self._directory} belongs to node {header.node} of cluster {header.cluster!r},"
                f" not to node {self._node} of {self._cluster!r}"
            )
        if not self._segments:
            self.base_index, self.base_term = header.base_index, header.base_term
        elif header.base_index > self.last_index:
            raise CorruptData(
                f"log segment {path.name} follows index {header.base_index}; the log ends at {self.last_index}"
            )
        self._add_segment(header)
        self.hard_state = HardState(header.term, header.vote, header.commit)
        last, offset = 0, fmt.FRAME_BYTES + len(framed[1])
        while offset < len(data):
            framed = fmt.decode_record(data, number, offset)
            record = fmt.decode_write(framed[1], offset) if framed is not None and framed[0] == fmt.WRITE else None
            if framed is None or record is None:
                if not is_last or fmt.has_valid_record(data, number, offset + 1):
                    raise CorruptData(
                        f"log segment {path.name} is damaged at offset {offset}, in data that was durable"
                    )
                break
            self.hard_state = record.hard_state
            self._index(record.first_index, record.entries)
            last, offset = offset, offset + fmt.FRAME_BYTES + len(framed[1])
        if is_last:
            self.cut_bytes = len(data) - offset
            self._make_durable(path, data[last:offset], last)
        return offset

    def _make_durable(self, path: Path, record: bytes, offset: int) -> None:
        """Cut what follows the last record, and sync that record again.

        A predecessor may have been killed before its sync ended, or have seen it fail: then the record stands in the
        page cache, marked as clean, and not on the disk. Written again it is dirty again, and a sync means something.
        The records before it were synced before it was written.
        """
        with path.open("r+b", buffering=0) as file:
            file.truncate(offset + len(record))
            file.seek(offset)
            write_all(file.fileno(), record)
            os.fsync(file.fileno())
        sync_directory(self._directory)


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:016d}{_SUFFIX}"


def segment_numbers(directory: Path) -> list[int]:
    """The numbers of the segment files, ascending. Other files are left alone."""
    stems = (path.name.removesuffix(_SUFFIX) for path in directory.iterdir() if path.name.endswith(_SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def create_segment(directory: Path, header: SegmentHeader) -> int:
    """Write a new segment's header, durable with its directory entry; returns the file's size."""
    record = fmt.encode_record(fmt.SEGMENT, pack(tuple(header)), header.number, 0)
    fd = os.open(segment_path(directory, header.number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, record)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(directory)
    return len(record)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
