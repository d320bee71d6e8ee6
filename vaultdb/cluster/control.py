"""Orders to the running launcher: one JSON line each way on a Unix stream socket in the private runtime directory.

Requests: {"command": "restart", "node": name} and {"command": "stop"}. Answers: {"ok": true | false, "text": sentence}.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from vaultdb import limits
from vaultdb.config import Config
from vaultdb.errors import IoFailed, Unavailable

_LINE_BYTES_MAX = 4 * limits.KIB
_CLIENT_TIMEOUT_S = 1.0
_BACKLOG = 16


def socket_path(config: Config) -> Path:
    return config.runtime_dir / "control"


class Request:
    """One order; whoever carries it out calls `answer` once."""

    def __init__(self, connection: socket.socket, body: dict[str, Any]) -> None:
        self._connection = connection
        self.command = str(body.get("command"))
        self.node = str(body.get("node"))

    def answer(self, ok: bool, text: str) -> None:
        with contextlib.suppress(OSError):  # the client may be gone
            self._connection.sendall(json.dumps({"ok": ok, "text": text}).encode() + b"\n")
        self._connection.close()

    def close(self) -> None:
        self._connection.close()


class ControlServer:
    """The launcher's end. The directory is private and its owner is locked, so a path that stands is a dead
    launcher's.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
        except OSError as error:
            self._listener.close()
            raise IoFailed(f"{path}: {error.strerror}") from error
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> Request | None:
        """The next request, or None when nobody waits or what came is no request. Waits for a slow client at most a
        second.
        """
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        connection.settimeout(_CLIENT_TIMEOUT_S)
        try:
            body = json.loads(_read_line(connection))
        except (OSError, ValueError):
            connection.close()
            return None
        return Request(connection, body if isinstance(body, dict) else {})

    def close(self) -> None:
        """In the launcher and in its forked children alike: only the descriptor goes."""
        self._listener.close()

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


def ask(config: Config, command: str, *, timeout_ms: int, node: str | None = None) -> str:
    """Send one order to the launcher; returns its sentence. Raises Unavailable when it refuses, is not there or does
    not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_ms / 1000)
        try:
            connection.connect(str(socket_path(config)))
            connection.sendall(json.dumps({"command": command, "node": node}).encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except FileNotFoundError as error:
            raise Unavailable("no launcher runs here; start the cluster first") from error
        except ConnectionRefusedError as error:
            raise Unavailable("the launcher is gone; start the cluster first") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"the launcher did not answer: {error}") from error
    if not answer.get("ok"):
        raise Unavailable(str(answer.get("text")))
    return str(answer.get("text"))


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(_LINE_BYTES_MAX)
        line += part
        if not part or len(line) > _LINE_BYTES_MAX:
            raise ValueError("no line came")
    return line
