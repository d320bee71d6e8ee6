"""A look at the cluster from outside: each node's /status over HTTP, and its supervisor's file where it is local."""

from __future__ import annotations

import contextlib
import http.client
import json
from dataclasses import dataclass, field, replace
from typing import Any

from vaultdb import limits
from vaultdb.config import Config, NodeAddress, NodeConfig
from vaultdb.supervisor import status
from vaultdb.supervisor.identity import Identity

HTTP_TIMEOUT_S = 1.0
"""One node that hangs must not hide the others for long."""


@dataclass(frozen=True)
class NodeView:
    node: NodeConfig
    answer: dict[str, Any] | None
    """Of /status; None when the node did not answer."""
    supervisor: dict[str, Any] | None
    """Of the supervisor's status file; None when there is none or its writer is dead."""
    failure: str | None = None
    """Why the node ended, when it said so."""
    processes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def role(self) -> str:
        if self.answer is not None:
            return str(self.answer.get("role") or "no role")
        if self.supervisor is not None:
            return "stopping" if self.supervisor.get("state") == "stopping" else "no answer"
        return "failed" if self.failure else "down"

    @property
    def serves(self) -> bool:
        """It takes part, knows a leader, and all its processes answer."""
        answer = self.answer or {}
        knows_leader = self.role in ("leader", "follower") and answer.get("leader") is not None
        return knows_leader and not answer.get("degraded")

    @property
    def notice(self) -> str | None:
        """Why the others do not listen to it."""
        return ((self.answer or {}).get("consensus") or {}).get("notice")

    @property
    def troubles(self) -> list[str]:
        """One sentence for the node if it failed, one if the others do not listen to it, and one for each process that
        ended and is not running again.
        """
        waiting = [process for process in self.processes if process.get("state") == "waiting"]
        return [str(sentence) for sentence in (self.failure, self.notice) if sentence] + [
            f"{process.get('name')} ended and will be restarted: {process.get('last_words') or 'it did not say why'}"
            for process in waiting
        ]

    def record(self) -> dict[str, Any]:
        answer = self.answer or {}
        fields = {name: answer.get(name) for name in ("term", "commit_index", "applied_index")}
        return {
            "node": self.node.name, "id": self.node.id, "http": self.node.me.http_url, "role": self.role, **fields,
            "failure": self.failure, "processes": self.processes,
        }  # fmt: skip


@dataclass(frozen=True)
class ClusterView:
    nodes: list[NodeView]

    @property
    def leader(self) -> NodeView | None:
        """The one of the highest term: a deposed leader may not know yet."""
        leaders = [view for view in self.nodes if view.role == "leader" and view.answer is not None]
        return max(leaders, key=lambda view: (view.answer or {}).get("term") or 0, default=None)

    @property
    def word(self) -> dict[str, Any] | None:
        """What the leader answered; or, when that is a node that joined, the follower of the highest term."""
        if self.leader is not None:
            return self.leader.answer
        known = {view.node.id for view in self.nodes}
        answers = [view.answer for view in self.nodes if view.answer is not None and view.serves]
        words = [answer for answer in answers if answer.get("leader_id") not in (None, *known)]
        return max(words, key=lambda answer: answer.get("term") or 0, default=None)

    @property
    def leader_name(self) -> str | None:
        if self.leader is not None:
            return self.leader.node.name
        return str(self.word["leader"]["id"]) if self.word else None

    @property
    def members(self) -> list[dict[str, Any]]:
        """As the leader told them; empty when none did."""
        membership = ((self.word or {}).get("consensus") or {}).get("membership") or {}
        return list(membership.get("members") or [])

    @property
    def others(self) -> list[dict[str, Any]]:
        """Members that are not in the configuration: they joined."""
        known = {view.node.id for view in self.nodes}
        return [member for member in self.members if member.get("id") not in known]

    @property
    def serves(self) -> bool:
        """A leader and a quorum of the voters do. Of a voter that joined, `word` is believed."""
        if self.word is None:
            return False
        voters = {member["id"]: member for member in self.members if member["role"] != "learner"}
        if not voters:
            return sum(view.serves for view in self.nodes) > len(self.nodes) // 2
        serving = sum(view.serves for view in self.nodes if view.node.id in voters)
        joined = sum(member["id"] in voters and member.get("connected") is True for member in self.others)
        return serving + joined > len(voters) // 2

    @property
    def serves_fully(self) -> bool:
        """A leader and every node do, but for those that were removed from the cluster."""
        ids = {member["id"] for member in self.members}
        return self.word is not None and all(view.serves for view in self.nodes if not ids or view.node.id in ids)


def look_at(config: Config, timeout_s: float = HTTP_TIMEOUT_S) -> ClusterView:
    return ClusterView([look_at_node(config.node(address.id), timeout_s) for address in config.nodes])


def look_at_files_only(config: Config) -> ClusterView:
    """For a cluster of which nothing runs here: whoever answers on its ports is somebody else's."""
    return ClusterView([look_at_files(config.node(address.id)) for address in config.nodes])


def look_at_node(node: NodeConfig, timeout_s: float = HTTP_TIMEOUT_S) -> NodeView:
    """Its answer over HTTP beside what its files say."""
    return replace(look_at_files(node), answer=fetch_status(node.me, timeout_s))


def look_at_files(node: NodeConfig) -> NodeView:
    """What the status file of a supervisor on this machine says, without asking the node."""
    written = status.read(node.supervisor_status_path)
    identity = Identity.parse(written)
    if written is None or identity is None or not identity.is_alive():
        failure = written.get("reason") if written and written.get("state") == "failed" else None
        return NodeView(node, None, None, failure)
    return NodeView(node, None, written, None, list(written.get("processes", [])))


def note_failure(node: NodeConfig, reason: str) -> None:
    """Leave a status file for a supervisor that ended without one of its own."""
    with contextlib.suppress(OSError):  # it is information, not state
        node.runtime_dir.mkdir(mode=0o700, exist_ok=True)
    status.write(node.supervisor_status_path, {"node": node.name, "id": node.id, "state": "failed", "reason": reason})


def fetch_status(address: NodeAddress, timeout_s: float) -> dict[str, Any] | None:
    """The node's own /status, or None when it does not answer with a JSON object in time."""
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=timeout_s)
    try:
        connection.request("GET", "/status", headers={"Connection": "close"})
        response = connection.getresponse()
        body = json.loads(response.read(limits.MIB))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return body if response.status == 200 and isinstance(body, dict) else None
