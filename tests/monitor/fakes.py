"""Nodes that are only a /status over HTTP, and what such a status looks like."""

from __future__ import annotations

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vaultdb.config import Config, MonitorSettings, NodeAddress


def process(name: str, pid: int | None, **changes: Any) -> dict[str, Any]:
    """One entry of `processes`."""
    return {
        "name": name,
        "pid": pid,
        "create_time": None if pid is None else 1_700_000_000.0 + pid,
        "state": "running",
        "uptime_s": 61.0,
        "restarts": 0,
        "last_exit": None,
        "rss_bytes": 41_000_000,
        "pss_bytes": 6_200_000,
        "cpu_percent": 0.4,
    } | changes


def status(node_id: int, *, leader_id: int | None = 0, term: int = 3, nodes: int = 5, **changes: Any) -> dict[str, Any]:
    """What a healthy member answers; `changes` replace top-level fields."""
    leads = leader_id == node_id
    pid = 4000 + 10 * node_id
    return {
        "node": f"node{node_id}",
        "id": node_id,
        "cluster": "local",
        "version": "0.1.0",
        "role": "leader" if leads else "follower",
        "term": term,
        "commit_index": 1200,
        "applied_index": 1200,
        "revision": 1100,
        "leader_id": leader_id,
        "degraded": [],
        "consensus": {
            "role": "leader" if leads else "follower",
            "term": term,
            "commit_index": 1200,
            "last_index": 1200,
            "stable_index": 1200,
            "peers": [{"id": peer, "connected": True} for peer in range(nodes) if peer != node_id],
            "uptime_s": 60.0,
        },
        "storage": {
            "applied_index": 1200,
            "flushed_index": 1100,
            "revision": 1100,
            "keys_estimate": 40,
            "cache": {"bytes": 5000, "capacity": 64_000_000, "entries": 40, "hits": 975, "misses": 25},
        },
        "api": {
            "incarnation": 7000 + node_id,
            "writes_total": 5000,
            "reads_total": 9000,
            "connections": 3,
            "uptime_s": 60.0,
        },
        "processes": [
            process("consensus", pid + 1),
            process("storage", pid + 2),
            process("api", pid + 3),
            process("supervisor", pid),
        ],
    } | changes


def member(node_id: int, *, role: str = "voter", port: int | None = None) -> dict[str, Any]:
    """One row of a membership; by default where the collector's tests have the nodes."""
    ports = {"http_port": port or 21_001 + node_id, "peer_port": 1 + 2 * node_id, "native_port": 2 + 2 * node_id}
    return {"id": node_id, "name": f"node{node_id}", "host": "127.0.0.1", **ports, "role": role}


def with_members(answer: dict[str, Any], *members: dict[str, Any], index: int = 1) -> dict[str, Any]:
    """A status that tells who belongs to the cluster, from the log entry at `index` on."""
    membership = {"index": index, "term": 1, "members": list(members)}
    return answer | {"consensus": answer["consensus"] | {"membership": membership}}


def configuration(http_ports: list[int], *, monitor_port: int = 11100, poll_ms: int = 1000) -> Config:
    """Nodes on loopback; only their HTTP ports are ever used."""
    nodes = tuple(
        NodeAddress(id=i, name=f"node{i}", host="127.0.0.1", http_port=port, peer_port=1 + 2 * i, native_port=2 + 2 * i)
        for i, port in enumerate(http_ports)
    )
    return Config(nodes=nodes, monitor=MonitorSettings(port=monitor_port, poll_ms=poll_ms))


class FakeNode:
    """Serves `self.status` on a port of its own until `stop`; `start` serves again on the same port.

    `raw` answers instead of the status; `hang` leaves requests without an answer until it is cleared.
    """

    def __init__(self, status: dict[str, Any]) -> None:
        self.raw: tuple[int, bytes] | None = None
        self.requests = 0
        self.connections: set[Any] = set()
        self._status = status
        self._answering = threading.Event()
        self._answering.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def status(self) -> dict[str, Any]:
        return copy.deepcopy(self._status)

    @status.setter
    def status(self, value: dict[str, Any]) -> None:
        self._status = value

    def update(self, **changes: Any) -> None:
        self.status = self.status | changes

    def hang(self, hanging: bool) -> None:
        (self._answering.clear if hanging else self._answering.set)()

    def start(self) -> None:
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 30

            def setup(self) -> None:
                super().setup()
                node.connections.add(self.connection)

            def finish(self) -> None:
                node.connections.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                node.requests += 1
                node._answering.wait(30)
                code, body = node.raw or (200, json.dumps(node._status).encode())
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Like a killed process: connections are cut, nobody listens."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self.hang(False)
        for connection in list(self.connections):
            try:
                connection.shutdown(2)
            except OSError:
                continue  # it was closed by the other side already


class FakeCluster:
    """Fake nodes that agree on a leader."""

    def __init__(self, nodes: int = 5) -> None:
        self.nodes = [FakeNode(status(i, nodes=nodes)) for i in range(nodes)]

    @property
    def http_ports(self) -> list[int]:
        return [node.port for node in self.nodes]

    def elect(self, leader_id: int | None, term: int) -> None:
        for i, node in enumerate(self.nodes):
            node.update(role="leader" if i == leader_id else "follower", leader_id=leader_id, term=term)

    def serve(self, *, writes: int, reads: int) -> None:
        """Let every node count this many more writes and reads."""
        for node in self.nodes:
            now = node.status
            now["api"]["writes_total"] += writes
            now["api"]["reads_total"] += reads
            for index in ("commit_index", "applied_index", "revision"):
                now[index] += writes
            node.status = now

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
