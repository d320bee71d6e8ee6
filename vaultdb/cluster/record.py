"""cluster.json in the runtime directory: which cluster runs here, for commands from other shells."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaultdb.config import Config, MonitorSettings, NodeAddress
from vaultdb.supervisor import status
from vaultdb.supervisor.identity import Identity


def record_path(config: Config) -> Path:
    return config.runtime_dir / "cluster.json"


def lock_path(config: Config) -> Path:
    """Locked by the launcher that runs the cluster on this data."""
    return config.data_path / "launcher.lock"


def write(config: Config, config_path: Path, identity: Identity, started_at: float) -> None:
    status.write(
        record_path(config),
        {
            **identity.record(),
            "started_at": started_at,
            "config": str(config_path),
            "nodes": [dataclasses.asdict(address) for address in config.nodes],
            "monitor": dataclasses.asdict(config.monitor),
        },
    )


@dataclass(frozen=True)
class Cluster:
    """The configuration as the running cluster has it, and its launcher if that lives."""

    config: Config
    launcher: Identity | None
    started_at: float | None = None


def find(config: Config) -> Cluster:
    """The cluster that runs on the data of `config`; its launcher may have been started with other nodes and ports."""
    found = status.read(record_path(config))
    identity = Identity.parse(found)
    if found is None or identity is None or not identity.is_alive():
        return Cluster(config, None)
    try:
        return Cluster(_as_recorded(config, found), identity, float(found["started_at"]))
    except (KeyError, TypeError, ValueError):  # written by another version: what is asked for must do
        return Cluster(config, identity)


def _as_recorded(config: Config, found: dict[str, Any]) -> Config:
    return dataclasses.replace(
        config,
        nodes=tuple(NodeAddress(**node) for node in found["nodes"]),
        monitor=MonitorSettings(**found["monitor"]),
    )
