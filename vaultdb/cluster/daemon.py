"""Going into the background, with the outcome of the start still told in the foreground."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from vaultdb import logs
from vaultdb.cluster import logfiles
from vaultdb.config import LoggingSettings
from vaultdb.errors import ExitCode, Unavailable, VaultError
from vaultdb.supervisor.processes import LastWords, exit_with_outcome_of


class Report:
    """The daemon's end of the pipe to the command that waits in the foreground. Speaks once."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def serves(self, serves: bool) -> None:
        """Raises Unavailable when the command is gone: a start that was broken off leaves nothing running."""
        try:
            self._tell({"serves": serves})
        except BrokenPipeError as error:
            raise Unavailable("the command that started the cluster was broken off") from error

    def error(self, sentence: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._tell({"error": sentence})

    def close_in_child(self) -> None:
        """A forked child that kept the pipe open would hide from the foreground that the daemon is dead."""
        if self._fd is not None:
            os.close(self._fd)

    def _tell(self, answer: dict[str, object]) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with open(fd, "w", encoding="utf-8") as pipe:
                pipe.write(json.dumps(answer) + "\n")


def run_detached(main: Callable[[Report], int], log_path: Path, logging: LoggingSettings) -> bool:
    """Run `main` in a daemon whose output goes to `log_path`; returns what it reported: True, the cluster serves.

    Raises a VaultError with the daemon's sentence when it ended without such a report.
    """
    logfiles.prepare(log_path)
    words = LastWords()
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        os.setsid()
        if os.fork():  # the session's leader ends, so that the daemon never gets a terminal
            os._exit(ExitCode.CLEAN)
        report = Report(write_fd)
        exit_with_outcome_of(lambda: _daemon(main, log_path, report), words, logging, {"process": "launcher"})
    os.close(write_fd)
    os.waitpid(child, 0)
    with open(read_fd, encoding="utf-8") as pipe:
        told = pipe.readline()
    last_words = words.heard() or f"the launcher ended without a word, see {log_path}"
    answer = json.loads(told) if told else {"error": last_words}
    if "error" in answer:
        raise VaultError(answer["error"])
    return bool(answer["serves"])


def _daemon(main: Callable[[Report], int], log_path: Path, report: Report) -> int:
    try:
        logfiles.redirect_to(log_path)
        return main(report)
    except VaultError as error:
        report.error(str(error))
        logs.logger("launcher").error("the cluster is not started", error=str(error))
        return 1
