"""Configuration: strict types, all faults together, overrides, and the files that are delivered."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from vaultdb import config, limits
from vaultdb.config import Config, NodeAddress
from vaultdb.errors import ConfigInvalid

PROJECT = Path(__file__).parents[1]
NODE = """
[[node]]
id = 0
name = "node0"
host = "127.0.0.1"
http_port = 11000
peer_port = 12000
native_port = 13000
"""
SECOND = NODE.replace("id = 0", "id = 1").replace("node0", "node1").replace("000\n", "001\n")


def load(
    directory: Path,
    text: str,
    *overrides: str,
    environment: dict[str, str] | None = None,
    nodes_max: int | None = None,
) -> Config:
    path = directory / "test.toml"
    path.write_text(text)
    return config.load(path, environment=environment or {}, overrides=overrides, nodes_max=nodes_max)


def faults(
    directory: Path,
    text: str,
    *overrides: str,
    environment: dict[str, str] | None = None,
    nodes_max: int | None = None,
) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(directory, text, *overrides, environment=environment, nodes_max=nodes_max)
    assert str(caught.value).startswith(str(directory / "test.toml"))
    return caught.value.faults


@pytest.mark.parametrize(("name", "nodes"), [("local", 5), ("single", 1), ("production", 5)])
def test_delivered_files_are_valid(name: str, nodes: int) -> None:
    loaded = config.load(PROJECT / "config" / f"{name}.toml", environment={})
    assert len(loaded.nodes) == nodes
    assert [node.id for node in loaded.nodes] == list(range(nodes))


def test_local_file_shows_the_defaults(tmp_path: Path) -> None:
    """The comments of config/local.toml say that what it sets is the default. It must stay true."""
    local = config.load(PROJECT / "config" / "local.toml", environment={})
    plain = load(tmp_path, NODE)
    for section in ("cluster", "raft", "log", "storage", "api", "supervisor", "monitor", "logging"):
        assert getattr(local, section) == getattr(plain, section), section
    assert local.data_path == PROJECT / "data"
    ports = [(node.http_port, node.peer_port, node.native_port) for node in local.nodes]
    assert ports == [(11000 + i, 12000 + i, 13000 + i) for i in range(5)]


def test_members_become_addresses(tmp_path: Path) -> None:
    """TOML's array of tables becomes a tuple of frozen dataclasses."""
    loaded = load(tmp_path, NODE + SECOND)
    assert isinstance(loaded.nodes, tuple)
    assert loaded.nodes[1] == NodeAddress(
        id=1, name="node1", host="127.0.0.1", http_port=11001, peer_port=12001, native_port=13001
    )
    assert loaded.node(0).peers == (loaded.nodes[1],)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('tick_ms = "20"', "raft.tick_ms: must be a valid integer (value '20')"),
        ("tick_ms = true", "raft.tick_ms: must be a valid integer (value True)"),
        ("tick_ms = 20.0", "raft.tick_ms: must be a valid integer (value 20.0)"),
        ("tick_ms = 2020-01-01", "raft.tick_ms: must be a valid integer"),
        ("tick_ms = [1]", "raft.tick_ms: must be a valid integer"),
        ("tick_ms = nan", "raft.tick_ms: must be a valid integer (value nan)"),
        ("tick_ms = 0", "raft.tick_ms: must be greater than or equal to 1 (value 0)"),
        ("tick_ms = 1001", "raft.tick_ms: must be less than or equal to 1000 (value 1001)"),
        ("ticks = 1", "raft.ticks: unknown field (value 1)"),
    ],
)
def test_types_and_bounds_are_strict(tmp_path: Path, line: str, fault: str) -> None:
    assert faults(tmp_path, f"{NODE}\n[raft]\n{line}") == [fault]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("http_port = 11000", 'http_port = "11000"', "node.0.http_port: must be a valid integer (value '11000')"),
        (
            "http_port = 11000",
            "http_port = 70000",
            "node.0.http_port: must be less than or equal to 65535 (value 70000)",
        ),
        ("peer_port = 12000\n", "", "node.0.peer_port: field required"),
        ("id = 0", "id = false", "node.0.id: must be a valid integer (value False)"),
        ('name = "node0"', 'name = "../up"', "node.0.name: string should match pattern"),
        ('host = "127.0.0.1"', 'host = "http://a"', "node.0.host: string should match pattern"),
        ('host = "127.0.0.1"', "host = 2020-01-01", "node.0.host: must be a valid string"),
    ],
)
def test_faults_of_members_are_named_by_their_place(tmp_path: Path, old: str, new: str, fault: str) -> None:
    """The table is called [[node]] in the file, so that is what the sentence says."""
    (found,) = faults(tmp_path, NODE.replace(old, new))
    assert found.startswith(fault)


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    """Nobody should have to start five times to learn of five faults; what spoils one section does not hide another."""
    text = (
        'data_dir = 5\ncolour = "red"\nlogging = 3\n'
        + NODE.replace("id = 0", 'id = "0"')
        + "[raft]\nheartbeat_ms = 200\n[supervisor]\nbackoff_min_ms = 9000\n[storage]\ncache_bytes = 1\n"
    )
    found = faults(tmp_path, text, "api.nothing=1", "broken", environment={"VAULTDB_MONITOR__PORT": "0"})
    expected = [
        "--set broken: is not section.field=value",
        "node.0.id: must be a valid integer (value '0')",
        "data_dir: must be a valid string (value 5)",
        "raft: election_timeout_min_ms 300 is less than three times heartbeat_ms 200",
        f"storage.cache_bytes: must be greater than or equal to {64 * limits.KIB} (value 1)",
        "api.nothing: unknown field (value 1), from --set api.nothing=1",
        "supervisor: backoff_max_ms 5000 is below backoff_min_ms 9000",
        "monitor.port: must be greater than or equal to 1 (value 0), from VAULTDB_MONITOR__PORT",
        "logging: is not a section (value 3)",
        "colour: unknown field (value 'red')",
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "node: at least one [[node]] table is needed"),
        ("node = 3", "node: must be a valid array (value 3)"),
        ("nodes = 3" + NODE, "nodes: unknown; members are written as [[node]] tables"),
        (NODE + NODE.replace("000\n", "001\n"), "node: id 0 is used twice; name 'node0' is used twice"),
        (NODE + SECOND.replace("12001", "11000"), "node: address '127.0.0.1:11000' is used twice"),
        (NODE.replace("12000", "13000"), "node: address '127.0.0.1:13000' is used twice"),
        (NODE + "[monitor]\nport = 12000", "monitor.port: 12000 is also a port of node0"),
        (NODE + "[raft]\nheartbeat_ms = 5", "raft: heartbeat_ms 5 is shorter than tick_ms 10"),
        (
            NODE + "[raft]\nelection_timeout_max_ms = 300",
            "raft: election_timeout_max_ms 300 is not above election_timeout_min_ms 300",
        ),
    ],
)
def test_relations_between_fields(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [fault]


@pytest.mark.parametrize(
    ("content", "fault"), [(b"a = = b", "is not TOML"), (b"\xff\xfe", "is not TOML"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "test.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=fault):
        config.load(path, environment={})


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults, file, environment, flags."""
    text = NODE + "[raft]\nheartbeat_ms = 40\nelection_timeout_min_ms = 400\nelection_timeout_max_ms = 900"
    loaded = load(
        tmp_path,
        text,
        "raft.election_timeout_min_ms=500",
        environment={"VAULTDB_RAFT__ELECTION_TIMEOUT_MIN_MS": "450", "VAULTDB_RAFT__ELECTION_TIMEOUT_MAX_MS": "800"},
    )
    raft = loaded.raft
    assert (raft.tick_ms, raft.heartbeat_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms) == (
        10, 40, 500, 800,
    )  # fmt: skip


def test_overrides_are_typed_like_toml(tmp_path: Path) -> None:
    """Text needs no quotes, but may have them; a number in quotes is text; a second statement is not smuggled in."""
    assert load(tmp_path, NODE, "logging.level=debug").logging.level == "debug"
    assert load(tmp_path, NODE, 'cluster.name="42"').cluster.name == "42"
    assert load(tmp_path, NODE, "storage.cache_bytes=1_000_000").storage.cache_bytes == 1_000_000
    assert faults(tmp_path, NODE, 'raft.tick_ms="20"')[0].startswith("raft.tick_ms: must be a valid integer")
    assert faults(tmp_path, NODE, "raft.tick_ms=20\nx = 1")[0].startswith("raft.tick_ms: must be a valid integer")
    assert faults(tmp_path, NODE, "node.0.id=3") == ["--set node.0.id=3: members are set in the file only"]
    assert faults(tmp_path, NODE, "data_dir.x=3") == ["--set data_dir.x=3: data_dir is not a section"]


def test_only_own_environment_variables_count(tmp_path: Path) -> None:
    loaded = load(tmp_path, NODE, environment={"VAULT_RAFT__TICK_MS": "20", "RAFT__TICK_MS": "20", "PATH": "/bin"})
    assert loaded.raft.tick_ms == 10


def test_the_first_nodes_are_kept(tmp_path: Path) -> None:
    assert [node.id for node in load(tmp_path, NODE + SECOND, nodes_max=1).nodes] == [0]
    assert faults(tmp_path, NODE + SECOND, nodes_max=3) == ["--nodes 3: the file has 2 nodes"]
    assert faults(tmp_path, NODE + SECOND, nodes_max=0) == ["--nodes 0: the file has 2 nodes"]


def test_relative_data_directory_counts_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a command is called from, it finds the same data. An override counts from where it is given."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert load(tmp_path, 'data_dir = "d"' + NODE).data_path == tmp_path / "d"
    assert load(tmp_path, NODE).data_path == tmp_path / "data"
    assert load(tmp_path, NODE, "data_dir=d").data_path == tmp_path / "here" / "d"
    assert load(tmp_path, 'data_dir = "/var/lib/v"' + NODE).data_path == Path("/var/lib/v")


def test_runtime_directory_follows_the_data(tmp_path: Path) -> None:
    """Same data, same place for sockets, by whatever path; other data, another place."""
    one, same, other = (load(tmp_path, NODE, f"data_dir={tmp_path}/{name}") for name in ("a", "b/../a", "b"))
    assert one.runtime_dir == same.runtime_dir != other.runtime_dir
    assert one.node(0).consensus_endpoint == f"ipc://{one.runtime_dir}/node0/consensus"


def test_socket_paths_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket's path is cut at 107 bytes by the kernel; a longer one is refused, the longest one is not."""
    spare = limits.IPC_PATH_BYTES_MAX - len(str(load(tmp_path, NODE).runtime_dir / "node0" / "consensus"))
    base = tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", f"{base}/{'x' * (spare - 1)}")
    load(tmp_path, NODE)
    monkeypatch.setattr(tempfile, "tempdir", f"{base}/{'x' * spare}")
    assert faults(tmp_path, NODE) == ["TMPDIR: the socket path would have 108 bytes; the limit is 107"]


def test_unknown_node_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="7 is not a member; the configuration has 0, 1"):
        load(tmp_path, NODE + SECOND).node(7)
