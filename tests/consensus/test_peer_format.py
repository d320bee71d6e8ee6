"""What a peer may send, and that nothing else gets in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultdb.consensus import peer_format
from vaultdb.consensus.peer_format import (
    Admin,
    AdminAnswer,
    Floor,
    Forward,
    ForwardAnswer,
    Hello,
    Item,
    Notice,
    Promises,
    Sender,
)
from vaultdb.errors import BadRequest
from vaultdb.raft import messages as raft
from vaultdb.raft.messages import KINDS
from vaultdb.wire.codec import pack

ITEMS: list[Item] = [
    raft.VoteRequest(0, 1, 2, 3, 2, True, False),
    raft.VoteResponse(1, 0, 2, True, False),
    raft.Append(0, 1, 2, 3, 2, 3, [raft.Entry(2, 4, 1, b"payload"), raft.Entry(2, 5, 0, b"")]),
    raft.AppendResponse(1, 0, 2, False, 3, 2, 1),
    raft.Heartbeat(0, 1, 2, 3, 9, 1_000_000),
    raft.HeartbeatResponse(1, 0, 2, 9, 0),
    raft.ReadIndex(1, 0, 2, 1 << 62),
    raft.ReadIndexResponse(0, 1, 2, 1 << 62, 5),
    raft.TimeoutNow(0, 1, 2, 5),
    raft.InstallSnapshot(0, 1, 2, 5, 2, b"membership"),
    Forward(2, [(7, 1, False, b"proposal")]),
    ForwardAnswer(2, [(7, 1, peer_format.REFUSED_BUSY)]),
    Floor(2, 100),
    Admin(1 << 61, "change", [{"change": "remove", "id": 3}], True),
    Admin(1 << 61, "members", None, False),
    AdminAnswer(1 << 61, True, {"leader": 1}),
    AdminAnswer(1 << 61, False, ["not_found", "node 3 is not a member"]),
    Notice(1 << 61, 7, 1, "an old copy"),
    Promises(2, [((1 << 64) - 1, 1 << 61, 2, 100)]),
    Hello("127.0.0.1", 12000),
]
SENDER = Sender("local", "0123456789abcdef0123456789abcdef", 0, (1 << 64) - 1, 1 << 61, 2, 100)
HEAD = [2, *SENDER, 1]


def test_every_kind_of_raft_message_is_tried_here() -> None:
    assert {type(item) for item in ITEMS} >= set(KINDS)


def test_every_item_comes_back_equal_and_of_its_type() -> None:
    sender, dst, items = peer_format.decode(peer_format.encode(SENDER, 1, ITEMS))
    assert (sender, dst) == (SENDER, 1)
    assert [type(item) for item in items] == [type(item) for item in ITEMS]
    assert pack(items) == pack(ITEMS)


@pytest.mark.parametrize(
    "envelope",
    [
        [],
        [1, "local", 0, 1, []],
        [3, *HEAD[1:], []],
        [2, b"local", *HEAD[2:], []],
        [2, "local", None, *HEAD[3:], []],
        [*HEAD, {}],
        [*HEAD, [[]]],
        [*HEAD, [[4, 0, 1, 2]]],
        [*HEAD, [[4, 0, 1, 2, 3, "round", 0]]],
        [*HEAD, [[4, 0, 1, 2, 3, True, 0]]],
        [*HEAD, [[2, 0, 1, 2, 3, 2, 3, [[2, 4, 1]]]]],
        [*HEAD, [[2, 0, 1, 2, 3, 2, 3, [[2, 4, 1, "text"]]]]],
        [*HEAD, [[-1, 0, 1, 2]]],
        [*HEAD, [[99, 0]]],
        [*HEAD, [[32, 2, [[7, 1, 0, b"x"]]]]],
        [*HEAD, [[33, 2, [[7, 1]]]]],
        [*HEAD, [[35, 2, "change", None]]],
        [*HEAD, [[35, 2, b"change", None, False]]],
        [*HEAD, [[35, 2, "change", None, False, 1]]],
        [*HEAD, [[37, 2, 3, "reason", "sentence"]]],
        [*HEAD, [[38, 2, [[1, 2, 3]]]]],
        [*HEAD, [[39, "host", "12000"]]],
    ],
)
def test_what_does_not_fit_is_refused(envelope: list[Any]) -> None:
    with pytest.raises(BadRequest):
        peer_format.decode(pack(envelope))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_decoded_but_raise_nothing_else(frame: bytes) -> None:
    try:
        peer_format.decode(frame)
    except BadRequest:
        return


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_mutated_frame_is_refused_or_decoded_but_raises_nothing_else(position: int, value: int) -> None:
    frame = bytearray(peer_format.encode(SENDER, 1, ITEMS))
    frame[position % len(frame)] = value
    try:
        peer_format.decode(bytes(frame))
    except BadRequest:
        return
