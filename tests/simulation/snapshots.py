"""The transfer of snapshots between nodes: a state travels with its InstallSnapshot, apart from all else and slowly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from tests.simulation.storage import State, Storage
from tests.simulation.world import World
from vaultdb.consensus.peer_format import Frame, Sender
from vaultdb.raft.messages import InstallSnapshot, NodeId

_MAKING_MS = (1.0, 60.0)
_SENDING_MS = (5.0, 500.0)
_CALM_SENDING_MS = (1.0, 20.0)
_FAILURE = 0.1
_DUPLICATION = 0.1


class Reports(Protocol):
    """The driver hears how its snapshots fare."""

    def snapshot_made(self, peer: NodeId, index: int) -> None: ...

    def snapshot_failed(self, peer: NodeId) -> None: ...


class Party(Protocol):
    """A node, as the transfers see it."""

    id: NodeId
    life: int
    sender: Sender
    storage: Storage

    @property
    def driver(self) -> Reports: ...

    @property
    def is_up(self) -> bool: ...

    def before_turn(self, action: Callable[[], None]) -> None: ...

    def snapshot_arrived(self, frame: Frame, message: InstallSnapshot, state: State) -> None: ...


class Transfers:
    """All that are under way. `is_passable` says whether a link lets anything through."""

    def __init__(
        self, world: World, parties: Mapping[NodeId, Party], is_passable: Callable[[NodeId, NodeId], bool]
    ) -> None:
        self._world = world
        self._parties = parties
        self._is_passable = is_passable
        self.is_hostile = True

    def make(
        self, party: Party, peer: NodeId, made: Callable[[NodeId], None], failed: Callable[[NodeId], None]
    ) -> None:
        action = failed if self._fails() else made
        self._world.after(self._world.between_ms(*_MAKING_MS), self._if_alive, party, party.life, action, peer)

    def send(self, party: Party, message: InstallSnapshot, state: State, failed: Callable[[NodeId], None]) -> None:
        delay_ns = self._world.between_ms(*(_SENDING_MS if self.is_hostile else _CALM_SENDING_MS))
        self._world.note(("bulk", (message.src, message.dst), message))
        self._world.after(delay_ns, self._arrive, party, party.life, party.sender, message, state, failed)
        if self.is_hostile and self._world.chance(_DUPLICATION):
            late_ns = delay_ns + self._world.around_ms(500)
            self._world.after(late_ns, self._arrive, party, party.life, party.sender, message, state, failed)

    def _fails(self) -> bool:
        return self.is_hostile and self._world.chance(_FAILURE)

    def _arrive(
        self,
        party: Party,
        life: int,
        sender: Sender,
        message: InstallSnapshot,
        state: State,
        failed: Callable[[NodeId], None],
    ) -> None:
        receiver = self._parties[message.dst]
        if receiver.is_up and self._is_passable(message.src, message.dst) and not self._fails():
            receiver.snapshot_arrived(Frame(sender, message.dst, [message]), message, state)
        else:
            self._if_alive(party, life, failed, message.dst)

    def _if_alive(self, party: Party, life: int, action: Callable[[NodeId], None], peer: NodeId) -> None:
        if party.is_up and party.life == life:
            action(peer)


class Snapshots:
    """The driver's `Snapshots`, in one life of its node, and the states that it has received."""

    def __init__(self, transfers: Transfers, party: Party) -> None:
        self._transfers = transfers
        self._party = party
        self._offered: dict[NodeId, State] = {}
        self.received: dict[int, State] = {}

    def make(self, peer: NodeId) -> bool:
        self._transfers.make(self._party, peer, self._made, self._failed)
        return True

    def carry(self, message: InstallSnapshot) -> bool:
        self._transfers.send(self._party, message, self._offered.pop(message.dst), self._failed)
        return True

    def _made(self, peer: NodeId) -> None:
        """What storage has flushed: the log may not be cut above it until then."""
        self._party.before_turn(lambda: self._offer(peer))

    def _offer(self, peer: NodeId) -> None:
        state = self._offered[peer] = self._party.storage.flushed
        self._party.driver.snapshot_made(peer, state.index)

    def _failed(self, peer: NodeId) -> None:
        self._party.before_turn(lambda: self._party.driver.snapshot_failed(peer))
