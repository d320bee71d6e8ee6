"""The monitor's view of the cluster: what each node last said, rates, a bounded history, events.

Pure: `now_ns` is monotonic and measures ages and rates; `wall_ms` stamps what people read. Every call of `turn` makes
one new *version*; samples and events carry the version in which they appeared, so a reader that has version v asks for
what is newer.

The nodes are those of the configuration until one of them tells the membership in its log; the newest that is told
counts. Those who joined are asked from then on, and those who were removed are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from monitor import limits
from monitor.events import EventLog, Finding, Kind, Level, differences
from monitor.reading import FOLLOWER, LEARNER, Member, NodeStatus, Process
from vaultdb.clock import NS_PER_MS, NS_PER_S
from vaultdb.config import Config, NodeAddress


class Contact(StrEnum):
    """How the monitor stands with one node."""

    UNKNOWN = "unknown"
    """Has not answered yet; it may be starting."""
    UP = "up"
    LATE = "late"
    """The last poll got no answer; one is not enough to call the node down."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Leadership:
    node_id: int
    name: str
    term: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One column of the charts: a value per node in the order of `node_ids`, None where unknown."""

    version: int
    at_ms: int
    node_ids: tuple[int, ...]
    writes_per_s: tuple[float | None, ...]
    reads_per_s: tuple[float | None, ...]
    lag: tuple[int | None, ...]


@dataclass(slots=True)
class NodeView:
    """Invariant: `contact` is UP only if the latest poll was answered; `status` outlives the contact."""

    address: NodeAddress
    contact: Contact = Contact.UNKNOWN
    reason: str | None = None
    contact_since_ns: int = 0
    status: NodeStatus | None = None
    asked_ns: int | None = None
    """When it first gave no answer, if that was before its first answer."""
    seen_ns: int | None = None
    failures: int = 0
    writes_per_s: float | None = None
    reads_per_s: float | None = None
    known_processes: dict[str, Process] = field(default_factory=dict)
    member_role: str | None = None
    """As the newest membership has it; None before one is known."""

    @property
    def votes(self) -> bool:
        return self.member_role != LEARNER

    @property
    def role(self) -> str | None:
        """A follower without a vote is called a learner."""
        told = self.status.role if self.status is not None else None
        return LEARNER if told == FOLLOWER and not self.votes else told

    @property
    def reachable(self) -> bool:
        return self.contact in (Contact.UP, Contact.LATE)

    def move(self, contact: Contact, reason: str | None, now_ns: int) -> None:
        self.reason = reason
        if contact is not self.contact:
            self.contact, self.contact_since_ns = contact, now_ns

    def remember_processes(self, status: NodeStatus) -> None:
        """Of each process the description with a pid: the new one, else the old one. Only names of the status."""
        if status.processes:
            latest = {p.name: p if p.pid is not None else self.known_processes.get(p.name) for p in status.processes}
            self.known_processes = {name: process for name, process in latest.items() if process is not None}

    def measure(self, status: NodeStatus, now_ns: int) -> None:
        """Rates from the counters of two answers; None across a restart of the api, whose counters begin anew."""
        before, seen_ns = self.status, self.seen_ns
        if before is None or seen_ns is None or before.api_incarnation != status.api_incarnation or now_ns <= seen_ns:
            self.writes_per_s = self.reads_per_s = None
            return
        seconds = (now_ns - seen_ns) / NS_PER_S
        self.writes_per_s = _rate(before.writes_total, status.writes_total, seconds)
        self.reads_per_s = _rate(before.reads_total, status.reads_total, seconds)


class Collector:
    """Owned by one event loop; nothing in it blocks. Sizes are bounded by the configuration and monitor.limits."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.poll_ms = max(config.monitor.poll_ms, limits.POLL_MS_MIN)
        self.nodes = [NodeView(address) for address in config.nodes]
        self.version = 0
        self.nodes_version = 0
        """In which the list of nodes last changed: what readers have from before has other columns."""
        self.leader: Leadership | None = None
        self.leaderless_since_ns: int | None = None
        self.events = EventLog()
        self._samples: deque[Sample] = deque(maxlen=max(2, limits.HISTORY_MS // self.poll_ms))
        self._last_leader: Leadership | None = None
        self._findings: list[Finding] = []
        self._membership_position = (0, 0)
        """Term and log index of what was last taken over."""
        self._members: tuple[Member, ...] = ()
        self._index_nodes()

    @property
    def quorum(self) -> int:
        return sum(view.votes for view in self.nodes) // 2 + 1

    def answered(self, node_id: int, status: NodeStatus, now_ns: int) -> None:
        """A poll of `node_id` was answered at `now_ns`."""
        view = self._by_id.get(node_id)
        if view is None:  # it was removed meanwhile
            return
        name = view.address.name
        if view.contact is Contact.DOWN:
            away_s = (now_ns - view.contact_since_ns) / NS_PER_S
            self._findings.append(Finding(Kind.NODE_BACK, Level.GOOD, f"{name} is back after {away_s:.0f} s", name))
        if view.status is not None:
            self._findings += differences(name, view.status, status, view.known_processes)
        elif status.degraded:
            text = f"{name} is degraded: {', '.join(status.degraded)}"
            self._findings.append(Finding(Kind.DEGRADED, Level.WARNING, text, name))
        view.measure(status, now_ns)
        view.remember_processes(status)
        view.status, view.seen_ns, view.failures = status, now_ns, 0
        view.move(Contact.UP, None, now_ns)

    def unanswered(self, node_id: int, reason: str, *, refused: bool, now_ns: int) -> None:
        """A poll of `node_id` failed. `refused`: nobody listens there, so it is down at once."""
        view = self._by_id.get(node_id)
        if view is None:
            return
        view.failures += 1
        view.writes_per_s = view.reads_per_s = None
        if view.contact is Contact.UNKNOWN and self._may_be_starting(view, now_ns):
            view.reason = reason
            return
        if not refused and view.failures < limits.TIMEOUTS_UNTIL_DOWN and view.contact is not Contact.DOWN:
            view.move(Contact.LATE, reason, now_ns)
            return
        if view.contact is not Contact.DOWN:
            name = view.address.name
            self._findings.append(Finding(Kind.NODE_LOST, Level.CRITICAL, f"{name} is down: {reason}", name))
        view.move(Contact.DOWN, reason, now_ns)

    def _may_be_starting(self, view: NodeView, now_ns: int) -> bool:
        if view.asked_ns is None:
            view.asked_ns = now_ns
        return now_ns - view.asked_ns < limits.STARTING_GRACE_MS * NS_PER_MS

    def turn(self, now_ns: int, wall_ms: int, *, sample: bool) -> None:
        """A round of polls is over, or late answers came: make a version, and a sample if it is time for one."""
        self.version += 1
        self._follow_membership()
        self._follow_leader(now_ns)
        for finding in self._findings:
            self.events.add(finding, version=self.version, at_ms=wall_ms)
        self._findings.clear()
        if sample:
            writes = tuple(view.writes_per_s for view in self.nodes)
            reads = tuple(view.reads_per_s for view in self.nodes)
            lags = tuple(self.lag(view) for view in self.nodes)
            self._samples.append(Sample(self.version, wall_ms, self.node_ids, writes, reads, lags))

    def lag(self, view: NodeView) -> int | None:
        """Entries that the leader has committed and this node has not applied."""
        leader = None if self.leader is None else self._by_id.get(self.leader.node_id)
        if leader is None or leader.contact is not Contact.UP or view.contact is not Contact.UP:
            return None
        if leader.status is None or view.status is None:
            return None
        if leader.status.commit_index is None or view.status.applied_index is None:
            return None
        return max(0, leader.status.commit_index - view.status.applied_index)

    def samples_since(self, version: int) -> list[Sample]:
        """Samples newer than `version`, oldest first."""
        newer: list[Sample] = []
        for sample in reversed(self._samples):
            if sample.version <= version:
                break
            newer.append(sample)
        return newer[::-1]

    def _index_nodes(self) -> None:
        self._by_id = {view.address.id: view for view in self.nodes}
        self.node_ids = tuple(self._by_id)

    def _follow_membership(self) -> None:
        """Take over what the leader, or without one whoever is furthest, says of the members; never what is older."""
        told = [
            (status.leads, (status.term or 0, status.membership.index), status.membership)
            for view in self.nodes
            if view.contact is Contact.UP and (status := view.status) is not None and status.membership is not None
        ]
        if not told:
            return
        _, position, membership = max(told, key=lambda one: one[:2])
        if position < self._membership_position:
            return
        self._membership_position = position
        if membership.members != self._members:
            is_first = not self._members
            self._members = membership.members
            self._take_over(membership.members, silently=is_first)

    def _take_over(self, members: Sequence[Member], *, silently: bool) -> None:
        """Views of members that stay stay as they are. `silently`: it is how things were when the monitor began."""
        before, findings = dict(self._by_id), []
        self.nodes = []
        for member in sorted(members, key=lambda member: member.address.id):
            view = before.pop(member.address.id, None)
            if view is None or view.address != member.address:
                view = NodeView(member.address)
                findings.append(f"{member.address.name} joined as a {member.role}")
            elif view.votes != member.votes:
                findings.append(f"{member.address.name} is a {member.role} now")
            view.member_role = member.role
            self.nodes.append(view)
        findings += [f"{view.address.name} was removed from the cluster" for view in before.values()]
        if self.node_ids != tuple(view.address.id for view in self.nodes):
            self.nodes_version = self.version
        self._index_nodes()
        if not silently:
            self._findings += [Finding(Kind.MEMBERS, Level.INFO, text) for text in findings]

    def _follow_leader(self, now_ns: int) -> None:
        previous, self.leader = self.leader, self._find_leader(now_ns)
        if self.leader is None:
            if self.leaderless_since_ns is None:
                self.leaderless_since_ns = now_ns
            if previous is not None:
                text = f"no leader: {previous.name} led in term {previous.term}; writes are refused"
                self._findings.append(Finding(Kind.NO_LEADER, Level.CRITICAL, text, None, previous.term))
            return
        gap = ""
        if self.leaderless_since_ns is not None and self._last_leader is not None:
            gap = f"; none was seen for {(now_ns - self.leaderless_since_ns) / NS_PER_S:.1f} s"
        if self.leader != self._last_leader or gap:
            text = _succession(self.leader, self._last_leader) + gap
            self._findings.append(Finding(Kind.LEADER, Level.GOOD, text, self.leader.name, self.leader.term))
        self.leaderless_since_ns = None
        self._last_leader = self.leader

    def _find_leader(self, now_ns: int) -> Leadership | None:
        """The reachable node that says it leads, in the highest term; a deposed leader that was paused has a lower one.

        A leader whose api is down is believed on the word of a quorum, once its followers would have noticed its death.
        """
        heard = [(view, view.status) for view in self.nodes if view.status is not None and view.status.term is not None]
        claims = [(status.term or 0, view.address) for view, status in heard if status.leads and view.reachable]
        if claims:
            term, address = max(claims, key=lambda claim: claim[0])
            return Leadership(address.id, address.name, term)
        words = [(status.term or 0, status.leader_id) for view, status in heard if view.contact is Contact.UP]
        for term, leader_id in set(words):
            silent = None if leader_id is None else self._by_id.get(leader_id)
            if silent is None or silent.contact is not Contact.DOWN or words.count((term, leader_id)) < self.quorum:
                continue
            if now_ns - silent.contact_since_ns > 2 * self.config.raft.election_timeout_max_ms * NS_PER_MS:
                return Leadership(silent.address.id, silent.address.name, term)
        return None


def _succession(leader: Leadership, last: Leadership | None) -> str:
    if last is None:
        return f"{leader.name} leads in term {leader.term}"
    if last.node_id == leader.node_id and last.term == leader.term:
        return f"{leader.name} leads again in term {leader.term}"
    if last.node_id == leader.node_id:
        return f"{leader.name} leads again, term {last.term} → {leader.term}"
    return f"{last.name} → {leader.name} leads now, term {last.term} → {leader.term}"


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    """Per second; None when a counter is missing or fell."""
    if before is None or after is None or after < before:
        return None
    return (after - before) / seconds


def total(values: Sequence[float | None]) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
