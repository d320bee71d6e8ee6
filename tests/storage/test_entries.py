"""What storage makes of the bytes in the log."""

from __future__ import annotations

from typing import Any

import pytest

from vaultdb.errors import CorruptData
from vaultdb.storage.entries import decode_entry
from vaultdb.wire.codec import pack


def test_an_entry_yields_its_stamp_and_proposals() -> None:
    requests = [[1, [1, [b"k", b"v"]]], [2, [2, [b"k"]]]]
    payload = pack([77, [[3, 1234, 9, pack(requests)], [4, 5678, 1, pack([])]]])
    assert decode_entry(1, payload) == (77, [(3, 1234, requests), (4, 5678, [])])


def test_golden_bytes() -> None:
    """The format stands in the log of every node: it must be readable for ever."""
    payload = bytes.fromhex("924d919403cd04d209c40c919201920192c4016bc40176")
    assert decode_entry(1, payload) == (77, [(3, 1234, [[1, [1, [b"k", b"v"]]]])])


def test_an_empty_payload_is_a_no_op() -> None:
    assert decode_entry(1, b"") == (0, [])


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x93",
        pack(7) + b"\x00",
        pack(None),
        pack([]),
        pack([1]),
        pack(["now", []]),
        pack([-1, []]),
        pack([2**63, []]),
        pack([1, {}]),
        pack([1, [], "more"]),
        pack([1, [7]]),
        pack([1, [[0, 1, 2]]]),
        pack([1, [["node0", 1, 2, b"\x90"]]]),
        pack([1, [[0, 1, 2, "text"]]]),
    ],
    ids=repr,
)
def test_an_entry_that_cannot_be_read_ends_the_process_and_names_its_index(payload: bytes) -> None:
    """Planted bug: passing it over. This replica would then silently differ from one that can read it."""
    with pytest.raises(CorruptData, match="index 4711"):
        decode_entry(4711, payload)


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x92\x01", b"\x90\x90", b"\xa1\xff", b"\x91" * 2000], ids=repr)
def test_a_proposal_that_cannot_be_read_does_not_spoil_its_entry(packed: bytes) -> None:
    good: list[Any] = [[1, [2, [b"k"]]]]
    payload = pack([1, [[0, 1, 1, packed], [0, 1, 2, pack(good)]]])
    assert decode_entry(1, payload) == (1, [(0, 1, None), (0, 1, good)])
