"""The status page: who belongs to the cluster, by the log or, before that is known, by the configuration."""

from __future__ import annotations

from typing import Any

from vaultdb.api import status
from vaultdb.api.results import Siblings
from vaultdb.config import Config, NodeAddress

CONFIG = Config(
    nodes=tuple(
        NodeAddress(
            id=i, name=f"node{i}", host="127.0.0.1", http_port=11000 + i, peer_port=12000 + i, native_port=i + 1
        )
        for i in range(3)
    )
)


def row(member_id: int, name: str, host: str = "127.0.0.1") -> dict[str, Any]:
    ports = {"http_port": 11000 + member_id, "peer_port": 12000 + member_id, "native_port": 13000 + member_id}
    return {"id": member_id, "name": name, "host": host, **ports, "role": "voter"}


def compose(**consensus: Any) -> dict[str, Any]:
    return status.compose(CONFIG.node(0), Siblings(consensus, None), {}, [])


def test_the_log_says_who_belongs() -> None:
    """Promise: a joined leader has its address in /status, a removed node is no follower any more."""
    shown = compose(leader=7, membership={"members": [row(0, "node0"), row(7, "new", "10.0.0.7"), row(2, "node2")]})
    assert shown["leader"] == {"id": "new", "address": "10.0.0.7:12007", "http": "http://10.0.0.7:11007"}
    assert [follower["id"] for follower in shown["followers"]] == ["node0", "node2"]


def test_before_the_log_says_it_the_configuration_does() -> None:
    for consensus in ({"leader": 1}, {"leader": 1, "membership": None}, {"leader": 1, "membership": {"members": []}}):
        shown = compose(**consensus)
        assert shown["leader"]["id"] == "node1"
        assert [follower["id"] for follower in shown["followers"]] == ["node0", "node2"]


def test_of_a_cluster_that_is_being_formed_the_configuration_knows_the_addresses() -> None:
    """Promise: the first leader has not written yet who is where; a member that nobody knows is left out."""
    unknown = dict.fromkeys(("name", "host", "http_port", "peer_port", "native_port"))
    shown = compose(leader=1, membership={"members": [{"id": i, **unknown} for i in (0, 1, 9)]})
    assert shown["leader"]["http"] == "http://127.0.0.1:11001"
    assert [follower["id"] for follower in shown["followers"]] == ["node0"]


def test_a_leader_that_is_no_member_known_here_is_null() -> None:
    assert compose(leader=9)["leader"] is None
    assert compose(leader=-1)["leader_id"] is None
