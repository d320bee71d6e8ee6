"""The supervisor as a real process over substitute children: crashes, silence, refusal, stop, and what is left
behind.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess

import psutil
import pytest

from tests.processes import wait_until
from tests.supervisor.conftest import NodeFactory, RunningNode
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.errors import ExitCode
from vaultdb.supervisor.supervisor import STOP_ORDER

pytestmark = pytest.mark.system


def restarts_to(node: RunningNode, name: str, count: int) -> None:
    wait_until(lambda: len(node.starts(name)) == count, f"{name} started {count} times; log:\n{node.log}")


def stop(node: RunningNode) -> int:
    node.supervisor.send_signal(signal.SIGTERM)
    return node.wait_for_exit()


def test_processes_have_names_and_start_in_order(start_node: NodeFactory) -> None:
    """`ps` tells who is who; the api, which takes requests, is forked last. Which of them runs first is chance."""
    names = ("consensus", "storage", "api")
    node = start_node()
    node.wait_until_running()
    wait_until(lambda: all(node.starts(name) for name in names), "all three have begun")
    titles = [" ".join(psutil.Process(entry["pid"]).cmdline()).strip() for entry in node.status["processes"]]
    assert titles == [f"vaultdb node0 {name}" for name in ("supervisor", *names)]
    pids = [node.starts(name)[0][0] for name in names]
    assert pids == sorted(pids)


@pytest.mark.parametrize("name", STOP_ORDER)
def test_a_killed_process_is_restarted_at_once(start_node: NodeFactory, name: str) -> None:
    """kill -9 of one process costs a node milliseconds, and its siblings nothing."""
    node = start_node()
    node.wait_until_running()
    others = [node.process(other)["pid"] for other in STOP_ORDER if other != name]
    killed_ns = monotonic_ns()
    os.kill(node.process(name)["pid"], signal.SIGKILL)
    restarts_to(node, name, 2)
    gap_ms = (node.starts(name)[1][1] - killed_ns) / NS_PER_MS
    assert gap_ms < 250, f"{name} was back after {gap_ms:.1f} ms"
    wait_until(lambda: node.process(name)["restarts"] == 1, f"the status tells the restart: {node.status}")
    assert node.process(name)["last_exit"] == -signal.SIGKILL
    assert [node.process(other)["pid"] for other in STOP_ORDER if other != name] == others


def test_a_silent_process_is_killed_and_restarted(start_node: NodeFactory) -> None:
    """A process that hangs (here: is stopped) does not beat; only SIGKILL ends it."""
    node = start_node(silence_timeout_ms=400)
    node.wait_until_running()
    os.kill(node.process("storage")["pid"], signal.SIGSTOP)
    restarts_to(node, "storage", 2)
    assert "storage is silent and is killed" in node.log
    assert len(node.starts("consensus")) == len(node.starts("api")) == 1


def test_a_pause_of_the_supervisor_kills_nobody(start_node: NodeFactory) -> None:
    """After the machine was suspended, or the supervisor stopped, old silence says nothing about the children.

    Planted bug that this catches: judging silence without looking at the own pause.
    """
    node = start_node(silence_timeout_ms=400)
    node.wait_until_running()
    for child in STOP_ORDER:
        os.kill(node.process(child)["pid"], signal.SIGSTOP)
    node.supervisor.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(node.supervisor.pid).status() == psutil.STATUS_STOPPED, "the supervisor stopped")
    stopped_ns = monotonic_ns()
    wait_until(lambda: monotonic_ns() - stopped_ns > 1_000 * NS_PER_MS, "a second passed")
    written = node.node.supervisor_status_path.stat().st_mtime_ns
    node.supervisor.send_signal(signal.SIGCONT)
    wait_until(lambda: node.node.supervisor_status_path.stat().st_mtime_ns > written, "the supervisor turns again")
    for child in STOP_ORDER:
        os.kill(node.process(child)["pid"], signal.SIGCONT)
    seen = node.node.supervisor_status_path.stat().st_mtime_ns
    wait_until(lambda: node.node.supervisor_status_path.stat().st_mtime_ns > seen, "it turns once more")
    assert [len(node.starts(name)) for name in STOP_ORDER] == [1, 1, 1], node.log


def test_a_crash_loop_ends_the_node_loudly(start_node: NodeFactory) -> None:
    """A process that never comes up does not restart for ever: the node ends with its exit code and says why last."""
    node = start_node({"storage": "fails_orphaned"}, crash_loop_restarts=3, backoff_min_ms=1)
    assert node.wait_for_exit() == ExitCode.ORPHANED
    last = json.loads(node.log.splitlines()[-1])
    assert last["event"] == "node failed"
    assert "storage ended 4 times" in last["error"]
    assert len(node.starts("storage")) == 4
    assert not node.living()


def test_a_full_disk_does_not_end_the_node(start_node: NodeFactory) -> None:
    """Restarts go on past the crash-loop limit, the other processes live, and the status says why one does not."""
    node = start_node({"storage": "disk_full"}, crash_loop_restarts=2, backoff_min_ms=1, backoff_max_ms=20)
    wait_until(lambda: len(node.starts("storage")) > 10, f"storage is tried again and again; log:\n{node.log}")
    wait_until(lambda: "No space left" in str(node.process("storage").get("last_words")), "the status has the reason")
    assert len(node.starts("consensus")) == len(node.starts("api")) == 1
    assert stop(node) == 0


def test_a_log_that_cannot_be_written_ends_nobody(start_node: NodeFactory) -> None:
    """Every line fails with "No space left on device", and supervisor and children go on, restarts included.

    Planted bug that this catches: a log sink that raises.
    """
    node = start_node()
    node.wait_until_running()
    assert stop(node) == 0
    with open("/dev/full", "w") as full:
        node.supervisor = node.spawn(stdout=full, stderr=full)
    node.wait_until_running()
    os.kill(node.process("storage")["pid"], signal.SIGKILL)
    restarts_to(node, "storage", 3)
    assert stop(node) == 0
    assert not node.living()


def test_a_loop_of_clean_exits_is_a_failure_too(start_node: NodeFactory) -> None:
    node = start_node({"api": "fails_clean"}, crash_loop_restarts=2, backoff_min_ms=1)
    assert node.wait_for_exit() == ExitCode.BROKEN_INVARIANT
    assert not node.living()


def test_an_incurable_exit_code_ends_the_node_at_once(start_node: NodeFactory) -> None:
    """Damaged data is not read twice: the child's own sentence is in the log, the node ends with its code."""
    node = start_node({"consensus": "corrupt"})
    assert node.wait_for_exit() == ExitCode.CORRUPT_DATA
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert any("record 17 of node0 is damaged" in line.get("error", "") for line in lines)
    assert "CORRUPT_DATA" in lines[-1]["error"]
    assert len(node.starts("consensus")) == 1
    assert node.status["state"] == "failed"
    assert "record 17 of node0 is damaged" in node.status["reason"]
    assert [path.name for path in node.node.runtime_dir.iterdir()] == ["supervisor.json"]
    assert not node.living()


def test_an_unexpected_exception_is_logged_with_its_traceback(start_node: NodeFactory) -> None:
    node = start_node({"api": "bug"}, crash_loop_restarts=1)
    assert node.wait_for_exit() == ExitCode.BROKEN_INVARIANT
    assert "ZeroDivisionError: a planted bug" in node.log
    assert "Traceback" in node.log


def test_a_second_owner_is_refused(start_node: NodeFactory) -> None:
    """Two supervisors on one data directory would make two voters of one vote. The first goes on undisturbed."""
    node = start_node()
    node.wait_until_running()
    second = node.spawn(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, errors = second.communicate(timeout=10)
    assert second.returncode == ExitCode.ALREADY_OWNED
    assert f"is in use by pid {node.supervisor.pid}" in errors
    assert len(node.starts("api")) == 1
    assert node.node.supervisor_status_path.exists()
    assert stat.S_IMODE(node.node.lock_path.stat().st_mode) == 0o600


def test_children_keep_the_lock_of_a_dead_supervisor(start_node: NodeFactory) -> None:
    """While any old child lives its successor is refused: the lock's descriptor is inherited."""
    node = start_node()
    node.wait_until_running()
    holders = [
        entry["pid"]
        for entry in node.status["processes"]
        if any(file.path == str(node.node.lock_path) for file in psutil.Process(entry["pid"]).open_files())
    ]
    assert len(holders) == 4


def test_a_child_holds_only_its_own_pipe(start_node: NodeFactory) -> None:
    """A sibling that holds a pipe open hides the death of its owner. Planted bug: `_release_in_child` closes
    nothing.
    """
    node = start_node()
    node.wait_until_running()
    os.kill(node.process("consensus")["pid"], signal.SIGKILL)
    restarts_to(node, "consensus", 2)
    wait_until(lambda: [line[1] for line in node.events].count("pipes") == 4, "every start counted its pipes")
    assert [line[2] for line in node.events if line[1] == "pipes"] == ["1"] * 4, node.events


@pytest.mark.parametrize("behaviour", ["steady", "silent"])
def test_a_killed_supervisor_leaves_no_children(start_node: NodeFactory, behaviour: str) -> None:
    """kill -9 of the supervisor ends its children, whether they beat or hang; the next supervisor starts at once."""
    node = start_node(dict.fromkeys(STOP_ORDER, behaviour))
    wait_until(lambda: len(node.living()) == 3, "three children run")
    node.supervisor.send_signal(signal.SIGKILL)
    node.supervisor.wait()
    wait_until(lambda: not node.living(), "the children are gone", 2)
    node.behaviours = {}
    node.start()
    node.wait_until_running()
    assert stop(node) == 0


def test_a_clean_stop_has_an_order_and_leaves_nothing(start_node: NodeFactory) -> None:
    """api, then consensus, then storage; exit 0; no process, no socket file, no runtime directory; the lock is free
    again.
    """
    node = start_node()
    node.wait_until_running()
    assert stop(node) == 0
    assert tuple(line[0] for line in node.events if line[1] == "stopping") == STOP_ORDER
    assert not node.living()
    assert not node.node.runtime_dir.exists()
    assert not node.node.config.runtime_dir.exists()
    node.start()
    node.wait_until_running()


def test_a_stop_while_starting_works(start_node: NodeFactory) -> None:
    """SIGTERM in the first moments, whichever they are, ends in a clean stop."""
    node = start_node()
    wait_until(lambda: node.node.runtime_dir.exists(), "the supervisor takes signals soon")
    wait_until(lambda: node.starts("consensus") or node.supervisor.poll() is not None, "the first child runs")
    assert stop(node) == 0
    assert not node.living()
    assert not node.node.runtime_dir.exists()


def test_a_late_process_is_killed_within_the_deadline(start_node: NodeFactory) -> None:
    """A process that ignores SIGTERM cannot hold up the stop, and the others still stop in order."""
    node = start_node({"api": "stubborn"}, stop_deadline_ms=600)
    wait_until(lambda: len(node.starts("storage")) == 1 and ["api", "stubborn"] in node.events, "all run")
    began_ns = monotonic_ns()
    assert stop(node) == 0
    assert (monotonic_ns() - began_ns) / NS_PER_MS < 600 + 400
    assert "api did not stop in time" in node.log
    assert [line[0] for line in node.events if line[1] == "stopping"] == ["consensus", "storage"]
    assert not node.living()


def test_status_file_is_private_and_whole(start_node: NodeFactory) -> None:
    """What status and monitor read: every process with identity, uptime, restarts, memory and cpu; nobody else may
    look.
    """
    node = start_node()
    node.wait_until_running()
    wait_until(lambda: all(entry["pss_bytes"] > 0 for entry in node.status["processes"]), "memory was sampled")
    record = node.status
    assert (record["node"], record["id"], record["state"]) == ("node0", 0, "running")
    assert record["pid"] == node.supervisor.pid
    assert record["create_time"] == psutil.Process(node.supervisor.pid).create_time()
    for entry in record["processes"]:
        assert entry["rss_bytes"] >= entry["pss_bytes"] > 0
        assert entry["uptime_s"] >= 0
        assert entry["last_exit"] is None
    assert stat.S_IMODE(node.node.runtime_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(node.node.supervisor_status_path.stat().st_mode) == 0o600


def test_an_open_runtime_directory_is_refused(start_node: NodeFactory) -> None:
    """Another user's or an open directory could serve planted sockets: the node does not start in it."""
    node = start_node()
    node.wait_until_running()
    assert stop(node) == 0
    base = node.directory / f"vaultdb-{os.getuid()}"
    base.mkdir(exist_ok=True)
    base.chmod(0o755)
    node.start()
    assert node.wait_for_exit() == ExitCode.CONFIG
    assert "is open to others: mode 0755, not 0700" in node.log
    base.rmdir()
    base.symlink_to(node.directory)
    node.start()
    assert node.wait_for_exit() == ExitCode.CONFIG
    assert "is not a directory" in node.log
