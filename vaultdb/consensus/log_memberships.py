"""Which membership is in force where in the log."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from vaultdb.errors import BrokenInvariant
from vaultdb.raft.membership import Membership


class MembershipHistory:
    """The membership in force at a base index, and every later one that the log holds.

    Invariant: never empty; indexes ascend, and the first is the base.
    """

    def __init__(self, base_index: int, at_base: Membership) -> None:
        self._held = [(base_index, at_base)]

    @property
    def newest(self) -> Membership:
        return self._held[-1][1]

    def all(self) -> tuple[tuple[int, Membership], ...]:
        return tuple(self._held)

    def copy(self) -> MembershipHistory:
        made = MembershipHistory(*self._held[0])
        made._held += self._held[1:]
        return made

    def replace(self, first_index: int, changes: Sequence[tuple[int, Membership]]) -> None:
        """Entries took the place of all that stood from `first_index` on, and brought `changes`.

        Raises BrokenInvariant when that reaches below the base.
        """
        if first_index <= self._held[0][0]:
            raise BrokenInvariant(f"index {first_index} is replaced, but what is up to {self._held[0][0]} is settled")
        while self._held[-1][0] >= first_index:
            self._held.pop()
        self._held += changes

    def rebase(self, index: int) -> None:
        """Nothing at or below `index` will be asked for or taken back any more. Never moves the base back."""
        if index <= self._held[0][0]:
            return
        at = bisect_right(self._held, index, key=lambda held: held[0])
        self._held[:at] = [(index, self._held[at - 1][1])]
