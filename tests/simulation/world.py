"""Time, chance and memory of one run: an event queue in nanoseconds, one generator of randomness, a trace.

Everything that happens is an event; two events of one instant happen in the order in which they were scheduled. So a
seed decides all.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from vaultdb.clock import NS_PER_MS, NS_PER_S

TRACE_LINES = 200
_Event = tuple[int, int, Callable[..., None], tuple[Any, ...]]


class World:
    """`note` keeps what happened unrendered: the last TRACE_LINES of it, or all with `keep_all`."""

    def __init__(self, seed: int, *, keep_all: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now_ns = 0
        self.events_total = 0
        self.trace: deque[tuple[int, Any]] = deque(maxlen=None if keep_all else TRACE_LINES)
        self._events: list[_Event] = []
        self._scheduled = 0

    def at(self, when_ns: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` at `when_ns`, or now if that has passed."""
        self._scheduled += 1
        heapq.heappush(self._events, (max(when_ns, self.now_ns), self._scheduled, action, arguments))

    def after(self, delay_ns: int, action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_ns + delay_ns, action, *arguments)

    def run_until(self, end_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `end_ns`. Returns at once, and True, when `done` says so after an event."""
        events = self._events
        while events and events[0][0] <= end_ns:
            self.now_ns, _, action, arguments = heapq.heappop(events)
            self.events_total += 1
            action(*arguments)
            if done is not None and done():
                return True
        self.now_ns = end_ns
        return False

    def note(self, what: Any) -> None:
        self.trace.append((self.now_ns, what))

    # Chance.

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def between_ms(self, low_ms: float, high_ms: float) -> int:
        """A duration in nanoseconds."""
        return int(self.rng.uniform(low_ms, high_ms) * NS_PER_MS)

    def around_ms(self, mean_ms: float) -> int:
        """A duration in nanoseconds between almost nothing and twice the mean."""
        return self.between_ms(0.1, 2 * mean_ms)


class NodeClock:
    """A node's monotonic clock: it starts anywhere and runs at its own rate, in thousandths of the true one."""

    def __init__(self, world: World, rate_permille: int, offset_ns: int) -> None:
        self._world = world
        self.rate_permille = rate_permille
        self._offset_ns = offset_ns

    def now_ns(self) -> int:
        return self._offset_ns + self._world.now_ns * self.rate_permille // 1000

    def instant_of(self, local_ns: int) -> int:
        """The true time at which this clock shows at least `local_ns`."""
        return -(-(local_ns - self._offset_ns) * 1000 // self.rate_permille)


def in_seconds(duration_ns: int) -> str:
    return f"{duration_ns / NS_PER_S:.4f}"
