"""A new node for a running cluster: it is added to its members over HTTP, and remembers who it is in its data
directory.

`identity.json` there is written once the cluster has given it an id. A node that has one is started with what it says,
and adds itself no more. When a join broke off between the two, the next one finds a member of its own name and address
as which nobody has spoken yet, and takes that for itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vaultdb import config as configuration
from vaultdb.cluster import preflight
from vaultdb.config import Config, NodeAddress, NodeConfig
from vaultdb.errors import ChangeRefused, ConfigInvalid, IoFailed, Unavailable, Unknown, VaultError, WrongIdentity
from vaultdb.supervisor.ownership import check_space, make_data_dir

ADDRESS_FIELDS = ("host", "http_port", "peer_port", "native_port")
PORTS = ADDRESS_FIELDS[1:]
DEFAULT_HOST = "127.0.0.1"
_SOURCE = "node --join"

Document = dict[str, Any]


class Cluster(Protocol):
    """The running cluster, as a node that joins needs it."""

    def members(self) -> Document: ...

    def change(self, *changes: Document) -> Document: ...


@dataclass(frozen=True)
class Identity:
    """Who a joined node is: what `identity.json` holds."""

    cluster: str
    cluster_id: str
    me: NodeAddress
    members: tuple[NodeAddress, ...]
    """As it knew them when it was last started; itself among them."""

    def write(self, path: Path) -> None:
        """Replace the file, durably. Raises IoFailed."""
        record = {**asdict(self), "version": 1}
        temporary = path.with_suffix(".new")
        make_data_dir(path.parent)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(record, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise IoFailed(f"{path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """None when there is none. Raises IoFailed, or WrongIdentity for what is no identity."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            me = configuration.node_address(record["me"], str(path))
            members = tuple(configuration.node_address(row, str(path)) for row in record["members"])
            return cls(str(record["cluster"]), str(record["cluster_id"]), me, members)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IoFailed(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, ConfigInvalid) as error:
            raise WrongIdentity(f"{path} is no identity of a joined node: {error}") from error


def join(config: Config, name: str, wanted: Mapping[str, Any], cluster: Cluster) -> NodeConfig:
    """The joined node, ready to be run. `wanted`: those of ADDRESS_FIELDS that the operator chose.

    Raises ConfigInvalid or WrongIdentity when what is asked for contradicts the configuration or the data directory,
    AddressTaken or AlreadyOwned when the node could not run here, and what the cluster refuses.
    """
    path = config.data_path / name / "identity.json"
    identity = Identity.read(path)
    if identity is None:
        identity = _join_anew(config, name, wanted, cluster)
    else:
        identity = _return(config, identity, wanted, cluster, path)
    joined = configuration.with_nodes(config, identity.members, _SOURCE)
    identity.write(path)
    return joined.node(identity.me.id, joins=True)


def _join_anew(config: Config, name: str, wanted: Mapping[str, Any], cluster: Cluster) -> Identity:
    document = _formed(cluster.members())
    row = _row_of(document, name)
    listed = next((address for address in config.nodes if address.name == name), None)
    me = _address(config, name, wanted, document, _details(row) if row else asdict(listed) if listed else None)
    if row is not None and (row["incarnation"] or asdict(me) != _details(row)):
        where = f"{row['host']}:{row['http_port']}"
        raise ChangeRefused(
            f"{name} is a member already (id {row['id']}, {where}); remove it first, or take another --name"
        )
    _check_can_run(config, me, document)
    if row is None:
        change: Document = {"change": "add", **asdict(me)}
        if listed is None:
            del change["id"]  # the cluster gives one
        document, row = _added(cluster, name, change)
    me = replace(me, id=row["id"])
    return Identity(config.cluster.name, document["cluster_id"], me, (*_others_of(document, name), me))


def _added(cluster: Cluster, name: str, change: Document) -> tuple[Document, Document]:
    """The members with the new one, and its row."""
    try:
        document = _formed(cluster.change(change))
    except Unknown as error:
        raise Unknown(f"{error}; the same command, given again, finds out") from error
    row = _row_of(document, name)
    if row is None:
        raise Unavailable(f"{name} was added and is no member any more: somebody has removed it")
    return document, row


def _return(config: Config, identity: Identity, wanted: Mapping[str, Any], cluster: Cluster, path: Path) -> Identity:
    """A node that has joined before. The cluster need not answer: what was known at the last start then does."""
    me = identity.me
    if identity.cluster != config.cluster.name:
        raise WrongIdentity(f"{path} belongs to the cluster {identity.cluster!r}, not to {config.cluster.name!r}")
    faults = [
        f"{field} {value!r} is not {getattr(me, field)!r}, with which it joined"
        for field, value in wanted.items()
        if value != getattr(me, field)
    ]
    if faults:
        raise ConfigInvalid(str(path), faults)
    try:
        document = cluster.members()
    except VaultError:
        return identity
    if document["cluster_id"] != identity.cluster_id:
        raise WrongIdentity(f"{path} belongs to another cluster than the one that answers at --join")
    if not any(row["id"] == me.id and row["name"] == me.name for row in document["members"]):
        raise WrongIdentity(
            f"{me.name} (id {me.id}) was removed from the cluster; to join it anew, empty {path.parent} first"
        )
    return replace(identity, members=(*_others_of(document, me.name), me))


def _address(
    config: Config, name: str, wanted: Mapping[str, Any], document: Document, known: Mapping[str, Any] | None
) -> NodeAddress:
    """Where it will listen: as wanted, else as `known` of a node of this name, else with ports above all others."""
    defaults = known
    if defaults is None:
        others = [*config.nodes, *_others_of(document, name)]
        free = {port: max(getattr(address, port) for address in others) + 1 for port in PORTS}
        defaults = {"id": 1 + max(address.id for address in others), "host": DEFAULT_HOST, **free}
    me = configuration.node_address({**defaults, **wanted, "name": name}, _SOURCE)
    taken = {
        getattr(other, port): f"the {port} of {other.name} in the configuration"
        for other in config.nodes
        if other.name != name and other.host == me.host
        for port in PORTS
    }
    faults = [f"{port} {number} is {taken[number]}" for port in PORTS if (number := getattr(me, port)) in taken]
    if faults:
        raise ConfigInvalid(_SOURCE, faults)
    return me


def _check_can_run(config: Config, me: NodeAddress, document: Document) -> None:
    """Before anything is changed: a member that cannot run is worse than none."""
    node = NodeConfig(configuration.with_nodes(config, (*_others_of(document, me.name), me), _SOURCE), me)
    if node.log_dir.exists():
        raise WrongIdentity(
            f"{node.data_dir} holds the log of a node that did not join; empty it first, or take another --name"
        )
    preflight.check_node(node)
    check_space(node.data_dir)


def _formed(document: Document) -> Document:
    """Raises Unavailable when the cluster is too young to have an id."""
    if not document["cluster_id"]:
        raise Unavailable("the cluster is being formed just now; try again")
    return document


def _row_of(document: Document, name: str) -> Document | None:
    return next((row for row in document["members"] if row["name"] == name), None)


def _details(row: Document) -> dict[str, Any]:
    return {field: row[field] for field in ("id", "name", *ADDRESS_FIELDS)}


def _others_of(document: Document, name: str) -> list[NodeAddress]:
    """The members but the one called `name`, and those of which the leader knows no address yet."""
    rows = [row for row in document["members"] if row["name"] not in (name, None)]
    return [configuration.node_address(_details(row), "the members of the cluster") for row in rows]
