"""How fast a node's disk and storage are, and when it flushes and cuts its log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.node import Member

_CALM_MS = (0.1, 1.0)


class Pace:
    """`slowness` multiplies the duration of syncs."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._world, self._plan = member.world, member.plan
        self.slowness = 1.0

    def begin(self) -> None:
        """In a new life of the node."""
        life = self._member.life
        self._world.after(self._world.around_ms(self._plan.flush_ms), self._flush, life)
        self._world.after(self._world.around_ms(self._plan.cut_ms), self._cut, life)

    def sync_ns(self) -> int:
        return int(self._world.between_ms(*(self._plan.sync_ms if self._is_hostile else _CALM_MS)) * self.slowness)

    def apply_ns(self) -> int:
        return self._world.between_ms(*(self._plan.apply_ms if self._is_hostile else _CALM_MS))

    @property
    def _is_hostile(self) -> bool:
        return self._member.cluster.network.is_hostile

    def _is_over(self, life: int) -> bool:
        return life != self._member.life or not self._member.is_up

    def _flush(self, life: int) -> None:
        if not self._is_over(life):
            self._member.storage.flush()
            self._world.after(self._world.around_ms(self._plan.flush_ms), self._flush, life)

    def _cut(self, life: int) -> None:
        """Cut the log although others may still need it: they get a snapshot."""
        if self._is_over(life):
            return
        self._world.after(self._world.around_ms(self._plan.cut_ms), self._cut, life)
        member = self._member
        index = min(member.storage.flushed.index, member.raft.applied_index, member.raft.stable_index)
        if index > member.log.base_index:
            member.before_turn(lambda: self._compact(index))

    def _compact(self, index: int) -> None:
        member = self._member
        if member.log.base_index < index <= member.raft.stable_index:
            member.raft.compact(member.log.cut(index))
