"""The processes of a cluster on this machine, found through its files and checked to be themselves."""

from __future__ import annotations

from vaultdb import clock
from vaultdb.cluster import record, view
from vaultdb.config import NodeConfig
from vaultdb.supervisor.identity import Identity

_POLL_MS = 50


def of_cluster(cluster: record.Cluster) -> list[Identity]:
    """The living: the launcher, and every process of every node."""
    found = [cluster.launcher] if cluster.launcher else []
    for address in cluster.config.nodes:
        found += of_node(cluster.config.node(address.id))
    return [identity for identity in found if identity.is_alive()]


def of_node(node: NodeConfig, name: str | None = None) -> list[Identity]:
    """The supervisor first, then its children, as its status file names them; or the one with `name`."""
    entries = view.look_at_files(node).processes
    chosen = [entry for entry in entries if name in (None, entry.get("name"))]
    return [identity for entry in chosen if (identity := Identity.parse(entry)) is not None]


def wait_until_gone(identities: list[Identity], deadline_ms: float) -> list[Identity]:
    """Those of `identities` that still live after `deadline_ms`."""
    deadline_ns = clock.deadline_after_ms(deadline_ms)
    left = [identity for identity in identities if identity.is_alive()]
    while left and clock.ms_until(deadline_ns) > 0:
        clock.sleep_ms(_POLL_MS)
        left = [identity for identity in left if identity.is_alive()]
    return left
