"""Where the other nodes listen for peers.

Of the members this node's own configuration file knows best, for the ids that it lists; then the roster; then what the
cluster told a node when it joined. Two kinds of nodes are not, or not yet, in the roster of this node's own log, and
must be answered all the same: a leader or candidate that became a member after the point to which this log reaches, and
a node that was removed and should be told so. They are known by the HELLO that begins every connection, and that
whoever stands or leads repeats; a leader's address is not forgotten when the connection to it breaks, for its own may
hold. A node that has just been removed stays connected as long as it lives.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from vaultdb.config import HOST_PATTERN, NodeAddress, NodeConfig
from vaultdb.consensus.members import Roster
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import NodeId

STRANGERS_MAX = 8
"""Connections to nodes that are no members here; the one that came first goes first."""


class Address(NamedTuple):
    host: str
    port: int


class AddressBook:
    """`all` is whom this node should be connected to."""

    def __init__(self, node: NodeConfig) -> None:
        self._id = node.id
        self._own = {listed.id: Address(listed.host, listed.peer_port) for listed in own_config(node)}
        self._told = {peer.id: Address(peer.host, peer.peer_port) for peer in node.peers}
        self._members: dict[NodeId, Address] = {}
        self._strangers: dict[NodeId, Address] = {}
        self.is_changed = True
        """For whoever connects: set here, reset there."""

    @property
    def all(self) -> dict[NodeId, Address]:
        return self._strangers | self._members

    def membership_changed(self, membership: Membership, roster: Roster, connected: Collection[NodeId]) -> None:
        """`connected`: to whom there is a connection now. A node that is no member itself, and so may not know them
        all, keeps to those that its configuration lists.
        """
        known, self.is_changed = self.all, True
        nodes = {*membership.nodes} if self._id in membership.nodes else {*membership.nodes, *self._told}
        self._members = {}
        for node in sorted(nodes - {self._id}):
            listed = roster.members.get(node)
            in_roster = Address(listed.host, listed.peer_port) if listed else None
            found = self._own.get(node) or in_roster or self._told.get(node) or known.get(node)
            if found is not None:
                self._members[node] = found
        for node, address in known.items():
            if node not in self._members and node in connected:
                self._add_stranger(node, address)
        self._strangers = {node: address for node, address in self._strangers.items() if node not in self._members}

    def said_hello(self, node: NodeId, address: Address) -> None:
        """What is no address is passed over."""
        if not re.match(HOST_PATTERN, address.host) or not 0 < address.port < 1 << 16:
            return
        if node != self._id and node not in self._members and self._strangers.get(node) != address:
            self._add_stranger(node, address)
            self.is_changed = True

    def disconnected(self, node: NodeId) -> None:
        """A stranger, other than the leader, whose connection broke is not waited for."""
        self.is_changed |= self._strangers.pop(node, None) is not None

    def _add_stranger(self, node: NodeId, address: Address) -> None:
        while len(self._strangers) >= STRANGERS_MAX and node not in self._strangers:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[node] = address


def own_config(node: NodeConfig) -> tuple[NodeAddress, ...]:
    """The members that this node's configuration file lists. A node that joined was told of the others, at one time."""
    return (node.me,) if node.joins else node.config.nodes
