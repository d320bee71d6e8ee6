"""Results and errors become responses: status, headers, body. Pure; the same for Flask and the express lane."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from vaultdb import __version__
from vaultdb.api.cluster_requests import LEADER_METHODS, MEMBER_METHODS, MEMBERS_METHODS
from vaultdb.api.operations import KEY_METHODS, KEYS_METHODS, VIEW_METHODS, Kind, Plan
from vaultdb.api.results import Digest, ReadResult, WriteResult
from vaultdb.errors import MethodNotAllowed, NotAcceptable, NotFound, Rejected, VaultError

HeaderList = list[tuple[bytes, bytes]]

_quoted: Callable[[str], str] = json.encoder.encode_basestring
"""A JSON string with everything but the mandatory escapes left as it is."""
_JSON = (b"content-type", b"application/json")
_RAW = (b"content-type", b"application/octet-stream")
_PROBLEM = (b"content-type", b"application/problem+json")


class Response(NamedTuple):
    status: int
    headers: HeaderList
    body: bytes


def written(plan: Plan, result: WriteResult) -> Response:
    """A write that was done or, when the client asked for no more, queued."""
    if result.queued:
        return _with_body(202, [_JSON, (b"vaultdb-ack", b"queued")], b'{"ack": "queued"}')
    revision = b"%d" % result.revision
    headers = [_JSON]
    body = b'{"revision": %s' % revision
    if plan.kind is Kind.DELETE:
        body += b', "deleted": %d' % result.keys
    else:
        headers.append((b"etag", b'"%s"' % revision))
    if plan.queued:
        headers.append((b"vaultdb-ack", b"committed"))
        body += b', "ack": "committed"'
    return _with_body(200, headers, body + b"}")


def read(plan: Plan, result: ReadResult) -> Response:
    """The value, 304 when the client has it, 404, or 406 when JSON cannot hold it."""
    position = [
        (b"vaultdb-revision", b"%d" % result.revision),
        (b"vaultdb-applied-index", b"%d" % result.applied_index),
    ]
    if result.value is None:
        return problem(NotFound(f"there is no key {_shown_key(plan.key)}"), position)
    etag = b'"%d"' % result.value_revision
    position.append((b"etag", etag))
    if plan.if_none_match is not None and _matches(plan.if_none_match, etag):
        return Response(304, position, b"")
    if plan.raw:
        return _with_body(200, [_RAW, *position], result.value)
    try:
        text = result.value.decode()
    except UnicodeDecodeError:
        return problem(
            NotAcceptable("the value is not UTF-8 text, so JSON cannot hold it; use Accept: application/octet-stream"),
            position,
        )
    return _with_body(200, [_JSON, *position], f"{{{_quoted(plan.key.decode())}: {_quoted(text)}}}".encode())


def problem(error: VaultError, headers: HeaderList | None = None) -> Response:
    """The error as problem+json (RFC 9457). `outcome` says whether anything may have happened."""
    outcome = "rejected" if isinstance(error, Rejected) else "unknown"
    extra = list(headers or ())
    if isinstance(error, MethodNotAllowed):
        extra.append((b"allow", error.allowed.encode()))
    if error.retry_after_s is not None:
        extra.append((b"retry-after", b"%d" % error.retry_after_s))
    return _problem(error.http_status, error.code, error.title, str(error), outcome, extra)


def internal_error() -> Response:
    """A fault of ours, of which the client learns no detail. A write may or may not have happened."""
    detail = "the server met a fault that it did not expect; its log has the details"
    return _problem(500, "internal_error", "internal error", detail, "unknown", [])


def digest(result: Digest) -> Response:
    return document(result._asdict())


def document(value: dict[str, Any], status: int = 200) -> Response:
    return _with_body(status, [_JSON], json.dumps(value, ensure_ascii=False).encode())


def alive() -> Response:
    return document({"live": True})


def ready() -> Response:
    return document({"ready": True})


def options(allowed: str) -> Response:
    return Response(204, [(b"allow", allowed.encode())], b"")


def index() -> Response:
    """What there is, for someone who looks at the root."""
    routes = [
        (
            "/key",
            KEYS_METHODS,
            "POST a JSON object of strings: all keys or none; ?ack=queued answers before the commit",
        ),
        ("/key/<key>", KEY_METHODS, "one key, percent-encoded UTF-8; ?consistency=linearizable|stale; PUT takes bytes"),
        ("/status", VIEW_METHODS, "this node: role, term, indexes, leader, followers, processes"),
        ("/digest", VIEW_METHODS, "hash of this node's state"),
        ("/cluster/members", MEMBERS_METHODS, "who belongs to the cluster; POST changes it; ?consistency=stale"),
        ("/cluster/members/<id>", MEMBER_METHODS, "DELETE removes the member"),
        ("/cluster/leader", LEADER_METHODS, 'POST {"id": <id>} or {} hands over the leadership'),
        ("/health/live", VIEW_METHODS, "200 while the process turns"),
        ("/health/ready", VIEW_METHODS, "200 when linearizable reads can be served"),
    ]
    listed = [{"path": path, "methods": methods.split(", "), "what": what} for path, methods, what in routes]
    links = {"status": "/status", "live": "/health/live", "ready": "/health/ready"}
    return document({"name": "VaultDB", "version": __version__, "routes": listed, "links": links})


def _problem(status: int, code: str, title: str, detail: str, outcome: str, headers: HeaderList) -> Response:
    fields = {
        "type": f"urn:vaultdb:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "outcome": outcome,
    }
    return _with_body(status, [_PROBLEM, *headers], json.dumps(fields, ensure_ascii=False).encode())


def _with_body(status: int, headers: HeaderList, body: bytes) -> Response:
    headers.append((b"content-length", b"%d" % len(body)))
    return Response(status, headers, body)


def _matches(condition: bytes, etag: bytes) -> bool:
    """If-None-Match compares weakly (RFC 9110, 13.1.2)."""
    tags = (tag.strip().removeprefix(b"W/") for tag in condition.split(b","))
    return any(tag in (etag, b"*") for tag in tags)


def _shown_key(key: bytes) -> str:
    text = key.decode()
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
