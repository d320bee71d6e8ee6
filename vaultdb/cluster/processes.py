"""The processes of a cluster on this machine, found through its files and checked to be themselves."""

from __future__ import annotations

import contextlib

import psutil

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
    """The supervisor first, then its children, as its status file names them; or the one with `name`.

    The file may be a moment old, so for a whole node its supervisor's children of now are added.
    """
    seen = view.look_at_files(node)
    chosen = [entry for entry in seen.processes if name in (None, entry.get("name"))]
    found = [identity for entry in chosen if (identity := Identity.parse(entry)) is not None]
    supervisor = Identity.parse(seen.supervisor)
    if name is None and supervisor is not None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(supervisor.pid).children(recursive=True)
            known = {identity.pid for identity in found}
            found += [Identity(child.pid, child.create_time()) for child in children if child.pid not in known]
    return found


def wait_until_gone(identities: list[Identity], deadline_ms: float) -> list[Identity]:
    """Those of `identities` that still live after `deadline_ms`."""
    deadline_ns = clock.deadline_after_ms(deadline_ms)
    left = [identity for identity in identities if identity.is_alive()]
    while left and clock.ms_until(deadline_ns) > 0:
        clock.sleep_ms(_POLL_MS)
        left = [identity for identity in left if identity.is_alive()]
    return left
