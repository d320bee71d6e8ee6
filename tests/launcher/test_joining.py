"""A node that joins a running cluster: what it asks, what it keeps, and when it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.conftest import LaunchedCluster, free_ports
from tests.launcher.fake_cluster import FakeApi, FakeMembers, row
from tests.processes import wait_until
from vaultdb import config as configuration
from vaultdb.cluster import joining
from vaultdb.config import Config, NodeAddress
from vaultdb.errors import (
    AddressTaken,
    ChangeRefused,
    ConfigInvalid,
    ExitCode,
    Unavailable,
    Unknown,
    VaultError,
    WrongIdentity,
)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """Three nodes in the configuration, on free ports; the highest of each kind has a free one above it."""
    directory = Path(tempfile.mkdtemp(prefix="vdb"))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    ports = sorted(free_ports(9))
    nodes = tuple(
        NodeAddress(i, f"node{i}", "127.0.0.1", ports[3 * i], ports[3 * i + 1], ports[3 * i + 2]) for i in range(3)
    )
    yield Config(nodes=nodes, data_dir=str(directory / "data"))
    shutil.rmtree(directory)


@pytest.fixture
def cluster(config: Config) -> FakeMembers:
    """Runs with exactly the nodes of the configuration."""
    return FakeMembers(*(as_row(address) for address in config.nodes))


def as_row(address: NodeAddress) -> dict[str, object]:
    ports = {port: getattr(address, port) for port in joining.PORTS}
    return row(address.id, address.name, 1) | {"host": address.host, **ports}


def wanted_ports() -> dict[str, int]:
    return dict(zip(joining.PORTS, free_ports(3), strict=True))


def test_a_new_node_is_added_and_remembers_it(config: Config, cluster: FakeMembers) -> None:
    """Promise: one change is asked for, the id that the cluster gives is kept on disk, the node knows all members."""
    ports = wanted_ports()
    node = joining.join(config, "extra", ports, cluster)
    me = {"name": "extra", "host": "127.0.0.1", **ports}
    assert cluster.asked == [{"change": "add", **me}]
    assert (node.id, node.name, node.joins) == (5, "extra", True)
    assert node.data_dir == config.data_path / "extra"
    assert [address.id for address in node.config.nodes] == [0, 1, 2, 5]
    assert [peer.id for peer in node.peers] == [0, 1, 2]
    kept = json.loads(node.identity_path.read_text())
    assert (kept["cluster"], kept["cluster_id"], kept["me"]) == ("local", cluster.cluster_id, {"id": 5, **me})


def test_nodes_of_the_configuration_do_not_join(config: Config) -> None:
    assert not config.node(1).joins


def test_started_again_it_asks_for_nothing(config: Config, cluster: FakeMembers) -> None:
    """Promise: the same command is a restart. Planted bug: adding without looking for an identity."""
    ports = wanted_ports()
    joining.join(config, "extra", ports, cluster)
    cluster.rows.append(row(6, "later", 40_000))
    again = joining.join(config, "extra", ports, cluster)
    assert len(cluster.asked) == 1
    assert (again.id, again.joins) == (5, True)
    assert [address.id for address in again.config.nodes] == [0, 1, 2, 6, 5], "it learned who joined meanwhile"
    without_flags = joining.join(config, "extra", {}, cluster)
    assert without_flags.me == again.me


@pytest.mark.parametrize("failure", [Unavailable("nobody answers"), Unavailable("no leader"), Unknown("silence")])
def test_started_again_it_needs_no_cluster(config: Config, cluster: FakeMembers, failure: VaultError) -> None:
    """Promise: after a power cut of everything no node waits for another one to answer HTTP."""
    first = joining.join(config, "extra", wanted_ports(), cluster)
    cluster.failure = failure
    again = joining.join(config, "extra", {}, cluster)
    assert again.config.nodes == first.config.nodes


def test_ports_are_above_all_others_by_default(config: Config, cluster: FakeMembers) -> None:
    """Promise: two nodes that join without a word on ports do not want the same ones."""
    highest = {"http_port": 62_000, "peer_port": 62_100, "native_port": 62_200}
    cluster.rows.append(row(4, "node4", 1) | highest)
    asked = {"host": "127.0.0.1", **{port: number + 1 for port, number in highest.items()}}
    with socket.create_server(("127.0.0.1", 62_101)), pytest.raises(AddressTaken, match=r"62101 \(extra peer\)"):
        joining.join(config, "extra", {}, cluster)
    assert cluster.asked == [], "a node that cannot run here was added"
    joining.join(config, "extra", {}, cluster)
    assert cluster.asked == [{"change": "add", "name": "extra", **asked}]


def test_ports_of_the_configuration_are_refused(config: Config, cluster: FakeMembers) -> None:
    """Promise: also those of a node that is no member just now: it may be started again."""
    cluster.rows.pop()
    taken = config.nodes[2]
    with pytest.raises(ConfigInvalid) as error:
        joining.join(config, "extra", wanted_ports() | {"peer_port": taken.http_port}, cluster)
    assert error.value.faults == [f"peer_port {taken.http_port} is the http_port of node2 in the configuration"]
    assert cluster.asked == []


def test_ports_of_a_member_are_refused(config: Config, cluster: FakeMembers) -> None:
    ports = wanted_ports()
    cluster.rows.append(row(6, "other", 1) | ports)
    with pytest.raises(ConfigInvalid, match="is used twice"):
        joining.join(config, "extra", ports, cluster)
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("name", "wanted", "sentence"),
    [("Extra", {}, "name: string should match"), ("extra", {"http_port": 0}, "http_port: must be greater than")],
)
def test_what_is_no_address_is_refused(
    config: Config, cluster: FakeMembers, name: str, wanted: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ConfigInvalid, match=sentence):
        joining.join(config, name, wanted, cluster)
    assert cluster.asked == []


def test_a_name_that_another_member_has_is_refused(config: Config, cluster: FakeMembers) -> None:
    """Promise: nobody takes the place of a member, running or not."""
    cluster.rows.append(row(6, "extra", 40_000))
    with pytest.raises(ChangeRefused, match=r"extra is a member already \(id 6, 127.0.0.1:40000\); remove it first"):
        joining.join(config, "extra", wanted_ports(), cluster)
    for name in ("node1", "extra"):
        with pytest.raises(ChangeRefused, match="is a member already"):
            joining.join(config, name, {}, cluster)
    assert cluster.asked == []


def test_a_join_that_broke_off_is_finished(config: Config, cluster: FakeMembers) -> None:
    """Promise: added, but the answer was lost: the same command finds itself and is not added twice."""
    ports = wanted_ports()
    cluster.failure_after = Unknown("no answer came in time")
    with pytest.raises(Unknown, match="the same command, given again, finds out"):
        joining.join(config, "extra", ports, cluster)
    with pytest.raises(ChangeRefused, match="is a member already"):
        joining.join(config, "extra", wanted_ports(), cluster)
    node = joining.join(config, "extra", {}, cluster)
    assert (len(cluster.asked), node.id, node.me.http_port) == (1, 5, ports["http_port"])


def test_a_wiped_node_of_the_configuration_joins_under_its_id_and_address(config: Config, cluster: FakeMembers) -> None:
    """Promise: removed and joined again it is what the configuration says, so that it can be started by it later."""
    cluster.rows = [one for one in cluster.rows if one["name"] != "node1"]
    node = joining.join(config, "node1", {}, cluster)
    assert node.me == config.nodes[1]
    assert cluster.asked[0]["id"] == 1


def test_a_log_without_an_identity_is_refused(config: Config, cluster: FakeMembers) -> None:
    """Promise: the log of another life is never taken for the new node's."""
    (config.data_path / "extra" / "log").mkdir(parents=True)
    with pytest.raises(WrongIdentity, match="holds the log of a node that did not join; empty it first"):
        joining.join(config, "extra", wanted_ports(), cluster)
    assert cluster.asked == []


def test_a_cluster_that_is_being_formed_is_refused(config: Config, cluster: FakeMembers) -> None:
    """Promise: without the cluster's id nobody could tell later that it is the same cluster."""
    cluster.cluster_id = ""
    with pytest.raises(Unavailable, match="being formed"):
        joining.join(config, "extra", {}, cluster)


def test_a_member_of_unknown_address_is_passed_over(config: Config, cluster: FakeMembers) -> None:
    unknown = dict.fromkeys(("name", *joining.ADDRESS_FIELDS))
    cluster.rows.append(row(4, "", 1) | unknown)
    node = joining.join(config, "extra", wanted_ports(), cluster)
    assert [address.id for address in node.config.nodes] == [0, 1, 2, 5]


def test_an_identity_is_held_against_what_is_said(config: Config, cluster: FakeMembers) -> None:
    node = joining.join(config, "extra", wanted_ports(), cluster)
    with pytest.raises(ConfigInvalid, match="http_port 1 is not"):
        joining.join(config, "extra", {"http_port": 1}, cluster)
    cluster.cluster_id = "00" * 16
    with pytest.raises(WrongIdentity, match="belongs to another cluster"):
        joining.join(config, "extra", {}, cluster)
    cluster.cluster_id = "ab" * 16
    cluster.rows.pop()
    with pytest.raises(WrongIdentity, match=r"extra \(id 5\) was removed from the cluster; to join it anew, empty"):
        joining.join(config, "extra", {}, cluster)
    for damage in ("", "[]", "{}", '{"me": 1}'):
        node.identity_path.write_text(damage)
        with pytest.raises(WrongIdentity, match="is no identity of a joined node"):
            joining.join(config, "extra", {}, cluster)


def test_an_identity_of_another_cluster_name_is_refused(config: Config, cluster: FakeMembers) -> None:
    joining.join(config, "extra", wanted_ports(), cluster)
    other = configuration.with_nodes(config, config.nodes, "test")
    object.__setattr__(other, "cluster", configuration.ClusterSettings("other"))
    with pytest.raises(WrongIdentity, match="belongs to the cluster 'local', not to 'other'"):
        joining.join(other, "extra", {}, cluster)


@pytest.mark.system
def test_a_joined_node_runs_in_the_foreground_and_starts_again(make_cluster: object) -> None:
    """Promise: one command, first to join and then to start: the processes run, SIGTERM ends them with 0."""
    launched = make_cluster()  # type: ignore[operator]
    assert isinstance(launched, LaunchedCluster)
    members = FakeMembers(*(row(i, f"node{i}", port) for i, port in enumerate((20_001, 20_011, 20_021))))
    api = FakeApi(members)
    flags = [f"--{port.replace('_', '-')}={number}" for port, number in wanted_ports().items()]
    try:
        for life in (1, 2):
            node = launched.launch("node", "--join", api.url, "--name", "extra", *flags)
            wait_until(lambda life=life: len(launched.starts("extra", "api")) == life, "the node runs")  # type: ignore[misc]
            code, said = launched.finish(node, signal.SIGTERM)
            assert code == 0, said
            assert "extra is member 5 of the cluster" in said
        assert len(members.asked) == 1
        members.rows.pop()
        removed = launched.command("node", "--join", api.url, "--name", "extra", *flags)
        assert removed.returncode == ExitCode.CONFIG
        assert "was removed from the cluster" in removed.stderr
        api.close()
        node = launched.launch("node", "--join", api.url, "--name", "extra")
        wait_until(lambda: len(launched.starts("extra", "api")) == 3, "the node runs without the one it joined by")
        assert launched.finish(node, signal.SIGTERM)[0] == 0
    finally:
        api.close()
    assert not launched.living()
