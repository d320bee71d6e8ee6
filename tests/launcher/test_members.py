"""Commands that look at the members and change them, over HTTP to whichever node answers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from tests.launcher.cli_under_test import parts
from tests.launcher.conftest import LaunchedCluster, free_ports
from tests.launcher.fake_cluster import FakeApi, FakeMembers, row
from vaultdb.cli import Setting, cli
from vaultdb.client.admin import ClusterAdmin, address_of
from vaultdb.errors import ChangeRefused, ConfigInvalid, NotLeader, Unavailable, Unknown, VaultError

Run = Callable[..., Result]


@pytest.fixture
def members() -> FakeMembers:
    """Three voters and a learner that is in no configuration."""
    learner = row(5, "extra", 20_051, role="learner") | {"connected": False, "caught_up": False, "state": "probe"}
    return FakeMembers(row(0, "node0", 20_001), row(1, "node1", 20_011), row(2, "node2", 20_021), learner)


@pytest.fixture
def run(cluster: LaunchedCluster, members: FakeMembers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Calls one command; of the configuration's nodes only node1 answers."""
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.directory))
    setting = Setting(cluster.directory / "config.toml", lambda: parts(cluster.directory))

    def call(*arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "120"}).invoke(cli, arguments, obj=setting, prog_name="launcher.py")

    api = FakeApi(members, cluster.ports[3])
    yield call
    api.close()


def test_members_are_shown(run: Run) -> None:
    """Promise: everybody with id, address and role, also who joined; a node that is down hides nothing."""
    shown = run("members")
    assert shown.exit_code == 0, shown.output
    lines = [line.replace("│", " ").split() for line in shown.stdout.splitlines()]
    assert ["0", "node0", "127.0.0.1:20001", "leader", "yes", "7", "replicate", "yes"] in lines
    assert ["1", "node1", "127.0.0.1:20011", "voter", "yes", "7", "replicate", "yes"] in lines
    assert ["5", "extra", "127.0.0.1:20051", "learner", "no", "7", "probe", "no"] in lines
    assert "term 4; this membership (log index 9) is committed" in shown.stdout


def test_members_as_json(run: Run, members: FakeMembers) -> None:
    for arguments in (["--json"], ["--json", "--stale"]):
        assert json.loads(run("members", *arguments).stdout) == members.members()


def test_what_is_not_known_yet_is_a_dash(run: Run, members: FakeMembers) -> None:
    unknown = dict.fromkeys(("name", "host", "connected", "match_index", "state", "caught_up"))
    members.rows.append(row(9, "", 1) | unknown)
    lines = [line.replace("│", " ").split() for line in run("members").stdout.splitlines()]
    assert ["9", "-", "-", "voter", "-", "-", "-", "-"] in lines


def test_a_learner_is_promoted_by_name_or_id(run: Run, members: FakeMembers) -> None:
    for wanted in ("extra", "5"):
        assert run("promote", wanted).stdout == "extra is a voter now.\n"
    assert members.asked == [{"change": "promote", "id": 5}] * 2


def test_a_member_that_could_not_be_added_again_is_removed_only_by_force(run: Run, members: FakeMembers) -> None:
    """Otherwise the documented way to replace a node ends half-way, with one voter less for good."""
    members.can_add = False
    refused = run("remove", "node2")
    assert refused.exit_code == 1
    assert "node2 could not be added again" in refused.stderr
    assert members.asked == []
    assert "No node can be added" in run("members").stdout
    assert run("remove", "node2", "--force").stdout == "node2 is no member any more.\n"


def test_a_member_is_removed(run: Run, members: FakeMembers) -> None:
    assert run("remove", "node2").stdout == "node2 is no member any more.\n"
    assert [one["name"] for one in members.rows] == ["node0", "node1", "extra"]
    refused = run("remove", "node2")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: there is no member 'node2'; the cluster has node0, node1, extra\n",
    )


def test_the_leadership_is_handed_over(run: Run, members: FakeMembers) -> None:
    assert run("transfer", "node2").stdout == "node2 leads in term 5.\n"
    assert run("transfer").stdout == "extra leads in term 5.\n"
    assert members.asked == [2, -1]


def test_a_refusal_is_the_clusters_own_sentence(run: Run, members: FakeMembers) -> None:
    members.rows[3]["incarnation"] = ""
    refused = run("promote", "extra")
    assert (refused.exit_code, refused.stderr) == (1, "Error: extra lacks 900 entries\n")


@pytest.mark.parametrize("command", ["members", "promote node1", "remove node1", "transfer"])
def test_without_a_cluster_it_is_one_sentence(
    cluster: LaunchedCluster, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.directory))
    setting = Setting(cluster.directory / "config.toml", lambda: parts(cluster.directory))
    refused = CliRunner().invoke(cli, command.split(), obj=setting)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: no node answers: 127.0.0.1:")
    assert refused.stderr.count("\n") == 1


class TestAsking:
    """Which node is asked, and when the next one is."""

    @pytest.fixture
    def pair(self) -> Iterator[tuple[ClusterAdmin, FakeMembers, FakeMembers]]:
        first, second = FakeMembers(row(0, "node0", 1)), FakeMembers(row(1, "node1", 1))
        apis = [FakeApi(first), FakeApi(second)]
        yield ClusterAdmin([("127.0.0.1", api.port) for api in apis], timeout_s=5), first, second
        for api in apis:
            api.close()

    @pytest.mark.parametrize("failure", [Unavailable("it is stopping"), NotLeader("no leader")])
    def test_where_nothing_happened_the_next_is_asked(
        self, pair: tuple[ClusterAdmin, FakeMembers, FakeMembers], failure: VaultError
    ) -> None:
        admin, first, second = pair
        first.failure = failure
        admin.change({"change": "remove", "id": 1})
        assert (len(first.asked), len(second.asked)) == (0, 1)

    @pytest.mark.parametrize("failure", [Unknown("silence"), ChangeRefused("a change is under way")])
    def test_where_it_may_have_happened_or_was_refused_nobody_else_is(
        self, pair: tuple[ClusterAdmin, FakeMembers, FakeMembers], failure: VaultError
    ) -> None:
        """Promise: no change is ordered twice. Planted bug: going on after an unknown outcome."""
        admin, first, second = pair
        first.failure_after = failure
        with pytest.raises(type(failure), match=str(failure)):
            admin.change({"change": "remove", "id": 1})
        assert (len(first.asked), len(second.asked)) == (1, 0)

    def test_the_reason_of_who_answered_is_told(self, pair: tuple[ClusterAdmin, FakeMembers, FakeMembers]) -> None:
        """Promise: "no leader" of a node says more than that another one cannot be reached."""
        admin, first, second = pair
        (port,) = free_ports(1)
        alone = ClusterAdmin([*admin._addresses[:1], ("127.0.0.1", port)], timeout_s=5)
        first.failure = Unavailable("there is no leader")
        with pytest.raises(Unavailable, match="there is no leader"):
            alone.members()
        assert second.asked == []


@pytest.mark.parametrize("url", ["http://10.0.0.1:11000", "http://10.0.0.1:11000/", "10.0.0.1:11000"])
def test_a_url_of_a_node(url: str) -> None:
    assert address_of(url) == ("10.0.0.1", 11000)


@pytest.mark.parametrize("url", ["", "http://10.0.0.1", "https://h:1", "http://h:1/members", "http://h:x", "h:70000"])
def test_what_is_no_url_of_a_node(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="the URL of a node"):
        address_of(url)


@pytest.mark.parametrize(
    "command",
    [
        "node --join 127.0.0.1:1",
        "node --name extra",
        "node --id 0 --name extra",
        "node --id 0 --http-port 1",
        "node --id 0 --join 127.0.0.1:1 --name extra",
    ],
)
def test_options_that_do_not_go_together(run: Run, command: str) -> None:
    refused = run(*command.split())
    assert refused.exit_code == 2
    assert "--join" in refused.stderr
