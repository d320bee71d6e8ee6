"""Clients that are broken, slow or hostile, on raw sockets against a real api process."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import closing
from typing import Any

import pytest

from tests.api.lanes import ExpressAsgi, FlaskLane
from tests.api.server import ApiServer
from tests.api.siblings import Store
from vaultdb import limits
from vaultdb.clock import monotonic_ns
from vaultdb.errors import Unavailable

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("store")]


@pytest.fixture
def store(server: ApiServer) -> Iterator[Store]:
    assert server.siblings is not None
    server.siblings.store.reset()
    yield server.siblings.store
    assert server.request("GET", "/health/live").status == 200, "the server did not survive"


def exchange(server: ApiServer, data: bytes, *, then_close: bool = True) -> bytes:
    """Send, say that no more comes, and return everything until the server hangs up."""
    with closing(server.connect()) as client:
        client.sendall(data)
        if then_close:
            client.shutdown(socket.SHUT_WR)
        return rest_of(client)


def rest_of(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def put(key: str, headers: str, body: bytes) -> bytes:
    return f"PUT /key/{key} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    "request_",
    [
        put("k", "Content-Length: 10\r\n", b"half"),
        put("k", "Transfer-Encoding: chunked\r\n", b"4\r\nhalf\r\n"),
        put("k", "Transfer-Encoding: chunked\r\n", b"10\r\nhalf"),
        b'POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{"a": "1"}',
        b"DELETE /key/k HTTP/1.1\r\nHost: x\r\n",
        b"PUT /key/k HTTP/1.1\r\nHost: x\r\nContent-Le",
    ],
)
def test_a_truncated_request_changes_nothing(server: ApiServer, store: Store, request_: bytes) -> None:
    """Promise: a request that did not arrive whole did not happen. Catches: taking what came for the whole body."""
    exchange(server, request_)
    assert server.request("GET", "/key/k").status == 404
    assert (store.data, store.applied) == ({}, 0)


def test_a_truncated_body_changes_nothing_in_either_lane() -> None:
    express = ExpressAsgi()
    try:
        assert express.request("PUT", "/key/k", {"Content-Length": "10"}, pieces=[b"half"]).status == 0
        assert express.request("PUT", "/key/k", {"Transfer-Encoding": "chunked"}, pieces=[b"a", b"b"]).status == 0
        assert express.store.data == {}
    finally:
        express.close()
    flask = FlaskLane()
    assert flask.request("PUT", "/key/k", {"Content-Length": "10"}, b"half").status == 400
    assert flask.request("PUT", "/key/k", {"Transfer-Encoding": "chunked"}).status == 400
    assert flask.store.data == {}


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: x\r\n",
        "Content-Length: 1e3\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Bad Header: x\r\n",
        "Bad\x00Header: x\r\n",
        ": x\r\n",
    ],
)
def test_contradictory_framing_is_400(server: ApiServer, store: Store, headers: str) -> None:
    """Promise: where two readers could disagree about a request's end, it is refused and the connection closed."""
    received = exchange(server, put("k", headers, b"zz"), then_close=False)
    assert statuses(received) == [400]
    assert b"connection: close" in received
    assert json.loads(received.split(b"\r\n\r\n", 1)[1])["outcome"] == "rejected"
    assert store.data == {}


def test_bytes_behind_the_body_are_the_next_request(server: ApiServer, store: Store) -> None:
    """Promise: too short a Content-Length sets just that; the rest is no HTTP and ends the connection unanswered."""
    received = exchange(server, put("k", "Content-Length: 2\r\n", b"valuable"))
    assert statuses(received) == [200]
    assert store.data == {b"k": (b"va", 1)}


def test_garbage_never_replaces_the_answer_to_a_write(server: ApiServer, store: Store) -> None:
    """Promise: an applied write is not answered with an error that belongs to what follows it.

    Catches: writing the 400 at once, in front of the pending answer.
    """
    for garbage in (
        b"\x00\x01garbage",
        b"GET /key/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /key/k HTTP/1.1\r\n\r\n",
        b"BREW /key/k HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /key/k HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    ):
        store.reset()
        received = exchange(server, put("k", "Content-Length: 1\r\n", b"v") + garbage)
        assert statuses(received) == [200], garbage
        assert store.data == {b"k": (b"v", 1)}


def test_oversize_by_length_is_413_before_the_body(server: ApiServer, store: Store) -> None:
    """Promise: an announced size over the limit is refused at once, without reading the body."""
    with closing(server.connect()) as client:
        client.sendall(put("k", f"Content-Length: {limits.VALUE_BYTES_MAX + 1}\r\n", b""))
        assert statuses(client.recv(65536)) == [413]
    assert store.data == {}


def test_oversize_is_still_413_while_the_body_comes(server: ApiServer, store: Store) -> None:
    """Promise: a client that sends without listening gets its 413, not a reset. Catches: closing with unread input."""
    for size in (limits.VALUE_BYTES_MAX + 1, 2 * limits.VALUE_BYTES_MAX):
        received = exchange(server, put("k", f"Content-Length: {size}\r\n", b"x" * size), then_close=False)
        assert statuses(received) == [413]
    assert store.data == {}


def test_expect_continue_is_not_encouraged_when_too_large(server: ApiServer, store: Store) -> None:
    """Promise: a polite client is told before it sends; one within the limit is asked to go on."""
    with closing(server.connect()) as client:
        headers = f"Content-Length: {limits.VALUE_BYTES_MAX + 1}\r\nExpect: 100-continue\r\n"
        client.sendall(put("k", headers, b""))
        assert statuses(rest_of(client)) == [413]
    with closing(server.connect()) as client:
        client.sendall(put("k", "Content-Length: 1\r\nExpect: 100-continue\r\nConnection: close\r\n", b""))
        assert statuses(client.recv(65536)) == [100]
        client.sendall(b"v")
        assert statuses(rest_of(client)) == [200]
    assert store.data == {b"k": (b"v", 1)}


def test_oversize_chunked_is_413_when_the_limit_passes(server: ApiServer, store: Store) -> None:
    """Promise: without a length the limit still holds, as soon as it is passed."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    body = chunk * (limits.VALUE_BYTES_MAX // 65536 + 1)
    received = exchange(server, put("k", "Transfer-Encoding: chunked\r\n", body), then_close=False)
    assert statuses(received) == [413]
    assert store.data == {}


def test_chunked_at_the_limit_is_taken_and_trailers_are_no_headers(server: ApiServer, store: Store) -> None:
    """Promise: chunked bodies work; a trailer cannot smuggle in a header. Catches: trailers read as headers."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    body = chunk * (limits.VALUE_BYTES_MAX // 65536) + b"0\r\n\r\n"
    headers = "Transfer-Encoding: chunked\r\nConnection: close\r\n"
    assert statuses(exchange(server, put("k", headers, body))) == [200]
    assert len(store.data[b"k"][0]) == limits.VALUE_BYTES_MAX
    body = b"1\r\nv\r\n0\r\nIf-Match: x\r\nContent-Encoding: gzip\r\n\r\n"
    assert statuses(exchange(server, put("t", headers, body))) == [200]
    assert store.data[b"t"][0] == b"v"


def test_framing_without_end_is_bounded(server: ApiServer, store: Store) -> None:
    """Promise: tiny chunks with long extensions, or endless trailers, do not get around the limits."""
    with closing(server.connect()) as client:
        client.sendall(put("k", "Transfer-Encoding: chunked\r\n", b""))
        piece = b"1;" + b"x" * 60_000 + b"\r\nv\r\n"
        with pytest.raises((ConnectionError, TimeoutError)):
            client.sendall(piece * 2_000)
    assert store.data == {}


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_headers_over_the_limit_are_431(server: ApiServer, in_one_piece: bool) -> None:
    """Promise: HTTP_HEADER_BYTES_MAX holds however the bytes arrive; at the limit a request passes."""
    over = limits.HTTP_HEADER_BYTES_MAX
    for head in (
        b"GET /key/k HTTP/1.1\r\nHost: x\r\nX: " + b"x" * over + b"\r\n\r\n",
        b"GET /key/" + b"k" * over + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /key/k HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: x\r\n" % i for i in range(over // 8)) + b"\r\n",
    ):
        with closing(server.connect()) as client:
            if in_one_piece:
                client.sendall(head)
            else:
                for start in range(0, len(head), 8_000):
                    client.sendall(head[start : start + 8_000])
            assert statuses(rest_of(client)) == [431]
    fill = limits.HTTP_HEADER_BYTES_MAX - 200
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"x" * fill + b"\r\n\r\n"
    received = exchange(server, head)
    assert statuses(received) == [200]


def test_slow_senders_get_408_and_block_nobody(server: ApiServer, store: Store) -> None:
    """Promise: however many clients dawdle over headers or body, others are served, and the dawdlers end with 408."""
    slow = []
    for i in range(60):
        client = server.connect()
        client.sendall(b"PUT /key/k HTTP/1.1\r\nHost" if i % 2 else put("k", "Content-Length: 9\r\n", b"h"))
        slow.append(client)
    try:
        for i in range(20):
            assert server.request("PUT", f"/key/fast{i}", body=b"v").status == 200
            assert server.request("GET", "/status").status == 200
        for client in slow:
            received = rest_of(client)
            assert statuses(received) == [408], received
    finally:
        for client in slow:
            client.close()
    assert b"k" not in store.data


def test_a_trickle_does_not_extend_the_deadline(server: ApiServer, store: Store) -> None:
    """Promise: the deadline is for the part, not for the next byte. Catches: a deadline renewed by every byte."""
    with closing(server.connect()) as client:
        client.sendall(put("k", "Content-Length: 100000\r\n", b""))
        client.settimeout(0.02)
        began_ns, received = monotonic_ns(), b""
        while not received and monotonic_ns() - began_ns < 10_000_000_000:
            client.sendall(b"x")
            try:
                received = client.recv(65536)
            except TimeoutError:
                continue
        assert statuses(received) == [408]
    assert store.data == {}


def test_a_silent_connection_is_closed(server: ApiServer, store: Store) -> None:
    """Promise: a connection that never asks anything does not stay."""
    with closing(server.connect()) as client:
        assert rest_of(client) == b""
    assert store.data == {}


def test_connections_over_the_maximum_are_told_and_room_comes_back(server: ApiServer, store: Store) -> None:
    """Promise: connections_max holds; the one over it gets 503 with a sentence, not silence; those inside go on."""
    clients = [server.connect() for _ in range(200)]
    try:
        first = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        clients[-1].sendall(first)
        assert statuses(clients[-1].recv(65536)) == [200]
        with closing(server.connect()) as over:
            received = rest_of(over)
            assert statuses(received) == [503]
            assert b"200 connections" in received
    finally:
        for client in clients:
            client.close()
    assert store.data == {}
    deadline_ns = monotonic_ns() + 10_000_000_000
    while monotonic_ns() < deadline_ns:
        if server.request("GET", "/health/live").status == 200:
            return
    pytest.fail("no room came back")


@pytest.mark.parametrize("seed", range(4))
def test_garbage_bytes(server: ApiServer, seed: int) -> None:
    """Promise: random and mutated bytes crash nothing and change nothing but what they spell."""
    rng = random.Random(seed)
    good = put("k", "Content-Length: 5\r\nAccept: */*\r\n", b"value")
    for _ in range(60):
        if rng.random() < 0.3:
            data = rng.randbytes(rng.randrange(1, 4_000))
        else:
            mutable = bytearray(good * rng.randrange(1, 4))
            for _ in range(rng.randrange(1, 8)):
                mutable[rng.randrange(len(mutable))] = rng.randrange(256)
            data = bytes(mutable)
        for status in statuses(exchange(server, data)):
            assert status != 500, data


@pytest.mark.parametrize(
    ("request_", "status", "phrase"),
    [
        (b"PUT /key/k HTTP/1.1\r\nContent-Length: 1\r\n\r\nv", 400, "no Host"),
        (put("k", "Host: x\r\nContent-Length: 1\r\n", b"v"), 400, "2 Host"),
        (put("k", "Host: y\r\nContent-Length: 1\r\n", b"v"), 400, "2 Host"),
        (b"PUT /key/k HTTP/1.0\r\nHost: x\r\nHost: x\r\nContent-Length: 1\r\n\r\nv", 400, "2 Host"),
        (b"GET /key/k HTTP/1.1\r\nHost: x, y\r\n\r\n", 400, "not a host"),
        (b"GET /key/k HTTP/1.1\r\nHost: a@b/c\r\n\r\n", 400, "not a host"),
        (b"GET /key/k\r\n\r\n", 400, "HTTP/0.9"),
        (b"GET /key/k HTTP/0.9\r\n\r\n", 400, "HTTP/0.9"),
        (b"BREW /key/k HTTP/1.1\r\nHost: x\r\n\r\n", 501, "BREW"),
        (b"\r\nGETS /key/k HTTP/1.1\r\nHost: x\r\n\r\n", 501, "GETS"),
        (b"get /key/k HTTP/1.1\r\nHost: x\r\n\r\n", 501, "get"),
        (b"BREW", 400, "not HTTP/1.1"),
        (b"BREW /key/k COFFEE/1\r\n\r\n", 400, "not HTTP/1.1"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 501, "CONNECT"),
    ],
)
def test_a_wrong_head_is_refused_with_its_reason(
    server: ApiServer, store: Store, request_: bytes, status: int, phrase: str
) -> None:
    """Promise: no request without exactly one Host, of another version, or with an unknown method is carried out, and
    the answer says which of these it was (RFC 9112, 3.2; RFC 9110, 9.1).
    """
    received = exchange(server, request_, then_close=False)
    assert statuses(received) == [status]
    fields = json.loads(received.split(b"\r\n\r\n", 1)[1])
    assert (fields["outcome"], fields["status"]) == ("rejected", status)
    assert phrase in fields["detail"]
    assert (store.data, store.reads) == ({}, 0)


@pytest.mark.parametrize("host", ["", "x", "127.0.0.1:11000", "[::1]:11000", "a-b.example.", "x:"])
def test_a_right_host_is_taken(server: ApiServer, host: str) -> None:
    request = f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert statuses(exchange(server, request)) == [200]


def test_tls_and_http2_prefaces_are_400(server: ApiServer, store: Store) -> None:
    """Promise: the wrong protocol is answered, not left hanging."""
    for preface in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        assert statuses(exchange(server, preface, then_close=False)) == [400]
    assert store.data == {}


def test_an_offered_upgrade_is_ignored_or_refused(server: ApiServer, store: Store) -> None:
    """Promise: clients that offer HTTP/2 by upgrade read over HTTP/1.1; with a body they are refused, because the
    parser passes over the body of such a request. Catches: storing an empty value in its place.
    """
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    assert statuses(exchange(server, put("k", upgrade + "Content-Length: 5\r\n", b"value"))) == [501]
    assert statuses(exchange(server, put("k", upgrade + "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"))) == [501]
    assert store.data == {}
    get = f"GET /key/k HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode()
    assert statuses(exchange(server, get + b"PRI * HTTP/2.0", then_close=False)) == [404]


def test_pipelined_requests_are_answered_in_order(server: ApiServer, store: Store) -> None:
    """Promise: requests sent ahead are answered one by one, in order, slow and fast lane mixed."""
    requests = b"".join(
        put(f"k{i}", "Content-Length: 1\r\n", b"v")
        + b"GET /digest HTTP/1.1\r\nHost: x\r\n\r\n"
        + b"HEAD /key/k0 HTTP/1.1\r\nHost: x\r\n\r\n"
        for i in range(10)
    )
    received = exchange(server, requests)
    assert statuses(received) == [200] * 30
    assert [store.data[b"k%d" % i][1] for i in range(10)] == list(range(1, 11))


def test_too_many_pipelined_requests_end_the_connection(server: ApiServer, store: Store) -> None:
    """Promise: what one connection may have waiting is bounded."""
    received = exchange(server, b"GET /key/k HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
    assert len(statuses(received)) < 1_000
    assert set(statuses(received)) <= {404}
    assert store.data == {}


def test_half_closed_client_gets_its_answer(server: ApiServer, store: Store) -> None:
    """Promise: a client that has sent all and closed its side still learns the outcome."""
    for _ in range(20):
        assert statuses(exchange(server, put("k", "Content-Length: 1\r\n", b"v"))) == [200]
    assert store.revision == 20


def test_http_1_0_and_odd_paths(server: ApiServer, store: Store) -> None:
    for data, expected in (
        (b"GET /health/live HTTP/1.0\r\n\r\n", [200]),
        (b"GET http://elsewhere/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [200]),
        (b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"GET /key/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    ):
        received = exchange(server, data)
        assert statuses(received) == expected, data
    assert store.data == {}


def test_rejections_do_not_close_good_connections(server: ApiServer, store: Store) -> None:
    """Promise: an error is an answer; the connection goes on when the request had arrived whole."""
    store.failure = Unavailable("no quorum")
    with closing(server.connect()) as client:
        for _ in range(3):
            client.sendall(put("k", "Content-Length: 1\r\n", b"v"))
            assert statuses(client.recv(65536)) == [503]


def test_a_body_in_pieces_keeps_the_connection(server: ApiServer, store: Store) -> None:
    """Promise: a request that took its time is answered like any other, and the connection goes on."""
    with closing(server.connect()) as client:
        for i in range(3):
            client.sendall(put(f"k{i}", "Content-Length: 200000\r\n", b"a" * 50_000))
            client.sendall(b"b" * 50_000)
            assert server.request("GET", "/health/live").status == 200
            client.sendall(b"c" * 100_000)
            received = client.recv(65536)
            assert statuses(received) == [200]
            assert b"connection: close" not in received
    assert [len(value) for value, _ in store.data.values()] == [200_000] * 3


def test_small_bodies_under_way_are_bounded_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: many small bodies that do not end are bounded in sum like few large ones. Catches: a size below which
    bodies are not counted.
    """
    monkeypatch.setattr(limits, "API_OUTBOX_BYTES_MAX", 300_000)
    express = ExpressAsgi()

    async def fill() -> list[int]:
        """The first seven stay unfinished until the last one has been answered."""
        answered = asyncio.Event()

        async def put() -> int:
            pieces = [b"x" * 50_000]
            sent: list[int] = []

            async def receive() -> dict[str, object]:
                if pieces:
                    return {"type": "http.request", "body": pieces.pop(), "more_body": True}
                await answered.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    sent.append(message["status"])
                    if message["status"] == 429:
                        answered.set()

            await express.app(express.scope("PUT", "/key/k", {"Transfer-Encoding": "chunked"}), receive, send)
            return sent[0]

        return await asyncio.wait_for(asyncio.gather(*(put() for _ in range(7))), 20)

    try:
        assert asyncio.run(fill()) == [200] * 6 + [429]
        assert asyncio.run(fill()) == [200] * 6 + [429], "a charge was not given back"
    finally:
        express.close()


def test_large_bodies_under_way_are_bounded_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: what unfinished bodies hold is bounded, and given back. Catches: a charge that is not released."""
    monkeypatch.setattr(limits, "API_OUTBOX_BYTES_MAX", 300_000)
    express = ExpressAsgi()
    try:
        for _ in range(3):
            refused = express.request("PUT", "/key/k", {"Transfer-Encoding": "chunked"}, pieces=[b"x" * 100_000] * 4)
            assert (refused.status, refused.json["code"]) == (429, "busy")
            gone = express.request("PUT", "/key/k", {"Transfer-Encoding": "chunked"}, pieces=[b"x" * 100_000] * 2)
            assert gone.status == 0
        assert express.store.data == {}
        assert express.request("PUT", "/key/k", body=b"x" * 400_000).status == 200
    finally:
        express.close()
