"""What happened, in words: the bounded event list, and the differences between two statuses of one node."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from monitor import limits
from monitor.reading import NodeStatus, Process

SUPERVISOR = "supervisor"


class Level(StrEnum):
    INFO = "info"
    GOOD = "good"
    WARNING = "warning"
    CRITICAL = "critical"


class Kind(StrEnum):
    LEADER = "leader"
    NO_LEADER = "no_leader"
    NODE_LOST = "node_lost"
    NODE_BACK = "node_back"
    RESTART = "restart"
    ROLE = "role"
    DEGRADED = "degraded"
    MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class Finding:
    """An event that has not been given its place in the list."""

    kind: Kind
    level: Level
    text: str
    node: str | None = None
    term: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    version: int
    """The collector's version in which it first appeared."""
    number: int
    at_ms: int
    """Wall clock of the monitor when it was noticed."""
    finding: Finding


class EventLog:
    """The latest `limits.EVENTS_MAX` events; the oldest go first."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=limits.EVENTS_MAX)
        self._count = 0

    def add(self, finding: Finding, *, version: int, at_ms: int) -> None:
        self._count += 1
        self._events.append(Event(version, self._count, at_ms, finding))

    def since(self, version: int) -> list[Event]:
        """Events that appeared after `version`, oldest first."""
        return [event for event in self._events if event.version > version]


def differences(name: str, before: NodeStatus, after: NodeStatus, known: Mapping[str, Process]) -> Iterator[Finding]:
    """What changed on node `name` between two of its answers, leadership of the cluster aside.

    `known`: of each process the last description that had a pid; a process that is down just now has none.
    """
    yield from _restarts(name, known, after)
    if before.leads and not after.leads and after.consensus_serves:
        yield Finding(Kind.ROLE, Level.INFO, f"{name} stepped down, it is {after.role} now", name, after.term)
    if after.role is not None and "candidate" in after.role and after.role != before.role:
        yield Finding(Kind.ROLE, Level.INFO, f"{name} stands for election, it is {after.role} now", name, after.term)
    if set(after.degraded) - set(before.degraded):
        parts = ", ".join(after.degraded)
        yield Finding(Kind.DEGRADED, Level.WARNING, f"{name} is degraded: {parts}", name)
    elif before.degraded and not after.degraded:
        yield Finding(Kind.DEGRADED, Level.GOOD, f"{name} is whole again", name)


def _restarts(name: str, known: Mapping[str, Process], after: NodeStatus) -> Iterator[Finding]:
    """Processes are told apart by pid and creation time. A whole node started anew is one finding."""
    running = [process for process in after.processes if process.pid is not None and process.name in known]
    renewed = [(known[new.name], new) for new in running if known[new.name].identity != new.identity]
    supervisor_too = any(new.name == SUPERVISOR for _, new in renewed)
    counts_kept_low = all((new.restarts or 0) <= (old.restarts or 0) for old, new in renewed)
    if supervisor_too or (len(renewed) == len(running) > 1 and counts_kept_low):
        # The restart counters live in the supervisor: they grow when it restarts a process, and fall when it is new.
        yield Finding(Kind.RESTART, Level.WARNING, f"{name} was started anew, all its processes are new", name)
        return
    for old, new in renewed:
        reason = f" ({new.last_exit})" if new.last_exit else ""
        count = "" if new.restarts is None else f", restart {new.restarts}"
        text = f"{name}: {new.name} restarted{reason}, pid {old.pid} → {new.pid}{count}"
        yield Finding(Kind.RESTART, Level.WARNING, text, name)
