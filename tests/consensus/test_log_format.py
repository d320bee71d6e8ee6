"""The log's format is what its page says, byte for byte."""

from __future__ import annotations

import pytest

from vaultdb.consensus import log_format as fmt
from vaultdb.raft.membership import Membership, encode
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
        HardState(2, 3, 7), [Entry(2, 8, EntryKind.COMMAND, b"hi")], b"ok", segment=1, start=100
    )
    assert record == worked_example()
    assert locations == [fmt.Location(2, EntryKind.COMMAND, 100 + len(record) - 4, 2)]


def test_a_record_reads_back() -> None:
    entries = [Entry(3, 9, EntryKind.NOOP, b""), Entry(3, 10, EntryKind.COMMAND, b"x" * 1000)]
    record, locations = fmt.encode_write(HardState(3, -1, 8), entries, b"notes", segment=5, start=7)
    framed = fmt.decode_record(b"1234567" + record, 5, 7)
    assert framed is not None
    assert framed[0] == fmt.WRITE
    assert fmt.decode_write(framed[1], 7) == fmt.WriteRecord(HardState(3, -1, 8), 9, locations, b"notes")


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
    record, _ = fmt.encode_write(HardState(2, 3, 7), [Entry(2, 8, EntryKind.COMMAND, b"hi")], b"ok", segment=1, start=0)
    for position, count in ((32, 9), (36, 3), (36, 1)):
        payload = bytearray(record[fmt.FRAME_BYTES :])
        payload[position] = count
        assert fmt.decode_write(memoryview(payload), 0) is None
    assert fmt.decode_write(memoryview(b"short"), 0) is None


HEADER = fmt.SegmentHeader(
    2, "local", 0, 0xFEDCBA9876543210, 7, 20, 4, 5, -1, 20, encode(Membership((0, 1, 2))), b"ok", True
)
GOLDEN_HEADER = bytes.fromhex(
    "564c52318000000044f913aa019d02a56c6f63616c00cffedcba987654321007140405ff14c4617b226175746f5f6c65617665223a66616c73"
    "652c22636f6e74657874223a22222c226c6561726e657273223a5b5d2c226c6561726e6572735f6e657874223a5b5d2c226f7574676f696e67"
    "223a5b5d2c22766f74657273223a5b302c312c325d7dc4026f6bc3"
)


def test_a_header_is_what_the_page_says() -> None:
    """Golden bytes of a segment's header, its membership included."""
    record = fmt.encode_record(fmt.SEGMENT, pack(tuple(HEADER)), HEADER.number, 0)
    assert record.hex() == GOLDEN_HEADER.hex()
    assert fmt.record_bytes(record[: fmt.FRAME_BYTES]) == len(record)
    framed = fmt.decode_record(record, HEADER.number, 0)
    assert framed is not None
    assert framed[0] == fmt.SEGMENT
    assert fmt.decode_segment(framed[1]) == HEADER


def test_a_header_of_version_1_is_known() -> None:
    header = fmt.decode_segment(memoryview(pack([1, "local", 0, 7, 20, 4, 5, -1, 19])))
    assert header == fmt.SegmentHeader(1, "local", 0, 0, 7, 20, 4, 5, -1, 19, b"", b"", False)


@pytest.mark.parametrize(
    "fields",
    [[99, *HEADER[1:]], [*HEADER, 1], HEADER[:-1], [1, *HEADER[1:]], [2, "local", 0, 7, 20, 4, 5, -1, 19], [], 2],
)
def test_a_header_of_another_version_is_unknown(fields: object) -> None:
    assert fmt.decode_segment(memoryview(pack(fields))) is None
    assert fmt.decode_segment(memoryview(b"\xc1")) is None
