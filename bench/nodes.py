"""Nodes that are started one by one by the `node` command, as on machines of their own, each with its own file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from bench.cluster import ROOT, LocalCluster
from bench.partition import Partitions
from vaultdb.clock import deadline_after_ms, ms_until, sleep_ms
from vaultdb.errors import Unavailable, Unknown

_POLL_MS = 20
_START_TIMEOUT_MS = 30_000
_STOP_TIMEOUT_S = 15.0


class SeparateNodes(LocalCluster):
    """A cluster without a launcher: this object is the parent of every node. Nodes from `founders` on have no place in
    the configuration; they can `join`.
    """

    def __init__(
        self,
        nodes: int = 5,
        *,
        founders: int | None = None,
        settings: dict[str, str] | None = None,
        is_relayed: bool = False,
    ) -> None:
        """`is_relayed`: the founders reach each other through relays only, so that `partitions` can cut them apart."""
        super().__init__(nodes, settings=settings)
        self.founders = range(nodes if founders is None else founders)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._partitions: Partitions | None = None
        if is_relayed:
            self._partitions = Partitions({node: self.ports(node)["peer"] for node in self.founders})
        self.config_path.write_text(self.config_text(self.founders), encoding="utf-8")
        for node in self.founders:
            relays = {} if self._partitions is None else self._partitions.ports
            seen = {dst: port for (src, dst), port in relays.items() if src == node}
            self.config_of(node).write_text(self.config_text(self.founders, seen), encoding="utf-8")

    @property
    def partitions(self) -> Partitions:
        assert self._partitions is not None, "these nodes talk to each other directly"
        return self._partitions

    def config_of(self, node: int) -> Path:
        return self.directory / f"node{node}.toml"

    def data_of(self, node: int) -> Path:
        return self.directory / f"node{node}"

    # Life and death.

    def start(self) -> None:
        """Start the founders; return once they serve and the cluster is formed: it knows every one of them."""
        for node in self.founders:
            self.run(node)
        self.wait_until_up(self.founders)
        self.leader(among=self.founders, within_ms=_START_TIMEOUT_MS)
        deadline_ns = deadline_after_ms(_START_TIMEOUT_MS)
        while not self._is_formed():
            if ms_until(deadline_ns) < 0:
                raise Unavailable(f"the cluster was not formed within {_START_TIMEOUT_MS} ms")
            sleep_ms(_POLL_MS)

    def run(self, node: int, *options: str) -> None:
        """Start the process of a node and return at once. `options` instead of its configuration file and id."""
        arguments = options or ("--config", str(self.config_of(node)), "--id", str(node))
        command = [sys.executable, str(ROOT / "launcher.py"), "node", *arguments, *self._settings]
        with open(self.directory / f"node{node}.err", "ab") as errors:
            self._processes[node] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)

    def join(self, node: int, via: int) -> None:
        """Start a node that asks `via` to be let in, or is in already; return once it is up, as a learner or more."""
        ports = [part for kind, port in self.ports(node).items() for part in (f"--{kind}-port", str(port))]
        seed = f"http://127.0.0.1:{self.base_port + via}"
        self.run(node, "--config", str(self.config_path), "--join", seed, "--name", f"node{node}", *ports)
        self.wait_until_up([node])

    def wait_until_up(self, nodes: Iterable[int]) -> None:
        """Until the consensus process of each answers. Raises Unavailable, with its last words, when a node ended."""
        deadline_ns = deadline_after_ms(_START_TIMEOUT_MS)
        for node in nodes:
            while not self._is_up(node):
                if self._processes[node].poll() is not None or ms_until(deadline_ns) < 0:
                    raise Unavailable(f"node{node} did not start: {self.last_words(node)}")
                sleep_ms(_POLL_MS)

    def last_words(self, node: int) -> str:
        return (self.directory / f"node{node}.err").read_text(encoding="utf-8", errors="replace")[-2_000:]

    def _is_up(self, node: int) -> bool:
        with contextlib.suppress(Unavailable, Unknown):
            return self.status(node).get("consensus") is not None
        return False

    def _is_formed(self) -> bool:
        """Whether every founder knows, from its log, who all of them are."""
        for node in self.founders:
            reply = self.request(node, "GET", "/cluster/members?consistency=stale")
            if reply.status != 200 or not all(row["incarnation"] for row in reply.json["members"]):
                return False
        return True

    def kill(self, node: int, process: str | None = None) -> None:
        pids = self.pids(node)
        for pid in [pids[process]] if process else [pid for _, pid in sorted(pids.items(), reverse=True)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process in (None, "supervisor"):
            self._processes.pop(node).wait(_STOP_TIMEOUT_S)

    def terminate(self, node: int) -> None:
        """SIGTERM: a clean stop. Return once the node is gone."""
        process = self._processes.pop(node)
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)

    def restart(self, node: int) -> None:
        """Start a founder again; return once it is up."""
        self.run(node)
        self.wait_until_up([node])

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(_STOP_TIMEOUT_S)
        self._processes.clear()

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        for left in self.processes():
            with contextlib.suppress(psutil.Error):
                left.kill()
        if self._partitions is not None:
            self._partitions.close()
        shutil.rmtree(self.directory, ignore_errors=True)
