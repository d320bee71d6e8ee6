"""Clients: each asks one thing at a time, of any node, and asks again under the same session and sequence when it was
refused or heard nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tests.simulation.api import QUEUED, READ, REJECTED, WRITTEN, SimulatedApi
from tests.simulation.history import Operation, Witness
from tests.simulation.plan import Plan
from tests.simulation.storage import swap
from tests.simulation.world import World
from vaultdb.clock import NS_PER_MS
from vaultdb.raft.messages import NodeId

_TRIES_MAX = 5
_RETRY_MS = (10.0, 150.0)
_LINE_MS = (0.05, 1.0)
"""From a client to a node."""
END_OF_ENTRY = 1 << 30


class Server(Protocol):
    id: NodeId
    api: SimulatedApi

    @property
    def is_up(self) -> bool: ...


class Numbers:
    """Sessions and values, none twice in a run."""

    def __init__(self) -> None:
        self.sessions = 0
        self.values = 0

    def session(self) -> int:
        self.sessions += 1
        return self.sessions

    def value(self) -> int:
        self.values += 1
        return self.values


class Client:
    """Owns its session. A request whose outcome stays unknown ends the session: it may still happen, once."""

    def __init__(
        self,
        number: int,
        world: World,
        plan: Plan,
        servers: Callable[[], Sequence[Server]],
        witness: Witness,
        history: list[Operation],
        numbers: Numbers,
    ) -> None:
        self.number = number
        self._world = world
        self._plan = plan
        self._servers = servers
        self._witness = witness
        self._history = history
        self._numbers = numbers
        self._session, self._sequence = numbers.session(), 0
        self._operation: Operation | None = None
        self._tries = 0
        self._try = 0
        """Grows with every try: what an earlier one brings is late."""
        self._may_have_happened = False
        self._is_queued = False
        self._favourite: NodeId | None = None
        self.is_stopped = False

    @property
    def is_busy(self) -> bool:
        return self._operation is not None

    def begin(self) -> None:
        """Ask for things, until stopped."""
        if not self.is_stopped:
            self._world.after(self._world.around_ms(self._plan.think_ms), self._next)

    def _next(self) -> None:
        if self.is_stopped:
            return
        rng = self._world.rng
        key = rng.randrange(self._plan.keys)
        is_read = rng.random() < self._plan.reads
        self.ask(key, is_read=is_read)

    def ask(self, key: int, *, is_read: bool, of: NodeId | None = None) -> Operation:
        """Begin an operation; `of` names the node to ask, otherwise any."""
        new = None if is_read else self._numbers.value()
        operation = Operation(self.number, key, new, self._world.now_ns)
        self._operation = operation
        self._witness.invoked(operation)
        self._history.append(operation)
        self._may_have_happened = False
        self._is_queued = not is_read and of is None and self._world.chance(self._plan.queued)
        self._tries = 0
        if not is_read:
            self._sequence += 1
        if of is not None:
            self._favourite = of
        self._send()
        return operation

    def _send(self) -> None:
        """One try, at a node that is up."""
        self._tries += 1
        self._try += 1
        servers = [server for server in self._servers() if server.is_up]
        if not servers:
            self._retry_later()
            return
        rng = self._world.rng
        chosen = next((server for server in servers if server.id == self._favourite), None)
        if chosen is None or rng.random() < 0.4:
            chosen = rng.choice(servers)
        if self.is_stopped:  # the healed cluster: one node is asked, and must answer
            chosen = next((server for server in servers if server.id == self._favourite), chosen)
        self._favourite = chosen.id
        timeout_ms = rng.choice((400.0, 1500.0))
        self._world.after(self._world.between_ms(*_LINE_MS), self._arrive, chosen, chosen.api, timeout_ms, self._try)
        self._world.after(int((timeout_ms + 20) * NS_PER_MS), self._timed_out, self._try)

    def _arrive(self, server: Server, api: SimulatedApi, timeout_ms: float, tried: int) -> None:
        operation = self._operation
        if operation is None or tried != self._try:
            return
        if not server.is_up or server.api is not api:
            self._answered(tried, REJECTED, "refused connection")
        elif operation.new is None:
            api.read(operation.key, timeout_ms=timeout_ms, done=lambda *outcome: self._answered(tried, *outcome))
        else:
            payload = swap(self._session, self._sequence, operation.key, operation.new)
            api.write(
                payload,
                queued=self._is_queued,
                timeout_ms=timeout_ms,
                done=lambda *outcome: self._answered(tried, *outcome),
            )

    def _timed_out(self, tried: int) -> None:
        if tried == self._try and self._operation is not None:
            self._may_have_happened = True
            self._retry_later()

    def _answered(self, tried: int, outcome: str, *what: Any) -> None:
        operation = self._operation
        if operation is None or tried != self._try:
            return
        if outcome == REJECTED:
            self._retry_later()
        elif outcome == QUEUED:
            self._give_up()
        else:
            operation.returned_ns = self._world.now_ns
            if outcome == WRITTEN:
                operation.result, operation.position = what
            else:
                assert outcome == READ
                operation.result, operation.position = what[0], (what[1], END_OF_ENTRY)
            self._world.note(str(operation))
            self._witness.returned(operation)
            self._end()

    def _retry_later(self) -> None:
        self._try += 1
        if self._tries >= _TRIES_MAX and not self.is_stopped:
            self._give_up()
        else:
            self._world.after(self._world.between_ms(*_RETRY_MS), self._retry, self._try)

    def _retry(self, tried: int) -> None:
        if tried == self._try and self._operation is not None:
            self._send()

    def _give_up(self) -> None:
        operation = self._operation
        assert operation is not None
        if not self._may_have_happened and not self._is_queued:
            self._history.remove(operation)  # every try was refused: nothing happened
        elif operation.new is not None:
            self._session, self._sequence = self._numbers.session(), 0
        self._end()

    def _end(self) -> None:
        self._try += 1
        self._operation = None
        self.begin()
