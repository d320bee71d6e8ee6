"""A real api process for tests:

`python -m tests.api.server CONFIG` is the process, `ApiServer` starts one and talks to it.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.api.lanes import Reply
from tests.api.siblings import SiblingsThread
from vaultdb import config, logs
from vaultdb.api import process
from vaultdb.clock import deadline_after_ms, ms_until
from vaultdb.config import NodeConfig
from vaultdb.errors import Fatal
from vaultdb.lifeline import Lifeline

START_TIMEOUT_MS = 20_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ApiServer:
    """The api process of a one-node cluster, with stand-ins for its siblings. `settings` are lines of [api]."""

    def __init__(self, *settings: str, siblings: bool = True, port: int | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vdb", dir="/tmp"))
        self.port = free_port() if port is None else port
        file = self.directory / "c.toml"
        lines = [
            f'data_dir = "{self.directory / "data"}"',
            "[api]",
            *settings,
            "[[node]]",
            'id = 0\nname = "node0"\nhost = "127.0.0.1"',
            f"http_port = {self.port}\npeer_port = {free_port()}\nnative_port = {free_port()}",
        ]
        file.write_text("\n".join(lines))
        self.log_path = self.directory / "log"
        environment = {**os.environ, "TMPDIR": str(self.directory)}
        self.node = self._node(file)
        self.node.runtime_dir.mkdir(parents=True)
        self.siblings = SiblingsThread(self.node.consensus_endpoint, self.node.storage_endpoint) if siblings else None
        with self.log_path.open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tests.api.server", str(file)], env=environment, stderr=log, stdout=log
            )

    def _node(self, file: Path) -> NodeConfig:
        before, tempfile.tempdir = tempfile.tempdir, str(self.directory)
        try:
            return config.load(file, environment={}).node(0)
        finally:
            tempfile.tempdir = before

    def wait_until_up(self, path: str = "/health/ready") -> ApiServer:
        deadline_ns = deadline_after_ms(START_TIMEOUT_MS)
        while ms_until(deadline_ns) > 0:
            assert self.child.poll() is None, f"the api process ended: {self.log()}"
            try:
                if self.request("GET", path).status == 200:
                    return self
            except OSError:
                pass
        raise AssertionError(f"the api process did not come up: {self.log()}")

    def request(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, target, body or None, dict(headers or {}))
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, fields, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(10)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)
        if self.siblings is not None:
            self.siblings.close()
        shutil.rmtree(self.directory)


def main(path: str) -> int:
    loaded = config.load(path, environment={})
    logs.configure(loaded.logging)
    reader, heartbeat = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(heartbeat, False)
    lifeline = Lifeline(heartbeat, os.getppid())
    lifeline.arm()
    try:
        return process.run(loaded.node(0), lifeline)
    except Fatal as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
