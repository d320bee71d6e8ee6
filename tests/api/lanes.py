"""The ways to the same API: Flask as a WSGI application, the express lane as an ASGI application. Both over one
fake service.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, unquote_to_bytes

from tests.api.siblings import Store
from vaultdb.api.cluster_requests import AdminRequest
from vaultdb.api.express import ExpressLane
from vaultdb.api.flask_app import create_app
from vaultdb.api.results import Counters, Digest, ReadResult, WriteResult
from vaultdb.errors import Unavailable
from vaultdb.kv.commands import Command


class Reply(NamedTuple):
    """A response, header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stable_headers(self) -> dict[str, str]:
        """Without those that belong to the server or the connection."""
        return {n: v for n, v in self.headers.items() if n not in ("date", "connection", "transfer-encoding")}


class Lane(Protocol):
    store: Store

    def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply: ...


class FakeService:
    """`flask_app.Service` in ten lines."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(self, command: Command, *, queued: bool) -> WriteResult:
        self._fail()
        if queued and not self.store.queue_is_full:
            return WriteResult(0, 0, queued=True)
        return WriteResult(*self.store.apply(command))

    def read(self, key: bytes, *, linearizable: bool) -> ReadResult:
        if linearizable:
            self._fail()
            self.store.linearizable_reads += 1
        return self.store.read(key)

    def status(self) -> dict[str, Any]:
        return {"node": "node0"}

    def digest(self) -> Digest:
        return self.store.digest()

    def ready(self) -> None:
        if self.store.failure is not None:
            raise Unavailable(str(self.store.failure))

    def admin(self, request: AdminRequest) -> dict[str, Any]:
        self._fail()
        return self.store.administer(*request)

    def _fail(self) -> None:
        if self.store.failure is not None:
            raise self.store.failure


class FakeLoopService:
    """`express.LoopService` over the same."""

    def __init__(self, service: FakeService) -> None:
        self.service = service

    async def write(self, command: Command, *, queued: bool) -> WriteResult:
        return self.service.write(command, queued=queued)

    async def read(self, key: bytes, *, linearizable: bool) -> ReadResult:
        return self.service.read(key, linearizable=linearizable)

    async def status(self) -> dict[str, Any]:
        return self.service.status()

    async def ready(self) -> None:
        self.service.ready()


class FlaskLane:
    """A WSGI server's part, no more: PATH_INFO decoded, bodies with their length."""

    def __init__(self) -> None:
        self.store = Store()
        self.app = create_app(FakeService(self.store))

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        environ: Mapping[str, Any] | None = None,
    ) -> Reply:
        path, _, query = target.partition("?")
        full: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if body:
            full["CONTENT_LENGTH"] = str(len(body))
        for name, value in (headers or {}).items():
            if name.lower() in ("content-length", "content-type"):
                full[name.upper().replace("-", "_")] = value
            else:
                full["HTTP_" + name.upper().replace("-", "_")] = value
        full.update(environ or {})
        started: list[Any] = []

        def start_response(status: str, fields: list[tuple[str, str]], _exc_info: Any = None) -> Any:
            started[:] = [int(status.split()[0]), {name.lower(): value for name, value in fields}]
            return None

        chunks: Iterable[bytes] = self.app(full, start_response)
        content = b"".join(chunks)
        return Reply(started[0], started[1], content)


class ExpressAsgi:
    """An ASGI server's part, no more."""

    def __init__(self) -> None:
        self.store = Store()
        service = FakeService(self.store)
        self.counters = Counters()
        self.app = ExpressLane(FakeLoopService(service), create_app(service), self.counters)

    def scope(self, method: str, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
        path, _, query = target.partition("?")
        return {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        pieces: list[bytes] | None = None,
    ) -> Reply:
        """`pieces`: the body as it arrives; an end without a last piece is a client that went away."""
        full = {**(headers or {}), **({"Content-Length": str(len(body))} if body else {})}
        scope = self.scope(method, target, full)
        if pieces is None:
            messages = [{"type": "http.request", "body": body, "more_body": False}]
        else:
            messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        if not sent:
            return Reply(0, {}, b"")
        content = b"".join(message.get("body", b"") for message in sent[1:])
        fields_out = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], fields_out, b"" if method == "HEAD" else content)

    def close(self) -> None:
        self.app.close()
