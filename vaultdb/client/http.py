"""A small asyncio HTTP/1.1 client for many requests on few kept-alive connections, parsed by httptools.

For the demo and the benchmarks, whose own cost must not hide the cluster's. One request at a time on a connection.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httptools

from vaultdb.errors import Unavailable, Unknown


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Connection(asyncio.Protocol):
    """One connection to one node. After an error it is closed; `request` on a closed one connects again."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10.0) -> None:
        self.address = f"{host}:{port}"
        self._host, self._port = host, port
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._reset()

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        """Send one request and wait for its answer. `path` is percent-encoded already.

        Raises Unavailable when no connection could be made (nothing was sent), Unknown when it broke or the time ran
        out afterwards.
        """
        if self._transport is None or self._transport.is_closing():
            await self._connect()
        assert self._transport is not None
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._waiter = asyncio.get_running_loop().create_future()
        self._reset()
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        try:
            return await asyncio.wait_for(self._waiter, self._timeout_s)
        except TimeoutError as error:
            self.close()
            raise Unknown(f"{self.address} did not answer within {self._timeout_s} s") from error

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _connect(self) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
        except OSError as error:
            raise Unavailable(f"{self.address} cannot be reached: {error.strerror}") from error
        self._transport = transport

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []

    # Called by asyncio.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"{self.address} answered something that is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"{self.address} closed the connection{f': {exc}' if exc else ''}")

    def _fail(self, sentence: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Unknown(sentence))

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            status = self._parser.get_status_code()
            self._waiter.set_result(Response(status, self._headers, b"".join(self._chunks)))
