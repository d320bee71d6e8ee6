"""Failures for trying: nodes and processes of a running cluster are killed, and nodes started again."""

from __future__ import annotations

import signal

from vaultdb import clock
from vaultdb.cluster import control, processes, view
from vaultdb.cluster.runner import START_DEADLINE_MS
from vaultdb.config import Config, NodeConfig
from vaultdb.errors import Unavailable
from vaultdb.supervisor.identity import Identity

KILL_DEADLINE_MS = 5_000
STOP_GRACE_MS = 10_000
"""An order to the launcher may take this long beyond the configured stop deadline."""
_POLL_MS = 50


def kill(node: NodeConfig, process: str | None = None) -> list[Identity]:
    """SIGKILL a node, or one of its processes, and wait until all of it is gone. Returns what ran. Raises Unavailable
    when nothing did.
    """
    killed = [identity for identity in processes.of_node(node, process) if identity.is_alive()]
    for identity in killed:
        identity.signal(signal.SIGKILL)  # a child may be dead by now, of its supervisor's death
    what = f"{process} of {node.name}" if process else node.name
    if not killed:
        raise Unavailable(f"{what} is not running")
    left = processes.wait_until_gone(killed, KILL_DEADLINE_MS)
    if left:
        raise Unavailable(f"pid {', '.join(str(one.pid) for one in left)} of {what} did not die")
    return killed


def restart(configuration: Config, node: NodeConfig) -> str:
    """Have the launcher start a node again, and wait until it serves; returns its role. Raises Unavailable."""
    patience_ms = configuration.supervisor.stop_deadline_ms + STOP_GRACE_MS
    control.ask(configuration, "restart", node=node.name, timeout_ms=patience_ms)
    deadline_ns = clock.deadline_after_ms(START_DEADLINE_MS)
    while clock.ms_until(deadline_ns) > 0:
        seen = view.look_at_node(node)
        if seen.serves:
            return seen.role
        if seen.notice:
            raise Unavailable(f"{node.name} runs, and is not listened to: {seen.notice}")
        if seen.failure:
            raise Unavailable(f"{node.name} failed: {seen.failure}; see `logs {node.name}`")
        clock.sleep_ms(_POLL_MS)
    raise Unavailable(f"{node.name} does not serve after {START_DEADLINE_MS // 1000} s; see `logs {node.name}`")
