"""A storage process between a consensus and an api that do as the test says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zmq

from vaultdb import clock, config
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack
from vaultdb.wire.sockets import bind_router, connect_dealer, try_send

PROJECT = Path(__file__).parents[2]
PATIENCE_MS = 10_000
API_INCARNATION = 42
CONFIG = """
data_dir = "{data_dir}"
[storage]
cache_bytes = 1048576
memtable_bytes = 1048576
flush_interval_ms = {flush_interval_ms}
[[node]]
id = 0
name = "node0"
host = "127.0.0.1"
http_port = 1
peer_port = 2
native_port = 3
"""


def in_ms(milliseconds: float) -> int:
    return clock.deadline_after_ms(milliseconds)


def receive(socket: zmq.Socket[bytes], what: str, milliseconds: int = PATIENCE_MS) -> list[bytes]:
    if not socket.poll(milliseconds):
        pytest.fail(f"not within {milliseconds} ms: {what}")
    return socket.recv_multipart()


class Consensus:
    """The ROUTER that storage subscribes at."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = bind_router(context, endpoint)
        self.subscriber = 0

    def expect(self, kind: int) -> list[int]:
        """The next message, which must be of this kind: what follows its kind and incarnation."""
        sender, payload = receive(self.socket, f"message {kind} to consensus")
        assert sender == ipc.STORAGE
        received, incarnation, *rest = unpack(payload)
        assert received == kind, f"message {received} came where {kind} was expected: {rest}"
        if kind == ipc.SUBSCRIBE:
            self.subscriber = incarnation
        assert incarnation == self.subscriber
        return [int(number) for number in rest]

    def expect_applied(self, index: int) -> int:
        """Reports up to the one that says `index`. Returns its flushed index."""
        while True:
            applied, flushed = self.expect(ipc.APPLIED)
            assert applied <= index
            if applied == index:
                return flushed

    def forget(self) -> None:
        """Throw away what has arrived."""
        while self.socket.poll(0):
            self.socket.recv_multipart()

    def stream(self, first_index: int, payloads: list[bytes], incarnation: int | None = None) -> None:
        subscriber = self.subscriber if incarnation is None else incarnation
        self.raw(pack([ipc.ENTRIES, subscriber, first_index, payloads]))

    def raw(self, *frames: bytes) -> None:
        assert try_send(self.socket, ipc.STORAGE, *frames)


class Api:
    """The DEALER that asks."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = connect_dealer(context, endpoint, ipc.API)
        self.batch = 0

    def raw(self, *frames: bytes) -> None:
        """Waits for the connection if it must."""
        assert self.socket.poll(PATIENCE_MS, zmq.POLLOUT), "storage does not answer its socket"
        assert try_send(self.socket, *frames)

    def ask(self, kind: int, *arguments: Any) -> int:
        self.batch += 1
        self.raw(pack([kind, API_INCARNATION, self.batch, *arguments]))
        return self.batch

    def read(self, *keys: bytes, min_index: int = 0, deadline_ns: int | None = None) -> int:
        return self.ask(ipc.READ, min_index, deadline_ns or in_ms(PATIENCE_MS), list(keys))

    def expect(self, kind: int) -> list[Any]:
        """The next message, which must be of this kind: what follows its kind and incarnation."""
        (payload,) = receive(self.socket, f"message {kind} to the api")
        received, incarnation, *rest = unpack(payload)
        assert (received, incarnation) == (kind, API_INCARNATION), f"{kind} was expected: {received, incarnation, rest}"
        return list(rest)

    def values(self, batch: int) -> list[Any]:
        """[applied_index, revision, values] of the read `batch`."""
        answered, *rest = self.expect(ipc.VALUES)
        assert answered == batch
        return list(rest)

    def status(self) -> dict[str, Any]:
        batch = self.ask(ipc.STATUS)
        answered, status = self.expect(ipc.STATUS_IS)
        assert answered == batch
        assert isinstance(status, dict)
        return status

    def digest(self) -> list[Any]:
        """[applied_index, revision, keys, hexdigest]."""
        batch = self.ask(ipc.DIGEST)
        answered, *rest = self.expect(ipc.DIGEST_IS)
        assert answered == batch
        return rest


class StorageNode:
    """Owns the directory, the two fakes, and the processes that were started."""

    def __init__(self, flush_interval_ms: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vdb"))
        self.config_path = self.directory / "config.toml"
        settings = CONFIG.format(data_dir=self.directory / "data", flush_interval_ms=flush_interval_ms)
        self.config_path.write_text(settings, encoding="utf-8")
        self.node = config.load(self.config_path, environment={}).node(0)
        self.node.runtime_dir.mkdir(parents=True, mode=0o700)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.consensus = Consensus(self.context, self.node.consensus_endpoint)
        self.api = Api(self.context, self.node.storage_endpoint)
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> list[int]:
        """Start storage. Returns what it subscribed with: [applied_index, flushed_index]."""
        command = [sys.executable, "-m", "tests.storage.storage_child", str(self.config_path)]
        self.child = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        return self.consensus.expect(ipc.SUBSCRIBE)

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.communicate()

    def ended(self) -> tuple[int, str]:
        """Wait until storage has ended by itself or by SIGTERM: (exit code, what it wrote)."""
        assert self.child is not None
        _, written = self.child.communicate(timeout=PATIENCE_MS / 1000)
        return self.child.returncode, written

    def replace_consensus(self) -> None:
        """As if the consensus process had crashed and come back."""
        self.consensus.socket.close(0)
        self.consensus = Consensus(self.context, self.node.consensus_endpoint)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.kill()
        self.context.destroy(linger=0)
        shutil.rmtree(self.node.runtime_dir.parent, ignore_errors=True)
        shutil.rmtree(self.directory)
