"""A cluster of real nodes on loopback, started by the launcher as a user would; for system tests and campaigns."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from vaultdb.clock import deadline_after_ms, ms_until, sleep_ms
from vaultdb.errors import Unavailable, Unknown

ROOT = Path(__file__).parent.parent
_POLL_MS = 20


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class LocalCluster:
    """Owns a temporary data directory and everything that runs on it, until `close`."""

    def __init__(
        self, nodes: int = 5, *, settings: dict[str, str] | None = None, directory: Path | None = None
    ) -> None:
        """Nothing is started yet. `settings` are `section.field` overrides."""
        self.nodes = nodes
        self.directory = directory or Path(tempfile.mkdtemp(prefix="vdb"))
        self.base_port = free_ports(3 * 100 + nodes)
        self.monitor_port = self.base_port + 50
        self.config_path = self.directory / "cluster.toml"
        self._settings = [part for name, value in (settings or {}).items() for part in ("--set", f"{name}={value}")]
        self.directory.mkdir(exist_ok=True)
        self.config_path.write_text(self.config_text(range(nodes)), encoding="utf-8")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life and death.

    def start(self) -> None:
        """Return once the cluster serves."""
        self.launch("start", "--detach")

    def stop(self) -> None:
        """Return once nothing runs any more."""
        self.launch("stop")

    def kill(self, node: int, process: str | None = None) -> None:
        """SIGKILL a whole node, or one of its processes."""
        self.launch("kill", f"node{node}", *([process] if process else []))

    def restart(self, node: int) -> None:
        """Return once the node serves."""
        self.launch("restart", f"node{node}")

    def pause(self, node: int) -> list[int]:
        """SIGSTOP all processes of a node; returns their pids for `resume`."""
        pids = [pid for _, pid in sorted(self.pids(node).items(), reverse=True)]  # the supervisor first
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def resume(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def launch(self, *arguments: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a launcher command on this cluster. Raises Unavailable with its output when it fails."""
        command = [sys.executable, str(ROOT / "launcher.py"), *arguments, "--config", str(self.config_path)]
        done = subprocess.run([*command, *self._settings], capture_output=True, text=True, timeout=90)
        if is_checked and done.returncode != 0:
            raise Unavailable(f"{' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def close(self) -> None:
        """Stop everything, politely and then not, and delete the data."""
        self.launch("stop", is_checked=False)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Looking at it.

    def processes(self) -> list[psutil.Process]:
        """Every living process that has a file of this cluster's directory open: all of them have their log."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(Path(file.path).is_relative_to(self.directory) for file in process.open_files()):
                    found.append(process)
        return found

    def pids(self, node: int) -> dict[str, int]:
        """The pids of a node's processes by name, as its own /status tells."""
        return {entry["name"]: entry["pid"] for entry in self.status(node)["processes"]}

    def status(self, node: int) -> dict[str, Any]:
        return self.request(node, "GET", "/status").json

    def leader(self, *, but: int | None = None, among: Sequence[int] | None = None, within_ms: float = 10_000) -> int:
        """The leader, other than `but`, that a majority of `among` (all nodes) agree on."""
        asked = range(self.nodes) if among is None else among
        deadline_ns = deadline_after_ms(within_ms)
        while ms_until(deadline_ns) > 0:
            named: list[int] = []
            for node in asked:
                with contextlib.suppress(Unavailable, Unknown):
                    named.append(self.status(node)["leader_id"])
            for node in set(named) - {None, -1, but}:
                if named.count(node) > len(asked) // 2:
                    return node
            sleep_ms(_POLL_MS)
        raise TimeoutError(f"no leader other than {but} within {within_ms} ms")

    def digests(self, *, among: Sequence[int] | None = None, within_ms: float = 30_000) -> dict[str, Any]:
        """Wait until `among` (all nodes) have the same digest at the same applied index, and return it."""
        asked = range(self.nodes) if among is None else among
        deadline_ns = deadline_after_ms(within_ms)
        found: list[dict[str, Any]] = []
        while ms_until(deadline_ns) > 0:
            with contextlib.suppress(Unavailable, Unknown, KeyError):
                found = [self.request(node, "GET", "/digest").json for node in asked]
                if len({(one["applied_index"], one["digest"]) for one in found}) == 1:
                    return found[0]
            sleep_ms(_POLL_MS)
        raise TimeoutError(f"the nodes' digests differ after {within_ms} ms: {found}")

    # Using it.

    def request(
        self,
        node: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float = 10.0,
    ) -> Reply:
        """One request on a connection of its own. Raises Unavailable when nothing was sent, Unknown when no answer
        came.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.base_port + node, timeout=timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise Unavailable(f"node{node} cannot be reached: {error}") from error
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unknown(f"node{node} did not answer: {error}") from error
        finally:
            connection.close()

    def put(self, node: int, key: str, value: str) -> Reply:
        return self.request(node, "PUT", f"/key/{key}", value.encode())

    def get(self, node: int, key: str, consistency: str = "linearizable") -> str | None:
        """The value, or None when there is no such key. Raises Unavailable on any other answer."""
        reply = self.request(node, "GET", f"/key/{key}?consistency={consistency}")
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise Unavailable(f"node{node} answered {reply.status}: {reply.body.decode()}")
        value: str = reply.json[key]
        return value

    def config_text(self, nodes: Iterable[int], peer_ports: Mapping[int, int] | None = None) -> str:
        """A configuration that lists `nodes`, some of them at other peer ports than their own."""
        lines = [f'data_dir = "{self.directory}"', "[monitor]", f"port = {self.monitor_port}"]
        for node in nodes:
            ports = self.ports(node)
            ports["peer"] = (peer_ports or {}).get(node, ports["peer"])
            lines += ["[[node]]", f"id = {node}", f'name = "node{node}"', 'host = "127.0.0.1"']
            lines += [f"{kind}_port = {port}" for kind, port in ports.items()]
        return "\n".join([*lines, ""])

    def ports(self, node: int) -> dict[str, int]:
        return {kind: self.base_port + 100 * n + node for n, kind in enumerate(("http", "peer", "native"))}


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that are free on loopback now."""
    for _ in range(200):
        base = random.SystemRandom().randrange(20_000, 32_000 - count)
        if all(_is_free(port) for port in range(base, base + count)):
            return base
    raise OSError(f"no run of {count} free ports found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
