"""A node's api process: client requests in, the driver's and storage's answers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tests.simulation.checkers import Ledger
from tests.simulation.world import NodeClock, World
from vaultdb.clock import NS_PER_MS
from vaultdb.wire import ipc
from vaultdb.wire.codec import unpack

_LOCAL_MS = (0.05, 0.5)
"""From one process of a node to the next."""

Done = Callable[..., None]
"""Called with an outcome and what belongs to it, once."""

WRITTEN = "written"
"""+ old value, position of the effect"""
READ = "read"
"""+ value, applied index"""
REJECTED = "rejected"
"""+ the error's code and sentence"""
QUEUED = "queued"
ADMIN = "done"
"""+ the document"""


class Pending(NamedTuple):
    kind: int
    key: int
    done: Done


class Neighbours(Protocol):
    """The other processes of the node."""

    def tell_driver(self, message: list[Any]) -> None: ...

    def read_storage(self, min_index: int, key: int, answer: Callable[[int, int], None]) -> None: ...


class SimulatedApi:
    """One life of the process. Nobody hears of what was asked of an earlier one."""

    def __init__(self, node: int, world: World, clock: NodeClock, ledger: Ledger, neighbours: Neighbours) -> None:
        self._node = node
        self._world = world
        self._clock = clock
        self._ledger = ledger
        self._neighbours = neighbours
        self.incarnation = world.rng.getrandbits(30)
        self._batches = 0
        self._pending: dict[int, Pending] = {}
        self.is_dead = False

    def write(self, payload: bytes, *, queued: bool, timeout_ms: float, done: Done) -> None:
        self._ask(ipc.PROPOSE, 0, done, timeout_ms, queued, payload)

    def read(self, key: int, *, timeout_ms: float, done: Done) -> None:
        self._ask(ipc.READ_INDEX, key, done, timeout_ms)

    def administer(self, operation: str, argument: Any, *, timeout_ms: float, done: Done) -> None:
        self._ask(ipc.ADMIN, 0, done, timeout_ms, operation, argument)

    def _ask(self, kind: int, key: int, done: Done, timeout_ms: float, *rest: Any) -> None:
        self._batches += 1
        self._pending[self._batches] = Pending(kind, key, done)
        deadline_ns = self._clock.now_ns() + int(timeout_ms * NS_PER_MS)
        self._neighbours.tell_driver([kind, self.incarnation, self._batches, deadline_ns, *rest])

    # Answers.

    def send(self, message: bytes) -> bool:
        """From the driver."""
        answer: list[Any] = unpack(message)
        kind, incarnation, batch = answer[:3]
        pending = self._pending.get(batch)
        if incarnation != self.incarnation or pending is None:
            return True
        if kind == ipc.READ_STATE:
            delay_ns = self._world.between_ms(*_LOCAL_MS)
            self._world.after(delay_ns, self._read_storage, batch, pending.key, answer[3])
        elif kind == ipc.REJECTED:
            if pending.kind == ipc.PROPOSE:
                self._ledger.refused((self._node, incarnation, batch))
            self._finish(batch, REJECTED, f"{answer[3]}: {answer[4]}")
        elif kind == ipc.ADMIN_DONE:
            self._finish(batch, ADMIN, answer[3])
        elif kind == ipc.QUEUED and answer[3]:
            self._finish(batch, QUEUED)
        return True

    def written(self, incarnation: int, batch: int, old: int, position: tuple[int, int]) -> None:
        """From storage."""
        if incarnation == self.incarnation:
            self._finish(batch, WRITTEN, old, position)

    def _read_storage(self, batch: int, key: int, index: int) -> None:
        if not self.is_dead:
            self._neighbours.read_storage(index, key, lambda value, applied: self._finish(batch, READ, value, applied))

    def _finish(self, batch: int, *outcome: Any) -> None:
        pending = self._pending.pop(batch, None)
        if pending is not None and not self.is_dead:
            self._world.after(self._world.between_ms(*_LOCAL_MS), pending.done, *outcome)
