"""The log files of nodes, monitor and launcher: appended to by descriptor, rotated at a start, read from their end."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vaultdb import clock, limits
from vaultdb.config import Config
from vaultdb.errors import IoFailed
from vaultdb.supervisor.ownership import make_data_dir

ROTATE_BYTES = 16 * limits.MIB
_TAIL_BYTES = 64 * limits.KIB
_FOLLOW_INTERVAL_MS = 200
_SENTENCE_CHARS_MAX = 400


def paths(config: Config) -> dict[str, Path]:
    """Every log of the cluster by the name that `logs` takes."""
    nodes = {address.name: config.node(address.id).log_file for address in config.nodes}
    return {**nodes, "monitor": config.data_path / "monitor.log", "launcher": config.data_path / "launcher.log"}


def prepare(path: Path) -> int:
    """Make the directory, move a file above ROTATE_BYTES to `.1`; returns the size of what stands. Raises IoFailed."""
    make_data_dir(path.parent)
    try:
        size = path.stat().st_size if path.exists() else 0
        if size > ROTATE_BYTES:
            path.replace(path.with_name(path.name + ".1"))
            size = 0
        path.touch(mode=0o600)
    except OSError as error:
        raise IoFailed(f"{path}: {error.strerror}") from error
    return size


def redirect_to(path: Path) -> None:
    """Let standard output and error of this process append to `path`, and give it no input. Raises IoFailed."""
    try:
        log_fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise IoFailed(f"{path}: {error.strerror}") from error
    null_fd = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((null_fd, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(fd, target)
    os.close(log_fd)
    os.close(null_fd)


def last_error(path: Path, offset: int) -> str | None:
    """The sentence of the last error logged after `offset`; a process's own error goes before its supervisor's."""
    own, supervisors, plain = None, None, None
    for line in _text_after(path, offset).splitlines():
        plain = line.strip() or plain
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
                sentence = str(entry.get("error") or entry.get("event"))
                if entry.get("process") == "supervisor":
                    supervisors = sentence
                else:
                    own = f"{entry['process']}: {sentence}" if "process" in entry else sentence
    found = own or supervisors or plain
    return found[:_SENTENCE_CHARS_MAX] if found else None


def _text_after(path: Path, offset: int) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset if offset <= size else 0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def tail(path: Path, lines: int, end: int = -1) -> list[str]:
    """The last `lines` lines before offset `end`, -1: of the file; none when there is no such file."""
    try:
        with open(path, "rb") as file:
            return list(deque(file.read(end).decode(errors="replace").splitlines(), maxlen=lines))
    except OSError:
        return []


class Follower:
    """Lines that are appended to `path` from now on, over a rotation too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = self.begins_at = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            if self._path.stat().st_size < self._offset:
                self._offset, self._rest = 0, b""
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(limits.MIB)
            self._offset += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")


def follow(followers: dict[str, Follower]) -> Iterator[tuple[str, str]]:
    """(name, line) of each line that is appended to one of the files, for ever."""
    while True:
        for name, follower in followers.items():
            for line in follower.new_lines():
                yield name, line
        clock.sleep_ms(_FOLLOW_INTERVAL_MS)
