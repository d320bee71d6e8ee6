"""Stand-ins for what stands behind the api: a store in memory, and the two ROUTERs of a node's other processes over it.

Run as a script it is a process of its own: `python -m tests.api.siblings CONSENSUS_ENDPOINT STORAGE_ENDPOINT`.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import zmq

from vaultdb.api.results import Digest, ReadResult
from vaultdb.errors import Rejected, VaultError
from vaultdb.kv import commands
from vaultdb.wire import ipc, sockets
from vaultdb.wire.codec import pack, unpack


class Store:
    """Every write is committed at once. `failure` ends everything; `queue_is_full` makes ack=queued wait."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.data: dict[bytes, tuple[bytes, int]] = {}
        self.revision = 0
        self.applied = 0
        self.queue_is_full = False
        self.failure: VaultError | None = None
        self.linearizable_reads = 0
        self.reads = 0
        self.administered: list[tuple[str, Any]] = []

    def apply(self, command: Any) -> tuple[int, int]:
        """Revision and number of keys."""
        kind, parts = command
        self.applied += 1
        if kind == commands.PUT:
            self.revision += 1
            for key, value in zip(parts[::2], parts[1::2], strict=True):
                self.data[key] = (value, self.revision)
            return self.revision, len(parts) // 2
        deleted = sum(self.data.pop(key, None) is not None for key in parts)
        self.revision += deleted > 0
        return self.revision, deleted

    def read(self, key: bytes) -> ReadResult:
        self.reads += 1
        value, value_revision = self.data.get(key, (None, 0))
        return ReadResult(value, value_revision, self.applied, self.revision)

    def administer(self, operation: str, argument: Any) -> dict[str, Any]:
        """Notes what it was asked; the document that answers says so."""
        self.administered.append((operation, argument))
        return {"leader": 0, "term": 3, "asked": operation}

    def digest(self) -> Digest:
        digest = hashlib.blake2b(repr(sorted(self.data.items())).encode(), digest_size=16).hexdigest()
        return Digest(self.applied, self.revision, len(self.data), digest)


class Siblings:
    """Consensus and storage of one node, over one store."""

    def __init__(self, consensus_endpoint: str, storage_endpoint: str, store: Store) -> None:
        self.store = store
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.consensus = sockets.bind_router(self.context, consensus_endpoint)
        self.storage = sockets.bind_router(self.context, storage_endpoint)

    def serve(self, stopping: Callable[[], bool]) -> None:
        poller = zmq.Poller()
        poller.register(self.consensus, zmq.POLLIN)
        poller.register(self.storage, zmq.POLLIN)
        while not stopping():
            for socket, _ in poller.poll(100):
                answer = self._on_consensus if socket is self.consensus else self._on_storage
                for _, frame in sockets.drain(socket):
                    answer(unpack(frame))
        self.context.destroy(linger=0)

    def _on_consensus(self, message: list[Any]) -> None:
        kind, incarnation, batch, *rest = message
        failure = self.store.failure
        if kind in (ipc.PROPOSE, ipc.READ_INDEX, ipc.ADMIN) and failure is not None:
            if isinstance(failure, Rejected):
                said = (failure.code, str(failure), failure.retry_after_s)
                self._to_api(self.consensus, ipc.REJECTED, incarnation, batch, *said)
        elif kind == ipc.PROPOSE:
            _, queued, payload = rest
            if queued:
                self._to_api(self.consensus, ipc.QUEUED, incarnation, batch, not self.store.queue_is_full)
            if not queued or self.store.queue_is_full:
                results = [(request, ipc.DONE, *self.store.apply(command)) for request, command in unpack(payload)]
                self._to_api(self.storage, ipc.RESULTS, incarnation, results)
        elif kind == ipc.READ_INDEX:
            self.store.linearizable_reads += 1
            self._to_api(self.consensus, ipc.READ_STATE, incarnation, batch, self.store.applied)
        elif kind == ipc.ADMIN:
            self._to_api(self.consensus, ipc.ADMIN_DONE, incarnation, batch, self.store.administer(*rest[1:]))
        elif kind == ipc.STATUS:
            fields = {"role": "leader", "term": 3, "leader": 0, "commit_index": self.store.applied, "peers": []}
            self._to_api(self.consensus, ipc.STATUS_IS, incarnation, batch, fields)

    def _on_storage(self, message: list[Any]) -> None:
        kind, incarnation, batch, *rest = message
        store = self.store
        if kind == ipc.READ:
            found = [store.read(key) for key in rest[2]]
            values = [None if one.value is None else (one.value, one.value_revision) for one in found]
            self._to_api(self.storage, ipc.VALUES, incarnation, batch, store.applied, store.revision, values)
        elif kind == ipc.STATUS:
            fields = {"applied_index": store.applied, "flushed_index": 0, "revision": store.revision}
            self._to_api(self.storage, ipc.STATUS_IS, incarnation, batch, fields)
        elif kind == ipc.DIGEST:
            self._to_api(self.storage, ipc.DIGEST_IS, incarnation, batch, *store.digest())

    def _to_api(self, router: zmq.Socket[bytes], *message: Any) -> None:
        sockets.try_send(router, ipc.API, pack(message))


class SiblingsThread:
    """Siblings served by a thread of the test's own process, so that a test can look into the store."""

    def __init__(self, consensus_endpoint: str, storage_endpoint: str) -> None:
        self.store = Store()
        self._stop = threading.Event()
        siblings = Siblings(consensus_endpoint, storage_endpoint, self.store)
        self._thread = threading.Thread(target=siblings.serve, args=(self._stop.is_set,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


if __name__ == "__main__":
    Siblings(sys.argv[1], sys.argv[2], Store()).serve(lambda: False)
