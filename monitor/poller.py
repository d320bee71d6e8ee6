"""Asks one node for its /status over one persistent connection: HTTP/1.1 by h11 on asyncio streams.

The only module that meets network, HTTP and JSON faults of the nodes; all of them become `NoAnswer`.
"""

from __future__ import annotations

import asyncio
import errno
import json

import h11

from monitor import limits
from monitor.reading import NodeStatus, read_status
from vaultdb.config import NodeAddress
from vaultdb.errors import Unavailable

READ_BYTES = 64 * 1024


class NoAnswer(Unavailable):
    """`refused`: the machine answered that nobody listens; otherwise the node may only be slow."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(reason)


class StatusClient:
    """Owns at most one connection. After any NoAnswer the connection is closed and the next fetch opens another."""

    def __init__(self, address: NodeAddress, timeout_ms: int) -> None:
        self._address = address
        self._timeout_ms = timeout_ms
        self._http = h11.Connection(h11.CLIENT)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def fetch(self) -> NodeStatus:
        """The node's status; raises NoAnswer, at the latest after the timeout."""
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                try:
                    code, body = await self._exchange()
                except (OSError, h11.ProtocolError):
                    if self._writer is None:
                        raise
                    self.close()  # the node may have closed an idle connection: that alone is no failure
                    code, body = await self._exchange()
            if code != 200:
                raise NoAnswer(f"answers with HTTP status {code}")
            return read_status(json.loads(body))
        except TimeoutError as error:
            self.close()
            raise NoAnswer(f"no answer within {self._timeout_ms} ms") from error
        except OSError as error:
            self.close()
            refused = error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)
            words = "connection refused" if error.errno == errno.ECONNREFUSED else error.strerror or str(error)
            raise NoAnswer(words.lower(), refused=refused) from error
        except h11.ProtocolError as error:
            self.close()
            raise NoAnswer(f"the answer is not HTTP: {error}"[: limits.TEXT_CHARACTERS_MAX]) from error
        except (ValueError, RecursionError) as error:
            self.close()
            raise NoAnswer("the answer is not a node's status") from error

    def close(self) -> None:
        """Drop the connection, if any, at once."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _exchange(self) -> tuple[int, bytes]:
        if self._reader is None or self._writer is None:
            reader, writer = await asyncio.open_connection(self._address.host, self._address.http_port)
            self._reader, self._writer = reader, writer
            self._http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", self._address.http_address),
            ("Accept", "application/json"),
            ("User-Agent", "vaultdb-monitor"),
        ]
        request = self._http.send(h11.Request(method="GET", target="/status", headers=headers))
        self._writer.write((request or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        code, body = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                code = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > limits.STATUS_BYTES_MAX:
                    raise ValueError("the answer is too long")
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        if h11.MUST_CLOSE in self._http.states.values() or self._http.our_state is not h11.DONE:
            self.close()
        else:
            self._http.start_next_cycle()
        return code, bytes(body)
