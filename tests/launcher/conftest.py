"""A cluster under the real launcher, in its own directory and on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import kill_all, wait_until

PROJECT = Path(__file__).parents[2]
NODE = """
[[node]]
id = {id}
name = "node{id}"
host = "127.0.0.1"
http_port = {ports[0]}
peer_port = {ports[1]}
native_port = {ports[2]}
"""


def free_ports(count: int) -> list[int]:
    """Ports nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class LaunchedCluster:
    """Runs commands of the launcher over substitute processes. `close` kills whatever they started."""

    def __init__(self, nodes: int, settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vdb"))
        self.ports = free_ports(3 * nodes + 1)
        self.data = self.directory / "data"
        text = f'data_dir = "data"\n{settings}\n[monitor]\nport = {self.ports[-1]}\n'
        text += "".join(NODE.format(id=i, ports=self.ports[3 * i : 3 * i + 3]) for i in range(nodes))
        (self.directory / "config.toml").write_text(text)
        self._foreground: list[subprocess.Popen[str]] = []

    def behave(self, behaviours: dict[str, str]) -> None:
        (self.directory / "behaviours.json").write_text(json.dumps(behaviours))

    def launch(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command, its output as text in pipes."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VAULTDB_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher.cli_under_test", self.directory, *arguments],
            cwd=PROJECT,
            env={**environment, "TMPDIR": str(self.directory), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._foreground.append(process)
        return process

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.launch(*arguments)
        output, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start in the foreground and wait until the launcher has announced the cluster."""
        return self.announced(self.launch("start", *arguments))

    def announced(self, launcher: subprocess.Popen[str]) -> subprocess.Popen[str]:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if "Ctrl-C stops" in line:
                return launcher
        pytest.fail(f"the launcher ended: {launcher.communicate()[1]}")

    def finish(self, launcher: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[int, str]:
        """Send signals to a launcher in the foreground; its exit status, and what it still said."""
        for number in numbers:
            launcher.send_signal(number)
        output, errors = launcher.communicate(timeout=30)
        return launcher.returncode, output + errors

    @property
    def events(self) -> list[list[str]]:
        path = self.directory / "events"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, node: str, process: str) -> list[int]:
        return [int(event[3]) for event in self.events if event[:3] == [node, process, "started"]]

    def supervisor_of(self, node: str) -> int:
        """The parent of the node's last consensus process."""
        return next(int(event[4]) for event in reversed(self.events) if event[:2] == [node, "consensus"])

    def living(self) -> list[psutil.Process]:
        """Every process of the cluster that still runs, its launcher included."""
        pids = {int(pid) for event in self.events if event[2:3] == ["started"] for pid in event[3:]}
        alive = []
        for pid in pids:
            try:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE and "vaultdb " in " ".join(process.cmdline()):
                    alive.append(process)
            except psutil.Error:
                continue
        return alive

    def wait_until_gone(self, seconds: float = 10) -> None:
        wait_until(lambda: not self.living(), f"all processes are gone, but there are {self.living()}", seconds)

    @property
    def runtime_files(self) -> list[Path]:
        return [path for path in self.directory.glob("vaultdb-*/**/*") if not path.is_dir()]

    def status(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return record

    def close(self) -> None:
        for process in self._foreground:
            if process.poll() is None:
                process.kill()
            process.communicate()
        kill_all(self.living())
        shutil.rmtree(self.directory, ignore_errors=True)


ClusterFactory = Callable[..., LaunchedCluster]


@pytest.fixture
def make_cluster() -> Iterator[ClusterFactory]:
    """`make_cluster(nodes=3, settings="[supervisor]\\n...")`; nothing is started yet."""
    clusters: list[LaunchedCluster] = []

    def make(nodes: int = 3, settings: str = "") -> LaunchedCluster:
        clusters.append(LaunchedCluster(nodes, settings))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: ClusterFactory) -> LaunchedCluster:
    return make_cluster()
