"""The monitor's ASGI application: the page, its state as JSON, and the same as a stream of Server-Sent Events.

    GET /                      the page; with it /app.js, /style.css and their like
    GET /api/state[?since=P]   the report (see monitor.report); P is "incarnation.version" of what the reader has
    GET /api/stream[?since=P]  one message per version, id = P; a reader that comes back sends Last-Event-ID
    GET /health/live           200 while the loop turns

A position that this life of the monitor did not give out is answered with the full report.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from monitor import limits
from monitor.collector import Collector
from monitor.report import report
from vaultdb.clock import monotonic_ns, wall_ms
from vaultdb.errors import BadRequest, NotFound, Rejected, Unavailable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
GUARDS: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
JSON: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
PROBLEM: Headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
EVENTS: Headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class MethodNotAllowed(BadRequest):
    code = "method_not_allowed"
    http_status = 405


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, held in memory; revalidated by ETag at each load."""

    content_type: bytes
    etag: bytes
    body: bytes


def load_page(directory: Path) -> dict[str, Asset]:
    """Every file of the page by its URL path."""
    assets = {}
    for path in sorted(directory.iterdir()):
        if path.suffix in CONTENT_TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'.encode()
            assets[f"/{path.name}"] = Asset(CONTENT_TYPES[path.suffix], etag, body)
    assets["/"] = assets["/index.html"]
    assets["/favicon.ico"] = assets["/favicon.svg"]
    return assets


class MonitorApp:
    """Lives in the collector's event loop and only reads from it. Holds at most limits.STREAMS_MAX streams."""

    def __init__(self, collector: Collector, assets: Mapping[str, Asset]) -> None:
        self._collector = collector
        self._assets = assets
        self._incarnation = secrets.token_hex(4)
        self._streams = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._latest: tuple[int, int, bytes] = (-1, -1, b"")

    def publish(self) -> None:
        """The collector has a new version: every stream sends it."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End all streams; later ones end after their first message."""
        self._closed = True
        self.publish()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        try:
            await self._route(scope, receive, send)
        except Rejected as error:
            problem = {
                "type": "about:blank",
                "title": error.title,
                "status": error.http_status,
                "detail": str(error),
                "code": error.code,
            }
            headers = list(PROBLEM)
            if error.retry_after_s is not None:
                headers.append((b"retry-after", str(error.retry_after_s).encode()))
            if isinstance(error, MethodNotAllowed):
                headers.append((b"allow", b"GET, HEAD"))
            await _respond(send, error.http_status, headers, json.dumps(problem).encode())

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        known = path in self._assets or path in ("/api/state", "/api/stream", "/health/live")
        if not known:
            raise NotFound("there is no such page; the monitor's page is at /")
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed("the monitor only answers GET and HEAD")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if path in self._assets:
            await _respond_asset(send, self._assets[path], headers.get(b"if-none-match", b""))
        elif path == "/api/state":
            await _respond(send, 200, JSON, self._report(self._since(scope)))
        elif path == "/health/live":
            await _respond(send, 200, JSON, b'{"status": "live"}')
        elif scope["method"] == "HEAD":
            await _respond(send, 200, EVENTS, b"")
        else:
            await self._stream(receive, send, self._since(scope, headers.get(b"last-event-id")))

    async def _stream(self, receive: Receive, send: Send, since: int) -> None:
        """Each reader has its own position, so a slow one gets fewer and larger messages and no queue grows."""
        if self._streams >= limits.STREAMS_MAX:
            raise Unavailable(f"{limits.STREAMS_MAX} streams are open, the limit; poll /api/state instead")
        self._streams += 1
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": EVENTS + GUARDS})
            while not gone.done():
                changed, version = self._changed, self._collector.version
                message = {"type": "http.response.body", "body": self._message(since), "more_body": not self._closed}
                await asyncio.wait_for(send(message), limits.SEND_TIMEOUT_MS / 1000)
                if self._closed:
                    return
                since = version
                turn = asyncio.create_task(changed.wait())
                await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
                turn.cancel()
        except TimeoutError:
            return  # the server closes a connection whose response was left unfinished
        finally:
            self._streams -= 1
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    def _message(self, since: int) -> bytes:
        """One event of the stream. Readers in step with each other share it."""
        version = self._collector.version
        if self._latest[:2] != (version, since):
            head = f"id: {self._incarnation}.{version}\ndata: ".encode()
            self._latest = (version, since, head + self._report(since) + b"\n\n")
        return self._latest[2]

    def _report(self, since: int) -> bytes:
        now = report(
            self._collector, incarnation=self._incarnation, since=since, now_ns=monotonic_ns(), wall_ms=wall_ms()
        )
        return json.dumps(now, separators=(",", ":"), allow_nan=False).encode()

    def _since(self, scope: Scope, last_event_id: bytes | None = None) -> int:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8)
        position = last_event_id.decode("latin-1") if last_event_id else query.get("since", [""])[0]
        incarnation, _, digits = position.partition(".")
        if incarnation != self._incarnation or not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
            return 0
        version = int(digits)
        return version if version <= self._collector.version else 0


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond_asset(send: Send, asset: Asset, known_etag: bytes) -> None:
    headers = [(b"content-type", asset.content_type), (b"etag", asset.etag), (b"cache-control", b"no-cache")]
    if asset.etag in known_etag:
        await _respond(send, 304, headers, b"")
    else:
        await _respond(send, 200, headers, asset.body)


async def _respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = [] if status == 304 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + length + GUARDS})
    await send({"type": "http.response.body", "body": body})
