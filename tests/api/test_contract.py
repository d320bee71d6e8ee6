"""What a client may rely on, whichever lane answers:

every test runs against Flask, the express lane, and a real process.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from tests.api.lanes import ExpressAsgi, FlaskLane, Lane, Reply
from tests.api.server import ApiServer
from vaultdb import limits
from vaultdb.errors import BadRequest, Busy, NotLeader, Unavailable, Unknown, VaultError

RAW = {"Accept": "application/octet-stream"}


def problem(reply: Reply, status: int, code: str, outcome: str = "rejected") -> str:
    """Check that it is a problem of that kind; its sentence."""
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    fields = reply.json
    assert (fields["status"], fields["code"], fields["outcome"]) == (status, code, outcome)
    assert fields["type"] == f"urn:vaultdb:problem:{code}"
    detail: str = fields["detail"]
    return detail


class TestWrites:
    def test_post_sets_all_keys_as_one_command(self, lane: Lane) -> None:
        """Promise: POST /key is atomic, one revision for all its keys, and the answer names it."""
        reply = lane.request("POST", "/key", body=b'{"a": "1", "b": "2"}')
        assert (reply.status, reply.body) == (200, b'{"revision": 1}')
        assert reply.headers["etag"] == '"1"'
        assert reply.headers["content-type"] == "application/json"
        assert lane.store.data == {b"a": (b"1", 1), b"b": (b"2", 1)}

    def test_post_takes_what_curl_sends(self, lane: Lane) -> None:
        """Promise: curl -d works as it is, whatever Content-Type it makes up."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert lane.request("POST", "/key", headers, b'{"price": "100.50"}').status == 200
        assert lane.request("GET", "/key/price").body == b'{"price": "100.50"}'

    @pytest.mark.parametrize("value", [b"v", b"", b"\x00\xff\x80", b"x" * limits.VALUE_BYTES_MAX])
    def test_put_keeps_every_byte(self, lane: Lane, value: bytes) -> None:
        """Promise: a value is any bytes, none included, up to the limit."""
        reply = lane.request("PUT", "/key/k", body=value)
        assert (reply.status, reply.body, reply.headers["etag"]) == (200, b'{"revision": 1}', '"1"')
        read = lane.request("GET", "/key/k", RAW)
        assert read.body == value
        assert read.headers["content-type"] == "application/octet-stream"

    def test_delete_tells_whether_there_was_a_key(self, lane: Lane) -> None:
        """Promise: DELETE is 200 either way, and says how many keys went."""
        lane.request("PUT", "/key/k", body=b"v")
        assert lane.request("DELETE", "/key/k").body == b'{"revision": 2, "deleted": 1}'
        reply = lane.request("DELETE", "/key/k")
        assert (reply.status, reply.body) == (200, b'{"revision": 2, "deleted": 0}')

    def test_queued_is_202_without_a_revision(self, lane: Lane) -> None:
        """Promise: ack=queued is told apart from done."""
        for method, target in (("POST", "/key"), ("PUT", "/key/k"), ("DELETE", "/key/k")):
            reply = lane.request(method, target + "?ack=queued", body=b'{"a": "1"}' if method != "DELETE" else b"")
            assert (reply.status, reply.body) == (202, b'{"ack": "queued"}')
            assert reply.headers["vaultdb-ack"] == "queued"

    def test_a_full_queue_falls_back_to_the_commit_and_says_so(self, lane: Lane) -> None:
        """Promise: with the queue full, ack=queued waits for the commit, and body and header say committed."""
        lane.store.queue_is_full = True
        reply = lane.request("POST", "/key?ack=queued", body=b'{"a": "1"}')
        assert (reply.status, reply.body) == (200, b'{"revision": 1, "ack": "committed"}')
        assert (reply.headers["vaultdb-ack"], reply.headers["etag"]) == ("committed", '"1"')

    @pytest.mark.parametrize(
        ("body", "phrase"),
        [
            (b'{"a": 1}', 'the value of "a" is a number; values must be JSON strings'),
            (b'{"a": null}', 'the value of "a" is null'),
            (b'{"a": true}', 'the value of "a" is true'),
            (b'{"a": {"b": "c"}}', 'the value of "a" is an object'),
            (b'{"a": ["b"]}', 'the value of "a" is an array'),
            (b'{"a": NaN}', 'the value of "a" is a number'),
            (b'["a"]', "the body is an array"),
            (b'"a"', "the body is a string"),
            (b"7", "the body is a number"),
            (b"{}", "the JSON object is empty"),
            (b"", "the body is not JSON"),
            (b'{"a": "1"', "the body is not JSON"),
            (b'{"a": "1"} x', "the body is not JSON"),
            (b"\xef\xbb\xbf{}", "the body is not JSON"),
            (b'{"a": "\xff"}', "the body is not UTF-8"),
            ('{"a": "1"}'.encode("utf-16"), "the body is not UTF-8"),
            (b'{"a": "1", "a": "2"}', 'the key "a" is given twice'),
            (b'{"a": "\\ud800"}', "half a surrogate pair"),
            (b'{"\\udc00": "1"}', "half a surrogate pair"),
            (b'{"": "1"}', "the key is empty"),
            (b"[" * 100_000, "the body is an array"),
            (b'{"a":' * 100_000, 'the value of "a" is an object'),
            (b'{"a": ' + b"9" * 10_000 + b"}", 'the value of "a" is a number'),
        ],
    )
    def test_a_bad_body_is_400_and_changes_nothing(self, lane: Lane, body: bytes, phrase: str) -> None:
        """Promise: what is not an object of strings is refused with a sentence that says why."""
        assert phrase in problem(lane.request("POST", "/key", body=body), 400, "bad_request")
        assert lane.store.data == {}

    def test_limits_of_a_write(self, lane: Lane) -> None:
        """Promise: over a limit is 413 with the limit named, at the door."""
        reply = lane.request("PUT", "/key/k", body=b"x" * (limits.VALUE_BYTES_MAX + 1))
        assert str(limits.VALUE_BYTES_MAX) in problem(reply, 413, "too_large")
        at_limit = json.dumps({"k" * limits.KEY_BYTES_MAX: "x" * limits.VALUE_BYTES_MAX}).encode()
        assert lane.request("POST", "/key", body=at_limit).status == 200
        over = json.dumps({"k" * (limits.KEY_BYTES_MAX + 1): "x"}).encode()
        assert str(limits.KEY_BYTES_MAX) in problem(lane.request("POST", "/key", body=over), 413, "too_large")
        operations = {f"k{i}": "" for i in range(limits.COMMAND_OPERATIONS_MAX)}
        assert lane.request("POST", "/key", body=json.dumps(operations).encode()).status == 200
        operations["more"] = ""
        detail = problem(lane.request("POST", "/key", body=json.dumps(operations).encode()), 413, "too_large")
        assert str(limits.COMMAND_OPERATIONS_MAX) in detail
        large = json.dumps({f"k{i}": "x" * 1_000_000 for i in range(5)}).encode()
        assert str(limits.COMMAND_BYTES_MAX) in problem(lane.request("POST", "/key", body=large), 413, "too_large")
        huge = b" " * (limits.HTTP_BODY_BYTES_MAX + 1)
        assert str(limits.HTTP_BODY_BYTES_MAX) in problem(lane.request("POST", "/key", body=huge), 413, "too_large")

    @pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "If-Unmodified-Since", "Idempotency-Key"])
    @pytest.mark.parametrize(("method", "target"), [("PUT", "/key/k"), ("DELETE", "/key/k"), ("POST", "/key")])
    def test_conditions_on_writes_are_refused_not_ignored(
        self, lane: Lane, method: str, target: str, name: str
    ) -> None:
        """Promise: a write whose condition is not supported does not happen."""
        body = b"" if method == "DELETE" else b'{"a": "1"}'
        assert name in problem(lane.request(method, target, {name: '"1"'}, body), 501, "not_implemented")
        assert lane.store.data == {}

    def test_an_encoded_body_is_refused(self, lane: Lane) -> None:
        """Promise: compressed bytes are not stored as if they were the value."""
        problem(lane.request("PUT", "/key/k", {"Content-Encoding": "gzip"}, b"x"), 415, "unsupported_media")

    @pytest.mark.parametrize(("method", "target"), [("PUT", "/key/k"), ("DELETE", "/key/k"), ("POST", "/key")])
    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://elsewhere.example"},
            {"Origin": "http://localhost:11100"},
            {"Origin": "http://localhost"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:11000"},
        ],
    )
    def test_pages_of_other_sites_cannot_write(
        self, lane: Lane, method: str, target: str, headers: dict[str, str]
    ) -> None:
        """Promise: what a browser sends for a page that is not this node's changes nothing (cross-site request
        forgery): a POST of text/plain needs no preflight.
        """
        body = b"" if method == "DELETE" else b'{"a": "1"}'
        headers = {"Host": "localhost:11000", "Content-Type": "text/plain", **headers}
        assert "another site" in problem(lane.request(method, target, headers, body), 403, "forbidden")
        assert (lane.store.data, lane.store.applied) == ({}, 0)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "localhost:11000", "Origin": "http://localhost:11000", "Sec-Fetch-Site": "same-origin"},
            {"Host": "LocalHost:11000", "Origin": "http://localhost:11000"},
            {"Host": "db.example", "Origin": "https://db.example"},
            {"Host": "db.example:80", "Origin": "http://db.example"},
            {"Host": "[::1]:11000", "Origin": "http://[::1]:11000"},
            {"Host": "localhost:11000", "Sec-Fetch-Site": "none"},
        ],
    )
    def test_own_pages_and_programs_can_write(self, lane: Lane, headers: dict[str, str]) -> None:
        """Promise: a page from the same host and port may write, as may every client that is no browser."""
        assert lane.request("PUT", "/key/k", headers, b"v").status == 200
        assert lane.request("GET", "/key/k", {"Origin": "http://elsewhere.example"}).status == 200


class TestReads:
    def test_json_is_exact_and_keeps_unicode(self, lane: Lane) -> None:
        """Promise: {"key": "value"}, UTF-8 as it is; revision of the value, of the store, and the applied index."""
        lane.request("PUT", "/key/%C3%A9", body='h\u00e9 "q"\n'.encode())
        lane.request("PUT", "/key/other", body=b"")
        reply = lane.request("GET", "/key/%C3%A9")
        assert reply.body == '{"\u00e9": "h\u00e9 \\"q\\"\\n"}'.encode()
        assert reply.headers["etag"] == '"1"'
        assert (reply.headers["vaultdb-revision"], reply.headers["vaultdb-applied-index"]) == ("2", "2")

    def test_missing_is_404(self, lane: Lane) -> None:
        """Promise: a missing key is not an empty value."""
        reply = lane.request("GET", "/key/nothing")
        assert "nothing" in problem(reply, 404, "not_found")
        assert reply.headers["vaultdb-revision"] == "0"

    @pytest.mark.parametrize(
        ("query", "linearizable"), [("", 1), ("?consistency=linearizable", 1), ("?consistency=stale", 0)]
    )
    def test_consistency_is_linearizable_unless_stale_is_asked(self, lane: Lane, query: str, linearizable: int) -> None:
        """Promise: only a reader who asks for stale gets it."""
        lane.request("PUT", "/key/k", body=b"v")
        assert lane.request("GET", "/key/k" + query).status == 200
        assert lane.store.linearizable_reads == linearizable

    def test_what_json_cannot_hold_is_406(self, lane: Lane) -> None:
        """Promise: bytes are never bent to fit JSON; the sentence tells the way out."""
        lane.request("PUT", "/key/k", body=b"\xff")
        reply = lane.request("GET", "/key/k")
        assert "Accept: application/octet-stream" in problem(reply, 406, "not_acceptable")

    @pytest.mark.parametrize(
        ("accept", "raw"),
        [
            ("*/*", False),
            ("application/json", False),
            ("application/octet-stream", True),
            ("application/octet-stream, */*;q=0.1", True),
            ("application/json;q=0.5, application/octet-stream", True),
            ("application/json, application/octet-stream;q=0.5", False),
            ("application/octet-stream;q=0", False),
            ("application/octet-stream;q=x", False),
            ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ],
    )
    def test_accept_chooses_the_form(self, lane: Lane, accept: str, raw: bool) -> None:
        lane.request("PUT", "/key/k", body=b"v")
        assert lane.request("GET", "/key/k", {"Accept": accept}).body == (b"v" if raw else b'{"k": "v"}')

    @pytest.mark.parametrize(
        ("tag", "status"), [('"1"', 304), ('W/"1"', 304), ('"7", "1"', 304), ("*", 304), ('"2"', 200), ("1", 200)]
    )
    def test_if_none_match(self, lane: Lane, tag: str, status: int) -> None:
        """Promise: a client that has the revision gets no body."""
        lane.request("PUT", "/key/k", body=b"v")
        reply = lane.request("GET", "/key/k", {"If-None-Match": tag})
        assert (reply.status, reply.headers["etag"]) == (status, '"1"')
        assert (reply.body == b"") == (status == 304)
        assert ("content-type" in reply.headers) == (status == 200)
        head = lane.request("HEAD", "/key/k", {"If-None-Match": tag})
        assert (head.status, head.stable_headers) == (status, reply.stable_headers)

    def test_head_is_get_without_the_body(self, lane: Lane) -> None:
        lane.request("PUT", "/key/k", body=b"v")
        head, get = lane.request("HEAD", "/key/k"), lane.request("GET", "/key/k")
        assert (head.status, head.body, head.stable_headers) == (200, b"", get.stable_headers)
        lane.request("PUT", "/key/k", body=b"\xff")
        for target in ("/key/k", "/key/none", "/key/", "/key/k?x=1", "/nothing", "/", "/digest", "/health/ready"):
            head, get = lane.request("HEAD", target), lane.request("GET", target)
            assert (head.status, head.body, head.stable_headers) == (get.status, b"", get.stable_headers), target

    def test_a_read_has_no_body(self, lane: Lane) -> None:
        """Promise: nothing that a client sends is silently dropped."""
        for method in ("GET", "DELETE"):
            assert "no body" in problem(lane.request(method, "/key/k", body=b"x"), 400, "bad_request")
        for target in ("/status", "/health/live", "/health/ready", "/digest"):
            assert "no body" in problem(lane.request("GET", target, body=b"x"), 400, "bad_request")


class TestKeys:
    @pytest.mark.parametrize(
        ("path", "key"),
        [
            ("a/b", b"a/b"),
            ("a//b", b"a//b"),
            ("/a", b"/a"),
            ("//", b"//"),
            ("a/", b"a/"),
            ("a%2Fb", b"a/b"),
            ("a+b", b"a+b"),
            ("a%20b", b"a b"),
            ("a%3Fb%23", b"a?b#"),
            ("a%0Ab", b"a\nb"),
            ("a%00b", b"a\x00b"),
            (".", b"."),
            ("..", b".."),
            ("a/../b/./c", b"a/../b/./c"),
            ("%F0%9F%92%B9", "\N{CHART WITH UPWARDS TREND AND YEN SIGN}".encode()),
            ("100%25", b"100%"),
            ("status", b"status"),
            ("k" * limits.KEY_BYTES_MAX, b"k" * limits.KEY_BYTES_MAX),
            (quote("\u00e9" * (limits.KEY_BYTES_MAX // 2)), "\u00e9".encode() * (limits.KEY_BYTES_MAX // 2)),
        ],
    )
    def test_a_key_is_the_decoded_rest_of_the_path(self, lane: Lane, path: str, key: bytes) -> None:
        """Promise: no slash is merged, no dot resolved, no redirect; a key can be any UTF-8.

        Catches: a route whose pattern stops at a newline.
        """
        assert lane.request("PUT", f"/key/{path}", body=b"v").status == 200
        assert lane.store.data == {key: (b"v", 1)}
        assert lane.request("GET", f"/key/{path}").json == {key.decode(): "v"}
        assert lane.request("DELETE", f"/key/{path}").json["deleted"] == 1

    def test_the_route_itself_may_be_encoded(self, lane: Lane) -> None:
        lane.request("PUT", "/%6Bey/k", body=b"v")
        assert lane.store.data == {b"k": (b"v", 1)}

    @pytest.mark.parametrize(
        ("path", "status", "phrase"),
        [
            ("", 400, "the key is empty"),
            ("%FF", 400, "not UTF-8"),
            ("a%C3", 400, "not UTF-8"),
            ("%ED%A0%80", 400, "not UTF-8"),
            ("k" * (limits.KEY_BYTES_MAX + 1), 413, str(limits.KEY_BYTES_MAX)),
        ],
    )
    def test_bad_keys_are_refused(self, lane: Lane, path: str, status: int, phrase: str) -> None:
        for method in ("GET", "PUT", "DELETE"):
            code = "too_large" if status == 413 else "bad_request"
            assert phrase in problem(lane.request(method, f"/key/{path}"), status, code)


class TestRoutes:
    @pytest.mark.parametrize(
        ("target", "allowed"),
        [
            ("/key", "OPTIONS, POST"),
            ("/key/k", "DELETE, GET, HEAD, OPTIONS, PUT"),
            ("/key/", "DELETE, GET, HEAD, OPTIONS, PUT"),
            ("/", "GET, HEAD, OPTIONS"),
            ("/status", "GET, HEAD, OPTIONS"),
            ("/digest", "GET, HEAD, OPTIONS"),
            ("/health/live", "GET, HEAD, OPTIONS"),
            ("/health/ready", "GET, HEAD, OPTIONS"),
        ],
    )
    def test_methods(self, lane: Lane, target: str, allowed: str) -> None:
        """Promise: a wrong method is 405 with the right ones; OPTIONS tells them."""
        for method in ("PATCH", "POST" if target != "/key" else "GET"):
            reply = lane.request(method, target)
            problem(reply, 405, "method_not_allowed")
            assert reply.headers["allow"] == allowed
        reply = lane.request("OPTIONS", target)
        assert (reply.status, reply.body, reply.stable_headers) == (204, b"", {"allow": allowed})

    @pytest.mark.parametrize("target", ["/nothing", "/keys", "/status/", "//status", "//key/k", "/KEY/k", "/key%00"])
    def test_other_paths_are_404(self, lane: Lane, target: str) -> None:
        problem(lane.request("GET", target), 404, "not_found")

    @pytest.mark.parametrize(
        ("method", "target", "phrase"),
        [
            ("GET", "/key/k?x=1", 'the parameter "x" is unknown; known here: consistency'),
            ("PUT", "/key/k?consistency=stale", 'the parameter "consistency" is unknown; known here: ack'),
            ("GET", "/key/k?consistency=eventual", "linearizable, stale"),
            ("POST", "/key?ack=none", "committed, queued"),
            ("GET", "/key/k?consistency=stale&consistency=stale", "given twice"),
            ("GET", "/status?x", 'the parameter "x" is unknown; this route has none'),
            ("GET", "/health/live?%FF=1", "is unknown"),
            ("GET", "/health/ready?x", 'the parameter "x" is unknown; this route has none'),
            ("GET", "/key/k?" + "&".join(f"p{i}=" for i in range(40)), "more than"),
        ],
    )
    def test_unknown_parameters_are_named(self, lane: Lane, method: str, target: str, phrase: str) -> None:
        """Promise: a misspelt option is refused, never silently the default."""
        assert phrase in problem(lane.request(method, target), 400, "bad_request")

    def test_index_and_health(self, lane: Lane) -> None:
        assert lane.request("GET", "/").json["name"] == "VaultDB"
        for path, body in (("/health/live", b'{"live": true}'), ("/health/ready", b'{"ready": true}')):
            reply = lane.request("GET", path)
            assert (reply.status, reply.body) == (200, body)
            assert lane.request("HEAD", path).stable_headers == reply.stable_headers

    def test_not_ready_is_503_with_the_reason(self, lane: Lane) -> None:
        lane.store.failure = Unavailable("there is no leader")
        assert "there is no leader" in problem(lane.request("GET", "/health/ready"), 503, "unavailable")
        assert lane.request("GET", "/health/live").status == 200

    def test_digest(self, lane: Lane) -> None:
        lane.request("PUT", "/key/k", body=b"v")
        digest = lane.request("GET", "/digest").json
        assert digest == lane.store.digest()._asdict()


class TestOutcomes:
    @pytest.mark.parametrize(
        ("failure", "status", "code"),
        [
            (Busy("too many proposals"), 429, "busy"),
            (Unavailable("no quorum"), 503, "unavailable"),
            (NotLeader("no leader"), 503, "not_leader"),
            (BadRequest("no"), 400, "bad_request"),
        ],
    )
    def test_rejected_says_that_nothing_happened(self, lane: Lane, failure: VaultError, status: int, code: str) -> None:
        """Promise: code, sentence, Retry-After and outcome come through from where the request was refused."""
        lane.store.failure = failure
        for method, target in (("PUT", "/key/k"), ("GET", "/key/k")):
            reply = lane.request(method, target)
            assert problem(reply, status, code) == str(failure)
            expected = None if failure.retry_after_s is None else str(failure.retry_after_s)
            assert reply.headers.get("retry-after") == expected

    def test_unknown_is_told_apart(self, lane: Lane) -> None:
        """Promise: a write that may have happened is 504 with outcome unknown, never an error that looks like a no."""
        lane.store.failure = Unknown("no answer")
        problem(lane.request("PUT", "/key/k", body=b"v"), 504, "unknown_outcome", "unknown")

    def test_a_bug_is_500_without_a_traceback(self, fake_lane: Lane) -> None:
        """Promise: an unexpected exception leaks nothing, and leaves the outcome open."""
        fake_lane.store.failure = ZeroDivisionError("secret")  # type: ignore[assignment]
        with capture_logs() as logged:
            reply = fake_lane.request("PUT", "/key/k", body=b"v")
        assert "secret" not in problem(reply, 500, "internal_error", "unknown")
        assert b"Traceback" not in reply.body
        assert [entry["event"] for entry in logged] == ["request failed"]


SCRIPT: list[tuple[str, str, dict[str, str], bytes]] = [
    ("POST", "/key", {}, b'{"a": "1", "b": "2"}'),
    ("GET", "/key/a", {}, b""),
    ("GET", "/key/a?consistency=stale", RAW, b""),
    ("HEAD", "/key/a", {}, b""),
    ("HEAD", "/key/none", {}, b""),
    ("GET", "/key/a", {"If-None-Match": '"1"'}, b""),
    ("GET", "/key/none", RAW, b""),
    ("PUT", "/key/a", {}, b"\xff"),
    ("GET", "/key/a", {}, b""),
    ("PUT", "/key/a?ack=queued", {}, b"v"),
    ("DELETE", "/key/a", {}, b""),
    ("DELETE", "/key/a", {}, b""),
    ("PUT", "/key/", {}, b"v"),
    ("PUT", "/key/%FF", {}, b"v"),
    ("POST", "/key", {}, b"nonsense"),
    ("POST", "/key/k", {}, b"x"),
    ("PATCH", "/key/k", {}, b"x"),
    ("PUT", "/key", {}, b"x"),
    ("OPTIONS", "/key", {}, b""),
    ("OPTIONS", "/key/a//b", {}, b""),
    ("OPTIONS", "/status", {}, b""),
    ("OPTIONS", "/health/ready?x=y", {}, b""),
    ("HEAD", "/key/a", {"If-None-Match": "*"}, b""),
    ("HEAD", "/digest", {}, b""),
    ("HEAD", "/health/ready", {}, b""),
    ("HEAD", "/status?x=y", {}, b""),
    ("GET", "/status", {}, b"x"),
    ("POST", "/status", {}, b"x"),
    ("PURGE", "/key/a", {}, b""),
    ("PUT", "/key/a", {"Origin": "null"}, b"v"),
    ("POST", "/key", {"Sec-Fetch-Site": "cross-site"}, b'{"a": "1"}'),
    ("GET", "/nothing", {}, b""),
    ("POST", "/nothing", {}, b"x"),
    ("GET", "/", {}, b""),
    ("GET", "/digest", {}, b""),
    ("GET", "/health/live", {}, b""),
    ("GET", "/health/ready", {}, b""),
    ("GET", "/key/a?x=y", {}, b""),
    ("PUT", "/key/a", {"If-Match": '"1"'}, b"v"),
    ("GET", "/key/a", {"If-Match": '"1"'}, b""),
    ("PUT", "/key/a", {}, b"x" * (limits.VALUE_BYTES_MAX + 1)),
]


@pytest.mark.system
def test_the_lanes_answer_alike_to_the_byte(server: ApiServer) -> None:
    """Promise: the lanes cannot be told apart: same status, headers and body for the same requests on the same
    store.
    """
    assert server.siblings is not None
    server.siblings.store.reset()
    flask, express = FlaskLane(), ExpressAsgi()
    try:
        for method, target, headers, body in SCRIPT:
            replies = [way.request(method, target, headers, body) for way in (flask, express, server)]
            told = [(reply.status, reply.stable_headers, reply.body) for reply in replies]
            assert told[0] == told[1] == told[2], f"{method} {target}"
    finally:
        express.close()


def test_flasks_own_client_works() -> None:
    """Promise: create_app is an ordinary Flask application."""
    store = FlaskLane()
    client = store.app.test_client()
    assert client.post("/key", data=b'{"k": "v"}').json == {"revision": 1}
    assert client.get("/key/k").json == {"k": "v"}
