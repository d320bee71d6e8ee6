"""Faults, one after another, at times that the plan sets. Each heals itself some time later, or when all is healed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from tests.simulation.disk import Disk
from tests.simulation.network import Link, Network
from tests.simulation.node import Member
from tests.simulation.plan import Plan
from tests.simulation.storage import State
from tests.simulation.world import World
from vaultdb.consensus.members import incarnation_text, parse
from vaultdb.consensus.promises import PromiseTable
from vaultdb.raft.messages import NodeId


class Surroundings(Protocol):
    """What the nemesis may touch."""

    world: World
    plan: Plan
    network: Network
    members: dict[NodeId, Member]
    nemesis: Nemesis

    def restart(self, member: Member) -> None: ...

    def servers(self) -> Sequence[Member]: ...

    def strangers(self) -> list[NodeId]:
        """Nodes that were never started: an id is given once, and a second request to add it could be done after it
        was removed again.
        """
        ...


class Nemesis:
    """`is_over` ends it. `counts` says how often each fault happened."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._world, self._network = surroundings.world, surroundings.network
        self.is_over = False
        self.counts: dict[str, int] = {}
        self._copies: dict[NodeId, tuple[Disk, State]] = {}
        self._faults: Sequence[tuple[int, Callable[[Member], None]]] = (
            (4, self.crash),
            (3, self.bounce),
            (1, self.crash_all),
            (1, self.crash_leader),
            (3, self.pause),
            (2, self.pause_leader),
            (2, self.split),
            (2, self.cut_one_way),
            (1, self.bridge),
            (2, self.isolate),
            (2, self.isolate_leader),
            (2, self.freeze_leader),
            (2, self.desert_leader),
            (2, self.mend),
            (2, self.disconnect),
            (2, self.slow_disk),
            (2, self.stuck_disk),
            (1, self.restart_storage),
            (1, self.stall_storage),
            (2 * surroundings.plan.loses_disks, self.wipe),
            (4 * surroundings.plan.loses_disks, self.put_back_an_old_copy),
        )

    def begin(self) -> None:
        self._world.after(self._world.around_ms(self._around.plan.fault_ms), self._strike)

    def _strike(self) -> None:
        if self.is_over:
            return
        weights = [weight for weight, _ in self._faults]
        [(_, fault)] = self._world.rng.choices(self._faults, weights)
        self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
        fault(self._anyone())
        self.begin()

    def _anyone(self) -> Member:
        return self._world.rng.choice([member for member in self._around.members.values() if member.life])

    def _leader(self, otherwise: Member) -> Member:
        leaders = [member for member in self._around.members.values() if member.is_leader]
        return self._world.rng.choice(leaders) if leaders else otherwise

    # Machines and processes.

    def crash(self, member: Member) -> None:
        if member.is_up:
            member.crash()
            self._world.after(self._world.around_ms(400), self._around.restart, member)

    def bounce(self, member: Member) -> None:
        """Crash, and be back before anybody's patience ends."""
        if member.is_up:
            member.crash()
            self._world.after(self._world.between_ms(0.5, 60.0), self._around.restart, member)

    def crash_leader(self, member: Member) -> None:
        self.crash(self._leader(member))

    def crash_all(self, _: Member) -> None:
        for member in self._around.members.values():
            self.crash(member)

    def pause(self, member: Member) -> None:
        if member.is_up:
            member.pause(self._world.around_ms(500))

    def pause_leader(self, member: Member) -> None:
        self.pause(self._leader(member))

    def restart_storage(self, member: Member) -> None:
        if member.is_up:
            member.storage.start()

    def stall_storage(self, member: Member) -> None:
        member.storage.stalled_until_ns = self._world.now_ns + self._world.around_ms(600)

    # Disks that are not what they were (rows 23, 24).

    def wipe(self, member: Member) -> None:
        """The node loses all that it stored, after another one has fallen behind, and comes back under its id."""
        others = self._fellow_members(member)
        if others:
            self.isolate(self._world.rng.choice(others))
            self._world.after(self._world.around_ms(250), self._wipe_now, member)

    def _wipe_now(self, member: Member) -> None:
        """Only where this is to be noticed: where all members' disks hold the incarnation that it was known by."""
        others = self._fellow_members(member)
        known = incarnation_text(member.disk.incarnation)
        if self.is_over or not others or any(incarnation_on(other, member.id) != known for other in others):
            return
        self._world.note(f"the disks of n{member.id} are wiped")
        self._lose(member)
        member.new_disk()
        if self._world.chance(0.7):
            self.crash_leader(member)
            self._network.mend()

    def put_back_an_old_copy(self, member: Member) -> None:
        """A copy of the disks is made, or the last one is put back. The latter only where this is to be noticed: where
        all members' disks hold a promise beyond it.
        """
        copy = self._copies.pop(member.id, None)
        others = self._fellow_members(member)
        if copy is None:
            self._copies[member.id] = (member.disk.copy(), member.storage.flushed)
        elif others and all(promises_more(other, copy[0]) for other in others):
            self._world.note(f"old copies of the disks of n{member.id} are put back")
            self._lose(member)
            member.disk, member.storage.flushed = copy

    def _lose(self, member: Member) -> None:
        if member.is_up:
            member.crash()
        member.is_lost = True
        self._world.after(self._world.around_ms(100), self._around.restart, member)

    def _fellow_members(self, member: Member) -> list[Member]:
        """The other members, if there is a quorum without this one, and none of them is lost already."""
        around = self._around.members
        leaders = [other for other in around.values() if other.is_leader]
        if len(leaders) != 1 or member.is_lost or leaders[0].raft.membership.is_joint:
            return []
        held = leaders[0].raft.membership
        others = [around[node] for node in held.nodes if node != member.id]
        is_fit = member.id in held.nodes and leaders[0].raft.is_membership_committed and len(held.voters) > 2
        return others if is_fit and not any(other.is_lost for other in others) else []

    # Links.

    def _ids(self) -> list[NodeId]:
        return list(self._around.members)

    def split(self, _: Member) -> None:
        self.part({node for node in self._ids() if self._world.chance(0.5)})

    def part(self, side: Collection[NodeId]) -> None:
        if self.is_over:
            return
        self._world.note(f"the network splits: {sorted(side)} alone")
        self._block((a, b) for a in self._ids() for b in self._ids() if (a in side) != (b in side))

    def bridge(self, member: Member) -> None:
        """Two sides that reach each other through one node only."""
        side = {node for node in self._ids() if self._world.chance(0.5)}
        others = [node for node in self._ids() if node != member.id]
        self._world.note(f"n{member.id} is the only bridge between {sorted(side)} and the others")
        self._block((a, b) for a in others for b in others if (a in side) != (b in side))

    def cut_one_way(self, member: Member) -> None:
        """One link in one direction, or everything that a node sends, or everything that it should hear."""
        others = [node for node in self._ids() if node != member.id]
        match self._world.rng.randrange(3):
            case 0:
                links = [(member.id, self._world.rng.choice(others))]
            case 1:
                links = [(member.id, other) for other in others]
            case _:
                links = [(other, member.id) for other in others]
        self._world.note(f"links cut: {links}")
        self._block(links)

    def isolate(self, member: Member) -> None:
        self._world.note(f"n{member.id} is isolated")
        others = [node for node in self._ids() if node != member.id]
        self._block([(member.id, o) for o in others] + [(o, member.id) for o in others])

    def isolate_leader(self, member: Member) -> None:
        self.isolate(self._leader(member))

    def _block(self, links: Iterable[Link]) -> None:
        """For a while."""
        links = list(links)
        self._network.block(links)
        self._world.after(self._world.around_ms(self._around.plan.partition_ms), self._network.unblock, links)

    def freeze_leader(self, member: Member) -> None:
        """It stands still, and is alone when it wakes."""
        leader = self._leader(member)
        if leader.is_up:
            self.isolate(leader)
            leader.pause(self._world.between_ms(200.0, 1_000.0))

    def desert_leader(self, member: Member) -> None:
        """The others learn at once that it is gone; it does not, and is asked for reads."""
        leader = self._leader(member)
        self.isolate(leader)
        for other in self._around.members.values():
            if other.is_up and leader.id in other.connected:
                self._world.after(
                    self._world.between_ms(0.0, 5.0), self._network.break_connection, (other.id, leader.id)
                )

    def mend(self, _: Member) -> None:
        self._world.note("all links are mended")
        self._network.mend()

    def disconnect(self, member: Member) -> None:
        """One connection breaks for no reason."""
        other = self._world.rng.choice([node for node in self._ids() if node != member.id])
        self._network.break_connection((member.id, other))

    # Disks.

    def slow_disk(self, member: Member) -> None:
        member.pace.slowness = self._world.rng.choice((1.0, 5.0, 20.0))
        self._world.note(f"the disk of n{member.id} is {member.pace.slowness} times as slow")

    def stuck_disk(self, member: Member) -> None:
        if member.is_up:
            self._world.note(f"the disk of n{member.id} is stuck")
            member.writer.is_stuck = True
            self._world.after(self._world.around_ms(800), member.writer.release)


def incarnation_on(member: Member, node: NodeId) -> str:
    """By which `member`'s disk knows `node`."""
    known = parse(member.disk.image.memberships.newest.context).members.get(node)
    return known.incarnation if known is not None else ""


def promises_more(member: Member, copy: Disk) -> bool:
    """Whether `member`'s disk holds a promise that the log on `copy` falls short of."""
    reached = (copy.hard_state.term, copy.image.last_index)
    rows = PromiseTable(member.disk.notes).rows()
    return any(incarnation == copy.incarnation and reached < (term, index) for incarnation, _, term, index in rows)
