"""The log's format is what its page says, byte for byte."""

from __future__ import annotations

import pytest

from vaultdb.consensus import log_format as fmt
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState
from vaultdb.wire.codec import pack


def worked_example() -> bytes:
    """The bytes that the format page shows."""
    page = fmt.__doc__ or ""
    rows = page.split("Worked example")[1].splitlines()
    digits = "".join(row.split("      ")[0] for row in rows if row.startswith("    "))
    return bytes.fromhex(digits.replace(" ", ""))


def decode_example(record: bytes) -> tuple[int, memoryview] | None:
    """The example where it says that it stands."""
    return fmt.decode_record(bytes(100) + record, 1, 100)


def test_worked_example_is_what_the_code_writes() -> None:
    """Golden bytes: whoever changes the format must change the page and the version."""
    record, locations = fmt.encode_write(
        HardState(2, 3, 7), [Entry(2, 8, EntryKind.COMMAND, b"hi")], segment=1, start=100
    )
    assert record == worked_example()
    assert locations == [fmt.Location(2, EntryKind.COMMAND, 100 + len(record) - 2, 2)]


def test_a_record_reads_back() -> None:
    entries = [Entry(3, 9, EntryKind.NOOP, b""), Entry(3, 10, EntryKind.COMMAND, b"x" * 1000)]
    record, locations = fmt.encode_write(HardState(3, -1, 8), entries, segment=5, start=7)
    framed = fmt.decode_record(b"1234567" + record, 5, 7)
    assert framed is not None
    assert framed[0] == fmt.WRITE
    assert fmt.decode_write(framed[1], 7) == fmt.WriteRecord(HardState(3, -1, 8), 9, locations)


@pytest.mark.parametrize("position", range(len(worked_example())))
def test_every_flipped_byte_is_noticed(position: int) -> None:
    """Planted bug: leaving the kind out of the checksum lets position 12 pass."""
    damaged = bytearray(worked_example())
    damaged[position] ^= 0x41
    assert decode_example(bytes(damaged)) is None


@pytest.mark.parametrize(("segment", "offset"), [(2, 100), (1, 99), (1, 101)])
def test_a_record_is_valid_only_where_it_was_written(segment: int, offset: int) -> None:
    """So bytes of a log that a client stores as a value never count as a record behind a torn one."""
    assert fmt.decode_record(bytes(offset) + worked_example(), segment, offset) is None


@pytest.mark.parametrize("length", range(len(worked_example())))
def test_every_truncation_is_noticed(length: int) -> None:
    assert decode_example(worked_example()[:length]) is None


def test_counts_that_do_not_add_up_are_refused() -> None:
    """A record whose checksum is right and whose inside is wrong: written by a bug, not by a torn disk."""
    record, _ = fmt.encode_write(HardState(2, 3, 7), [Entry(2, 8, EntryKind.COMMAND, b"hi")], segment=1, start=0)
    payload = bytearray(record[fmt.FRAME_BYTES :])
    payload[32] = 9
    assert fmt.decode_write(memoryview(payload), 0) is None
    assert fmt.decode_write(memoryview(b"short"), 0) is None


def test_a_header_of_another_version_is_unknown() -> None:
    header = fmt.SegmentHeader(fmt.VERSION, "local", 0, 1, 0, 0, 0, -1, 0)
    assert fmt.decode_segment(memoryview(pack(tuple(header)))) == header
    assert fmt.decode_segment(memoryview(pack((99, *header[1:])))) is None
    assert fmt.decode_segment(memoryview(b"\xc1")) is None
