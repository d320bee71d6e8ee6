"""Commands that start nothing, called in this process: usage, bad configuration, and looking where nothing runs."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.launcher.cli_under_test import parts
from tests.launcher.conftest import LaunchedCluster
from tests.launcher.fake_cluster import row
from vaultdb import config
from vaultdb.cli import Setting, cli
from vaultdb.cluster import logfiles, tables, view
from vaultdb.errors import ExitCode
from vaultdb.supervisor import ownership

Run = Callable[..., Result]


@pytest.fixture
def run(cluster: LaunchedCluster, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls one command on `cluster`, of which nothing runs."""
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.directory))
    setting = Setting(cluster.directory / "config.toml", lambda: parts(cluster.directory))

    def call(*arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments, obj=setting, prog_name="launcher.py")

    return call


def test_status_without_a_cluster_fails(run: Run) -> None:
    shown = run("status")
    assert shown.exit_code == 1
    assert "runs on this machine" in shown.stdout
    record = json.loads(run("status", "--json").stdout)
    assert [(node["node"], node["role"]) for node in record["nodes"]] == [(f"node{i}", "down") for i in range(3)]


def looked_at(cluster: LaunchedCluster, members: list[dict[str, Any]], *serving: int) -> view.ClusterView:
    """Node0 leads and knows of `members`; of the configuration only `serving` do."""
    loaded = config.load(cluster.directory / "config.toml", environment={})
    told = {"consensus": {"membership": {"members": members}}}
    nodes = []
    for i in range(3):
        answer = {"role": "leader" if i == 0 else "follower", "leader": {"id": "node0"}, "term": 3, **told}
        nodes.append(view.NodeView(loaded.node(i), answer if i in serving else None, None))
    return view.ClusterView(nodes)


@pytest.mark.parametrize(
    ("members", "serving", "serves", "serves_fully"),
    [
        ([], (0, 1), True, False),
        ([], (0,), False, False),
        ([row(i, f"node{i}", 1) for i in range(2)], (0, 1), True, True),
        ([row(i, f"node{i}", 1) for i in range(5)], (0, 1), True, False),
        ([row(i, f"node{i}", 1) | {"connected": i < 3} for i in range(5)], (0, 1), False, False),
        ([*(row(i, f"node{i}", 1) for i in range(3)), row(5, "a", 1, role="learner")], (0, 1), True, False),
        ([row(0, "node0", 1), row(1, "node1", 1), row(2, "node2", 1, role="learner")], (0, 2), False, False),
    ],
)
def test_a_quorum_is_one_of_the_voters(
    cluster: LaunchedCluster, members: list[dict[str, Any]], serving: tuple[int, ...], serves: bool, serves_fully: bool
) -> None:
    """Promise: `status` counts who has a vote: joined nodes too, removed ones and learners not."""
    seen = looked_at(cluster, members, *serving)
    assert (seen.serves, seen.serves_fully) == (serves, serves_fully)


def test_a_node_that_joined_may_lead(cluster: LaunchedCluster) -> None:
    """Promise: the cluster serves although no node of the configuration leads it; without a leader it does not."""
    loaded = config.load(cluster.directory / "config.toml", environment={})
    rows = [*(row(i, f"node{i}", 1) for i in range(3)), row(5, "extra", 1)]
    answer = {"role": "follower", "term": 4, "leader_id": 5, "leader": {"id": "extra"}}
    answer["consensus"] = {"membership": {"members": rows}}
    seen = view.ClusterView([view.NodeView(loaded.node(i), answer, None) for i in range(3)])
    assert (seen.leader_name, seen.serves, seen.serves_fully) == ("extra", True, True)
    dead = answer | {"leader_id": 1, "leader": {"id": "node1"}}
    seen = view.ClusterView([view.NodeView(loaded.node(i), dead if i != 1 else None, None) for i in range(3)])
    assert (seen.leader_name, seen.serves) == (None, False)


def test_what_the_others_hold_against_a_node_is_told(cluster: LaunchedCluster) -> None:
    """Promise: an operator whose node was wiped reads in `status` why nobody listens to it."""
    loaded = config.load(cluster.directory / "config.toml", environment={})
    answer = {"role": "follower", "consensus": {"admitted": False, "notice": "its disk is not the one that is known"}}
    seen = view.ClusterView([view.NodeView(loaded.node(1), answer, None)])
    assert tables.troubles(seen) == ["node1: its disk is not the one that is known"]


def test_stop_without_a_cluster_is_no_error(run: Run) -> None:
    stopped = run("stop")
    assert (stopped.exit_code, stopped.stdout) == (0, "Nothing runs here.\n")


@pytest.mark.parametrize("command", ["start", "start --detach", "status", "stop", "logs", "kill node0", "node --id 0"])
def test_a_bad_configuration_is_refused_with_all_its_faults(cluster: LaunchedCluster, run: Run, command: str) -> None:
    """Exit status 2 and one line that holds every fault, whatever the command; nothing is started."""
    path = cluster.directory / "config.toml"
    path.write_text(path.read_text().replace("id = 1", 'id = "1"') + '\n[raft]\ntick_ms = "10"\n')
    refused = run(*command.split())
    assert refused.exit_code == 2
    assert "node.1.id: must be a valid integer (value '1')" in refused.stderr
    assert "raft.tick_ms: must be a valid integer (value '10')" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not cluster.events


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("start --config nowhere.toml", "nowhere.toml: cannot be read: No such file or directory"),
        ("start --nodes 9", "--nodes 9: the file has 3 nodes"),
        ("start --set raft.nothing=1", "raft.nothing: unknown field (value 1), from --set raft.nothing=1"),
        ("node --id 9", "9 is not a member; the configuration has 0, 1, 2"),
        ("node", "Missing option '--id'"),
        ("kill node1 kernel", "'kernel' is not one of"),
        ("dance", "No such command 'dance'"),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, command: str, sentence: str) -> None:
    refused = run(*command.split())
    assert refused.exit_code == 2
    assert sentence in refused.stderr


@pytest.mark.parametrize("command", ["start", "start --detach", "node --id 0"])
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("/dev/null", "cannot be made: /dev/null is not a directory"),
        ("/proc/x", "cannot be made: the file system of /proc takes no new directories"),
    ],
)
def test_an_impossible_data_directory_is_one_sentence(run: Run, command: str, data: str, sentence: str) -> None:
    refused = run(*command.split(), "--data", data)
    assert refused.exit_code == (ExitCode.IO_FAILED if command.startswith("node") else 1)
    assert refused.stderr.startswith(f"Error: the directory {data}")
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["start", "start --detach", "node --id 0"])
def test_a_start_without_room_is_one_sentence(
    cluster: LaunchedCluster, run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(ownership, "START_BYTES_MIN", 1 << 60)
    refused = run(*command.split())
    assert refused.exit_code == (ExitCode.IO_FAILED if command.startswith("node") else 1)
    assert refused.stderr.startswith(f"Error: {cluster.data.resolve()}")
    assert ": No space left on device" in refused.stderr
    assert not cluster.data.exists()
    assert not cluster.events


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (205, "3m25s"), (7_500, "2h05m"), (86_400 * 12 + 7 * 3600, "12d07h")],
)
def test_the_process_table_fits_80_columns(cluster: LaunchedCluster, seconds: float, shown: str) -> None:
    """Every process is one line with its whole name, also with a long uptime and much memory."""
    node = config.load(cluster.directory / "config.toml", environment={}).node(0)
    numbers = {"pid": 4_194_304, "uptime_s": seconds, "restarts": 1234, "rss_bytes": 9_999 << 20, "cpu_percent": 100.0}
    entry = {"name": "supervisor", "state": "starting", **numbers}
    console = Console(width=80, file=io.StringIO())
    console.print(tables.processes(view.ClusterView([view.NodeView(node, None, None, None, [entry])])))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3
    words = lines[2].replace("│", " ").split()
    assert words == ["node0", "supervisor", "starting", "4194304", shown, "1234", "9999.0", "MiB", "100", "%"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("kill node9", "there is no node 'node9'; the cluster has node0, node1, node2"),
        ("restart node1", "no launcher runs here; start the cluster first"),
        ("kill node1", "node1 is not running"),
        ("kill node1 storage", "storage of node1 is not running"),
    ],
)
def test_orders_that_cannot_be_carried_out(run: Run, command: str, sentence: str) -> None:
    refused = run(*command.split())
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: {sentence}\n"


def test_logs_of_one_node_and_of_all(cluster: LaunchedCluster, run: Run) -> None:
    loaded = config.load(cluster.directory / "config.toml", environment={})
    for name, path in logfiles.paths(loaded).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} says {i}\n" for i in range(30)))
    assert run("logs", "1", "-n", "2").stdout == "node1 says 28\nnode1 says 29\n"
    assert run("logs", "monitor").stdout.count("\n") == 20
    every = run("logs", "-n", "1").stdout.splitlines()
    assert every == [f"{name:8} | {name} says 29" for name in logfiles.paths(loaded)]


def test_a_large_log_is_rotated_once_at_a_start(cluster: LaunchedCluster) -> None:
    """Exactly ROTATE_BYTES stay, one more byte moves the file aside; an older one is replaced, never added."""
    path = cluster.directory / "logs" / "node0.log"
    assert logfiles.prepare(path) == 0
    with open(path, "wb") as file:
        file.truncate(logfiles.ROTATE_BYTES)
    assert logfiles.prepare(path) == logfiles.ROTATE_BYTES
    for _ in range(2):
        with open(path, "wb") as file:
            file.truncate(logfiles.ROTATE_BYTES + 1)
        assert logfiles.prepare(path) == 0
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["node0.log", "node0.log.1"]


def test_the_last_error_prefers_the_process_to_its_supervisor(cluster: LaunchedCluster) -> None:
    """The supervisor can only say that a process failed; the process said why. Errors of earlier starts do not
    count.
    """
    path = cluster.directory / "node0.log"
    path.write_text('{"level": "error", "process": "storage", "error": "long ago"}\n')
    offset = path.stat().st_size
    assert logfiles.last_error(path, offset) is None
    with open(path, "a") as file:
        file.write('{"level": "error", "process": "consensus", "error": "record 7 is damaged"}\n')
        file.write('{"level": "error", "process": "supervisor", "error": "consensus ended"}\n{"level": "info"}\n')
    assert logfiles.last_error(path, offset) == "consensus: record 7 is damaged"


def test_a_follower_goes_over_a_rotation(cluster: LaunchedCluster) -> None:
    """Half a line waits for its end; a file that became shorter is read from its start."""
    path = cluster.directory / "node0.log"
    path.write_text("old\n")
    follower = logfiles.Follower(path)
    with open(path, "a") as file:
        file.write("one\ntw")
    assert list(follower.new_lines()) == ["one"]
    with open(path, "a") as file:
        file.write("o\n")
    assert list(follower.new_lines()) == ["two"]
    path.write_text("new\n")
    assert list(follower.new_lines()) == ["new"]
