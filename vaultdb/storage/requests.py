"""Reads and state hashes, from their arrival to their answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vaultdb import limits
from vaultdb.kv.machine import Machine, Versioned
from vaultdb.storage.counters import Counters
from vaultdb.storage.digest import Asker, DigestQueue
from vaultdb.storage.engine import Engine
from vaultdb.storage.reads import Read, WaitingReads
from vaultdb.storage.store import CachedStore
from vaultdb.wire import ipc

_VALUES_BYTES_MAX = limits.MESSAGE_BYTES_MAX - limits.MIB
_VALUE_FRAMING_BYTES = 16

Reply = Callable[[bytes, list[Any]], None]
"""Sends a message to a routing id; nobody there is no error."""


class Requests:
    """Answers from what the machine has applied and written; to be called only when nothing applied is unwritten."""

    def __init__(
        self, *, machine: Machine, store: CachedStore, engine: Engine, counters: Counters, reply: Reply
    ) -> None:
        self._machine = machine
        self._store = store
        self._counters = counters
        self._reply = reply
        self._waiting = WaitingReads()
        self._digests = DigestQueue(engine)

    @property
    def busy(self) -> bool:
        """There is work that waits for nothing."""
        return self._digests.busy

    @property
    def reads_waiting(self) -> int:
        return len(self._waiting)

    @property
    def reads_expired(self) -> int:
        return self._counters.reads_expired_total + self._waiting.expired

    def take(self, sender: bytes, message: Any, now_ns: int) -> bool:
        """Answer a READ or DIGEST, or keep it until it can be. False: it is neither."""
        match message:
            case [ipc.READ, int(incarnation), int(batch), int(min_index), int(deadline_ns), list(keys)]:
                if not set(map(type, keys)) <= {bytes}:
                    return False
                self._take_read(Read(min_index, deadline_ns, sender, incarnation, batch, keys), now_ns)
            case [ipc.DIGEST, int(incarnation), int(batch)]:
                if not self._digests.add(Asker(sender, incarnation, batch)):
                    self._counters.digests_dropped_total += 1
            case _:
                return False
        return True

    def answer_reached(self, now_ns: int) -> None:
        """Entries have been applied: answer the reads that waited for them."""
        for read in self._waiting.reached(self._machine.applied_index, now_ns):
            self._answer(read)

    def advance(self, now_ns: int) -> None:
        """What is to be done each turn: forget reads nobody waits for, and hash a slice if a hash is wanted."""
        self._waiting.sweep(now_ns)
        finished = self._digests.advance()
        if finished is None:
            return
        askers, digest = finished
        result = [digest.position.applied_index, digest.position.revision, digest.keys, digest.hexdigest()]
        for sender, incarnation, batch in askers:
            self._reply(sender, [ipc.DIGEST_IS, incarnation, batch, *result])

    def close(self) -> None:
        """Let go of the engine; what was not answered never will be."""
        self._digests.close()

    def _take_read(self, read: Read, now_ns: int) -> None:
        if read.deadline_ns <= now_ns:
            self._counters.reads_expired_total += 1
        elif read.min_index <= self._machine.applied_index:
            self._answer(read)
        elif not self._waiting.add(read):
            self._counters.reads_dropped_total += 1

    def _answer(self, read: Read) -> None:
        self._counters.reads_total += 1
        self._counters.read_keys_total += len(read.keys)
        position = [self._machine.applied_index, self._machine.revision]
        for part in _message_sized(self._store.read(read.keys)):
            self._reply(read.sender, [ipc.VALUES, read.incarnation, read.batch, *position, part])


def _message_sized(values: list[Versioned | None]) -> Iterator[list[Versioned | None]]:
    """Cut `values` into runs that fit in a message each; nearly always there is one."""
    start, size_bytes = 0, 0
    for end, versioned in enumerate(values):
        value_bytes = _VALUE_FRAMING_BYTES + (len(versioned[0]) if versioned is not None else 0)
        if size_bytes + value_bytes > _VALUES_BYTES_MAX:
            yield values[start:end]
            start, size_bytes = end, 0
        size_bytes += value_bytes
    yield values[start:]
