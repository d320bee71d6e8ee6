"""A node's /status as checked values.

Whatever is missing, null or of a wrong type becomes None: the monitor must stand any answer.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from monitor import limits
from vaultdb.config import NodeAddress, node_address
from vaultdb.errors import ConfigInvalid, ExitCode

LEADER = "leader"
FOLLOWER = "follower"
LEARNER = "learner"


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a node, as its supervisor sees it."""

    name: str
    pid: int | None
    create_time: float | None
    state: str | None
    uptime_s: float | None
    restarts: int | None
    last_exit: str | None
    """In words; None when it never ended."""
    memory_bytes: int | None
    """Proportional set size where known, else resident set size."""
    cpu_percent: float | None

    @property
    def identity(self) -> tuple[int | None, float | None]:
        """A pid alone may be reused."""
        return self.pid, self.create_time


@dataclass(frozen=True, slots=True)
class Member:
    address: NodeAddress
    role: str
    """voter, learner, or on the way: joining, leaving."""

    @property
    def votes(self) -> bool:
        return self.role != LEARNER


@dataclass(frozen=True, slots=True)
class Membership:
    """Who belongs to the cluster, as one node's log has it."""

    index: int
    """Of its entry: a larger one is newer."""
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What one node said about itself."""

    node: str | None
    cluster: str | None
    version: str | None
    role: str | None
    term: int | None
    commit_index: int | None
    applied_index: int | None
    revision: int | None
    leader_id: int | None
    degraded: tuple[str, ...]
    consensus_serves: bool
    last_index: int | None
    stable_index: int | None
    peers_connected: tuple[int, ...]
    """Ids of the nodes that its consensus process is connected to."""
    membership: Membership | None
    """None when it did not say, or said what makes no sense."""
    flushed_index: int | None
    keys_estimate: int | None
    cache_hits: int | None
    cache_misses: int | None
    api_incarnation: int | str | None
    writes_total: int | None
    reads_total: int | None
    connections: int | None
    processes: tuple[Process, ...]

    @property
    def leads(self) -> bool:
        return self.role == LEADER


def read_status(raw: object) -> NodeStatus:
    """Raises ValueError when `raw` is not a JSON object with at least one field of a status."""
    if not isinstance(raw, dict) or not ({"role", "term", "node", "consensus"} & raw.keys()):
        raise ValueError("the answer is not a node's status")
    consensus, storage, api = (_object(raw.get(part)) for part in ("consensus", "storage", "api"))
    cache = _object(storage.get("cache"))
    degraded = raw.get("degraded")
    incarnation = api.get("incarnation")
    return NodeStatus(
        node=_text(raw.get("node")),
        cluster=_text(raw.get("cluster")),
        version=_text(raw.get("version")),
        role=_text(raw.get("role")),
        term=_count(raw.get("term")),
        commit_index=_count(raw.get("commit_index")),
        applied_index=_count(raw.get("applied_index")),
        revision=_count(raw.get("revision")),
        leader_id=_count(raw.get("leader_id")),
        degraded=tuple(text for item in _list(degraded) if (text := _text(item))),
        consensus_serves=bool(consensus),
        last_index=_count(consensus.get("last_index")),
        stable_index=_count(consensus.get("stable_index")),
        peers_connected=_peers_connected(consensus.get("peers")),
        membership=_membership(consensus.get("membership")),
        flushed_index=_count(storage.get("flushed_index")),
        keys_estimate=_count(storage.get("keys_estimate")),
        cache_hits=_count(cache.get("hits")),
        cache_misses=_count(cache.get("misses")),
        api_incarnation=incarnation if isinstance(incarnation, int | str) else None,
        writes_total=_count(api.get("writes_total")),
        reads_total=_count(api.get("reads_total")),
        connections=_count(api.get("connections")),
        processes=tuple(_process(item) for item in _list(raw.get("processes")) if isinstance(item, dict)),
    )


def exit_in_words(last_exit: object) -> str | None:
    """`last_exit` is an exit code, a negative signal number, or already words."""
    if isinstance(last_exit, str):
        return _text(last_exit)
    if isinstance(last_exit, bool) or not isinstance(last_exit, int):
        return None
    if last_exit < 0:
        try:
            return f"killed by {signal.Signals(-last_exit).name}"
        except ValueError:
            return f"killed by signal {-last_exit}"
    try:
        meaning = ExitCode(last_exit).name.lower().replace("_", " ")
    except ValueError:
        return f"exit code {last_exit}"
    return f"exit code {last_exit}, {meaning}"


def _process(raw: dict[str, Any]) -> Process:
    pss = _count(raw.get("pss_bytes"))
    return Process(
        name=_text(raw.get("name")) or "unnamed",
        pid=_count(raw.get("pid")),
        create_time=_number(raw.get("create_time")),
        state=_text(raw.get("state")),
        uptime_s=_number(raw.get("uptime_s")),
        restarts=_count(raw.get("restarts")),
        last_exit=exit_in_words(raw.get("last_exit")),
        memory_bytes=_count(raw.get("rss_bytes")) if pss is None else pss,
        cpu_percent=_number(raw.get("cpu_percent")),
    )


def _peers_connected(peers: object) -> tuple[int, ...]:
    told = peers[: limits.MEMBERS_MAX] if isinstance(peers, list) else []
    ids = [_count(peer.get("id")) for peer in told if isinstance(peer, dict) and peer.get("connected") is True]
    return tuple(peer for peer in ids if peer is not None)


def _membership(raw: object) -> Membership | None:
    fields = _object(raw)
    index, rows = _count(fields.get("index")), fields.get("members")
    if index is None or not isinstance(rows, list) or not 1 <= len(rows) <= limits.MEMBERS_MAX:
        return None
    members = [_member(row) for row in rows if isinstance(row, dict)]
    known = tuple(member for member in members if member is not None)
    return Membership(index, known) if len(known) == len(rows) else None


def _member(row: dict[str, Any]) -> Member | None:
    fields = {name: row.get(name) for name in ("id", "name", "host", "http_port", "peer_port", "native_port")}
    try:
        return Member(node_address(fields, "a member"), _text(row.get("role")) or "")
    except ConfigInvalid:
        return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value[: limits.PROCESSES_MAX] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value[: limits.TEXT_CHARACTERS_MAX] if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    """A finite number that is not negative; JSON of Python may hold NaN and Infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        return None
    return value


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
