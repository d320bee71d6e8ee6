"""Writes and linearizable reads begun at a fixed rate, however long each takes, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from bench.cluster import LocalCluster
from vaultdb.client.http import Connection, Response
from vaultdb.clock import NS_PER_MS, deadline_after_ms, monotonic_ns, ms_until
from vaultdb.errors import Unavailable, Unknown

_TRY_TIMEOUT_S = 3.0
_GIVE_UP_MS = 10_000
_BETWEEN_TRIES_S = 0.002
_CONNECTIONS_MAX = 64
_FINISH_TIMEOUT_S = 30.0


class Load(ABC):
    """Requests that are tried on one node after another until one answers 200 or they are given up."""

    def __init__(self, cluster: LocalCluster, rate: float, nodes: Sequence[int] | None = None) -> None:
        """`rate` begins a second, to `nodes` in turn; to all nodes if None."""
        self._cluster = cluster
        self.nodes = list(range(cluster.nodes) if nodes is None else nodes)
        """May be replaced while it runs, not by nothing."""
        self._interval_s = 1 / rate
        self._idle: dict[int, list[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self.given_up = 0
        self.refused = 0
        """Tries answered with anything but 200, or on a node that could not be reached: nothing happened."""
        self.unknown = 0
        """Tries without an answer, or answered with 504."""
        self.times: list[tuple[int, int]] = []
        """(begun, ended) of each request that succeeded, in monotonic nanoseconds, in the order of their ends."""

    async def run(self, until: asyncio.Event) -> None:
        """Begin requests until the event is set, then wait for those under way."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not until.is_set():
            task = loop.create_task(self._request(self._count))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._count += 1
            next_at += self._interval_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), max(0.0, next_at - loop.time()))
        await asyncio.gather(*self._tasks)
        for connection in (one for idle in self._idle.values() for one in idle):
            connection.close()

    async def _request(self, number: int) -> None:
        begun_ns = monotonic_ns()
        deadline_ns = deadline_after_ms(_GIVE_UP_MS)
        prepared = self._prepare(number)
        turn = number
        while ms_until(deadline_ns) > 0:
            nodes = self.nodes
            try:
                response = await self._try(nodes[turn % len(nodes)], *prepared)
            except Unavailable:
                self.refused += 1
            except Unknown:
                self.unknown += 1
            else:
                if response.status == 200:
                    self.times.append((begun_ns, monotonic_ns()))
                    self._succeeded(prepared, response)
                    return
                if response.status == 504:
                    self.unknown += 1
                else:
                    self.refused += 1
            turn += 1
            await asyncio.sleep(_BETWEEN_TRIES_S)
        self.given_up += 1

    async def _try(self, node: int, method: str, key: str, value: str) -> Response:
        idle = self._idle.setdefault(node, [])
        port = self._cluster.base_port + node
        connection = idle.pop() if idle else Connection("127.0.0.1", port, timeout_s=_TRY_TIMEOUT_S)
        body = value.encode() if method == "PUT" else b""
        response = await connection.request(method, f"/key/{key}", body, (("Accept", "application/octet-stream"),))
        if len(idle) < _CONNECTIONS_MAX:
            idle.append(connection)
        else:
            connection.close()
        return response

    @abstractmethod
    def _prepare(self, number: int) -> tuple[str, str, str]:
        """Method, key and value of request `number`, as it begins."""

    @abstractmethod
    def _succeeded(self, prepared: tuple[str, str, str], response: Response) -> None: ...

    def gap_ms(self, since_ns: int) -> float | None:
        """From then to the first success of a request begun after it; None while there is none."""
        ends = [ended for begun, ended in self.times if begun >= since_ns]
        return (min(ends) - since_ns) / NS_PER_MS if ends else None

    def longest_gap_ms(self, from_ns: int, to_ns: int) -> float:
        """The longest time between the two moments in which nothing succeeded."""
        moments = [from_ns, *(ended for _, ended in list(self.times) if from_ns <= ended <= to_ns), to_ns]
        return max(after - before for before, after in itertools.pairwise(moments)) / NS_PER_MS


class Writer(Load):
    """Each write has a key of its own."""

    acknowledged: dict[str, str]
    latest: tuple[str, str] | None = None
    """The write that was acknowledged last."""

    def __init__(self, cluster: LocalCluster, rate: float, nodes: Sequence[int] | None = None) -> None:
        super().__init__(cluster, rate, nodes)
        self.acknowledged = {}

    def _prepare(self, number: int) -> tuple[str, str, str]:
        return "PUT", f"write/{number}", str(number)

    def _succeeded(self, prepared: tuple[str, str, str], response: Response) -> None:  # noqa: ARG002
        _, key, value = prepared
        self.acknowledged[key] = value
        self.latest = key, value


class Reader(Load):
    """Linearizable reads: each of the key whose write was acknowledged last when the read began."""

    def __init__(self, cluster: LocalCluster, rate: float, writer: Writer, nodes: Sequence[int] | None = None) -> None:
        super().__init__(cluster, rate, nodes)
        self._writer = writer
        self.stale = 0
        """Reads that did not see that write."""

    def _prepare(self, number: int) -> tuple[str, str, str]:  # noqa: ARG002
        return "GET", *(self._writer.latest or ("nothing-yet", ""))

    async def _try(self, node: int, method: str, key: str, value: str) -> Response:
        response = await super()._try(node, method, key, value)
        # An answer that the key is not there is as good as one with a wrong value; before the first write it is right.
        return response._replace(status=200, body=b"") if response.status == 404 else response

    def _succeeded(self, prepared: tuple[str, str, str], response: Response) -> None:
        self.stale += response.body.decode() != prepared[2]


@contextlib.contextmanager
def running(*loads: Load) -> Iterator[None]:
    """The loads run in a thread of their own meanwhile, and everything they began has ended afterwards."""
    loop, done = asyncio.new_event_loop(), asyncio.Event()

    async def run_all() -> None:
        await asyncio.gather(*(load.run(done) for load in loads))

    thread = threading.Thread(target=lambda: loop.run_until_complete(run_all()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(_FINISH_TIMEOUT_S)
        if thread.is_alive():
            raise TimeoutError(f"requests were still under way {_FINISH_TIMEOUT_S} s after the last one began")
        loop.close()


def lost_writes(cluster: LocalCluster, writer: Writer, nodes: Sequence[int] | None = None) -> list[str]:
    """The acknowledged keys that a linearizable read does not show; each key is read from one of `nodes` (all)."""
    asked = list(range(cluster.nodes) if nodes is None else nodes)

    async def check(turn: int, node: int) -> list[str]:
        connection = Connection("127.0.0.1", cluster.base_port + node)
        lost = []
        for key, value in list(writer.acknowledged.items())[turn :: len(asked)]:
            response = await connection.request("GET", f"/key/{key}", headers=(("Accept", "application/octet-stream"),))
            if response.status != 200 or response.body.decode() != value:
                lost.append(key)
        connection.close()
        return lost

    async def check_all() -> list[str]:
        checks = (check(turn, node) for turn, node in enumerate(asked))
        return [key for lost in await asyncio.gather(*checks) for key in lost]

    return asyncio.run(check_all())
