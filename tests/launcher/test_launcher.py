"""The launcher and its commands with real processes: start, look, stop, refuse, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.launcher.conftest import PROJECT, ClusterFactory, LaunchedCluster
from tests.processes import wait_until
from vaultdb import config
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.cluster import failures
from vaultdb.errors import ExitCode
from vaultdb.supervisor.identity import Identity

pytestmark = pytest.mark.system


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_cluster_in_the_foreground_comes_and_goes(cluster: LaunchedCluster, number: signal.Signals) -> None:
    """`start` announces a serving cluster; Ctrl-C, SIGTERM or a closed terminal ends it with status 0 and nothing
    left.
    """
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"these tests run with {number.name} ignored, and so would the launcher")
    launcher = cluster.start()
    assert len(cluster.living()) == 3 * 4 + 2
    code, said = cluster.finish(launcher, number)
    assert code == 0, said
    assert "Traceback" not in said
    assert not cluster.living()
    assert not cluster.runtime_files


def test_without_a_command_it_starts(cluster: LaunchedCluster) -> None:
    launcher = cluster.announced(cluster.launch())
    assert cluster.finish(launcher, signal.SIGINT)[0] == 0


def test_every_process_has_a_name(cluster: LaunchedCluster) -> None:
    """What `ps` shows: launcher, monitor, and four per node."""
    cluster.start()
    titles = sorted(" ".join(process.cmdline()).strip() for process in cluster.living())
    expected = [f"vaultdb node{i} {name}" for i in range(3) for name in ("api", "consensus", "storage", "supervisor")]
    assert titles == ["vaultdb launcher", "vaultdb monitor", *expected]


def test_fewer_nodes_and_the_other_commands_know_it(cluster: LaunchedCluster) -> None:
    """With --nodes 2 `status` and `stop` work on the cluster that runs, not on the one that the file describes."""
    launcher = cluster.start("--nodes", "2")
    record = cluster.status()
    assert [node["node"] for node in record["nodes"]] == ["node0", "node1"]
    assert record["serves"]
    assert record["leader"] == "node0"
    stopped = cluster.command("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "The cluster is stopped.\n")
    assert cluster.finish(launcher)[0] == 0
    assert not cluster.living()
    assert not cluster.runtime_files


def test_status_tells_nodes_and_processes(cluster: LaunchedCluster) -> None:
    """The table has role, term, commit, applied, and pid, uptime, restarts, memory; the exit status says whether it
    serves.
    """
    cluster.start()
    shown = cluster.command("status")
    assert shown.returncode == 0, shown.stdout
    for words in ("node2", "follower", "leader", "17", "16", "supervisor", "uptime", "restarts", "MiB", "quorum serve"):
        assert words in shown.stdout
    assert str(cluster.supervisor_of("node1")) in shown.stdout


def test_detached_start_returns_when_the_cluster_serves(cluster: LaunchedCluster) -> None:
    """The command ends, the cluster goes on without a terminal, `stop` ends it."""
    started = cluster.command("start", "--detach")
    assert started.returncode == 0, started.stderr
    assert "stop it with: launcher.py stop" in started.stdout.replace("cli_under_test.py", "launcher.py")
    assert cluster.command("status").returncode == 0
    launcher = psutil.Process(cluster.supervisor_of("node0")).ppid()
    assert psutil.Process(launcher).terminal() is None
    identity = Identity.of(launcher)
    assert cluster.command("stop").returncode == 0
    assert not identity.is_alive()
    assert not cluster.living()
    assert not cluster.runtime_files


def test_forked_processes_keep_nothing_of_the_launcher(cluster: LaunchedCluster) -> None:
    """A supervisor has its signal pipe and three heartbeats, the monitor its own heartbeat, and neither has a socket.

    Planted bugs that this catches: a child that keeps the control socket, the monitor's pipe or the detached start's
    pipe.
    """
    assert cluster.command("start", "--detach").returncode == 0
    os.kill(cluster.starts("monitor", "monitor")[0], signal.SIGKILL)
    wait_until(lambda: len(cluster.starts("monitor", "monitor")) == 2, "the monitor runs again")
    assert cluster.command("restart", "node1").returncode == 0
    monitor = cluster.starts("monitor", "monitor")[1]
    expected = {monitor: {"pipe": 1}, **{cluster.supervisor_of(f"node{i}"): {"pipe": 5} for i in range(3)}}
    assert {pid: pipes_and_sockets(pid) for pid in expected} == expected


def pipes_and_sockets(pid: int) -> Counter[str]:
    kinds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            kinds.append(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0])
    return Counter(kind for kind in kinds if kind in ("pipe", "socket"))


def test_detached_start_tells_why_it_failed(cluster: LaunchedCluster) -> None:
    cluster.behave({"node1 consensus": "corrupt"})
    started = cluster.command("start", "--detach")
    assert started.returncode == 1
    assert "record 17 of node1 is damaged" in started.stderr
    assert not cluster.living()
    assert not cluster.runtime_files


def test_f42_a_second_start_is_refused(cluster: LaunchedCluster) -> None:
    """Two launchers on the same data: one sentence with the owner's pid, and the first cluster does not notice."""
    launcher = cluster.start()
    second = cluster.command("start")
    assert second.returncode == 1
    assert second.stderr == f"Error: {cluster.data.resolve()} is in use by pid {launcher.pid}\n"
    assert cluster.status()["serves"]
    assert cluster.finish(launcher, signal.SIGINT)[0] == 0


def test_f42_a_single_node_and_a_cluster_do_not_share_data(cluster: LaunchedCluster) -> None:
    """`node` and `start` respect each other's lock."""
    single = cluster.launch("node", "--id", "1")
    wait_until(lambda: len(cluster.starts("node1", "api")) == 1, "the node runs")
    started = cluster.command("start")
    assert started.returncode == 1
    assert f"node1 is in use by pid {single.pid}" in started.stderr
    again = cluster.command("node", "--id", "1")
    assert again.returncode == ExitCode.ALREADY_OWNED
    assert cluster.finish(single, signal.SIGTERM)[0] == 0
    assert not cluster.living()
    assert not cluster.runtime_files


def test_f42_a_stale_record_with_a_live_stranger(cluster: LaunchedCluster) -> None:
    """After a crash the pids of the old record may belong to others: `stop` and `kill` leave them alone."""
    launcher = cluster.start()
    files = {path: path.read_text() for path in cluster.runtime_files if path.suffix == ".json"}
    assert len(files) == 4
    cluster.finish(launcher, signal.SIGTERM)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        for path, text in files.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            record = json.loads(text)
            for entry in [record, *record.get("processes", [])]:
                entry.update(pid=stranger.pid, create_time=psutil.Process(stranger.pid).create_time() - 100)
            path.write_text(json.dumps(record))
        assert cluster.command("stop").stdout == "Nothing runs here.\n"
        assert "node0 is not running" in cluster.command("kill", "node0").stderr
        assert cluster.command("status").returncode == 1
        assert stranger.poll() is None
        again = cluster.start()
        assert stranger.poll() is None
        stranger.communicate()
    assert cluster.finish(again, signal.SIGTERM)[0] == 0
    assert not cluster.runtime_files


@pytest.mark.parametrize("how", [[], ["--detach"]])
def test_taken_ports_are_all_named_and_nothing_starts(cluster: LaunchedCluster, how: list[str]) -> None:
    """One sentence in the system's words, and no directory, lock or log is left behind."""
    with socket.create_server(("127.0.0.1", cluster.ports[0])), socket.create_server(("127.0.0.1", cluster.ports[7])):
        started = cluster.command("start", *how)
    assert started.returncode == 1
    taken = [f"127.0.0.1:{cluster.ports[0]} (node0 http)", f"127.0.0.1:{cluster.ports[7]} (node2 peer)"]
    sentence = ", ".join(f"{address}: Address already in use" for address in taken)
    assert started.stderr == f"Error: cannot listen on {sentence}\n"
    assert not cluster.data.exists()
    assert not cluster.events
    assert not cluster.runtime_files


def test_a_node_that_fails_at_once_stops_the_start(cluster: LaunchedCluster) -> None:
    """Nothing half-started: the reason from the failed process's own log, a non-zero exit, and the other nodes are
    gone.
    """
    cluster.behave({"node1 storage": "corrupt"})
    started = cluster.command("start")
    assert started.returncode == 1
    assert "the cluster did not start: node1 ended with exit code 65 (CORRUPT_DATA)" in started.stderr
    assert "storage: record 17 of node1 is damaged" in started.stderr
    assert not cluster.living()
    assert not cluster.runtime_files


def test_the_reason_of_a_failed_start_needs_no_log(cluster: LaunchedCluster) -> None:
    """A full disk takes no log line, and the reason is told all the same. Planted bug: reading it from the log."""
    cluster.behave({"node1 storage": "corrupt"})
    log = cluster.data / "node1" / "node1.log"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    started = cluster.command("start")
    assert started.returncode == 1
    assert "node1 ended with exit code 65 (CORRUPT_DATA): storage: record 17 of node1 is damaged" in started.stderr


def test_status_does_not_take_a_stranger_for_its_cluster(cluster: LaunchedCluster, tmp_path: Path) -> None:
    """Another data directory with the same ports: nothing of it runs, whoever answers there."""
    cluster.start()
    assert cluster.status()["launcher"]["pid"] == psutil.Process(cluster.supervisor_of("node0")).ppid()
    other = cluster.command("status", "--data", str(tmp_path))
    assert other.returncode == 1
    assert f"No launcher and no node on {tmp_path} runs on this machine." in other.stdout
    record = json.loads(cluster.command("status", "--data", str(tmp_path), "--json").stdout)
    assert (record["serves"], record["launcher"]) == (False, None)
    assert {node["role"] for node in record["nodes"]} == {"down"}


def test_kill_lists_every_process_of_the_node(cluster: LaunchedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children die with their supervisor, before they are signalled themselves; they are killed processes all the
    same. Planted bug: listing only those that took the signal.
    """
    cluster.start()
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.directory))
    node = config.load(cluster.directory / "config.toml", environment={}).node(1)
    supervisor = psutil.Process(cluster.supervisor_of("node1"))
    running = {supervisor.pid, *(child.pid for child in supervisor.children())}
    signal_one = Identity.signal

    def signal_and_wait(self: Identity, number: signal.Signals) -> bool:
        taken = signal_one(self, number)
        wait_until(lambda: not [child for child in cluster.living() if child.pid in running], "all of it is gone")
        return taken

    monkeypatch.setattr(Identity, "signal", signal_and_wait)
    assert {identity.pid for identity in failures.kill(node)} == running
    assert len(running) == 4


@pytest.mark.parametrize("imported", ["vaultdb.errors", "vaultdb.cli", "rocksdict", "vaultdb.supervisor.mains"])
def test_ctrl_c_during_the_imports_leaves_no_traceback(cluster: LaunchedCluster, imported: str) -> None:
    """From the launcher's first line on: exit status 130, or a clean stop once nodes are being started."""
    command = [sys.executable, "-X", "importtime", str(PROJECT / "launcher.py"), "start", "--config", "config.toml"]
    environment = {**os.environ, "TMPDIR": str(cluster.directory)}
    with subprocess.Popen(
        command, cwd=cluster.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stderr is not None
        assert any(line.split()[-1] == imported for line in launcher.stderr if line.strip()), "it was not imported"
        launcher.send_signal(signal.SIGINT)
        _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode in ((0, 130) if imported == "vaultdb.supervisor.mains" else (130,)), errors[-500:]
    assert "Traceback" not in errors


def test_a_killed_node_stays_down_until_restarted(cluster: LaunchedCluster) -> None:
    """kill -9 of a whole node, seen by launcher and status; `restart` brings it back and tells its role."""
    launcher = cluster.start()
    before = cluster.supervisor_of("node2")
    killed = cluster.command("kill", "2")
    assert killed.returncode == 0, killed.stderr
    assert "It stays down until" in killed.stdout
    assert not psutil.pid_exists(before) or psutil.Process(before).status() == psutil.STATUS_ZOMBIE
    assert {node["node"]: node["role"] for node in cluster.status()["nodes"]}["node2"] == "down"
    assert cluster.status()["serves"]
    assert "node2 is not running" in cluster.command("kill", "node2").stderr
    restarted = cluster.command("restart", "node2")
    assert restarted.returncode == 0, restarted.stderr
    assert "node2 serves as follower." in restarted.stdout
    assert len(cluster.starts("node2", "consensus")) == 2
    code, said = cluster.finish(launcher, signal.SIGINT)
    assert code == 0
    assert "node2 was killed by SIGKILL; it stays down until `restart node2`" in said
    assert "node2 is started again" in said
    assert not cluster.living()


def test_a_running_node_is_restarted_cleanly(cluster: LaunchedCluster) -> None:
    launcher = cluster.start()
    assert cluster.command("restart", "node1").returncode == 0
    assert len(cluster.starts("node1", "consensus")) == 2
    assert '"node stopped"' in (cluster.data / "node1" / "node1.log").read_text()
    assert cluster.finish(launcher, signal.SIGINT)[0] == 0


def test_one_process_of_a_node_is_killed(cluster: LaunchedCluster) -> None:
    """Its supervisor restarts it; the rest of the node goes on."""
    cluster.start()
    killed = cluster.command("kill", "node1", "storage")
    assert killed.returncode == 0
    assert "stays down" not in killed.stdout
    wait_until(lambda: len(cluster.starts("node1", "storage")) == 2, "storage runs again")
    assert len(cluster.starts("node1", "consensus")) == 1


def test_a_killed_launcher_leaves_nothing_running(cluster: LaunchedCluster) -> None:
    """kill -9 of the launcher: the nodes stop cleanly by themselves, and the next start works."""
    launcher = cluster.start()
    cluster.finish(launcher, signal.SIGKILL)
    cluster.wait_until_gone()
    for name in ("node0", "node1", "node2"):
        assert '"node stopped"' in (cluster.data / name / f"{name}.log").read_text()
    assert cluster.command("stop").stdout == "Nothing runs here.\n"
    assert cluster.finish(cluster.start(), signal.SIGINT)[0] == 0
    assert not cluster.runtime_files


def test_a_second_ctrl_c_kills_hard(make_cluster: ClusterFactory) -> None:
    """Who does not want to wait for a hanging process need not."""
    cluster = make_cluster(settings="[supervisor]\nstop_deadline_ms = 60000")
    launcher = cluster.start()
    cluster.behave({"node1 storage": "stubborn"})
    os.kill(cluster.starts("node1", "storage")[0], signal.SIGKILL)
    wait_until(lambda: ["storage", "stubborn"] in cluster.events, "the stubborn process runs")
    began_ns = monotonic_ns()
    launcher.send_signal(signal.SIGINT)
    wait_until(lambda: len(cluster.living()) == 3, "only the stubborn one, its supervisor and the launcher are left")
    code, _ = cluster.finish(launcher, signal.SIGINT)
    assert code == 0
    assert (monotonic_ns() - began_ns) / NS_PER_MS < 10_000
    assert not cluster.living()
    assert not cluster.runtime_files


def test_the_monitor_is_restarted(cluster: LaunchedCluster) -> None:
    launcher = cluster.start()
    os.kill(cluster.starts("monitor", "monitor")[0], signal.SIGKILL)
    wait_until(lambda: len(cluster.starts("monitor", "monitor")) == 2, "the monitor runs again")
    code, said = cluster.finish(launcher, signal.SIGINT)
    assert code == 0
    assert "monitor was killed by SIGKILL; it is restarted" in said


def test_the_launcher_ends_when_no_node_is_left(make_cluster: ClusterFactory) -> None:
    """A cluster of one whose node gives up is over; a launcher that waits for nothing would hide it."""
    cluster = make_cluster(nodes=1, settings="[supervisor]\ncrash_loop_restarts = 2\nbackoff_min_ms = 1")
    launcher = cluster.start()
    cluster.behave({"node0 storage": "fails_orphaned"})
    os.kill(cluster.starts("node0", "storage")[0], signal.SIGKILL)
    code, said = cluster.finish(launcher)
    assert code == 1
    assert "node0 ended with exit code 79 (ORPHANED): storage ended 3 times" in said
    assert not cluster.living()


def test_logs_follow_what_is_appended(cluster: LaunchedCluster) -> None:
    cluster.start()
    following = cluster.launch("logs", "node1", "-n", "1", "-f")
    assert following.stdout is not None
    assert following.stdout.readline()
    os.kill(cluster.starts("node1", "storage")[0], signal.SIGKILL)
    assert any("storage was killed by SIGKILL" in line for line in iter(following.stdout.readline, ""))
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 0


def test_a_single_node_runs_in_the_foreground(cluster: LaunchedCluster) -> None:
    """For systemd: the supervisor is the process itself, logs go to standard error, SIGTERM ends it with 0."""
    node = cluster.launch("node", "--id", "0")
    wait_until(lambda: len(cluster.starts("node0", "api")) == 1, "the node runs")
    assert cluster.supervisor_of("node0") == node.pid
    code, said = cluster.finish(node, signal.SIGTERM)
    assert code == 0
    assert '"node stopped"' in said
    assert not cluster.living()
    assert not cluster.runtime_files
