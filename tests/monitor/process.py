"""A monitor in a process of its own, as a launcher would fork it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from monitor.server import run
from tests.monitor.fakes import configuration
from tests.monitor.waiting import eventually
from vaultdb import logs
from vaultdb.clock import deadline_after_ms, ms_until
from vaultdb.errors import Fatal
from vaultdb.lifeline import Lifeline

ROOT = Path(__file__).resolve().parents[2]


class MonitorProcess:
    """Started on entry and answering; stopped on exit."""

    def __init__(self, http_ports: list[int], port: int, *, poll_ms: int = 1000) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._beats, beats_of_child = os.pipe()
        os.set_blocking(beats_of_child, False)
        os.set_blocking(self._beats, False)
        arguments = [str(beats_of_child), str(port), str(poll_ms), *map(str, http_ports)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.monitor.process", *arguments],
            cwd=ROOT,
            pass_fds=[beats_of_child],
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(beats_of_child)

    def __enter__(self) -> MonitorProcess:
        eventually("the monitor answers", self._answers, within_ms=20_000)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._beats)

    def stop(self, *, within_ms: int) -> int:
        """SIGTERM; the exit code. Fails when it takes longer."""
        deadline_ns = deadline_after_ms(within_ms)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=max(0.0, ms_until(deadline_ns) / 1000))

    def beats(self) -> int:
        """Heartbeats since the last call."""
        try:
            return len(os.read(self._beats, 65536))
        except BlockingIOError:
            return 0

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.get("/api/state")[2])
        return state

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the monitor ended with {self.process.returncode}: {self.process.communicate()[1]}")
        try:
            return self.get("/health/live")[0] == 200
        except OSError:
            return False


def main() -> int:
    beats, port, poll_ms, *http_ports = map(int, sys.argv[1:])
    config = configuration(http_ports, monitor_port=port, poll_ms=poll_ms)
    lifeline = Lifeline(beats, os.getppid())
    lifeline.arm()
    logs.configure(config.logging, process="monitor")
    try:
        return run(config, lifeline)
    except Fatal as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
