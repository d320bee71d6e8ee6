"""What whoever changes members may rely on: every test runs against Flask, the express lane, and a real process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.lanes import ExpressAsgi, FlaskLane, Lane
from tests.api.server import ApiServer
from tests.api.test_contract import problem
from vaultdb import limits
from vaultdb.api import cluster_requests
from vaultdb.errors import Busy, ChangeRefused, Unavailable, Unknown, VaultError

NEW = {"change": "add", "name": "node5", "host": "10.0.0.5", "http_port": 11005, "peer_port": 12005, "native_port": 1}


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("method", "target", "value", "asked"),
    [
        ("GET", "/cluster/members", None, ("members", None)),
        ("GET", "/cluster/members?consistency=linearizable", None, ("members", None)),
        ("GET", "/cluster/members?consistency=stale", None, ("members_here", None)),
        ("POST", "/cluster/members", NEW, ("change", [NEW])),
        ("POST", "/cluster/members", NEW | {"id": 7}, ("change", [NEW | {"id": 7}])),
        ("POST", "/cluster/members", {"change": "promote", "id": 5}, ("change", [{"change": "promote", "id": 5}])),
        ("POST", "/cluster/members", {"change": "demote", "id": 0}, ("change", [{"change": "demote", "id": 0}])),
        (
            "POST",
            "/cluster/members",
            {"changes": [{"change": "promote", "id": 5}, {"change": "remove", "id": 1}]},
            ("change", [{"change": "promote", "id": 5}, {"change": "remove", "id": 1}]),
        ),
        ("DELETE", "/cluster/members/3", None, ("change", [{"change": "remove", "id": 3}])),
        ("DELETE", "/cluster/members/10000", None, ("change", [{"change": "remove", "id": 10_000}])),
        ("POST", "/cluster/leader", {"id": 2}, ("transfer", 2)),
        ("POST", "/cluster/leader", {}, ("transfer", -1)),
        ("POST", "/cluster/leader", None, ("transfer", -1)),
    ],
)
def test_requests_become_operations(lane: Lane, method: str, target: str, value: Any, asked: tuple[str, Any]) -> None:
    """Promise: each request is passed on as one operation, and its document is the answer."""
    reply = lane.request(method, target, body=b"" if value is None else body(value))
    assert (reply.status, reply.json) == (200, {"leader": 0, "term": 3, "asked": asked[0]})
    assert reply.headers["content-type"] == "application/json"
    assert lane.store.administered == [asked]


@pytest.mark.parametrize(
    ("sent", "phrase"),
    [
        (b"", "the body is not JSON"),
        (b"nonsense", "the body is not JSON"),
        (b"\xff", "the body is not UTF-8"),
        (b"[]", "the body is not a JSON object"),
        (b"[" * 60_000, "too deep"),
        (b'{"change": "promote", "id": ' + b"9" * 5_000 + b"}", "too large a number"),
        (b'{"change": "promote", "id": 1, "id": 2}', 'the field "id" is given twice'),
        (body({}), 'the field "change" is missing; it must be one of add, promote, demote, remove'),
        (body({"change": "grow"}), 'the field "change" is "grow"'),
        (body({"change": ["add"]}), 'the field "change" is ["add"]'),
        (body({"change": "promote"}), 'the field "id" is missing; "promote" needs id'),
        (body({"change": "promote", "id": -1}), 'the field "id" must be greater than or equal to 0; it is -1'),
        (body({"change": "promote", "id": 10_001}), 'the field "id" must be less than or equal to 10000'),
        (body({"change": "promote", "id": "5"}), 'the field "id" must be a valid integer; it is "5"'),
        (body({"change": "promote", "id": True}), 'the field "id" must be a valid integer; it is true'),
        (body({"change": "promote", "id": 5, "now": 1}), 'the field "now" is unknown; known here: change, id'),
        (body(NEW | {"http_port": 0}), 'the field "http_port" must be greater than or equal to 1; it is 0'),
        (body(NEW | {"peer_port": 65_536}), 'the field "peer_port" must be less than or equal to 65535'),
        (body(NEW | {"native_port": None}), 'the field "native_port" must be a valid integer; it is null'),
        (body(NEW | {"name": "Node5"}), 'the field "name" must match pattern'),
        (body(NEW | {"name": "n" * 33}), 'the field "name" must match pattern'),
        (body(NEW | {"name": "node5\n"}), 'the field "name" must match pattern'),
        (body(NEW | {"host": "10.0.0.5:1"}), 'the field "host" must match pattern'),
        (body(NEW | {"host": "\ud800"}), 'the field "host" must'),
        (body({name: value for name, value in NEW.items() if name != "host"}), 'the field "host" is missing'),
        (body(NEW | {"port": 1}), 'the field "port" is unknown'),
        (body({"changes": []}), 'the field "changes" must be an array of at least one change'),
        (body({"changes": {}}), 'the field "changes" must be an array'),
        (body({"changes": [NEW], "id": 1}), 'the field "id" is unknown; known here: changes'),
        (body({"changes": [1]}), "changes[0] is not a JSON object"),
        (body({"changes": [NEW, {"change": "remove"}]}), 'changes[1]: the field "id" is missing'),
    ],
)
def test_bad_changes_are_refused_by_field(lane: Lane, sent: bytes, phrase: str) -> None:
    """Promise: what is not a change never reaches the cluster; the sentence names the field."""
    assert phrase in problem(lane.request("POST", "/cluster/members", body=sent), 400, "bad_request")
    assert lane.store.administered == []


@pytest.mark.parametrize(
    ("method", "target", "sent", "phrase"),
    [
        ("POST", "/cluster/leader", body({"id": "node1"}), 'the field "id" must be a valid integer; it is "node1"'),
        ("POST", "/cluster/leader", body({"name": "node1"}), 'the field "name" is unknown; known here: id'),
        ("POST", "/cluster/leader", body([]), "the body is not a JSON object"),
        ("DELETE", "/cluster/members/node1", b"", 'the member in the path is "node1"; it must be an id'),
        ("DELETE", "/cluster/members/-1", b"", 'the member in the path is "-1"'),
        ("DELETE", "/cluster/members/10001", b"", "from 0 to 10000"),
        ("DELETE", "/cluster/members/%C2%B2", b"", "it must be an id"),
        ("DELETE", "/cluster/members/1", b"x", "no body"),
        ("GET", "/cluster/members", b"x", "no body"),
        ("GET", "/cluster/members?x=1", b"", 'the parameter "x" is unknown; known here: consistency'),
        ("GET", "/cluster/members?consistency=none", b"", "linearizable, stale"),
        ("POST", "/cluster/members?consistency=stale", body(NEW), 'the parameter "consistency" is unknown'),
        ("DELETE", "/cluster/members/1?x", b"", 'the parameter "x" is unknown; this route has none'),
    ],
)
def test_bad_requests_are_refused(lane: Lane, method: str, target: str, sent: bytes, phrase: str) -> None:
    assert phrase in problem(lane.request(method, target, body=sent), 400, "bad_request")
    assert lane.store.administered == []


def test_limits_of_a_change(lane: Lane) -> None:
    """Promise: at the limit it passes, one more is 413 with the limit named, and nothing was asked of the cluster."""
    one = body({"change": "promote", "id": 5})
    assert lane.request("POST", "/cluster/members", body=one.ljust(limits.ADMIN_BODY_BYTES_MAX)).status == 200
    over = lane.request("POST", "/cluster/members", body=one.ljust(limits.ADMIN_BODY_BYTES_MAX + 1))
    assert str(limits.ADMIN_BODY_BYTES_MAX) in problem(over, 413, "too_large")
    changes = [{"change": "remove", "id": i} for i in range(cluster_requests.CHANGES_MAX)]
    assert lane.request("POST", "/cluster/members", body=body({"changes": changes})).status == 200
    over = lane.request("POST", "/cluster/members", body=body({"changes": [*changes, changes[0]]}))
    assert str(cluster_requests.CHANGES_MAX) in problem(over, 413, "too_large")
    assert len(lane.store.administered) == 2


@pytest.mark.parametrize(
    ("target", "allowed", "wrong"),
    [
        ("/cluster/members", "GET, HEAD, OPTIONS, POST", "DELETE"),
        ("/cluster/members/1", "DELETE, OPTIONS", "GET"),
        ("/cluster/leader", "OPTIONS, POST", "GET"),
    ],
)
def test_methods(lane: Lane, target: str, allowed: str, wrong: str) -> None:
    """Promise: a wrong method is 405 with the right ones; OPTIONS tells them."""
    for method in (wrong, "PUT", "PATCH"):
        reply = lane.request(method, target)
        problem(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == allowed
    reply = lane.request("OPTIONS", target)
    assert (reply.status, reply.body, reply.stable_headers) == (204, b"", {"allow": allowed})


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("target", ["/cluster", "/cluster/", "/cluster/members/", "/cluster/members/1/2", "/cluster/x"])
def test_other_paths_are_404(lane: Lane, method: str, target: str) -> None:
    problem(lane.request(method, target), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/cluster/members"), ("DELETE", "/cluster/members/1"), ("POST", "/cluster/leader")]
)
@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_pages_of_other_sites_cannot_change_members(
    lane: Lane, method: str, target: str, headers: dict[str, str]
) -> None:
    """Promise: as for other writes, what a browser sends for another site's page changes nothing."""
    sent = body(NEW) if target == "/cluster/members" else b""
    reply = lane.request(method, target, {"Host": "localhost:11000", **headers}, sent)
    assert "another site" in problem(reply, 403, "forbidden")
    assert lane.store.administered == []


@pytest.mark.parametrize(
    ("failure", "status", "code", "outcome"),
    [
        (ChangeRefused("node5 lacks 900 entries"), 409, "change_refused", "rejected"),
        (Unavailable("there is no leader"), 503, "unavailable", "rejected"),
        (Busy("too much"), 429, "busy", "rejected"),
    ],
)
def test_refusals_come_through(lane: Lane, failure: VaultError, status: int, code: str, outcome: str) -> None:
    """Promise: the leader's reason and its status reach who asked."""
    lane.store.failure = failure
    for method, target in (("GET", "/cluster/members"), ("DELETE", "/cluster/members/1"), ("POST", "/cluster/leader")):
        assert problem(lane.request(method, target), status, code, outcome) == str(failure)


@pytest.mark.system
def test_past_the_deadline_a_change_is_unknown_and_a_question_is_not(server: ApiServer) -> None:
    """Promise: without an answer in time a change is 504 (it may have happened), a question 503."""
    assert server.siblings is not None
    server.siblings.store.reset()
    server.siblings.store.failure = Unknown("silence")
    try:
        problem(server.request("DELETE", "/cluster/members/1"), 504, "unknown_outcome", "unknown")
        problem(server.request("GET", "/cluster/members"), 503, "unavailable")
    finally:
        server.siblings.store.reset()


@pytest.mark.system
def test_a_body_in_chunks_is_taken_whole(server: ApiServer) -> None:
    """Promise: a client that does not know its body's length can change members; what comes after is another
    request.
    """
    assert server.siblings is not None
    server.siblings.store.reset()
    with server.connect() as client:
        client.sendall(b"POST /cluster/members HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b'1c\r\n{"change": "promote", "id": \r\n')
        client.sendall(b"2\r\n5}\r\n0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.siblings.store.administered == [("change", [{"change": "promote", "id": 5}])]


def test_a_truncated_body_changes_nothing() -> None:
    """Promise: a sender that goes away amid its body has asked for nothing, and holds no thread meanwhile."""
    express = ExpressAsgi()
    try:
        headers = {"Content-Length": "40"}
        reply = express.request("POST", "/cluster/members", headers, pieces=[b'{"change": "promote", "id": 5}'])
        assert (reply.status, express.store.administered) == (0, [])
    finally:
        express.close()


SCRIPT: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "/cluster/members", {}, b""),
    ("HEAD", "/cluster/members", {}, b""),
    ("HEAD", "/cluster/members?x", {}, b""),
    ("POST", "/cluster/members", {}, body(NEW)),
    ("POST", "/cluster/members", {}, b"{"),
    ("POST", "/cluster/members", {"Content-Type": "application/x-www-form-urlencoded"}, body(NEW)),
    ("POST", "/cluster/members", {"Content-Encoding": "gzip"}, body(NEW)),
    ("POST", "/cluster/members", {"If-Match": '"1"'}, body(NEW)),
    ("POST", "/cluster/members", {"Origin": "null"}, b"x" * (limits.ADMIN_BODY_BYTES_MAX + 1)),
    ("POST", "/cluster/members", {}, b"x" * (limits.ADMIN_BODY_BYTES_MAX + 1)),
    ("DELETE", "/cluster/members/1", {}, b""),
    ("DELETE", "/cluster/members/x", {}, b""),
    ("DELETE", "/cluster/members/%FF", {}, b""),
    ("POST", "/cluster/leader", {}, b'{"id": 1}'),
    ("PUT", "/cluster/leader", {}, b""),
    ("OPTIONS", "/cluster/leader", {}, b""),
    ("POST", "/cluster/nothing", {}, b"x"),
]


@pytest.mark.system
def test_the_lanes_answer_alike_to_the_byte(server: ApiServer) -> None:
    """Promise: status, headers and body do not tell which lane answered."""
    assert server.siblings is not None
    server.siblings.store.reset()
    flask, express = FlaskLane(), ExpressAsgi()
    try:
        for method, target, headers, sent in SCRIPT:
            replies = [way.request(method, target, headers, sent) for way in (flask, express, server)]
            told = [(reply.status, reply.stable_headers, reply.body) for reply in replies]
            assert told[0] == told[1] == told[2], f"{method} {target}"
    finally:
        express.close()
