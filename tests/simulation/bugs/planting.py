"""How bugs are planted into the real code, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from vaultdb.raft.state import Role

FOLLOWERS = (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)
"""The roles that listen to a leader."""

# Symptoms that several bugs have: parts of what the checkers say.
STALE = r"was committed when it was asked|stale:|not linearizable"
LOST = r"without the committed|committed at|is durable on|where term|below the commit index|applied b|has term"
TWICE = r"and again at"
DEAD = r"within \d+ ms after healing"


class Patches:
    """Attributes and items replaced until `undo`."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def setattr(self, target: Any, name: str, value: Any) -> None:
        before = target.__dict__[name]
        self._undo.append(lambda: setattr(target, name, before))
        setattr(target, name, value)

    def setitem(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        before = target[key]
        self._undo.append(lambda: target.__setitem__(key, before))
        target[key] = value

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


Plant = Callable[[Patches], None]


class Bug(NamedTuple):
    plant: Plant
    rows: tuple[int, ...]
    seeds: int
    """It must be found in one of the seeds 1, 2, ... up to this."""
    pinned: int
    """Where to begin so as to find it quickly; a change of the code may move it."""
    symptom: str
    """A regular expression that the failure's first line must contain."""

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


BUGS: list[Bug] = []


def bug(*rows: int, seeds: int, symptom: str, pinned: int = 1) -> Callable[[Plant], Plant]:
    """Registers what plants it. See Bug."""

    def register(plant: Plant) -> Plant:
        BUGS.append(Bug(plant, rows, seeds, pinned, symptom))
        return plant

    return register


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    patches = Patches()
    plant(patches)
    try:
        yield
    finally:
        patches.undo()
