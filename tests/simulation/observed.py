"""The core, watched by the checkers."""

from __future__ import annotations

from tests.simulation.checkers import Checks, log_of
from tests.simulation.world import World
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Ready


class ObservedRaft(RaftNode):
    """Does what RaftNode does."""

    def watch(self, world: World, checks: Checks) -> None:
        """To be called before anything else."""
        self._world = world
        self._checks = checks

    def ready(self) -> Ready:
        checks, rounds = self._checks, self._protocol.rounds
        if rounds is not None and rounds.is_waiting and self.has_lease:
            checks.reads.by_lease += 1
        ready = super().ready()
        self._world.note((self.id, ready))
        checks.elections.on_ready(self.id, ready)
        checks.matching.on_ready(self.id, log_of(self), ready)
        checks.commits.on_ready(self.id, ready)
        checks.reads.on_ready(self.id, ready)
        return ready

    def request_read(self, context: int) -> None:
        self._checks.reads.on_asked(self.id, context, self._checks.commits.commit_index)
        super().request_read(context)
