"""The demo: 33 years of prices of 20 companies are loaded while the leader dies, and all of them are there
afterwards.

Each trading day is one atomic command: the day's 20 prices (`price/AAPL/2022-12-28`) and the 20 latest prices
(`price/AAPL`). Several requests are in flight; the last day is sent when all others are acknowledged, so that the
latest prices are its. A request that was not answered, or was refused for the moment, is sent again to the next node:
setting the same prices twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vaultdb.client.http import Connection, Response
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns, ms_until
from vaultdb.config import Config, NodeAddress
from vaultdb.errors import Busy, Unavailable, Unknown, VaultError

WRITERS = 8
READERS_PER_NODE = 16
RETRY_MS = 10
"""Between two tries of a request that the cluster could not serve."""
GIVE_UP_MS = 30_000
CATCH_UP_MS = 60_000

_LATEST = "price/{symbol}"
_DAY = "price/{symbol}/{date}"


class Day(NamedTuple):
    date: str
    prices: dict[str, str]
    """By symbol, as written in the file."""

    def command(self) -> bytes:
        """The JSON body that sets both groups of keys."""
        pairs = {_DAY.format(symbol=symbol, date=self.date): price for symbol, price in self.prices.items()}
        pairs |= {_LATEST.format(symbol=symbol): price for symbol, price in self.prices.items()}
        return json.dumps(pairs).encode()


class WriteGap(NamedTuple):
    killed: str
    gap_ms: float
    """From the kill to the first acknowledgement of a write that was sent after it."""
    longest_ms: float
    """The longest time without any acknowledgement from the kill on."""


def trading_days() -> list[Day]:
    """The data set, in order of the dates."""
    packed = resources.files("vaultdb").joinpath("data/sp500_prices.csv.gz").read_bytes()
    rows = csv.DictReader(io.StringIO(gzip.decompress(packed).decode("ascii")))
    return [Day(row.pop("Date"), row) for row in rows]


def run(
    config: Config, console: Console, *, kill: Callable[[str], Any], restart: Callable[[str], Any], days: int | None
) -> bool:
    """Run the demo against the running cluster. `kill` and `restart` take a node's name. False: something was not as
    promised.
    """
    return asyncio.run(Demo(config, console, trading_days()[: days or None]).run(kill, restart))


class Demo:
    def __init__(self, config: Config, console: Console, days: list[Day]) -> None:
        self._nodes = config.nodes
        self._console = console
        self._days = days
        self._acknowledged_ns: list[int] = []
        self._begun_ns: list[int] = []

    async def run(self, kill: Callable[[str], Any], restart: Callable[[str], Any]) -> bool:
        leader = await self._leader(self._nodes)
        self._console.print(f"{len(self._nodes)} nodes, leader {leader}; {len(self._days):,} trading days to load.")
        gap = await self._load(kill)
        await self._show_prices(gap)
        await asyncio.to_thread(restart, gap.killed)
        self._console.print(f"{gap.killed} is started again and catches up.")
        equal = await self._wait_for_equal_digests()
        wrong = await self._verify()
        return equal and not wrong

    # Writing.

    async def _load(self, kill: Callable[[str], Any]) -> WriteGap:
        """Send every day; kill the leader when half of them are acknowledged."""
        *days, last = self._days
        waiting = iter(days)
        half = len(days) // 2
        begun_ns = monotonic_ns()
        with self._progress() as progress:
            task = progress.add_task("loading", total=len(self._days))

            async def writer(number: int) -> None:
                async with self._connections() as connections:
                    for day in waiting:
                        await self._write(connections, number, day)
                        progress.advance(task)

            async def killer() -> tuple[str, int]:
                while len(self._acknowledged_ns) < half:
                    await asyncio.sleep(0.005)
                name = await self._leader(self._nodes)
                progress.console.print(f"{half:,} days are acknowledged; the leader, {name}, is killed (-9).")
                at_ns = monotonic_ns()
                await asyncio.to_thread(kill, name)
                return name, at_ns

            killing = asyncio.ensure_future(killer())
            await asyncio.gather(*(writer(number) for number in range(WRITERS)))
            killed = await killing
            async with self._connections() as connections:
                await self._write(connections, 0, last)
            progress.advance(task)
        seconds = (monotonic_ns() - begun_ns) / 1e9
        keys = 2 * sum(len(day.prices) for day in self._days)
        self._console.print(
            f"{len(self._days):,} atomic commands with {keys:,} values in {seconds:.1f} s:"
            f" {len(self._days) / seconds:,.0f} commands/s, {keys / seconds:,.0f} values/s."
        )
        return self._gap_after(*killed)

    async def _write(self, connections: list[Connection], first: int, day: Day) -> None:
        """Until a node says done. Raises Unavailable after GIVE_UP_MS."""
        body = day.command()
        deadline_ns = deadline_after_ms(GIVE_UP_MS)
        attempt = first
        while ms_until(deadline_ns) > 0:
            begun_ns = monotonic_ns()
            try:
                response = await connections[attempt % len(connections)].request("POST", "/key", body)
            except (Unavailable, Unknown):
                pass  # the next node may serve
            else:
                if response.status == 200:
                    self._begun_ns.append(begun_ns)
                    self._acknowledged_ns.append(monotonic_ns())
                    return
                if response.status < 500 and response.status != Busy.http_status:
                    raise VaultError(f"{day.date} was refused: {response.body.decode()}")
            attempt += 1
            await asyncio.sleep(RETRY_MS / 1000)
        raise Unavailable(f"{day.date} could not be written within {GIVE_UP_MS // 1000} s")

    def _gap_after(self, killed: str, at_ns: int) -> WriteGap:
        first = min((end for begun, end in zip(self._begun_ns, self._acknowledged_ns, strict=True) if begun > at_ns))
        after = [at_ns, *sorted(end for end in self._acknowledged_ns if end > at_ns)]
        longest = max(later - earlier for earlier, later in itertools.pairwise(after))
        return WriteGap(killed, (first - at_ns) / NS_PER_MS, longest / NS_PER_MS)

    # Reading.

    async def _show_prices(self, gap: WriteGap) -> None:
        leader = await self._leader([node for node in self._nodes if node.name != gap.killed])
        self._console.print(
            f"New leader {leader}. A write succeeded {gap.gap_ms:.0f} ms after the kill;"
            f" the longest time without an acknowledgement was {gap.longest_ms:.0f} ms."
        )
        table = Table(title="Latest prices, each read from another follower (linearizable)")
        for column in ("symbol", "price", "read from", "revision"):
            table.add_column(column)
        followers = [node for node in self._nodes if node.name not in (leader, gap.killed)]
        for node, symbol in zip(followers * 2, self._days[-1].prices, strict=False):
            connection = _connect(node)
            response = await connection.request("GET", f"/key/{_LATEST.format(symbol=symbol)}")
            table.add_row(symbol, next(iter(_json(response).values())), node.name, response.headers["etag"].strip('"'))
            connection.close()
        self._console.print(table)

    async def _wait_for_equal_digests(self) -> bool:
        """Until every node reports the same digest at the same applied index, or CATCH_UP_MS have passed."""
        deadline_ns = deadline_after_ms(CATCH_UP_MS)
        digests: list[dict[str, Any]] = []
        while ms_until(deadline_ns) > 0:
            try:
                digests = await asyncio.gather(*(self._get_json(node, "/digest") for node in self._nodes))
            except (Unavailable, Unknown):
                digests = []
            if digests and len({(d["applied_index"], d["digest"]) for d in digests}) == 1:
                same = digests[0]
                self._console.print(
                    f"All {len(self._nodes)} nodes hold the same {same['keys']:,} keys: digest {same['digest'][:16]}…"
                    f" at index {same['applied_index']:,}, revision {same['revision']:,}."
                )
                return True
            await asyncio.sleep(0.1)
        self._console.print(f"[red]The nodes do not hold the same data: {digests}")
        return False

    async def _verify(self) -> list[str]:
        """Read every price, each node serving its share, and compare with the file. Returns the keys that differ."""
        expected = [
            (_DAY.format(symbol=symbol, date=day.date), price)
            for day in self._days
            for symbol, price in day.prices.items()
        ]
        expected += [(_LATEST.format(symbol=symbol), price) for symbol, price in self._days[-1].prices.items()]
        waiting = iter(expected)
        wrong: list[str] = []
        with self._progress() as progress:
            task = progress.add_task("verifying", total=len(expected))

            async def reader(node: NodeAddress) -> None:
                connection = _connect(node)
                for key, price in waiting:
                    response = await connection.request("GET", f"/key/{key}?consistency=stale")
                    if response.status != 200 or _json(response) != {key: price}:
                        wrong.append(key)
                    progress.advance(task)
                connection.close()

            await asyncio.gather(*(reader(node) for node in self._nodes for _ in range(READERS_PER_NODE)))
        days = len(expected) - len(self._days[-1].prices)
        if wrong:
            self._console.print(
                f"[red]{len(wrong):,} of {len(expected):,} prices are missing or wrong, such as {wrong[:5]}"
            )
        else:
            self._console.print(
                f"All {days:,} prices are there, and the latest ones are those of {self._days[-1].date}."
            )
        return wrong

    async def _leader(self, nodes: Sequence[NodeAddress]) -> str:
        """The name of the leader that the first of `nodes` to know one tells. Raises Unavailable after GIVE_UP_MS."""
        deadline_ns = deadline_after_ms(GIVE_UP_MS)
        while ms_until(deadline_ns) > 0:
            for node in nodes:
                with contextlib.suppress(Unavailable, Unknown):
                    if (leader := (await self._get_json(node, "/status"))["leader"]) is not None:
                        return str(leader["id"])
            await asyncio.sleep(RETRY_MS / 1000)
        raise Unavailable(f"no node knew a leader within {GIVE_UP_MS // 1000} s")

    async def _get_json(self, node: NodeAddress, path: str) -> dict[str, Any]:
        connection = _connect(node)
        try:
            return _json(await connection.request("GET", path))
        finally:
            connection.close()

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[list[Connection]]:
        connections = [_connect(node) for node in self._nodes]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self._console)


def _connect(node: NodeAddress) -> Connection:
    return Connection(node.host, node.http_port)


def _json(response: Response) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(response.body)
    return answer
