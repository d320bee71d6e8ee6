"""A node's storage process: it applies what the driver streams, at its own pace, and answers.

The state machine is a few keys with exactly-once sessions (thesis §6.3): a write swaps a key's value for a new one and
is answered with the old one; a session remembers its last answer. After a crash it is back where it was flushed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.checkers import Ledger
from tests.simulation.world import World
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack

STREAM_MESSAGES_MAX = 20
_MESSAGES_AT_ONCE_MAX = 5

Swap = tuple[int, int, int, int]
"""(session, sequence, key, new value): the payload of a proposal."""


def swap(session: int, sequence: int, key: int, value: int) -> bytes:
    return pack((session, sequence, key, value))


@dataclass
class State:
    """The replicated state after `index`."""

    index: int = 0
    values: dict[int, int] = field(default_factory=dict)
    sessions: dict[int, tuple[int, int, tuple[int, int]]] = field(default_factory=dict)
    """session → (sequence, answer, position of its effect)."""

    def copy(self) -> State:
        return State(self.index, dict(self.values), dict(self.sessions))

    def apply(self, position: tuple[int, int], command: Swap) -> tuple[int, tuple[int, int], bool] | None:
        """(old value, where it took effect, whether it did so now); None for a request older than its session."""
        session, sequence, key, value = command
        known = self.sessions.get(session)
        if known is not None and sequence <= known[0]:
            return (known[1], known[2], False) if sequence == known[0] else None
        old = self.values.get(key, 0)
        self.values[key] = value
        self.sessions[session] = (sequence, old, position)
        return old, position, True


class Storage:
    """`state` is lost with the process, `flushed` is not. `answered` tells the api; `to_driver` reaches consensus."""

    def __init__(
        self,
        node: int,
        world: World,
        ledger: Ledger,
        apply_ns: Callable[[], int],
        to_driver: Callable[[list[Any]], None],
        answered: Callable[[int, int, int, tuple[int, int]], None],
    ) -> None:
        self.node = node
        self._world = world
        self._ledger = ledger
        self._apply_ns = apply_ns
        self._to_driver = to_driver
        self._answered = answered
        self.flushed = State()
        self.state = State()
        self.life = 0
        self.incarnation = 0
        self._stream: deque[list[Any]] = deque()
        self._reads: list[tuple[int, int, Callable[[int, int], None]]] = []
        """(least index, key, to be called with the value and the applied index)."""
        self._is_working = False
        self.stalled_until_ns = 0

    def start(self) -> None:
        """The process starts from what was flushed, and subscribes."""
        self.life += 1
        self.incarnation = self._world.rng.getrandbits(30)
        self.state = self.flushed.copy()
        self._stream.clear()
        self._reads.clear()
        self._is_working = False
        self._report(ipc.SUBSCRIBE)

    def send(self, message: bytes) -> bool:
        """ENTRIES from the driver. False: the queue is full."""
        if len(self._stream) >= STREAM_MESSAGES_MAX:
            return False
        self._stream.append(unpack(message))
        if not self._is_working:
            self._is_working = True
            self._world.after(self._apply_ns(), self._work, self.life)
        return True

    def read(self, min_index: int, key: int, answer: Callable[[int, int], None]) -> None:
        if self.state.index >= min_index:
            answer(self.state.values.get(key, 0), self.state.index)
        else:
            self._reads.append((min_index, key, answer))

    def flush(self) -> None:
        if self.flushed.index < self.state.index:
            self.flushed = self.state.copy()
            self._report(ipc.APPLIED)

    def install(self, state: State, *, is_up: bool) -> None:
        """A received state takes the place of this one, durably."""
        if state.index > self.flushed.index:
            self.flushed = state.copy()
        if is_up:
            self.start()

    def _report(self, kind: int) -> None:
        self._to_driver([kind, self.incarnation, self.state.index, self.flushed.index])

    def _work(self, life: int) -> None:
        if life != self.life:
            return
        if self.stalled_until_ns > self._world.now_ns:
            self._world.at(self.stalled_until_ns, self._work, life)
            return
        for _ in range(min(len(self._stream), _MESSAGES_AT_ONCE_MAX)):
            _, incarnation, first, payloads = self._stream.popleft()
            if incarnation != self.incarnation:
                continue
            if first > self.state.index + 1:
                self._report(ipc.SUBSCRIBE)
                continue
            for index, payload in enumerate(payloads, first):
                if index > self.state.index:
                    self._apply(index, payload)
        self._answer_reads()
        self._report(ipc.APPLIED)
        self._is_working = bool(self._stream)
        if self._is_working:
            self._world.after(self._apply_ns(), self._work, life)

    def _apply(self, index: int, payload: bytes) -> None:
        state = self.state
        state.index = index
        for n, (origin, incarnation, batch, command) in enumerate(self._ledger.applied(self.node, index, payload)):
            result = state.apply((index, n), command)
            if result is None:
                continue
            old, position, is_new = result
            if is_new:
                self._ledger.took_effect(self.node, command, position)
            if origin == self.node:
                self._answered(incarnation, batch, old, position)

    def _answer_reads(self) -> None:
        if not self._reads:
            return
        state, waiting = self.state, []
        for read in self._reads:
            min_index, key, answer = read
            if min_index <= state.index:
                answer(state.values.get(key, 0), state.index)
            else:
                waiting.append(read)
        self._reads = waiting
