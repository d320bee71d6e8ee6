"""The ASGI front: keys, status and health are answered in the event loop, all else by Flask on a few threads.

Both lanes plan, refuse and answer with the same functions (`operations`, `responses`), so a client cannot tell them
apart. Status and health are here so that no slow request of Flask's keeps a probe waiting. A body is read whole, in
the loop, before anything is done with it: a slow or truncated sender holds no thread and changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from a2wsgi import WSGIMiddleware

from vaultdb import limits
from vaultdb.api import cluster_requests, operations, responses
from vaultdb.api.operations import Bounded, Headers, Kind
from vaultdb.api.responses import Response
from vaultdb.api.results import Counters, Fields, ReadResult, WriteResult
from vaultdb.errors import Busy, VaultError
from vaultdb.kv.commands import Command
from vaultdb.logs import logger

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLASK_THREADS = 8
FLASK_REQUESTS_MAX = 64
"""Waiting for or held by those threads."""
INQUIRIES_MAX = 64
"""Under way for one of the paths that are answered in the loop; each is a question to other processes."""


class LoopService(Protocol):
    """The node, as the express lane needs it.

    All may raise Rejected, `write` and `read` at once; what those return ends as in `Gateway`.
    """

    def write(self, command: Command, *, queued: bool) -> Awaitable[WriteResult]: ...

    def read(self, key: bytes, *, linearizable: bool) -> Awaitable[ReadResult]: ...

    def status(self) -> Awaitable[Fields]: ...

    def ready(self) -> Awaitable[None]: ...


class _ClientGone(Exception):
    """The connection ended before the body did."""


class ExpressLane:
    """The ASGI application. `flask_app` is a WSGI callable that serves every route."""

    def __init__(self, service: LoopService, flask_app: Callable[..., Iterable[bytes]], counters: Counters) -> None:
        self._service = service
        self._flask: Any = WSGIMiddleware(flask_app, workers=FLASK_THREADS)
        self._counters = counters
        self._flask_requests = 0
        self._slow_body_bytes = 0
        """Of bodies that have not fully arrived. At most API_OUTBOX_BYTES_MAX, and beside that what the parser of each
        connection has read and not yet handed over: one read of the socket.
        """
        self._views: dict[bytes, Callable[[], Awaitable[Response]]] = {
            b"/health/live": self._alive,
            b"/health/ready": self._ready,
            b"/status": self._status,
        }
        self._inquiries = dict.fromkeys(self._views, 0)
        self._log = logger("api.express")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"an ASGI scope of type {scope['type']}")
        try:
            response = await self._answer(scope, receive, send)
        except _ClientGone:
            return
        except VaultError as error:
            response = responses.problem(error)
        except Exception:  # noqa: BLE001  one request's bug must not end the node's other requests
            self._log.exception("request failed", path=scope["path"])
            response = responses.internal_error()
        if response is not None:
            self._counters.count(response.status)
            await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
            await send({"type": "http.response.body", "body": response.body})

    def close(self) -> None:
        """Let the threads go; a request that one of them holds is not waited for."""
        executor: ThreadPoolExecutor = self._flask.executor
        executor.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """None: Flask has answered."""
        raw_path: bytes = scope["raw_path"]
        path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
        fields: list[tuple[bytes, bytes]] = scope["headers"]
        headers: Headers = dict(fields)
        if len(headers) != len(fields):
            headers = _joined(fields)
        plan = operations.plan(scope["method"], path, scope["query_string"], headers)
        if plan is None:
            if path in self._views and scope["method"] in ("GET", "HEAD"):
                operations.check_view(scope["query_string"], headers)
                return await self._view(path)
            admin = cluster_requests.plan(scope["method"], path, scope["query_string"], headers)
            whole = None if admin is None else await self._body(admin, headers, receive)
            await self._answer_by_flask(scope, whole, send, path)
            return None
        body = await self._body(plan, headers, receive)
        if plan.kind is Kind.READ:
            result = await self._service.read(plan.key, linearizable=plan.linearizable)
            return responses.read(plan, result)
        command = operations.command_of(plan, body)
        return responses.written(plan, await self._service.write(command, queued=plan.queued))

    async def _view(self, path: bytes) -> Response:
        if self._inquiries[path] >= INQUIRIES_MAX:
            raise Busy(f"{INQUIRIES_MAX} requests for {path.decode()} are under way already")
        self._inquiries[path] += 1
        try:
            return await self._views[path]()
        finally:
            self._inquiries[path] -= 1

    async def _alive(self) -> Response:
        return responses.alive()

    async def _ready(self) -> Response:
        await self._service.ready()
        return responses.ready()

    async def _status(self) -> Response:
        return responses.document(await self._service.status())

    async def _body(self, plan: Bounded, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises TooLarge or BadRequest as soon as it is known to break a limit, Busy when
        others hold too much.
        """
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return b""
        operations.check_body_bytes(plan, headers)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            whole: bytes = message.get("body", b"")
            operations.check_received_bytes(plan, len(whole))
            return whole
        return await self._slow_body(plan, message, receive)

    async def _slow_body(self, plan: Bounded, message: MutableMapping[str, Any], receive: Receive) -> bytes:
        body = bytearray()
        charged = 0
        try:
            while True:
                if message["type"] != "http.request":
                    raise _ClientGone
                body += message.get("body", b"")
                operations.check_received_bytes(plan, len(body))
                if not message.get("more_body", False):
                    return bytes(body)
                self._slow_body_bytes += len(body) - charged
                charged = len(body)
                if self._slow_body_bytes > limits.API_OUTBOX_BYTES_MAX:
                    raise Busy(f"bodies under way are over the limit of {limits.API_OUTBOX_BYTES_MAX} bytes")
                message = await receive()
        finally:
            self._slow_body_bytes -= charged

    async def _answer_by_flask(self, scope: Scope, body: bytes | None, send: Send, path: bytes) -> None:
        """`body`: whole, of a route that takes one; None: this route takes none, so none was read."""
        if self._flask_requests >= FLASK_REQUESTS_MAX:
            raise Busy(f"{FLASK_REQUESTS_MAX} requests wait for a thread already")
        scope["path"] = path.decode(errors="replace")
        if body is not None:
            scope["headers"] = _with_length(scope["headers"], len(body))
        self._flask_requests += 1
        try:
            await self._flask(scope, _whole(body or b""), self._counting(send))
        finally:
            self._flask_requests -= 1

    def _counting(self, send: Send) -> Send:
        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._counters.count(message["status"])
            await send(message)

        return counted


def _whole(body: bytes) -> Receive:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_length(fields: list[tuple[bytes, bytes]], size_bytes: int) -> list[tuple[bytes, bytes]]:
    """The headers of a body that came whole, in whatever pieces it was sent."""
    kept = [field for field in fields if field[0] not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", b"%d" % size_bytes)]


def _joined(fields: list[tuple[bytes, bytes]]) -> Headers:
    """Repeated headers as one, joined by commas (RFC 9110, 5.2)."""
    joined: dict[bytes, bytes] = {}
    for name, value in fields:
        joined[name] = joined[name] + b"," + value if name in joined else value
    return joined
