"""The configuration: TOML, environment and flags become one tree of frozen dataclasses.

Later sources win: defaults, the file, `VAULTDB_SECTION__FIELD` variables, `section.field=value` flags. Every fault
is reported, with its field and value, in one `ConfigInvalid`. Types are strict: "20" is not a number, and neither is
true. A relative `data_dir` in the file counts from the file's directory, elsewhere from the working directory.
Nothing else in VaultDB reads configuration files or the environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from vaultdb import limits
from vaultdb.errors import ConfigInvalid

ENVIRONMENT_PREFIX = "VAULTDB_"

Port = Annotated[int, Field(ge=1, le=65535)]
Ms = Annotated[int, Field(ge=1, le=3_600_000)]
Bytes = Annotated[int, Field(ge=64 * limits.KIB, le=1 << 44)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
MemberId = Annotated[int, Field(ge=0, le=10_000)]
HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
Host = Annotated[str, Field(pattern=HOST_PATTERN)]
"""A host name or an IPv4 address; it stands in `host:port` addresses."""

STRICT = ConfigDict(extra="forbid", strict=True)

T = TypeVar("T")


def _without_faults(value: T, faults: list[str]) -> T:
    """`value` when there are no faults, else one ValueError with all of them (pydantic adds the section's name)."""
    if faults:
        raise ValueError("; ".join(faults))
    return value


@dataclass(frozen=True, config=STRICT)
class NodeAddress:
    """One member: where it listens. `id` is its number in Raft and must never be reused for another machine."""

    id: MemberId
    name: Name
    host: Host
    http_port: Port
    peer_port: Port
    native_port: Port

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def http_address(self) -> str:
        return f"{self.host}:{self.http_port}"

    @property
    def peer_address(self) -> str:
        return f"{self.host}:{self.peer_port}"


@dataclass(frozen=True, config=STRICT)
class ClusterSettings:
    name: Name = "local"
    """Nodes of clusters with different names never talk to each other, and never open each other's data."""


@dataclass(frozen=True, config=STRICT)
class RaftSettings:
    tick_ms: Annotated[int, Field(ge=1, le=1000)] = 10
    heartbeat_ms: Ms = 100
    election_timeout_min_ms: Ms = 300
    election_timeout_max_ms: Ms = 600
    unreachable_delay_max_ms: Ms = 80
    """A follower whose connection to the leader broke starts a pre-vote within this."""
    pre_vote: bool = True
    """Ask before standing, so that a node that was cut off deposes nobody. Off only to measure what it is good for."""
    leases: bool = True
    """A leader answers reads without asking its followers, while their promises last. Bounds how fast clocks may drift
    apart (raft/state.py, CLOCK_DRIFT_PERCENT).
    """
    lease_promise_ms: Ms = 90
    """While reads come in, followers promise to support no other leader for this long: so much later a dead leader is
    replaced. Heartbeats then come every third of it.
    """

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        faults = []
        if self.heartbeat_ms < self.tick_ms:
            faults.append(f"heartbeat_ms {self.heartbeat_ms} is shorter than tick_ms {self.tick_ms}")
        if self.election_timeout_min_ms < 3 * self.heartbeat_ms:
            faults.append(
                f"election_timeout_min_ms {self.election_timeout_min_ms} is less than three times"
                f" heartbeat_ms {self.heartbeat_ms}"
            )
        if not 3 * self.tick_ms <= self.lease_promise_ms <= self.election_timeout_min_ms:
            faults.append(
                f"lease_promise_ms {self.lease_promise_ms} is not between three times tick_ms {self.tick_ms} and"
                f" election_timeout_min_ms {self.election_timeout_min_ms}"
            )
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            faults.append(
                f"election_timeout_max_ms {self.election_timeout_max_ms} is not above"
                f" election_timeout_min_ms {self.election_timeout_min_ms}"
            )
        return _without_faults(self, faults)


@dataclass(frozen=True, config=STRICT)
class LogSettings:
    segment_bytes: Bytes = 64 * limits.MIB
    memory_bytes: Bytes = 16 * limits.MIB
    """Recent entries kept in memory by the consensus process."""
    stall_timeout_ms: Ms = 5_000
    """A consensus process whose disk keeps one write waiting for longer ends, so that another node leads."""


@dataclass(frozen=True, config=STRICT)
class StorageSettings:
    cache_bytes: Bytes = 64 * limits.MIB
    """In-memory cache of values, keys and bookkeeping included."""
    block_cache_bytes: Bytes = 32 * limits.MIB
    memtable_bytes: Bytes = 32 * limits.MIB
    flush_interval_ms: Ms = 10_000
    """RocksDB is flushed at least this often while it is written to: bounds the replay after a crash."""
    bloom_bits_per_key: Annotated[int, Field(ge=1, le=64)] = 10


@dataclass(frozen=True, config=STRICT)
class ApiSettings:
    request_timeout_ms: Ms = 5_000
    """A request is answered within this: done, rejected or unknown."""
    leader_wait_ms: Ms = 1_500
    """A request waits this long for a leader before it is refused with 503."""
    body_timeout_ms: Ms = 10_000
    """Headers, and then the body, must have arrived within this."""
    connections_max: Annotated[int, Field(ge=1, le=65_536)] = limits.HTTP_CONNECTIONS_MAX


@dataclass(frozen=True, config=STRICT)
class SupervisorSettings:
    silence_timeout_ms: Ms = 5_000
    """A process that did not beat for this long is killed and restarted."""
    backoff_min_ms: Ms = 20
    backoff_max_ms: Ms = 5_000
    crash_loop_restarts: Annotated[int, Field(ge=1, le=1000)] = 10
    """More restarts of one process within the window end the node loudly."""
    crash_loop_window_ms: Ms = 30_000
    stop_deadline_ms: Ms = 5_000
    """A clean stop of the node takes at most this; a process that is late for its share of it is killed."""

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        faults = []
        if self.backoff_max_ms < self.backoff_min_ms:
            faults.append(f"backoff_max_ms {self.backoff_max_ms} is below backoff_min_ms {self.backoff_min_ms}")
        return _without_faults(self, faults)


@dataclass(frozen=True, config=STRICT)
class MonitorSettings:
    host: Host = "127.0.0.1"
    port: Port = 11100
    poll_ms: Ms = 1_000


@dataclass(frozen=True, config=STRICT)
class LoggingSettings:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


def _members_are_consistent(nodes: tuple[NodeAddress, ...]) -> tuple[NodeAddress, ...]:
    if not nodes:
        raise ValueError("at least one [[node]] table is needed")
    faults = []
    for what in ("id", "name"):
        values = [getattr(node, what) for node in nodes]
        faults += [f"{what} {value!r} is used twice" for value in sorted({v for v in values if values.count(v) > 1})]
    ports = [f"{node.host}:{port}" for node in nodes for port in (node.http_port, node.peer_port, node.native_port)]
    faults += [f"address {p!r} is used twice" for p in sorted({p for p in ports if ports.count(p) > 1})]
    return _without_faults(nodes, faults)


@dataclass(frozen=True, config=STRICT)
class Config:
    """The whole configuration. `nodes` is the `[[node]]` list of the file."""

    nodes: Annotated[tuple[NodeAddress, ...], AfterValidator(_members_are_consistent)]
    data_dir: str = "data"
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    raft: RaftSettings = field(default_factory=RaftSettings)
    log: LogSettings = field(default_factory=LogSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    def node(self, node_id: int, *, joins: bool = False) -> NodeConfig:
        """One member's view. Raises ConfigInvalid when there is no such id."""
        for address in self.nodes:
            if address.id == node_id:
                return NodeConfig(self, address, joins=joins)
        known = ", ".join(str(address.id) for address in self.nodes)
        raise ConfigInvalid("node id", [f"{node_id} is not a member; the configuration has {known}"])

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).resolve()

    @property
    def runtime_dir(self) -> Path:
        """Short, private directory for sockets, pid and status files of all nodes on this data directory.

        Its name is a digest of the data directory: the same data is always run from the same place, whoever starts it.
        """
        digest = hashlib.blake2b(str(self.data_path).encode(), digest_size=6).hexdigest()
        return Path(tempfile.gettempdir()) / f"vaultdb-{os.getuid()}" / digest


class NodeConfig:
    """The configuration as one member sees it, and the paths derived from it."""

    def __init__(self, config: Config, address: NodeAddress, *, joins: bool = False) -> None:
        """`joins`: it was not there when the cluster began, so its log begins without a membership and waits to be told
        one; `config.nodes` are the members that it knew of when it was started.
        """
        self.config = config
        self.me = address
        self.joins = joins
        self.id = address.id
        self.name = address.name
        self.peers = tuple(other for other in config.nodes if other.id != address.id)
        self.data_dir = config.data_path / address.name
        self.log_dir = self.data_dir / "log"
        self.database_dir = self.data_dir / "db"
        self.lock_path = self.data_dir / "lock"
        self.identity_path = self.data_dir / "identity.json"
        self.log_file = self.data_dir / f"{address.name}.log"
        self.runtime_dir = config.runtime_dir / address.name
        self.supervisor_status_path = self.runtime_dir / "supervisor.json"
        self.consensus_endpoint = f"ipc://{self.runtime_dir / 'consensus'}"
        self.storage_endpoint = f"ipc://{self.runtime_dir / 'storage'}"

    def address_of(self, node_id: int) -> NodeAddress | None:
        return next((address for address in self.config.nodes if address.id == node_id), None)


_CONFIG: TypeAdapter[Config] = TypeAdapter(Config)


def node_address(fields: Mapping[str, Any], source: str) -> NodeAddress:
    """One member from a table like [[node]]. Raises ConfigInvalid, naming `source`, with every fault found."""
    try:
        return NodeAddress(**fields)
    except ValidationError as error:
        raise ConfigInvalid(source, [_sentence(f["loc"], f["msg"], f["input"], {}) for f in error.errors()]) from error


def with_nodes(config: Config, nodes: Sequence[NodeAddress], source: str) -> Config:
    """`config` with other members. Raises ConfigInvalid, naming `source`, with every fault found."""
    try:
        changed = dataclasses.replace(config, nodes=tuple(nodes))
    except ValidationError as error:
        raise ConfigInvalid(source, [_sentence(f["loc"], f["msg"], f["input"], {}) for f in error.errors()]) from error
    if faults := _relations(changed):
        raise ConfigInvalid(source, faults)
    return changed


def load(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    nodes_max: int | None = None,
) -> Config:
    """Read `path`, apply the environment and then `overrides` (each `section.field=value`), keep the first
    `nodes_max` nodes.

    Raises ConfigInvalid with every fault found.
    """
    source = str(path)
    tree = _read(Path(path))
    faults: list[str] = []
    if "nodes" in tree:
        faults.append("nodes: unknown; members are written as [[node]] tables")
    tree["nodes"] = tree.pop("node", [])
    if nodes_max is not None and isinstance(tree["nodes"], list):
        if not 1 <= nodes_max <= len(tree["nodes"]):
            faults.append(f"--nodes {nodes_max}: the file has {len(tree['nodes'])} nodes")
        else:
            tree["nodes"] = tree["nodes"][:nodes_max]
    origins: dict[str, str] = {}
    for origin, dotted, value in _assignments(os.environ if environment is None else environment, overrides):
        origins[dotted] = origin
        faults += _assign(tree, origin, dotted.split("."), value)
    try:
        # As JSON, because there strict validation takes an array for a tuple and an object for a dataclass.
        config = _CONFIG.validate_json(json.dumps(tree, default=_not_json))
    except ValidationError as error:
        faults += [_sentence(fault["loc"], fault["msg"], fault["input"], origins) for fault in error.errors()]
        raise ConfigInvalid(source, faults) from error
    faults += _relations(config)
    if faults:
        raise ConfigInvalid(source, faults)
    return config


def _read(path: Path) -> dict[str, Any]:
    """The file's tables, with a relative data_dir counted from the file's directory."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(str(path), [f"is not TOML: {error}"]) from error
    data_dir = tree.setdefault("data_dir", "data")
    if isinstance(data_dir, str):
        tree["data_dir"] = str(path.resolve().parent / data_dir)
    return tree


def _assignments(environment: Mapping[str, str], overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    """(origin, section.field, text), the later ones win."""
    found = [
        (name, name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), value)
        for name, value in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]
    for override in overrides:
        dotted, _, value = override.partition("=")
        found.append((f"--set {override}", dotted.strip(), value))
    return found


def _assign(tree: dict[str, Any], origin: str, names: list[str], value: str) -> list[str]:
    """Put a textual override into the tree; TOML decides whether it is a number, a boolean or a string."""
    if origin.startswith("--set") and "=" not in origin:
        return [f"{origin}: is not section.field=value"]
    if names[0] in ("node", "nodes"):
        return [f"{origin}: members are set in the file only"]
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            return [f"{origin}: {name} is not a section"]
    tree[names[-1]] = _value_of(value)
    return []


def _value_of(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _not_json(value: object) -> dict[str, str]:
    """TOML's dates and times: no field takes one, so they become a thing that no field takes either."""
    return {"date or time": str(value)}


def _sentence(where: tuple[int | str, ...], message: str, value: object, origins: Mapping[str, str]) -> str:
    dotted = ".".join(str(part) for part in where)
    message = message.removeprefix("Value error, ")
    if message == "Unexpected keyword argument":
        message = "unknown field"
    message = message.replace("Input should be an object", "is not a section").replace("Input should be", "must be")
    shown = "" if isinstance(value, dict | list | tuple) else f" (value {value!r})"
    origin = f", from {origins[dotted]}" if dotted in origins else ""
    named = f"node{dotted.removeprefix('nodes')}" if where[:1] == ("nodes",) else dotted
    return f"{named}: {message[0].lower()}{message[1:]}{shown}{origin}"


def _relations(config: Config) -> list[str]:
    """What one section alone cannot tell."""
    faults = []
    monitor = (config.monitor.host, config.monitor.port)
    for node in config.nodes:
        if monitor in {(node.host, port) for port in (node.http_port, node.peer_port, node.native_port)}:
            faults.append(f"monitor.port: {monitor[1]} is also a port of {node.name}")
    longest = max(len(os.fsencode(config.runtime_dir / node.name / "consensus")) for node in config.nodes)
    if longest > limits.IPC_PATH_BYTES_MAX:
        faults.append(f"TMPDIR: the socket path would have {longest} bytes; the limit is {limits.IPC_PATH_BYTES_MAX}")
    return faults
