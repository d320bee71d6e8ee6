"""A small cluster of cores for scripted tests: nothing happens unless the script says so, in a fixed order.

Everything is traced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.raft.disk import SimulatedDisk
from tests.raft.rendering import message_text, name, ready_lines
from vaultdb.raft.membership import NOBODY_YET, Change, ChangeKind, Membership
from vaultdb.raft.messages import NOBODY, Entry, EntryKind, Message, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import HardState, RaftConfig, Ready, Role

CHANGED = {ChangeKind.VOTER: "a voter", ChangeKind.LEARNER: "a learner", ChangeKind.REMOVE: "gone"}
TERMS = Sequence[int]
"""A log, as the terms of its entries."""


@dataclass
class Member:
    """A node of the script. `reads` are the confirmed ones, context → index; `readys` all Readys of this life."""

    id: NodeId
    disk: SimulatedDisk
    core: RaftNode
    reads: dict[int, int] = field(default_factory=dict)
    readys: list[Ready] = field(default_factory=list)
    holds_writes: bool = False
    """The disk takes writes and does not finish them."""
    now_us: int = 0
    """The driver's clock; 0: it tells no time."""

    @property
    def snapshots_wanted(self) -> list[NodeId]:
        """For which peers this life's Readys asked, in order."""
        return [peer for ready in self.readys for peer in ready.snapshots_wanted]

    def committed(self) -> list[bytes]:
        """Payloads of the committed commands, all from the start."""
        entries: list[Entry] = []
        while batch := self.core.entries(self.disk.base_index + len(entries) + 1, 1 << 30):
            entries += batch
        return [entry.payload for entry in entries if entry.kind == EntryKind.COMMAND]

    def log(self) -> list[tuple[int, int]]:
        """(index, term) of the whole log, what is not written yet included."""
        log = self.core._log
        return [(index, log.term(index)) for index in range(log.base_index + 1, log.last_index + 1)]

    def terms(self) -> list[int]:
        return [term for _, term in self.log()]


class Cluster:
    """Messages wait in `wire`, in the order sent, until `settle` or `deliver`. Links in `cut` lose them at sending."""

    def __init__(
        self,
        size: int = 3,
        *,
        nodes: int = 0,
        logs: Sequence[TERMS] = (),
        term: int = 0,
        seed: int = 1,
        tick_us: int = 0,
        **settings: Any,
    ) -> None:
        """`size` voters, and as many others as make up `nodes`, which wait to be told what group they belong to. `logs`
        are durable from the start, in `term` (or that of the last entry), nothing of them known to be committed. With
        `tick_us` every node has a clock, which goes on by so much at each of its ticks.
        """
        self._rng = random.Random(seed)
        self._settings: dict[str, Any] = {
            "heartbeat_ticks": 3,
            "election_ticks_min": 10,
            "election_ticks_max": 20,
            "unreachable_ticks_max": 3,
            **settings,
        }
        self._tick_us = tick_us
        self.wire: list[Message] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.lost: list[Message] = []
        self.trace: list[str] = []
        self.voters = tuple(range(size))
        self.nodes = tuple(range(max(size, nodes)))
        self.members: list[Member] = []
        for node in self.nodes:
            disk = SimulatedDisk(base_membership=Membership(self.voters) if node < size else NOBODY_YET)
            if logs:
                disk.durable = [
                    Entry(t, index, EntryKind.COMMAND, b"%d.%d" % (t, index)) for index, t in enumerate(logs[node], 1)
                ]
                disk.hard_state = HardState(max([term, *logs[node]]), NOBODY, 0)
            self.members.append(Member(node, disk, self._new_core(node, disk), now_us=tick_us))

    def __getitem__(self, node: NodeId) -> RaftNode:
        return self.members[node].core

    def _new_core(self, node: NodeId, disk: SimulatedDisk) -> RaftNode:
        config = RaftConfig(id=node, **self._settings)
        return RaftNode(config, disk.restored(), disk, random.Random(self._rng.getrandbits(64)))

    def note(self, line: str) -> None:
        self.trace.append(line)

    # What the script does.

    def tick(self, *nodes: NodeId, count: int = 1) -> None:
        """Time passes on `nodes` (everywhere if none are named); messages stay on the wire."""
        for _ in range(count):
            for node in nodes or self.nodes:
                self.members[node].now_us += self._tick_us
                self[node].tick()
                self.obey(node)

    def elect(self, node: NodeId) -> None:
        """Everybody stops hearing a leader; `node` stands first. Fails unless it wins."""
        self.note(f"-- {name(node)} stands for election")
        for member in self.members:
            member.core.leader_unreachable()
        for _ in range(self._settings["election_ticks_max"]):
            self.tick(node)
            if self[node].role is not Role.FOLLOWER:
                break
        self.settle()
        assert self[node].role is Role.LEADER, f"{name(node)} is {self[node].role}\n" + "\n".join(self.trace)

    def propose(self, node: NodeId, *payloads: bytes) -> tuple[int, int]:
        self.note(f"-- {name(node)} is asked to write {', '.join(payload.decode() for payload in payloads)}")
        position = self[node].propose(payloads)
        self.obey(node)
        return position

    def change(self, node: NodeId, *changes: Change, joint: bool | None = None) -> tuple[int, int]:
        text = ", ".join(f"{name(change.node)} {CHANGED[change.kind]}" for change in changes)
        self.note(f"-- {name(node)} is asked to change members: {text}")
        position = self[node].propose_membership(changes, joint=joint)
        self.obey(node)
        return position

    def transfer(self, node: NodeId, target: NodeId) -> None:
        self.note(f"-- {name(node)} is asked to hand over to {name(target)}")
        self[node].transfer_leadership(target)
        self.obey(node)

    def read(self, node: NodeId, context: int) -> None:
        self.note(f"-- {name(node)} is asked for read {context}")
        self[node].request_read(context)
        self.obey(node)

    def grow(self, leader: NodeId, *nodes: NodeId) -> None:
        """`nodes` become learners and catch up, then voters."""
        self.change(leader, *(Change(ChangeKind.LEARNER, node) for node in nodes))
        self.settle()
        for _ in range(4):
            self.heartbeat(leader)
        self.change(leader, *(Change(ChangeKind.VOTER, node) for node in nodes))
        self.settle()
        assert {*nodes} <= {*self[leader].membership.voters}, "\n".join(self.trace)

    def cut_log(self, node: NodeId, index: int) -> None:
        """`node` has applied everything up to `index`, and cuts it off its log."""
        self.note(f"-- {name(node)} cuts its log up to {index}")
        self[node].applied(index)
        self.members[node].disk.cut(index)
        self[node].compact(index)

    def send_snapshot(self, node: NodeId, peer: NodeId, index: int) -> None:
        self.note(f"-- {name(node)} has a state of {index} for {name(peer)}")
        self[node].send_snapshot(peer, index)
        self.obey(node)

    def isolate(self, *nodes: NodeId) -> None:
        """`nodes` hear only each other, and so do the others."""
        self.note(f"-- {', '.join(map(name, nodes))} cut off")
        inside = set(nodes)
        self.cut |= {(a, b) for a in self.nodes for b in self.nodes if (a in inside) != (b in inside)}

    def mend(self) -> None:
        self.note("-- all links mended")
        self.cut.clear()

    def crash(self, node: NodeId) -> None:
        """Unsynced writes are lost. The node is gone for the others until `restart`."""
        self.note(f"-- {name(node)} crashes")
        self.members[node].disk.pending.clear()
        self.cut |= {(a, b) for a in self.nodes for b in self.nodes if node in (a, b) and a != b}
        self.wire = [message for message in self.wire if node not in (message.src, message.dst)]

    def restart(self, node: NodeId) -> None:
        self.note(f"-- {name(node)} restarts")
        member = self.members[node]
        member.disk.pending.clear()
        self.cut = {link for link in self.cut if node not in link}
        member.core = self._new_core(node, member.disk)
        member.reads, member.readys = {}, []
        self.obey(node)

    # Messages and disks.

    def obey(self, node: NodeId) -> None:
        """Do what the node's Readys ask for."""
        member = self.members[node]
        if member.now_us:
            member.core.clock(member.now_us)
        while member.core.has_ready():
            ready = member.core.ready()
            member.readys.append(ready)
            for line in ready_lines(node, ready):
                self.note(line)
            self.send(ready.messages_now)
            if ready.must_sync:
                member.disk.submit(ready)
            else:
                self.send(ready.messages_after_sync)
            member.reads.update(ready.read_states)
            if not member.holds_writes:
                self.sync(node)

    def sync(self, node: NodeId, count: int | None = None) -> None:
        """The disk finishes its writes, or only the oldest `count`."""
        member = self.members[node]
        while member.disk.pending and (count is None or count > 0):
            write = member.disk.complete_one()
            self.send(write.then)
            member.core.persisted(write.number)
            if write.snapshot is not None:
                member.core.applied(write.snapshot.index)
            if count is not None:
                count -= 1
                self.obey(node)

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if (message.src, message.dst) in self.cut:
                self.lost.append(message)
            else:
                self.wire.append(message)

    def deliver(self, message: Message) -> None:
        self.note(message_text(message))
        self[message.dst].step(message)
        self.obey(message.dst)

    def settle(self, only: Callable[[Message], bool] = lambda _: True) -> None:
        """Deliver in order, and what follows from it, until the wire is empty; messages that are not `only` are
        lost.
        """
        for node in self.nodes:
            self.obey(node)
        while self.wire:
            message = self.wire.pop(0)
            if (message.src, message.dst) in self.cut or not only(message):
                self.lost.append(message)
            else:
                self.deliver(message)

    def heartbeat(self, leader: NodeId) -> None:
        """A round of heartbeats, and all that follows from it."""
        self.tick(leader, count=self._settings["heartbeat_ticks"])
        self.settle()

    def leaders(self) -> list[NodeId]:
        return [node for node in self.nodes if self[node].role is Role.LEADER]
