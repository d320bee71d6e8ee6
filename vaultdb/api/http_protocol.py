"""uvicorn's HTTP protocol with bounds: header bytes, connections, pipelined requests, and the time that anything
may take.

No timer per request: every connection has at most one deadline, and a sweep over all connections runs some times a
second. A connection that is refused while its client still sends is closed late, its input discarded, so that no
reset overtakes the refusal.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vaultdb import limits
from vaultdb.api import http_head, responses
from vaultdb.api.results import Counters
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.errors import BadRequest, BodyTimeout, NotImplementedYet, Rejected, TooLarge, Unavailable

KEEP_ALIVE_MS = 60_000
"""A connection without a request is closed after this."""
LINGER_MS = 1_000
"""A refused client may go on sending for this long."""
LINGER_BYTES_MAX = 16 * limits.MIB
MESSAGE_BYTES_MAX = 2 * limits.HTTP_BODY_BYTES_MAX
"""Headers, body and its chunked framing as they come over the wire."""
REFUSED_CONNECTIONS_MAX = 64
"""Connections over the maximum that still get an answer; those above are cut off."""
PIPELINED_MAX = 128
"""Requests of one connection that wait for their turn."""
_BODY_HEADERS = (b"content-length", b"transfer-encoding")
_NEVER = 1 << 63


class Bounds:
    """What all connections of a server share: limits, counters, and a coarse clock that `sweep` moves."""

    def __init__(self, connections_max: int, timeout_ms: int, counters: Counters) -> None:
        """`timeout_ms`: for the headers, for the body, and for a client to take its response."""
        self.connections_max = connections_max
        self.timeout_ms = timeout_ms
        self.counters = counters
        self.now_ns = monotonic_ns()

    def deadline_ns(self) -> int:
        return monotonic_ns() + self.timeout_ms * NS_PER_MS

    def sweep(self, connections: set[Any], now_ns: int) -> None:
        """Deal with every connection that is over its deadline."""
        self.now_ns = now_ns
        for connection in [connection for connection in connections if now_ns >= connection.deadline_ns]:
            connection.overdue()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `bounds` is set by `bounded`."""

    bounds: Bounds

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False
        self.deadline_ns = _NEVER
        self._in_headers = False
        self._in_message = False
        self._arrives_late = False
        """The current part, headers or body, did not come in one piece and has a deadline."""
        self._message_bytes = 0
        """Received since the last whole request, or fewer where one piece held the end of one and the start of
        the next.
        """
        self._keep_alive = True
        self._discarding = False
        self._discarded_bytes = 0
        self._writer = _ResponseWriter(self)

    # The transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.deadline_ns = self.bounds.deadline_ns()
        over = len(self.connections) - self.bounds.connections_max
        if over > REFUSED_CONNECTIONS_MAX:
            self.transport.abort()
        elif over > 0:
            self._refuse(Unavailable(f"{self.bounds.connections_max} connections are open already; that is the limit"))

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES_MAX:
                self.transport.abort()
            return
        self._message_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # we go on in HTTP/1.1; what follows this request may be anything
            self._discarding = True
        except httptools.HttpParserError as error:
            self._refuse(self._rejection(error, data))
        else:
            if self._in_message:
                self._on_incomplete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. If its last whole request has no answer yet, it gets one."""
        if not self._answer_is_due():
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self.deadline_ns = self.bounds.deadline_ns()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.deadline_ns = _NEVER if self._answer_is_due() else self.bounds.deadline_ns()

    # The parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = self._in_message = True

    def on_headers_complete(self) -> None:
        if self._message_bytes > limits.HTTP_HEADER_BYTES_MAX:
            http_head.check_bytes(len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers))
        if len(self.pipeline) >= PIPELINED_MAX:
            raise BadRequest(f"more than {PIPELINED_MAX} requests were sent ahead of their answers")
        if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
            raise NotImplementedYet("a request with a body cannot offer an upgrade here; send it without Upgrade")
        http_head.check(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        self.cycle.transport = self._writer  # type: ignore[assignment]
        self.headers = []  # what comes now are trailers, and those are no headers
        self._in_headers = self._arrives_late = False
        self.deadline_ns = _NEVER

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_message = False
        self._message_bytes = 0
        if self._arrives_late:
            self._arrives_late = False
            self.deadline_ns = _NEVER
            if not self.cycle.response_started:
                self.cycle.keep_alive = self._keep_alive

    # uvicorn calls.

    def on_response_complete(self) -> None:
        """As inherited, with a deadline in place of the keep-alive timer."""
        self.server_state.total_requests += 1
        self._writer.finish()
        if self.transport.is_closing():
            self.deadline_ns = self.bounds.deadline_ns()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._discarding or self.flow.write_paused:
            pass  # that has a deadline already
        elif self._in_message:
            self.deadline_ns = self.bounds.deadline_ns()
        else:
            self.deadline_ns = self.bounds.now_ns + KEEP_ALIVE_MS * NS_PER_MS

    def shutdown(self) -> None:
        """The server stops: finish what is under way, refuse what has not fully arrived."""
        if self._in_message and not self._answer_is_due():
            self._refuse(Unavailable("this node is stopping"))
        else:
            super().shutdown()

    # The sweep and the response writer call.

    def overdue(self) -> None:
        """The deadline of this connection has passed."""
        if self._discarding or self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()
        elif self.pipeline:
            self.deadline_ns = self.bounds.deadline_ns()  # earlier requests have the turn, and their own deadlines
        elif self._in_message:
            what = "request line and headers" if self._in_headers else "body"
            self._refuse(BodyTimeout(f"the {what} did not arrive within {self.bounds.timeout_ms} ms"))
        else:
            self.deadline_ns = self.bounds.deadline_ns()
            self.transport.close()

    def close_after_response(self) -> None:
        """Hang up; late, when the request of that response is still arriving."""
        if self._in_message and not self._in_headers and not self.pipeline:
            self._discard_rest()
        else:
            self.transport.close()

    def _discard_rest(self) -> None:
        """Say that no more will come, and give the client a moment to stop sending."""
        self._discarding = True
        self.deadline_ns = monotonic_ns() + LINGER_MS * NS_PER_MS
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.transport.write_eof()

    def _on_incomplete(self) -> None:
        """The rarer case: a request did not come in one piece."""
        if self._in_headers:
            if self._message_bytes > limits.HTTP_HEADER_BYTES_MAX:
                self._refuse(http_head.too_large(self._message_bytes))
                return
        elif self._message_bytes > MESSAGE_BYTES_MAX:
            self._refuse(
                TooLarge(f"the request has over {MESSAGE_BYTES_MAX} bytes with its framing; that is the limit")
            )
            return
        if not self._arrives_late:
            self._arrives_late = True
            self.deadline_ns = self.bounds.deadline_ns()
            if not self._in_headers:
                self._keep_alive = self.cycle.keep_alive
                self.cycle.keep_alive = False  # should it be answered before it has arrived

    def _rejection(self, error: httptools.HttpParserError, data: bytes) -> Rejected:
        """What ended the parsing, as it is answered. `data` is the piece in which that happened."""
        cause = error.__context__
        if isinstance(cause, Rejected):
            return cause
        if isinstance(error, httptools.HttpParserInvalidMethodError) and self._message_bytes == len(data):
            method = http_head.method_of(data)
            if method is not None:
                return NotImplementedYet(f"the method {method} is unknown; known here: {http_head.METHODS}")
        return BadRequest(f"this is not HTTP/1.1: {error}")

    def _answer_is_due(self) -> bool:
        """A request that has fully arrived has not been answered.

        (During headers, `cycle` is still the request before.)
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return False
        return self._in_headers or not self._in_message

    def _refuse(self, error: Rejected) -> None:
        """Answer with `error` and hang up.

        Never in place of the answer to an earlier request, which may have been carried out.
        """
        self.bounds.counters.refused += 1
        if self._answer_is_due():
            self.cycle.keep_alive = False
            self._discarding = True
            self.deadline_ns = _NEVER
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline or cycle.response_started:
                self.transport.close()
                return
        response = responses.problem(error)
        head = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *response.headers, (b"connection", b"close")):
            head += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*head, b"\r\n", response.body)))
        self._discard_rest()


class _ResponseWriter:
    """The transport as responses see it: head and body leave in one write, and to close early is to close late.

    Responses of a connection follow one another, so one writer serves them all.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._head = b""
        self._head_is_out = False

    def write(self, data: bytes) -> None:
        if self._head_is_out:
            self._protocol.transport.write(data)
        elif self._head:
            self._protocol.transport.write(self._head + data)
            self._head = b""
            self._head_is_out = True
        elif data.startswith(b"HTTP/1.1 100 "):
            self._protocol.transport.write(data)
        else:
            self._head = data

    def finish(self) -> None:
        """The response is complete; it may have had no body."""
        if self._head:
            self._protocol.transport.write(self._head)
            self._head = b""
        self._head_is_out = False

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self.finish()
        self._protocol.close_after_response()


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """The protocol class of one server."""
    return type("BoundedProtocol", (BoundedProtocol,), {"bounds": bounds})
