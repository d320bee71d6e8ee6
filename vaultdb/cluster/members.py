"""The children of the launcher: one supervisor per node, and the monitor."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from vaultdb import logs
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.cluster import logfiles, view
from vaultdb.cluster.control import Request
from vaultdb.config import Config, NodeConfig
from vaultdb.errors import ExitCode, IoFailed
from vaultdb.lifeline import Lifeline, die_with_parent
from vaultdb.supervisor import supervisor
from vaultdb.supervisor.policy import GiveUp, RestartPolicy, describe
from vaultdb.supervisor.processes import Child, LastWords, fork, fork_child
from vaultdb.supervisor.signals import STOP_SIGNALS
from vaultdb.supervisor.supervisor import ProcessMain

MonitorMain = Callable[[Config, Lifeline], int]
Say = Callable[[str], None]
KILL_GRACE_MS = 2_000
"""A supervisor that has not ended this long after its own deadline is killed with its children."""


@dataclass(frozen=True)
class Parts:
    """What the forked processes run."""

    mains: Mapping[str, ProcessMain]
    monitor: MonitorMain


class Member:
    """One node under this launcher, over all lives of its supervisor."""

    def __init__(self, node: NodeConfig, mains: Mapping[str, ProcessMain]) -> None:
        self.node = node
        self._mains = mains
        self.pid: int | None = None
        self.exit_code: int | None = None
        """Of the last supervisor that ended; negative: the signal."""
        self.stopping = False
        self.restart_request: Request | None = None
        self._kill_at_ns: int | None = None
        self._log_offset = 0
        self._words: LastWords | None = None
        self._reason: str | None = None

    def start(self, release: Callable[[], None]) -> None:
        """Fork a supervisor; in it, `release` closes what is the launcher's. Raises IoFailed."""
        self._log_offset = logfiles.prepare(self.node.log_file)
        self.node.supervisor_status_path.unlink(missing_ok=True)  # the last life's failure is not this one's
        launcher_pid = os.getpid()

        def in_child() -> int:
            release()
            os.setsid()  # the terminal's Ctrl-C is for the launcher, which then stops the nodes in order
            logfiles.redirect_to(self.node.log_file)
            logs.configure(self.node.config.logging, node=self.node.name, process="supervisor")
            die_with_parent(signal.SIGTERM)
            if os.getppid() != launcher_pid:
                return ExitCode.ORPHANED
            return supervisor.run(self.node, self._mains, words.say)

        words = LastWords()
        # Blocked until the supervisor can take them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            bound: dict[str, str | int] = {"node": self.node.name, "process": "supervisor"}
            self.pid = fork(in_child, words, self.node.config.logging, bound)
        except OSError as error:
            words.close()
            raise IoFailed(f"{self.node.name} cannot be forked: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.stopping, self.exit_code, self._kill_at_ns = False, None, None
        self._words, self._reason = words, None

    def stop(self) -> None:
        """Order a clean stop; `tend` kills what is late."""
        if self.pid is not None and not self.stopping:
            self.stopping = True
            deadline_ms = self.node.config.supervisor.stop_deadline_ms + KILL_GRACE_MS
            self._kill_at_ns = monotonic_ns() + deadline_ms * NS_PER_MS
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for the supervisor and its children: they are one process group, and the unreaped pid keeps it
        ours.
        """
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def tend(self, now_ns: int) -> bool:
        """Reap, and kill a late one. True when the supervisor has just ended."""
        if self.pid is None:
            return False
        if self._kill_at_ns is not None and now_ns >= self._kill_at_ns:
            self._kill_at_ns = None
            self.kill()
        pid, wait_status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.pid = None
        self.exit_code = os.waitstatus_to_exitcode(wait_status)
        self._learn_reason()
        return True

    def _learn_reason(self) -> None:
        """Why the supervisor failed: what it told, or else what its log says; for the operator and for `status`."""
        words, self._words = self._words, None
        if self.exit_code is not None and self.exit_code > 0:
            told = words.heard() if words is not None else None
            self._reason = told or logfiles.last_error(self.node.log_file, self._log_offset)
            if view.look_at_files(self.node).failure is None:
                view.note_failure(self.node, self._reason or describe(self.exit_code))
        if words is not None:
            words.close()

    @property
    def failed(self) -> bool:
        """It ended by itself, and not well."""
        return self.pid is None and self.exit_code is not None and self.exit_code > 0

    def end_in_words(self) -> str:
        assert self.exit_code is not None
        words = f"{self.node.name} {describe(self.exit_code)}"
        return f"{words}: {self._reason}" if self._reason else words


class MonitorKeeper:
    """Keeps the monitor running; gives up on it, and only on it, when the policy does."""

    def __init__(self, config: Config, main: MonitorMain, say: Say) -> None:
        self._config = config
        self._main = main
        self._say = say
        self._policy = RestartPolicy("monitor", config.supervisor)
        self._log_path = config.data_path / "monitor.log"
        self._child: Child | None = None
        self.restart_at_ns: int | None = 0
        self._kill_at_ns = 0

    @property
    def running(self) -> bool:
        return self._child is not None

    def tend(self, now_ns: int, release: Callable[[], None]) -> None:
        """Reap, kill when silent, start when due."""
        child = self._child
        if child is not None:
            child.listen(now_ns)
            if now_ns - child.last_beat_ns > self._config.supervisor.silence_timeout_ms * NS_PER_MS:
                child.last_beat_ns = now_ns
                child.signal(signal.SIGKILL)
            exit_code = child.reap()
            if exit_code is not None:
                self._child = None
                self._ended(exit_code, child.started_ns, now_ns)
        if self.restart_at_ns is not None and now_ns >= self.restart_at_ns:
            self.restart_at_ns = None
            self._start(now_ns, release)

    def _ended(self, exit_code: int, started_ns: int, now_ns: int) -> None:
        decision = self._policy.ended(exit_code, started_ns, now_ns)
        if isinstance(decision, GiveUp):
            self._say(f"{decision.reason}; it stays down, see {self._log_path}")
            return
        self.restart_at_ns = now_ns + decision.delay_ms * NS_PER_MS
        self._say(f"monitor {describe(exit_code)}; it is restarted")

    def _start(self, now_ns: int, release: Callable[[], None]) -> None:
        try:
            logfiles.prepare(self._log_path)
            self._child = fork_child(
                "monitor",
                "vaultdb monitor",
                self._run,
                release=partial(self._release, release),
                logging=self._config.logging,
                process="monitor",
            )
        except (OSError, IoFailed):
            self._ended(ExitCode.IO_FAILED, now_ns, now_ns)

    def _release(self, release: Callable[[], None]) -> None:
        release()
        os.setsid()

    def _run(self, lifeline: Lifeline) -> int:
        logfiles.redirect_to(self._log_path)
        logs.configure(self._config.logging, process="monitor")
        return self._main(self._config, lifeline)

    def close_in_child(self) -> None:
        if self._child is not None:
            os.close(self._child.heartbeat_fd)

    def stop(self) -> None:
        """Order it to stop, and do not restart it."""
        self.restart_at_ns = None
        self._kill_at_ns = monotonic_ns() + self._config.supervisor.stop_deadline_ms * NS_PER_MS
        if self._child is not None:
            self._child.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._kill_at_ns = 0

    def tend_stopping(self, now_ns: int) -> None:
        """After `stop`: reap, and kill a late one."""
        if self._child is None:
            return
        if now_ns >= self._kill_at_ns:
            self._child.signal(signal.SIGKILL)
        if self._child.reap() is not None:
            self._child = None
