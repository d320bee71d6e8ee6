"""The supervisor of one node: a single thread that forks the three processes, waits for signals, and acts.

Read from the top: `run` takes the lock and the runtime directory, starts all, and turns until it is told to stop or
the policy gives up. A child's death arrives as SIGCHLD within a millisecond; beats and resources are looked at once
a tick.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import setproctitle

from vaultdb import logs
from vaultdb.clock import NS_PER_MS, NS_PER_S, monotonic_ns, wall_ms
from vaultdb.config import NodeConfig
from vaultdb.errors import ExitCode
from vaultdb.lifeline import Lifeline
from vaultdb.supervisor import status
from vaultdb.supervisor.identity import Identity
from vaultdb.supervisor.ownership import DataLock, check_space, empty_dir, make_private_dir, remove_private_dir
from vaultdb.supervisor.policy import GiveUp, RestartPolicy, describe
from vaultdb.supervisor.processes import Child, fork_child
from vaultdb.supervisor.signals import SignalInbox

ProcessMain = Callable[[NodeConfig, Lifeline], int]

START_ORDER = ("consensus", "storage", "api")
STOP_ORDER = ("api", "consensus", "storage")
"""No new requests, then no new entries, then storage flushes what it has."""

TICK_MS_MAX = 1_000
START_SILENCE_FACTOR = 6
"""Before its first beat a process may be silent this many times longer: it may be replaying a long log."""
LOCK_GRACE_MS = 1_000
"""The children of a supervisor that was killed need a moment to be gone."""


class Slot:
    """One of the three processes over all its lives."""

    def __init__(self, name: str, main: ProcessMain, policy: RestartPolicy) -> None:
        self.name = name
        self.main = main
        self.policy = policy
        self.child: Child | None = None
        self.usage: status.Usage | None = None
        self.restart_at_ns: int | None = None
        self.restarts = 0
        self.last_exit: int | None = None
        self.last_words: str | None = None
        """Why it ended the last time, in its own words."""

    @property
    def state(self) -> str:
        if self.child is None:
            return "stopped" if self.restart_at_ns is None else "waiting"
        return "running" if self.child.has_beaten else "starting"

    def record(self, now_ns: int) -> dict[str, Any]:
        child = self.child
        living: dict[str, Any] = {"pid": None, "create_time": None, "uptime_s": 0.0}
        if child is not None:
            living = {**child.identity.record(), "uptime_s": round((now_ns - child.started_ns) / NS_PER_S, 1)}
        usage = self.usage.record() if self.usage else {"rss_bytes": 0, "pss_bytes": 0, "cpu_percent": 0.0}
        return {
            "name": self.name, **living, "state": self.state, "restarts": self.restarts, "last_exit": self.last_exit,
            "last_words": self.last_words, **usage,
        }  # fmt: skip


class Supervisor:
    """Owns the node's lock, its runtime directory and its children. `mains` has one entry for each name of
    START_ORDER.
    """

    def __init__(self, node: NodeConfig, mains: Mapping[str, ProcessMain], tell: Callable[[str], None]) -> None:
        """`tell` gets the sentence with which the node gives up."""
        self._node = node
        self._tell = tell
        self._settings = node.config.supervisor
        self._slots = {name: Slot(name, mains[name], RestartPolicy(name, self._settings)) for name in START_ORDER}
        self._log = logs.logger("supervisor")
        self._state = "running"
        self._reason: str | None = None
        self._identity = Identity.of(os.getpid())
        self._usage = status.Usage.of(self._identity)
        self._started_ns = monotonic_ns()
        self._started_at = wall_ms() / 1000
        self._tick_ns = min(TICK_MS_MAX, max(10, self._settings.silence_timeout_ms // 4)) * NS_PER_MS
        self._last_turn_ns = self._started_ns
        self._sample_due_ns = 0

    def run(self) -> int:
        """Until SIGTERM, SIGINT or SIGHUP (returns 0) or until the node cannot go on (returns its exit code).

        Afterwards no child lives and the lock is free. After a clean stop the runtime directory is gone, else it
        holds the status file. Raises AlreadyOwned, IoFailed or ConfigInvalid when the node cannot be owned; then
        nothing was started.
        """
        node = self._node
        with contextlib.ExitStack() as cleanup:
            self._signals = SignalInbox()
            cleanup.callback(self._signals.close)
            check_space(node.data_dir)
            lock = DataLock.acquire(node.lock_path, grace_ms=LOCK_GRACE_MS)
            cleanup.callback(lock.release)
            cleanup.callback(os.close, make_private_dir(node.runtime_dir, levels=2))
            empty_dir(node.runtime_dir)
            outcome = self._supervise()
            self._stop_all()
            self._clear_runtime_dir()
        if outcome is None:
            self._log.info("node stopped")
            return ExitCode.CLEAN
        self._log.error("node failed", error=outcome.reason, exit_code=int(outcome.exit_code))
        return outcome.exit_code

    # ------------------------------------------------------------------ one turn

    def _supervise(self) -> GiveUp | None:
        """Turn until a stop is asked for (None) or the policy gives up."""
        for slot in self._slots.values():
            slot.restart_at_ns = self._started_ns
        self._log.info("node starts", pid=self._identity.pid)
        while not self._signals.stop_requests:
            now_ns = monotonic_ns()
            failure = self._reap(now_ns) or self._start_due(now_ns)
            if failure is not None:
                self._state, self._reason = "failed", failure.reason
                return failure
            self._listen(now_ns)
            if now_ns >= self._sample_due_ns:
                self._sample(now_ns)
                self._write_status(now_ns)
            self._signals.wait((self._next_wake_ns(now_ns) - monotonic_ns()) / NS_PER_MS)
        self._state = "stopping"
        return None

    def _reap(self, now_ns: int) -> GiveUp | None:
        for slot in self._slots.values():
            exit_code = slot.child.reap() if slot.child else None
            if slot.child is None or exit_code is None:
                continue
            started_ns, slot.last_words, slot.child = slot.child.started_ns, slot.child.last_words, None
            failure = self._ended(slot, exit_code, started_ns, now_ns)
            if failure is not None:
                return failure
        return None

    def _ended(self, slot: Slot, exit_code: int, started_ns: int, now_ns: int) -> GiveUp | None:
        slot.last_exit = exit_code
        self._sample_due_ns = now_ns
        decision = slot.policy.ended(exit_code, started_ns, now_ns)
        if isinstance(decision, GiveUp):
            if slot.last_words:
                self._tell(f"{slot.name}: {slot.last_words}")
                return replace(decision, reason=f"{decision.reason}: {slot.last_words}")
            self._tell(decision.reason)
            return decision
        slot.restart_at_ns = now_ns + decision.delay_ms * NS_PER_MS
        self._log.warning(f"{slot.name} {describe(exit_code)}", exit_code=exit_code, restart_in_ms=decision.delay_ms)
        return None

    def _start_due(self, now_ns: int) -> GiveUp | None:
        for slot in self._slots.values():
            if slot.restart_at_ns is None or now_ns < slot.restart_at_ns:
                continue
            slot.restart_at_ns = None
            try:
                slot.child = self._fork(slot)
            except OSError as error:
                slot.last_words = f"it cannot be forked: {error.strerror}"
                self._log.error(f"{slot.name} cannot be forked", error=str(error))
                failure = self._ended(slot, ExitCode.IO_FAILED, now_ns, now_ns)
                if failure is not None:
                    return failure
                continue
            with contextlib.suppress(psutil.Error):
                slot.usage = status.Usage.of(slot.child.identity)
            slot.restarts += slot.last_exit is not None
            self._sample_due_ns = now_ns
            self._log.info(f"{slot.name} started", child=slot.child.identity.pid, restarts=slot.restarts)
        return None

    def _fork(self, slot: Slot) -> Child:
        return fork_child(
            slot.name,
            f"vaultdb {self._node.name} {slot.name}",
            partial(slot.main, self._node),
            release=self._release_in_child,
            logging=self._node.config.logging,
            node=self._node.name,
            process=slot.name,
        )

    def _release_in_child(self) -> None:
        """Everything of the supervisor but the lock, which a child keeps so that nobody takes the data while it
        lives.
        """
        self._signals.leave_to_parent()
        for slot in self._slots.values():
            if slot.child is not None:
                os.close(slot.child.heartbeat_fd)

    # ------------------------------------------------------------------ watching

    def _listen(self, now_ns: int) -> None:
        """Take beats; kill who is silent. After a pause of this process itself everybody gets the whole time anew."""
        timeout_ns = self._settings.silence_timeout_ms * NS_PER_MS
        paused = now_ns - self._last_turn_ns > self._tick_ns + timeout_ns // 2
        self._last_turn_ns = now_ns
        for slot in self._slots.values():
            child = slot.child
            if child is None:
                continue
            had_beaten = child.has_beaten
            child.listen(now_ns)
            if child.has_beaten and not had_beaten:
                self._sample_due_ns = now_ns
            if paused:
                child.last_beat_ns = now_ns
            silent_ns = now_ns - child.last_beat_ns
            if silent_ns > timeout_ns * (1 if child.has_beaten else START_SILENCE_FACTOR):
                self._log.error(f"{slot.name} is silent and is killed", silent_ms=silent_ns // NS_PER_MS)
                child.last_beat_ns = now_ns
                child.signal(signal.SIGKILL)

    def _next_wake_ns(self, now_ns: int) -> int:
        restarts = [slot.restart_at_ns for slot in self._slots.values() if slot.restart_at_ns is not None]
        return min([now_ns + self._tick_ns, *restarts])

    def _sample(self, now_ns: int) -> None:
        self._sample_due_ns = now_ns + NS_PER_S
        self._usage.sample(now_ns)
        for slot in self._slots.values():
            if slot.usage is not None and slot.child is not None:
                slot.usage.sample(now_ns)

    def _write_status(self, now_ns: int) -> None:
        own = {
            "name": "supervisor", **self._identity.record(), "state": self._state, "restarts": 0, "last_exit": None,
            "uptime_s": round((now_ns - self._started_ns) / NS_PER_S, 1), **self._usage.record(),
        }  # fmt: skip
        record = {
            "node": self._node.name, "id": self._node.id, **self._identity.record(), "started_at": self._started_at,
            "state": self._state, "reason": self._reason,
            "processes": [own, *(slot.record(now_ns) for slot in self._slots.values())],
        }  # fmt: skip
        status.write(self._node.supervisor_status_path, record)

    # ------------------------------------------------------------------ stopping

    def _stop_all(self) -> None:
        """In STOP_ORDER, each within its share of stop_deadline_ms; what an early one leaves of its share goes to
        the next.
        """
        started_ns = monotonic_ns()
        for slot in self._slots.values():
            slot.restart_at_ns = None
        self._write_status(started_ns)
        share_ns = self._settings.stop_deadline_ms * NS_PER_MS // len(STOP_ORDER)
        for turn, name in enumerate(STOP_ORDER, start=1):
            slot = self._slots[name]
            if slot.child is None:
                continue
            slot.child.signal(signal.SIGTERM)
            if not self._wait_for_end(slot, started_ns + turn * share_ns):
                self._log.warning(f"{name} did not stop in time and is killed")
                slot.child.signal(signal.SIGKILL)
                self._wait_for_end(slot, None)
            self._write_status(monotonic_ns())

    def _wait_for_end(self, slot: Slot, deadline_ns: int | None) -> bool:
        while slot.child is not None:
            now_ns = monotonic_ns()
            exit_code = slot.child.reap()
            if exit_code is not None:
                slot.child, slot.last_exit = None, exit_code
                self._log.info(f"{slot.name} {describe(exit_code)}", exit_code=exit_code)
            elif deadline_ns is not None and now_ns >= deadline_ns:
                return False
            else:
                left_ns = self._tick_ns if deadline_ns is None else min(self._tick_ns, deadline_ns - now_ns)
                self._signals.wait(left_ns / NS_PER_MS)
        return True

    def _clear_runtime_dir(self) -> None:
        """Nothing stays after a clean stop; after a failure the status file does, for it says why."""
        if self._state == "failed":
            self._write_status(monotonic_ns())
            empty_dir(self._node.runtime_dir, keep=self._node.supervisor_status_path)
        else:
            remove_private_dir(self._node.runtime_dir)


def run(
    node: NodeConfig, mains: Mapping[str, ProcessMain], tell: Callable[[str], None] = lambda _sentence: None
) -> int:
    """Run a node in this process until it is told to stop. Call `logs.configure` before."""
    setproctitle.setproctitle(f"vaultdb {node.name} supervisor")
    return Supervisor(node, mains, tell).run()
