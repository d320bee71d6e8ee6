"""Whoever administers the cluster: members come, go and change their part, and leadership is handed over."""

from __future__ import annotations

from typing import Any

from tests.simulation.api import ADMIN
from tests.simulation.nemesis import Surroundings
from tests.simulation.node import Member
from vaultdb.errors import Busy, ChangeRefused, NotLeader
from vaultdb.raft.membership import Change, ChangeKind, Membership
from vaultdb.raft.messages import NOBODY, NodeId

VOTERS_MAX = 5
TIMEOUT_MS = 2_000.0
_AIM = 0.4
_HASTE = 0.3

Wish = tuple[str, NodeId]
"""One map of ipc.ADMIN's "change", but for a new member's address."""

_KINDS = {"promote": ChangeKind.VOTER, "demote": ChangeKind.LEARNER, "remove": ChangeKind.REMOVE}


class Administrator:
    """Asks for one change after another: mostly of any node, by its api; now and then of a core that believes to lead,
    for shapes that the api has no words for. Refusals are part of the game.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._world = surroundings.world
        self.is_over = False
        self.counts: dict[str, int] = {}

    def begin(self) -> None:
        self._world.after(self._world.around_ms(self._around.plan.change_ms), self._act)

    def _act(self) -> None:
        if self.is_over:
            return
        alive = [member for member in self._around.servers() if member.is_up]
        leaders = [member for member in alive if member.is_leader]
        if alive and leaders:
            membership = self._world.rng.choice(leaders).raft.membership
            asked = self._world.rng.choice(alive)
            if self._world.chance(0.3):
                self._ask(asked, "transfer", self._world.rng.choice([NOBODY, *membership.nodes]))
            elif (wishes := self._drawn(membership, leaders[0].id)) and self._world.chance(0.6):
                self._ask(asked, "change", [self._fields(wish) for wish in wishes])
                if self._world.chance(_AIM):
                    self._aim(leaders[0])
            elif wishes and all(what in _KINDS for what, _ in wishes):
                leader = leaders[0]
                leader.before_turn(lambda: self._propose(leader, [Change(_KINDS[what], node) for what, node in wishes]))
        self.begin()

    def led_by(self, leader: Member) -> None:
        """`leader` has just become one: now and then it is asked for something before it has committed anything."""
        if not self.is_over and self._world.chance(_HASTE):
            wishes = [w for w in self._drawn(leader.raft.membership, leader.id) if w[0] in _KINDS]
            if wishes:
                wanted = [Change(_KINDS[what], node) for what, node in wishes]
                leader.before_turn(lambda: self._propose(leader, wanted))

    def _aim(self, leader: Member) -> None:
        """The change is under way: cut the leader off, with those who come or alone."""
        side = {leader.id}
        if self._world.chance(0.7):
            side |= {node for node in self._around.members if node not in leader.raft.membership.voters}
            side |= {node for node in leader.raft.membership.voters if self._world.chance(0.2)}
        delay_ns = self._world.between_ms(0.0, 40.0)
        self._world.after(delay_ns, self._around.nemesis.part, side)

    def _ask(self, member: Member, operation: str, argument: Any) -> None:
        self._world.note(f"n{member.id} is asked for a {operation}: {argument}")

        def done(outcome: str, answer: Any) -> None:
            self._count(f"{operation}s_{'done' if outcome == ADMIN else 'refused'}")
            self._world.note(f"n{member.id} answers the {operation}: {outcome} {answer if outcome != ADMIN else ''}")

        member.api.administer(operation, argument, timeout_ms=TIMEOUT_MS, done=done)

    def _propose(self, leader: Member, changes: list[Change]) -> None:
        """All at once, or one right after the other."""
        if self._world.chance(0.5):
            taken = [self._propose_once(leader, changes, self._world.rng.choice((None, True, False)))]
        else:
            taken = [self._propose_once(leader, [change], False) for change in changes]
        if any(taken) and self._world.chance(_AIM):
            self._aim(leader)

    def _propose_once(self, leader: Member, changes: list[Change], joint: bool | None) -> bool:
        try:
            _, index = leader.raft.propose_membership(changes, joint=joint)
        except (ChangeRefused, Busy, NotLeader) as error:
            self._count("changes_refused")
            self._world.note(f"the core of n{leader.id} refuses {_text(changes)}: {error}")
            return False
        self._count("changes_of_the_core")
        self._world.note(f"the core of n{leader.id} takes {_text(changes)}: index {index}")
        return True

    def remove_the_lost(self) -> None:
        """As the notice advises: nodes that are not listened to leave the membership, in the end."""
        leaders = [member for member in self._around.members.values() if member.is_leader]
        for leader in leaders:
            for node in leader.raft.membership.nodes:
                if self._around.members[node].is_lost:
                    self._ask(leader, "change", [self._fields(("remove", node))])
                    break
        self._world.after(self._world.around_ms(300), self.remove_the_lost)

    def _drawn(self, now: Membership, leader: NodeId) -> list[Wish]:
        """Something that makes sense, or nearly so."""
        rng = self._world.rng
        strangers = self._around.strangers()
        voters, learners = list(now.voters), list(now.learners)
        options: list[list[Wish]] = []
        if strangers and len(now.nodes) <= VOTERS_MAX:
            options += 3 * [[("add", rng.choice(strangers))]]
        if learners and not self._around.plan.loses_disks:
            learner = rng.choice(learners)
            options.append([("remove", learner)])
            if len(voters) < VOTERS_MAX:
                options += 3 * [[("promote", learner)]]
            options += 2 * [[("promote", learner), ("remove", rng.choice(voters))]]
            options.append([("promote", learner), ("demote", rng.choice(voters))])
            gone = rng.sample(voters, min(len(voters), len(learners)))
            options += 2 * [[*(("promote", node) for node in learners), *(("remove", node) for node in gone)]]
        if self._around.plan.loses_disks:
            return options[0] if options else []
        if len(voters) > 2:
            options.append([("demote", rng.choice(voters))])
            options.append([("remove", rng.choice(voters))])
            options.append([("remove", leader)])
        return rng.choice(options) if options else []

    def _fields(self, wish: Wish) -> dict[str, Any]:
        what, node = wish
        if what != "add":
            return {"change": what, "id": node}
        self._around.restart(self._around.members[node])
        me = self._around.members[node].node.me
        return {
            "change": what,
            "id": node,
            "name": me.name,
            "host": me.host,
            "http_port": me.http_port,
            "peer_port": me.peer_port,
            "native_port": me.native_port,
        }

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _text(changes: list[Change]) -> str:
    return ", ".join(f"n{change.node} {change.kind.value}" for change in changes)
