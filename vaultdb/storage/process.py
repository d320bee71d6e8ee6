"""The storage process of a node: one thread, one loop.

Way of a write: consensus streams committed entries; `_apply_entries` takes what waits, runs it through the state
machine, writes one RocksDB batch, and only then sends the results of this node's own commands to the api and reports
the applied index.
Way of a read: `_serve_requests` hands it to `requests.py`, which answers at once from cache and RocksDB, or keeps it
until the index it asks for is applied. Results leave after the write, so a read that follows a result sees it.

RocksDB loses its unflushed part in a crash. The process then comes up at an older, consistent position, says so in
SUBSCRIBE, and is sent the rest again.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from vaultdb import limits
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.config import NodeConfig
from vaultdb.errors import BadRequest, ExitCode
from vaultdb.kv.machine import Machine, Result
from vaultdb.lifeline import BEAT_INTERVAL_MS, Lifeline, calm_garbage_collector
from vaultdb.logs import logger
from vaultdb.storage.cache import Cache
from vaultdb.storage.counters import Counters
from vaultdb.storage.engine import Engine
from vaultdb.storage.entries import decode_entry
from vaultdb.storage.flusher import Flusher
from vaultdb.storage.requests import Requests
from vaultdb.storage.store import CachedStore
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack
from vaultdb.wire.sockets import Waiter, bind_router, connect_dealer, drain, has_message, try_send

_IDLE_MS = BEAT_INTERVAL_MS // 2
_TURN_BYTES_MAX = limits.ENTRY_BATCH_BYTES
"""Entries applied before the loop looks at reads again: some tens of milliseconds."""
_REPORT_BYTES = limits.APPLY_WINDOW_BYTES // 4
_REPORT_INTERVAL_NS = 100 * NS_PER_MS
"""A report wakes consensus, which needs one only before its window is full, and now and then."""
_RESUBSCRIBE_INTERVAL_NS = 250 * NS_PER_MS
"""After a gap, the rest of the old stream arrives too: one new subscription is enough for all of it."""
_COMPLAINT_INTERVAL_NS = 10_000 * NS_PER_MS

Socket = zmq.Socket[bytes]


def run(node: NodeConfig, lifeline: Lifeline) -> int:
    """Serve until told to stop. Raises Fatal when the disk, the data or the socket path cannot be used."""
    engine = Engine(node.database_dir, node.config.storage)
    context: zmq.Context[Socket] = zmq.Context()
    try:
        process = StorageProcess(node, engine, context)
        calm_garbage_collector()
        try:
            while not lifeline.stopping:
                lifeline.beat()
                process.turn()
            process.finish()
        finally:
            process.close()
    finally:
        context.destroy(linger=0)
        engine.close()
    return ExitCode.CLEAN


class StorageProcess:
    """Owns the sockets and all that stands on the engine. `turn` is the body of the loop."""

    def __init__(self, node: NodeConfig, engine: Engine, context: zmq.Context[Socket]) -> None:
        settings = node.config.storage
        self._node_id = node.id
        self._engine = engine
        self._cache = Cache(settings.cache_bytes)
        self._store = CachedStore(engine, self._cache)
        self._machine = Machine(self._store)
        self._flusher = Flusher(engine, settings)
        self._incarnation = int.from_bytes(os.urandom(8), "big") >> 1
        self._counters = Counters()
        self._log = logger("storage")
        self._next_complaint_ns = 0

        self._requests = Requests(
            machine=self._machine, store=self._store, engine=engine, counters=self._counters, reply=self._reply
        )
        self._router = bind_router(context, node.storage_endpoint)
        self._consensus = connect_dealer(
            context, node.consensus_endpoint, ipc.STORAGE, monitor_events=zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self._connections: Socket = self._consensus.get_monitor_socket()
        self._waiter = Waiter(two_way=[self._router, self._consensus], receiving=[self._connections])
        self._subscribe_due = False
        self._report_due = False
        self._unreported_bytes = 0
        self._next_report_ns = 0
        self._next_resubscribe_ns = 0
        self._log.info("storage opened", applied_index=self._machine.applied_index, revision=self._machine.revision)

    def turn(self) -> None:
        """Wait for something to do, and do what fits in a turn."""
        self._waiter.wait(0 if self._requests.busy else _IDLE_MS)
        self._apply_entries()
        self._find_what_to_report()
        self._report()
        self._serve_requests()

    def finish(self) -> None:
        """Stop cleanly: with everything flushed there will be nothing to replay."""
        self._flusher.close()
        self._log.info("storage flushed", flushed_index=self._flusher.flushed_index)

    def close(self) -> None:
        """Let go of the engine, in whatever state."""
        self._flusher.abandon()
        self._requests.close()
        self._consensus.disable_monitor()

    # Entries, from consensus.

    def _apply_entries(self) -> None:
        """Apply what waits, write it in one batch, then answer those who wait for it."""
        results: dict[int, list[Result]] = {}
        applied_before = self._machine.applied_index
        taken_bytes = 0
        for frames in drain(self._consensus):
            taken_bytes += self._take_entries(frames, results)
            if taken_bytes >= _TURN_BYTES_MAX:
                break
        if self._machine.applied_index == applied_before:
            return
        self._machine.write()
        self._unreported_bytes += taken_bytes
        self._counters.batches_total += 1
        for incarnation, answers in results.items():
            if not try_send(self._router, ipc.API, pack([ipc.RESULTS, incarnation, answers])):
                self._counters.results_dropped_total += len(answers)
        self._requests.answer_reached(monotonic_ns())

    def _take_entries(self, frames: list[bytes], results: dict[int, list[Result]]) -> int:
        """Apply one message of entries, passing over those already applied. Returns its size in bytes."""
        match _decoded(frames, frames_expected=1):
            case [ipc.ENTRIES, int(incarnation), int(first_index), list(payloads)] if _are_bytes(payloads):
                pass
            case _:
                self._complain("consensus")
                return 0
        next_index = self._machine.applied_index + 1
        if incarnation != self._incarnation:
            self._counters.entries_foreign_total += len(payloads)
        elif first_index > next_index:
            self._resubscribe_after_gap(first_index, next_index)
        else:
            for index, payload in enumerate(payloads[next_index - first_index :], start=next_index):
                self._apply_entry(index, payload, results)
        return len(frames[0])

    def _apply_entry(self, index: int, payload: bytes, results: dict[int, list[Result]]) -> None:
        """Apply one entry and keep the results of the commands that came in through this node."""
        stamp_ms, proposals = decode_entry(index, payload)
        self._machine.begin(index, stamp_ms)
        for proposal in proposals:
            if proposal.requests is None:
                self._counters.proposals_unreadable_total += 1
            answers = self._machine.apply(proposal.requests)
            self._counters.commands_total += len(answers)
            if proposal.origin == self._node_id and answers:
                results.setdefault(proposal.incarnation, []).extend(answers)

    def _resubscribe_after_gap(self, first_index: int, next_index: int) -> None:
        now_ns = monotonic_ns()
        if now_ns < self._next_resubscribe_ns:
            return
        self._next_resubscribe_ns = now_ns + _RESUBSCRIBE_INTERVAL_NS
        self._subscribe_due = True
        self._counters.gaps_total += 1
        self._log.warning("gap in the stream of entries, subscribing again", expected=next_index, received=first_index)

    # Requests, from the api.

    def _serve_requests(self) -> None:
        now_ns = monotonic_ns()
        for frames in drain(self._router):
            message = _decoded(frames, frames_expected=2)
            if self._requests.take(frames[0], message, now_ns):
                continue
            match message:
                case [ipc.STATUS, int(incarnation), int(batch)]:
                    self._reply(frames[0], [ipc.STATUS_IS, incarnation, batch, self.status()])
                case _:
                    self._complain("requests")
        self._requests.advance(now_ns)

    def _reply(self, sender: bytes, message: list[Any]) -> None:
        if not try_send(self._router, sender, pack(message)):
            self._counters.replies_dropped_total += 1

    # Reports, to consensus.

    def _find_what_to_report(self) -> None:
        now_ns = monotonic_ns()
        if self._flusher.poll(now_ns):
            self._counters.flushes_total += 1
            self._report_due = True
        elif self._unreported_bytes >= _REPORT_BYTES or (self._unreported_bytes and now_ns >= self._next_report_ns):
            self._report_due = True

    def _report(self) -> None:
        """Subscribe on every new connection (the other end may be a new process), otherwise tell what has been applied.

        What cannot be sent now stays due: with a later position it says the same and more.
        """
        while has_message(self._connections):
            recv_monitor_message(self._connections)
            self._subscribe_due = True
            # Makes the socket take note that the old connection is gone; the message could still be queued for it.
            self._consensus.getsockopt(zmq.EVENTS)
        if self._subscribe_due:
            self._subscribe_due = not self._tell_consensus(ipc.SUBSCRIBE)
        elif self._report_due:
            self._report_due = not self._tell_consensus(ipc.APPLIED)

    def _tell_consensus(self, kind: int) -> bool:
        position = [self._machine.applied_index, self._flusher.flushed_index]
        if not try_send(self._consensus, pack([kind, self._incarnation, *position])):
            return False
        self._unreported_bytes = 0
        self._next_report_ns = monotonic_ns() + _REPORT_INTERVAL_NS
        return True

    def status(self) -> dict[str, Any]:
        """What STATUS_IS carries."""
        return {
            "incarnation": self._incarnation,
            "applied_index": self._machine.applied_index,
            "flushed_index": self._flusher.flushed_index,
            "revision": self._machine.revision,
            "clock_ms": self._machine.clock_ms,
            "keys_estimate": self._engine.keys_estimate(),
            "cache": self._cache.statistics(),
            "rocksdb": self._engine.statistics(),
            "counters": asdict(self._counters)
            | {
                "keys_written_total": self._machine.keys_written,
                "keys_deleted_total": self._machine.keys_deleted,
                "reads_waiting": self._requests.reads_waiting,
                "reads_expired_total": self._requests.reads_expired,
            },
        }

    def _complain(self, source: str) -> None:
        """Count a message that cannot be read, and say so now and then."""
        self._counters.messages_unreadable_total += 1
        now_ns = monotonic_ns()
        if now_ns >= self._next_complaint_ns:
            self._next_complaint_ns = now_ns + _COMPLAINT_INTERVAL_NS
            self._log.warning(
                "dropped an unreadable message", source=source, dropped_total=self._counters.messages_unreadable_total
            )


def _decoded(frames: list[bytes], frames_expected: int) -> Any:
    """The message in the last frame, or None, which is no message."""
    if len(frames) != frames_expected:
        return None
    try:
        return unpack(frames[-1])
    except BadRequest:
        return None


def _are_bytes(items: list[Any]) -> bool:
    return set(map(type, items)) <= {bytes}
