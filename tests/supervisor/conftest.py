"""A node under a real supervisor with substitute processes, and the patience to watch it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import kill_all, wait_until
from vaultdb import config
from vaultdb.config import NodeConfig
from vaultdb.supervisor import status

PROJECT = Path(__file__).parents[2]
CONFIG = """
data_dir = "data"
[supervisor]
{settings}
[[node]]
id = 0
name = "node0"
host = "127.0.0.1"
http_port = 1
peer_port = 2
native_port = 3
"""


class RunningNode:
    """A supervisor in its own process. Everything that it ever started is killed at the end of the test."""

    def __init__(self, directory: Path, settings: dict[str, int], behaviours: dict[str, str]) -> None:
        self.directory = directory
        self.path = directory / "config.toml"
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        self.path.write_text(CONFIG.format(settings=lines))
        self.behaviours = behaviours
        self.environment = {**os.environ, "TMPDIR": str(directory)}
        self.seen: set[psutil.Process] = set()
        self.start()

    @property
    def node(self) -> NodeConfig:
        tempdir, tempfile.tempdir = tempfile.tempdir, str(self.directory)
        try:
            node = config.load(self.path, environment={}).node(0)
            assert str(node.runtime_dir).startswith(str(self.directory))
            return node
        finally:
            tempfile.tempdir = tempdir

    def spawn(self, **streams: Any) -> subprocess.Popen[str]:
        pairs = [f"{name}={behaviour}" for name, behaviour in self.behaviours.items()]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.processes_under_test", self.path, "0", self.directory, *pairs],
            cwd=PROJECT,
            env=self.environment,
            text=True,
            **streams,
        )

    def start(self) -> None:
        with open(self.log_path, "a") as log:
            self.supervisor = self.spawn(stdout=log, stderr=log)

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def events(self) -> list[list[str]]:
        path = self.directory / "events"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, name: str) -> list[tuple[int, int]]:
        """(pid, monotonic nanosecond) of each start of the process."""
        return [(int(line[2]), int(line[3])) for line in self.events if line[:2] == [name, "started"]]

    @property
    def status(self) -> dict[str, Any]:
        return status.read(self.node.supervisor_status_path) or {}

    def process(self, name: str) -> dict[str, Any]:
        return next((entry for entry in self.status.get("processes", []) if entry["name"] == name), {})

    def wait_until_running(self) -> None:
        def running() -> bool:
            return [entry["state"] for entry in self.status.get("processes", [])] == ["running"] * 4

        wait_until(running, f"all four processes run; status {self.status}")
        self.seen |= {psutil.Process(entry["pid"]) for entry in self.status["processes"]}

    def wait_for_exit(self, seconds: float = 10) -> int:
        try:
            return self.supervisor.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the supervisor still runs after {seconds} s; its log:\n{self.log}")

    def living(self) -> list[psutil.Process]:
        """What is left of this node's processes."""
        alive = []
        for pid in {int(line[2]) for line in self.events if line[1] == "started"}:
            try:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE and "vaultdb node0" in " ".join(process.cmdline()):
                    alive.append(process)
            except psutil.Error:
                continue
        return alive

    def close(self) -> None:
        if self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGKILL)
            self.supervisor.wait()
        kill_all([*self.seen, *self.living()])


NodeFactory = Callable[..., RunningNode]


@pytest.fixture
def start_node() -> Iterator[NodeFactory]:
    """`start_node(behaviours={"api": "bug"}, silence_timeout_ms=500)`."""
    nodes: list[RunningNode] = []
    directories: list[str] = []

    def start(behaviours: dict[str, str] | None = None, **settings: int) -> RunningNode:
        directories.append(tempfile.mkdtemp(prefix="vdb"))
        nodes.append(RunningNode(Path(directories[-1]), settings, behaviours or {}))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()
    for directory in directories:
        shutil.rmtree(directory)
