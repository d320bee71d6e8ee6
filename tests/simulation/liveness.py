"""The healed cluster must come to life again, within bounded time: that is a promise too (rows 15, 16, 18)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from tests.raft.rendering import membership_text
from tests.simulation.checkers import Checks, Violation
from tests.simulation.clients import Client
from tests.simulation.history import Operation
from tests.simulation.node import Member
from tests.simulation.world import World
from vaultdb.clock import NS_PER_MS
from vaultdb.raft.messages import NOBODY, NodeId

CONVERGENCE_MS = 9_000
"""Fifteen of the longest election timeouts: terms and split votes cost a few."""


class Healed(Protocol):
    world: World
    checks: Checks
    members: dict[NodeId, Member]

    def client(self, number: int) -> Client: ...


class Liveness:
    def __init__(self, cluster: Healed) -> None:
        self._cluster = cluster
        self._world = cluster.world

    def check(self) -> None:
        """A leader whom all members follow, in a simple membership; then a write and a read through every member; then
        every state is the same.
        """
        deadline_ns = self._world.now_ns + CONVERGENCE_MS * NS_PER_MS
        self._wait("leader whom all members follow", deadline_ns, lambda: bool(self._settled()))
        members = self._settled()
        for number, member in enumerate(members, start=1000):
            for is_read in (False, True):
                client = self._cluster.client(number)
                client.is_stopped = True
                operation = client.ask(0, is_read=is_read, of=member.id)
                what = f"{'read' if is_read else 'write'} through n{member.id}"
                self._wait(what, deadline_ns, partial(self._is_settled_for, member, operation))
        self._wait("equal states", deadline_ns, self._is_even)

    def _wait(self, what: str, deadline_ns: int, done: Callable[[], bool]) -> None:
        if done() or self._world.run_until(deadline_ns, done):
            return
        nodes = [_state_of(member) for member in self._cluster.members.values() if member.is_up]
        raise Violation(f"no {what} within {CONVERGENCE_MS} ms after healing: {'; '.join(nodes)}")

    def _settled(self) -> list[Member]:
        """The members, once one of them leads, the others follow, and nothing is under way; else nobody."""
        everybody = self._cluster.members
        leaders = [member for member in everybody.values() if member.is_leader]
        if not leaders:
            return []
        leader = max(leaders, key=lambda member: member.raft.term)
        raft = leader.raft
        if raft.membership.is_joint or not raft.is_membership_committed or raft.transferring != NOBODY:
            return []
        members = [everybody[node] for node in raft.membership.nodes]
        is_followed = all((member.raft.leader, member.raft.term) == (leader.id, raft.term) for member in members)
        return members if is_followed else []

    def _is_settled_for(self, member: Member, operation: Operation) -> bool:
        """Answered; or a change that was asked for in time has removed the member."""
        if operation.returned_ns is not None:
            return True
        members = self._settled()
        return bool(members) and member not in members

    def _is_even(self) -> bool:
        members = self._settled()
        last = self._cluster.checks.commits.commit_index
        if not members or any(member.storage.state.index < last for member in members):
            return False
        first = members[0].storage.state
        for member in members:
            if member.storage.state != first:
                raise Violation(f"n{member.id} and n{members[0].id} applied {last} entries and hold different states")
        return True


def _state_of(member: Member) -> str:
    raft = member.raft
    admitted = "" if member.driver.status()["admitted"] else ", not admitted"
    return (
        f"n{member.id} {raft.role.value} term {raft.term} leader {raft.leader} log {raft.last_index} commit"
        f" {raft.commit_index} applied {member.storage.state.index} {membership_text(raft.membership)}{admitted}"
    )
