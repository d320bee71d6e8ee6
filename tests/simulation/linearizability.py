"""An independent verdict on a history: is there any order of its operations that explains every answer?

The search of Wing and Gong (1993) with Lowe's memo (2017), on one key at a time, which is enough for linearizability.
It knows nothing of the log. The object is a register with swaps: a swap answers the old value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from tests.simulation.history import Operation

STEPS_MAX = 300_000


class Verdict(Enum):
    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"
    """The search was given up."""


def by_key(history: Iterable[Operation]) -> dict[int, list[Operation]]:
    found: dict[int, list[Operation]] = {}
    for operation in history:
        if operation.new is not None or operation.returned_ns is not None:  # a read without an answer says nothing
            found.setdefault(operation.key, []).append(operation)
    return found


def search(operations: Sequence[Operation], initial: int = 0, steps_max: int = STEPS_MAX) -> Verdict:
    """Depth first over the operations that may come next: those invoked before any remaining one had returned.

    One whose outcome is unknown may never have happened; it is left out unless somebody saw its value, which no other
    operation writes.
    """
    seen_values = {operation.result for operation in operations if operation.returned_ns is not None}
    ordered = sorted(
        (o for o in operations if o.returned_ns is not None or o.new in seen_values), key=lambda o: o.invoked_ns
    )
    answered = sum(operation.returned_ns is not None for operation in ordered)
    if not answered:
        return Verdict.LINEARIZABLE
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[int, int, int, int]] = [(0, initial, 0, answered)]
    """(operations done as a bit set, value, the first that is not done, answered ones left)."""
    steps = 0
    while stack:
        done, value, first, left = stack.pop()
        steps += 1
        if steps > steps_max:
            return Verdict.UNDECIDED
        while first < len(ordered) and done >> first & 1:
            first += 1
        for at in _candidates(ordered, done, first):
            operation = ordered[at]
            is_answered = operation.returned_ns is not None
            if is_answered and operation.result != value:
                continue
            after = value if operation.new is None else operation.new
            key = (done | 1 << at, after)
            if key in seen:
                continue
            seen.add(key)
            if left - is_answered == 0:
                return Verdict.LINEARIZABLE
            stack.append((key[0], after, first, left - is_answered))
    return Verdict.NOT_LINEARIZABLE


def _candidates(ordered: Sequence[Operation], done: int, first: int) -> list[int]:
    """Not done, and invoked before any operation that is not done had returned. Answered ones last: tried first."""
    answered: list[int] = []
    unknown: list[int] = []
    earliest_return = None
    for at in range(first, len(ordered)):
        operation = ordered[at]
        if earliest_return is not None and operation.invoked_ns > earliest_return:
            break
        if done >> at & 1:
            continue
        returned = operation.returned_ns
        if returned is None:
            unknown.append(at)
            continue
        answered.append(at)
        if earliest_return is None or returned < earliest_return:
            earliest_return = returned
    return unknown + answered
