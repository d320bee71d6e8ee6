"""What clients asked and were answered, and two independent verdicts on it: `Witness` and linearizability.search."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.checkers import Violation


@dataclass(slots=True)
class Operation:
    """A swap, or a read when `new` is None. Instants are true ones."""

    client: int
    key: int
    new: int | None
    invoked_ns: int
    floor: tuple[int, int] = (0, 0)
    """The highest position that any answered operation had when this one was invoked."""
    returned_ns: int | None = None
    """None: still open, or its outcome was never learnt."""
    result: int = 0
    position: tuple[int, int] = (0, 0)
    """(log index, place in the entry) of a swap's effect; of a read, the end of the entry that it saw last."""

    def __str__(self) -> str:
        what = "reads" if self.new is None else f"swaps in {self.new}"
        return f"client {self.client} {what} key {self.key} → {self.result} at {self.position}"


class Witness:
    """Linearizability, with the log as the witness: operations are ordered by the positions that they had in it. Also
    strict serializability across keys.
    """

    def __init__(self) -> None:
        self._highest: tuple[int, int] = (0, 0)
        self._holder: Operation | None = None

    def invoked(self, operation: Operation) -> None:
        operation.floor = self._highest

    def returned(self, operation: Operation) -> None:
        behind = operation.position < operation.floor
        if operation.new is not None:
            behind = operation.position <= operation.floor
        if behind:
            raise Violation(f"stale: {operation}, but before it began, position {operation.floor} was answered")
        if operation.position > self._highest:
            self._highest, self._holder = operation.position, operation
