"""Going into the background, with the outcome of the start still told in the foreground."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from vaultdb.cluster import logfiles
from vaultdb.config import LoggingSettings
from vaultdb.errors import ExitCode, VaultError
from vaultdb.supervisor.processes import exit_with_outcome_of


class Report:
    """The daemon's end of the pipe to the command that waits in the foreground. Speaks once."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def serves(self, serves: bool) -> None:
        self._tell({"serves": serves})

    def error(self, sentence: str) -> None:
        self._tell({"error": sentence})

    def close_in_child(self) -> None:
        """A forked child that kept the pipe open would hide from the foreground that the daemon is dead."""
        if self._fd is not None:
            os.close(self._fd)

    def _tell(self, answer: dict[str, object]) -> None:
        if self._fd is not None:
            with open(self._fd, "w", encoding="utf-8") as pipe:
                pipe.write(json.dumps(answer) + "\n")
            self._fd = None


def run_detached(main: Callable[[Report], int], log_path: Path, logging: LoggingSettings) -> bool:
    """Run `main` in a daemon whose output goes to `log_path`; returns what it reported: True, the cluster serves.

    Raises a VaultError with the daemon's sentence when it ended without such a report.
    """
    logfiles.prepare(log_path)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        os.setsid()
        if os.fork():  # the session's leader ends, so that the daemon never gets a terminal
            os._exit(ExitCode.CLEAN)
        report = Report(write_fd)
        exit_with_outcome_of(lambda: _daemon(main, log_path, report), logging, {"process": "launcher"})
    os.close(write_fd)
    os.waitpid(child, 0)
    with open(read_fd, encoding="utf-8") as pipe:
        told = pipe.readline()
    answer = json.loads(told) if told else {"error": f"the launcher ended without a word, see {log_path}"}
    if "error" in answer:
        raise VaultError(answer["error"])
    return bool(answer["serves"])


def _daemon(main: Callable[[Report], int], log_path: Path, report: Report) -> int:
    logfiles.redirect_to(log_path)
    try:
        return main(report)
    except VaultError as error:
        report.error(str(error))
        raise
