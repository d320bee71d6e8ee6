"""The api process: one event loop with uvicorn in it, the gateway behind it, and a tick that beats, sweeps and
watches for the order to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
import uvloop
import zmq

from vaultdb.api.bridge import Bridge, LoopNode
from vaultdb.api.express import ExpressLane
from vaultdb.api.flask_app import create_app
from vaultdb.api.gateway import Gateway
from vaultdb.api.http_protocol import Bounds, bounded
from vaultdb.api.link import Link
from vaultdb.api.results import Counters, Fields
from vaultdb.clock import NS_PER_S, deadline_after_ms, monotonic_ns
from vaultdb.config import NodeConfig
from vaultdb.errors import AddressTaken, BrokenInvariant, ExitCode, Fatal
from vaultdb.lifeline import Lifeline, calm_garbage_collector
from vaultdb.logs import logger

TICK_S = 0.05
IDLE_TICK_S = 0.2
STOP_GRACE_MS = 1_000
"""What is under way when the order to stop comes may take this long."""
BACKLOG = 1024
_SPARE_FDS = 256


def run(node: NodeConfig, lifeline: Lifeline) -> int:
    """Serve HTTP until told to stop. Raises AddressTaken or BrokenInvariant."""
    _allow_connections(node.config.api.connections_max)
    listener = _listen(node.me.host, node.me.http_port)
    calm_garbage_collector()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    process = ApiProcess(node, lifeline, loop)
    try:
        loop.run_until_complete(process.serve(listener))
    finally:
        process.close()
        listener.close()
        asyncio.set_event_loop(None)
        loop.close()
    if process.fatal is not None:
        raise process.fatal
    return ExitCode.CLEAN


class ApiProcess:
    """Owns the loop's guests: the links, the gateway, the HTTP server."""

    def __init__(self, node: NodeConfig, lifeline: Lifeline, loop: asyncio.AbstractEventLoop) -> None:
        self.fatal: Fatal | None = None
        """Why the process had to end, if it had to."""
        self._node = node
        self._lifeline = lifeline
        self._loop = loop
        self._log = logger("api")
        self._counters = Counters()
        self._started_ns = monotonic_ns()
        self._give_up_ns: int | None = None
        settings = node.config.api
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gateway = Gateway(
            loop,
            Link(loop, self._context, node.consensus_endpoint),
            Link(loop, self._context, node.storage_endpoint),
            settings,
            incarnation=secrets.randbits(63),
            counters=self._counters,
        )
        local = LoopNode(self._gateway, node, self._figures)
        bridge = Bridge(loop, local, settings.request_timeout_ms)
        self._app = ExpressLane(local, create_app(bridge), self._counters)
        self._bounds = Bounds(settings.connections_max, settings.body_timeout_ms, self._counters)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=bounded(self._bounds),
                ws="none",
                loop="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=STOP_GRACE_MS // 1000 + 1,
            )
        )

    async def serve(self, listener: socket.socket) -> None:
        """Returns some time after the order to stop, or after `fatal` was set."""
        self._loop.set_exception_handler(self._on_loop_exception)
        self._tick()
        self._log.info("serving", address=self._node.me.http_address, incarnation=self._gateway.incarnation)
        await self._server.serve(sockets=[listener])

    def close(self) -> None:
        """End what is under way, close what was opened. The loop must not run any more."""
        self._ticker.cancel()
        self._app.close()
        self._end_requests()
        self._context.destroy(linger=0)

    def _tick(self) -> None:
        """Comes round every 50 ms; every 200 ms, within which it must still beat, when nothing is under way."""
        self._ticker = self._loop.call_later(TICK_S if self._gateway.operations else IDLE_TICK_S, self._tick)
        now_ns = monotonic_ns()
        self._lifeline.beat()
        self._bounds.sweep(self._server.server_state.connections, now_ns)
        if self._give_up_ns is None:
            self._gateway.sweep(now_ns)
            if self._lifeline.stopping:
                self._server.should_exit = True
                self._give_up_ns = deadline_after_ms(STOP_GRACE_MS)
        elif now_ns >= self._give_up_ns:
            self._end_requests()

    def _end_requests(self) -> None:
        """Idempotent: what is still under way gets its answer now."""
        if not self._gateway.closed:
            self._gateway.close()

    def _figures(self) -> Fields:
        counters = self._counters
        return {
            "requests_total": {
                "done": counters.done,
                "rejected": counters.rejected,
                "unknown": counters.unknown,
                "failed": counters.failed,
                "refused": counters.refused,
            },
            "writes_total": counters.writes,
            "reads_total": counters.reads,
            "resent_total": counters.resent,
            "stray_total": counters.stray,
            "connections": len(self._server.server_state.connections),
            "uptime_s": (monotonic_ns() - self._started_ns) / NS_PER_S,
            "incarnation": self._gateway.incarnation,
            **self._gateway.figures(),
        }

    def _on_loop_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A connection's trouble is its own; a callback of ours that failed is a bug, and ends the process."""
        error = context.get("exception")
        ours = isinstance(error, Exception) and not any(
            k in context for k in ("transport", "protocol", "task", "future")
        )
        if not ours or isinstance(error, OSError):
            self._log.warning("event loop", what=context.get("message"), error=repr(error))
            return
        self._log.error("event loop", what=context.get("message"), exc_info=error)
        self.fatal = error if isinstance(error, Fatal) else BrokenInvariant(f"{context.get('message')}: {error!r}")
        self._server.should_exit = True
        self._server.force_exit = True
        self._end_requests()


class _Server(uvicorn.Server):
    """Signals belong to the lifeline."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket that a restart can take over at once. Raises AddressTaken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressTaken(f"http://{host}:{port} cannot be used: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressTaken(f"http://{host}:{port} cannot be bound: {error.strerror}") from error
    return listener


def _allow_connections(connections_max: int) -> None:
    """Raise the soft limit of open files as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + _SPARE_FDS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
