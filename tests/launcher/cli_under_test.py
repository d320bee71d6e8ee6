"""The real command line over substitute processes: `python -m tests.launcher.cli_under_test DIRECTORY ARGUMENTS...`.

DIRECTORY holds config.toml; behaviours.json there may say how a process behaves ("node1 storage": "corrupt"), as in
tests/supervisor/processes_under_test.py. The substitute api serves /status: node0 leads, all others follow, but for
a node with a behaviour, which has no role.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.supervisor.processes_under_test import BEHAVIOURS, note, work
from vaultdb.cli import Setting, cli
from vaultdb.cluster.members import Parts
from vaultdb.config import Config, NodeConfig
from vaultdb.errors import AddressTaken, ExitCode
from vaultdb.lifeline import Lifeline
from vaultdb.supervisor.supervisor import START_ORDER, ProcessMain


def serve_status(node: NodeConfig, lifeline: Lifeline, healthy: bool) -> int:
    role = ("leader" if node.id == 0 else "follower") if healthy else None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fields = {"role": role, "leader": {"id": "node0"}}
            body = json.dumps({**fields, "term": 3, "commit_index": 17, "applied_index": 16}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    try:
        server = HTTPServer((node.me.host, node.me.http_port), Handler)
    except OSError as error:
        raise AddressTaken(f"{node.me.http_address} is taken: {error.strerror}") from error
    server.timeout = 0.02
    with server:
        while not lifeline.stopping:
            lifeline.beat()
            server.handle_request()
    return ExitCode.CLEAN


def parts(directory: Path) -> Parts:
    def main_of(name: str) -> ProcessMain:
        def main(node: NodeConfig, lifeline: Lifeline) -> int:
            note(directory, node.name, name, "started", os.getpid(), os.getppid())
            path = directory / "behaviours.json"
            behaviours = json.loads(path.read_text()) if path.exists() else {}
            behaviour = behaviours.get(f"{node.name} {name}")
            if behaviour is not None:
                return BEHAVIOURS[behaviour](directory, name, node, lifeline)
            if name == "api":
                healthy = not any(who.startswith(f"{node.name} ") for who in behaviours)
                return serve_status(node, lifeline, healthy)
            work(lifeline)
            return ExitCode.CLEAN

        return main

    def monitor(_config: Config, lifeline: Lifeline) -> int:
        note(directory, "monitor", "monitor", "started", os.getpid(), os.getppid())
        work(lifeline)
        return ExitCode.CLEAN

    return Parts({name: main_of(name) for name in START_ORDER}, monitor)


if __name__ == "__main__":
    here = Path(sys.argv[1])
    cli(sys.argv[2:], obj=Setting(here / "config.toml", lambda: parts(here)), prog_name="launcher.py")
