"""The segment files of the log: names, creation, and the syncs that make them last. Everything here raises OSError."""

from __future__ import annotations

import os
from pathlib import Path

from vaultdb.consensus import log_format as fmt
from vaultdb.consensus.log_format import SegmentHeader
from vaultdb.errors import CorruptData
from vaultdb.wire.codec import pack

_SUFFIX = ".log"


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


def is_unborn(directory: Path, number: int) -> bool:
    """Whether the crash came while the segment was begun: no header was durable, so nothing stands behind it."""
    data = segment_path(directory, number).read_bytes()
    return fmt.decode_record(data, number, 0) is None and not fmt.has_valid_record(data, number, 0)


def read_header(directory: Path, number: int) -> tuple[SegmentHeader, int]:
    """The header and where it ends. Raises CorruptData when it is damaged or of an unknown version."""
    path = segment_path(directory, number)
    with path.open("rb") as file:
        data = file.read(fmt.FRAME_BYTES)
        data += file.read(fmt.record_bytes(data) - fmt.FRAME_BYTES)
    framed = fmt.decode_record(data, number, 0)
    header = fmt.decode_segment(framed[1]) if framed is not None and framed[0] == fmt.SEGMENT else None
    if header is None:
        raise CorruptData(f"log segment {path.name} has a damaged or unknown header")
    return header, len(data)


def make_durable(path: Path, record: bytes, offset: int) -> None:
    """Cut what follows the last record, and sync that record again.

    A predecessor may have been killed before its sync ended, or have seen it fail: then the record stands in the page
    cache, marked as clean, and not on the disk. Written again it is dirty again, and a sync means something. The
    records before it were synced before it was written.
    """
    with path.open("r+b", buffering=0) as file:
        file.truncate(offset + len(record))
        file.seek(offset)
        write_all(file.fileno(), record)
        os.fsync(file.fileno())
    sync_directory(path.parent)


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
