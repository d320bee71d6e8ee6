"""What the driver needs of the world around it: small interfaces that the process and the simulator provide."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from vaultdb.consensus.addresses import Address
from vaultdb.consensus.log_writer import Write
from vaultdb.consensus.peer_format import Item, Sender
from vaultdb.raft.messages import InstallSnapshot, NodeId


class Peers(Protocol):
    """The other nodes."""

    @property
    def connected(self) -> Set[NodeId]: ...

    def set_members(self, addresses: Mapping[NodeId, Address], sender: Sender) -> None:
        """Be connected to exactly these, and introduce this node as `sender` from now on."""
        ...

    def send(self, peer: NodeId, item: Item) -> None: ...

    def flush(self) -> Mapping[NodeId, list[Item]]:
        """Returns what of it was dropped: items that certainly did not leave."""
        ...


class Writer(Protocol):
    """Makes writes durable, in order."""

    def submit(self, write: Write) -> None: ...

    def busy_ms(self, now_ns: int) -> float:
        """How long the write under way has taken so far."""
        ...


class Snapshots(Protocol):
    """Brings states of the state machine to peers that need entries which the log no longer has."""

    def make(self, peer: NodeId) -> bool:
        """Begin to prepare a state for `peer`; `Driver.snapshot_made` or `snapshot_failed` tells the end. False: it
        cannot be done.
        """
        ...

    def carry(self, message: InstallSnapshot) -> bool:
        """Bring the state, and then this message, to `message.dst`. False: it cannot be done."""
        ...
