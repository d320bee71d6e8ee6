"""The monitor's process: polls every node, and serves the page, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn

from monitor import limits
from monitor.app import MonitorApp, load_page
from monitor.collector import Collector
from monitor.poller import NoAnswer, StatusClient
from vaultdb.clock import NS_PER_MS, monotonic_ns, ms_until, wall_ms
from vaultdb.config import Config, MonitorSettings, NodeAddress
from vaultdb.errors import AddressTaken, ExitCode
from vaultdb.lifeline import Lifeline
from vaultdb.logs import logger

PAGE_DIRECTORY = Path(__file__).parent / "page"
LEADERLESS_SPEED_UP = 4
"""While there is no leader the nodes are asked this much more often, so that the next one is seen soon."""


def run(config: Config, lifeline: Lifeline) -> int:
    """Serve until `lifeline.stopping`. Raises AddressTaken when the page's address cannot be bound."""
    listener = _listen(config.monitor)
    with listener:
        logger("monitor").info("serving", host=config.monitor.host, port=config.monitor.port)
        asyncio.run(_serve(config, lifeline, listener))
    return ExitCode.CLEAN


def _listen(settings: MonitorSettings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=limits.CONNECTIONS_MAX)
    except OSError as error:
        raise AddressTaken(f"the monitor cannot listen on {where}: {error.strerror}") from error


class _Server(uvicorn.Server):
    """uvicorn whose ten ticks a second also carry the lifeline; signals stay with the lifeline."""

    def __init__(self, app: MonitorApp, lifeline: Lifeline) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # it bounds the size of a request's head
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                limit_concurrency=limits.CONNECTIONS_MAX,
                timeout_graceful_shutdown=1,
            )
        )
        self._app = app
        self._lifeline = lifeline

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        self._lifeline.beat()
        if self._lifeline.stopping:
            self._app.close()
            return True
        return await super().on_tick(counter)


async def _serve(config: Config, lifeline: Lifeline, listener: socket.socket) -> None:
    collector = Collector(config)
    app = MonitorApp(collector, load_page(PAGE_DIRECTORY))
    polling = asyncio.create_task(_poll_forever(collector, app))
    serving = asyncio.create_task(_Server(app, lifeline).serve(sockets=[listener]))
    try:
        # Whichever ends first: the polling only by a bug, which must end the process and not only the figures.
        await asyncio.wait({polling, serving}, return_when=asyncio.FIRST_COMPLETED)
        if polling.done():
            polling.result()
        await serving
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling


async def _poll_forever(collector: Collector, app: MonitorApp) -> None:
    timeout_ms = min(limits.POLL_TIMEOUT_MS_MAX, collector.poll_ms - collector.poll_ms // 10)
    clients: dict[NodeAddress, StatusClient] = {}
    poll_ns = collector.poll_ms * NS_PER_MS
    round_due_ns = sample_due_ns = monotonic_ns()
    try:
        while True:
            sample = monotonic_ns() >= sample_due_ns
            _match_clients(clients, collector, timeout_ms)
            if sample:
                sample_due_ns = max(sample_due_ns + poll_ns, monotonic_ns())
            await _round(collector, app, clients, sample=sample)
            pause_ns = poll_ns if collector.leader else poll_ns // LEADERLESS_SPEED_UP
            round_due_ns = max(round_due_ns + pause_ns, monotonic_ns())
            await asyncio.sleep(max(0.0, ms_until(round_due_ns)) / 1000)
    finally:
        for client in clients.values():
            client.close()


def _match_clients(clients: dict[NodeAddress, StatusClient], collector: Collector, timeout_ms: int) -> None:
    """One client for each node that there is now."""
    wanted = {view.address for view in collector.nodes}
    for address in [address for address in clients if address not in wanted]:
        clients.pop(address).close()
    for address in wanted - clients.keys():
        clients[address] = StatusClient(address, timeout_ms)


async def _round(
    collector: Collector, app: MonitorApp, clients: dict[NodeAddress, StatusClient], *, sample: bool
) -> None:
    """Ask every node at once. Report when all answered or SETTLE_MS is over, and again when the late ones are in."""
    polls = {asyncio.create_task(_poll(collector, address.id, client)) for address, client in clients.items()}
    _, late = await asyncio.wait(polls, timeout=limits.SETTLE_MS / 1000)
    collector.turn(monotonic_ns(), wall_ms(), sample=sample)
    app.publish()
    if late:
        await asyncio.wait(late)
        collector.turn(monotonic_ns(), wall_ms(), sample=False)
        app.publish()
    for poll in polls:
        poll.result()


async def _poll(collector: Collector, node_id: int, client: StatusClient) -> None:
    try:
        status = await client.fetch()
    except NoAnswer as error:
        collector.unanswered(node_id, str(error), refused=error.refused, now_ns=monotonic_ns())
    else:
        collector.answered(node_id, status, monotonic_ns())
