"""The launcher's main loop: all nodes and the monitor of one machine, forked from one warm image and kept by one
thread.

Read from the top: `run` owns the data, checks, forks, waits until the cluster serves, reports, and then turns until
it is told to stop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import setproctitle

from vaultdb import clock
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.cluster import preflight, record, view
from vaultdb.cluster.control import ControlServer, Request, socket_path
from vaultdb.cluster.members import Member, MonitorKeeper, Parts, Say
from vaultdb.config import Config
from vaultdb.errors import Unavailable, VaultError
from vaultdb.supervisor.identity import Identity
from vaultdb.supervisor.ownership import DataLock, empty_dir, make_private_dir, remove_private_dir
from vaultdb.supervisor.signals import SignalInbox

START_DEADLINE_MS = 15_000
"""The nodes start in well under a second; a long log to replay, or a busy machine, may take longer."""
_START_POLL_MS = 50
_START_HTTP_TIMEOUT_S = 0.3
_TICK_MS = 1_000


class ClusterRunner:
    """Owns the launcher's lock, the cluster's runtime directory, the control socket and every node under it."""

    def __init__(self, config: Config, config_path: Path, parts: Parts, say: Say) -> None:
        """`say` gets a sentence for the operator whenever something happened."""
        self._config = config
        self._config_path = config_path
        self._say = say
        self._members = [Member(config.node(address.id), parts.mains) for address in config.nodes]
        self._monitor = MonitorKeeper(config, parts.monitor, say)
        self._owned: list[int] = []
        """Descriptors that children close."""

    def run(self, report: Callable[[bool], None], release: Callable[[], None] = lambda: None) -> int:
        """Run the cluster until SIGTERM, Ctrl-C or a `stop` order; returns the launcher's exit status.

        `report` is called once when all is started: True, a leader and a quorum serve; False, not yet. `release` closes
        in each forked process what the caller does not share. Raises a VaultError when the cluster cannot be started;
        then nothing of it runs.
        """
        setproctitle.setproctitle("vaultdb launcher")
        self._release_callers = release
        with contextlib.ExitStack() as cleanup:
            self._signals = SignalInbox()
            cleanup.callback(self._signals.close)
            self._own(cleanup)
            cleanup.callback(self._stop_all)
            for member in self._members:
                member.start(self._release_in_child)
            serves = self._wait_until_serving()
            if self._signals.stop_requests:
                return 0
            report(serves)
            return self._turn_until_stopped()

    def _own(self, cleanup: contextlib.ExitStack) -> None:
        """Take what only one launcher may have; check what its nodes will need."""
        preflight.check(self._config)
        lock = DataLock.acquire(record.lock_path(self._config))
        cleanup.callback(lock.release)
        directory = make_private_dir(self._config.runtime_dir, levels=1)
        cleanup.callback(os.close, directory)
        cleanup.callback(self._clear_runtime_dir)
        self._control = ControlServer(socket_path(self._config))
        cleanup.callback(self._control.remove)
        record.write(self._config, self._config_path, Identity.of(os.getpid()), clock.wall_ms() / 1000)
        self._owned = [lock.fileno(), directory]

    def _release_in_child(self) -> None:
        self._signals.leave_to_parent()
        self._control.close()
        self._monitor.close_in_child()
        for member in self._members:
            if member.restart_request is not None:
                member.restart_request.close()
        for fd in self._owned:
            os.close(fd)
        self._release_callers()

    # ------------------------------------------------------------------ starting

    def _wait_until_serving(self) -> bool:
        """Whether the cluster serves, once every node does or START_DEADLINE_MS has passed. Raises when a node failed.

        A quorum is not enough: a node that is about to fail must not be overlooked.
        """
        deadline_ns = clock.deadline_after_ms(START_DEADLINE_MS)
        while not self._signals.stop_requests:
            now_ns = monotonic_ns()
            self._monitor.tend(now_ns, self._release_in_child)
            failed = [member.end_in_words() for member in self._members if member.tend(now_ns)]
            if failed:
                raise Unavailable("the cluster did not start: " + "; ".join(failed))
            seen = view.look_at(self._config, _START_HTTP_TIMEOUT_S)
            if seen.serves_fully or clock.ms_until(deadline_ns) <= 0:
                return seen.serves
            self._signals.wait(_START_POLL_MS)
        return False

    # ------------------------------------------------------------------ running

    def _turn_until_stopped(self) -> int:
        while not self._signals.stop_requests:
            self._tend(monotonic_ns())
            if all(member.pid is None and (member.exit_code or 0) >= 0 for member in self._members):
                self._say("no node runs any more")
                return 1 if any(member.failed for member in self._members) else 0
            if self._signals.wait(self._ms_to_next_turn(), [self._control.fileno()]):
                request = self._control.accept()
                if request is not None:
                    self._obey(request)
        return 0

    def _ms_to_next_turn(self) -> float:
        if self._monitor.restart_at_ns is None:
            return _TICK_MS
        return min(_TICK_MS, (self._monitor.restart_at_ns - monotonic_ns()) / NS_PER_MS)

    def _tend(self, now_ns: int) -> None:
        self._monitor.tend(now_ns, self._release_in_child)
        for member in self._members:
            if not member.tend(now_ns):
                continue
            if member.restart_request is not None:
                self._restart(member)
            else:
                self._say(f"{member.end_in_words()}; it stays down until `restart {member.node.name}`")

    def _obey(self, request: Request) -> None:
        if request.command == "stop":
            self._signals.stop_requests += 1
            request.answer(True, "the cluster stops")
            return
        member = next((member for member in self._members if member.node.name == request.node), None)
        if request.command != "restart" or member is None:
            request.answer(False, f"the launcher knows no order {request.command!r} for {request.node!r}")
        elif member.restart_request is not None:
            request.answer(False, f"{request.node} is being restarted already")
        else:
            member.restart_request = request
            if member.pid is None:
                self._restart(member)
            else:
                member.stop()

    def _restart(self, member: Member) -> None:
        """Carry out the member's restart request: its supervisor has ended."""
        request = member.restart_request
        assert request is not None
        try:
            member.start(self._release_in_child)
        except VaultError as error:
            ok, text = False, f"{member.node.name} cannot be started: {error}"
        else:
            ok, text = True, f"{member.node.name} is started again"
        self._say(text)
        request.answer(ok, text)
        member.restart_request = None

    # ------------------------------------------------------------------ stopping

    def _stop_all(self) -> None:
        """All nodes at once, each in its own order; a further stop request kills them."""
        asked = self._signals.stop_requests
        self._monitor.stop()
        for member in self._members:
            member.stop()
        while self._monitor.running or any(member.pid is not None for member in self._members):
            self._signals.wait(_START_POLL_MS)
            now_ns = monotonic_ns()
            if self._signals.stop_requests > max(asked, 1):
                self._kill_all()
            for member in self._members:
                if member.tend(now_ns) and member.exit_code:
                    self._say(member.end_in_words())
            self._monitor.tend_stopping(now_ns)

    def _kill_all(self) -> None:
        for member in self._members:
            member.kill()
        self._monitor.kill()

    def _clear_runtime_dir(self) -> None:
        """What nodes leave when they are killed or fail, and the cluster's own files."""
        for member in self._members:
            directory = member.node.runtime_dir
            if directory.is_dir():
                remove_private_dir(directory)
        empty_dir(self._config.runtime_dir)
        with contextlib.suppress(OSError):  # a node that is not this launcher's may have its place there
            self._config.runtime_dir.rmdir()
