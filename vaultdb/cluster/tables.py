"""What the commands print, as rich tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from vaultdb import limits
from vaultdb.cluster.view import ClusterView
from vaultdb.config import Config

_ROLE_STYLES = {"leader": "bold green", "follower": "green", "down": "red", "failed": "bold red"}
_MEMBER_STYLES = {"voter": "green", "learner": "cyan"}


def endpoints(config: Config) -> Table:
    table = Table(title=f"VaultDB cluster {config.cluster.name!r}", title_justify="left")
    for heading in ("node", "http", "peers", "native (reserved)"):
        table.add_column(heading)
    for node in config.nodes:
        table.add_row(node.name, node.http_url, node.peer_address, f"{node.host}:{node.native_port}")
    table.add_row("monitor", f"http://{config.monitor.host}:{config.monitor.port}", "", "")
    return table


def nodes(view: ClusterView) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("node", "http"):
        table.add_column(heading, overflow="fold")
    table.add_column("role", no_wrap=True)
    for heading in ("term", "commit", "applied"):
        table.add_column(heading, justify="right", no_wrap=True)
    for node in view.nodes:
        answer = node.answer or {}
        numbers = [_shown(answer.get(name)) for name in ("term", "commit_index", "applied_index")]
        style = _ROLE_STYLES.get(node.role, "yellow")
        table.add_row(node.node.name, node.node.me.http_url, f"[{style}]{node.role}[/]", *numbers)
    return table


def processes(view: ClusterView) -> Table:
    """Made for 80 columns: only the node's name may need a second line."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("node", overflow="fold")
    for heading in ("process", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pid", "uptime", "restarts", "memory", "cpu"):
        table.add_column(heading, justify="right", no_wrap=True)
    for node in view.nodes:
        for process in node.processes:
            table.add_row(node.node.name, *_process(process))
    return table


def total_memory(view: ClusterView) -> str:
    total = sum(_memory(process) for node in view.nodes for process in node.processes)
    return f"memory of all processes: {total / limits.MIB:.0f} MiB (proportional)"


def troubles(view: ClusterView) -> list[str]:
    return [f"{node.node.name}: {trouble}" for node in view.nodes for trouble in node.troubles]


def members(document: dict[str, Any]) -> Table:
    """The members document of /cluster/members."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("id", "node", "http", "role", "reached"):
        table.add_column(heading, justify="right" if heading == "id" else "left", overflow="fold")
    for heading in ("match", "state", "caught up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in document["members"]:
        leads = row["id"] == document["leader"]
        role = "[bold green]leader[/]" if leads else f"[{_MEMBER_STYLES.get(row['role'], 'yellow')}]{row['role']}[/]"
        told = [_yes_or_no(row["connected"]), _shown(row["match_index"]), _shown(row["state"])]
        http = f"{row['host']}:{row['http_port']}" if row["host"] else None
        table.add_row(str(row["id"]), _shown(row["name"]), _shown(http), role, *told, _yes_or_no(row["caught_up"]))
    return table


def _yes_or_no(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _process(process: dict[str, Any]) -> list[str]:
    return [
        str(process.get("name")),
        str(process.get("state")),
        _shown(process.get("pid")),
        _duration(float(process.get("uptime_s") or 0)),
        _shown(process.get("restarts")),
        f"{_memory(process) / limits.MIB:.1f} MiB",
        f"{float(process.get('cpu_percent') or 0):.0f} %",
    ]


def _memory(process: dict[str, Any]) -> int:
    return int(process.get("pss_bytes") or process.get("rss_bytes") or 0)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _duration(seconds: float) -> str:
    """Short: 45s, 3m25s, 2h05m, 12d07h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
