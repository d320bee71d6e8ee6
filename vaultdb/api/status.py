"""The status page, composed from what the processes of the node said. Pure but for the supervisor's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vaultdb import __version__
from vaultdb.api.results import Fields, Siblings
from vaultdb.config import NodeAddress, NodeConfig


def compose(node: NodeConfig, siblings: Siblings, api: Fields, processes: list[Any]) -> Fields:
    """Every field is always there; what nobody could tell is null, and `degraded` names who did not answer."""
    consensus, storage = siblings
    said = consensus or {}
    stored = storage or {}
    leader_id = said.get("leader")
    if leader_id is not None and leader_id < 0:
        leader_id = None
    members = _members(node, said)
    return {
        "node": node.name,
        "id": node.id,
        "cluster": node.config.cluster.name,
        "version": __version__,
        "role": said.get("role"),
        "term": said.get("term"),
        "commit_index": said.get("commit_index"),
        "applied_index": stored.get("applied_index"),
        "revision": stored.get("revision"),
        "leader_id": leader_id,
        "me": _member(node.me),
        "leader": None if leader_id is None else members.get(leader_id),
        "followers": [member for member_id, member in members.items() if member_id != leader_id],
        "consensus": consensus,
        "storage": storage,
        "api": api,
        "processes": processes,
        "degraded": [name for name, fields in siblings._asdict().items() if fields is None],
    }


def read_processes(path: Path) -> list[Any]:
    """What the supervisor wrote of its processes; nothing when it cannot be read."""
    try:
        processes = json.loads(path.read_bytes())["processes"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return processes if isinstance(processes, list) else []


def _members(node: NodeConfig, said: Fields) -> dict[int, dict[str, str]]:
    """Who belongs to the cluster: as consensus has it from the log, else as the configuration has it."""
    members = {address.id: _member(address) for address in node.config.nodes}
    rows = (said.get("membership") or {}).get("members")
    if not rows:
        return members
    told = {row["id"]: _row(row) for row in rows if row["host"] is not None}
    return {row["id"]: known for row in rows if (known := told.get(row["id"]) or members.get(row["id"]))}


def _row(row: Fields) -> dict[str, str]:
    host = row["host"]
    return {"id": row["name"], "address": f"{host}:{row['peer_port']}", "http": f"http://{host}:{row['http_port']}"}


def _member(address: NodeAddress) -> dict[str, str]:
    return {"id": address.name, "address": address.peer_address, "http": address.http_url}
