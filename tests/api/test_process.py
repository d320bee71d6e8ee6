"""The api process as its supervisor sees it:

start, beats, stop, taken address; and as a client sees it while others restart.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.api.server import ApiServer, free_port
from tests.api.siblings import SiblingsThread
from vaultdb.clock import deadline_after_ms, monotonic_ns, ms_until
from vaultdb.errors import ExitCode, Unknown

pytestmark = pytest.mark.system


@pytest.fixture
def own() -> Iterator[ApiServer]:
    """A process that the test may stop."""
    server = ApiServer("request_timeout_ms = 3000")
    try:
        yield server.wait_until_up()
    finally:
        server.close()


def elapsed_ms(since_ns: int) -> float:
    return (monotonic_ns() - since_ns) / 1_000_000


def test_sigterm_ends_it_promptly_and_cleanly(own: ApiServer) -> None:
    """Promise: idle connections do not hold up a stop, and the exit code is CLEAN."""
    with closing(own.connect()) as idle:
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65536)
        began_ns = monotonic_ns()
        assert own.stop() == ExitCode.CLEAN
        assert elapsed_ms(began_ns) < 2_000
        assert idle.recv(65536) == b""


def test_requests_under_way_get_an_answer_when_it_stops(own: ApiServer) -> None:
    """Promise: a stop tells the waiting writer the truth: unknown, for its proposal was sent."""
    assert own.siblings is not None
    own.siblings.store.failure = Unknown("silence")
    with closing(own.connect()) as writer, closing(own.connect()) as slow:
        writer.sendall(b"PUT /key/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
        slow.sendall(b"PUT /key/k HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nv")
        while own.request("GET", "/status").json["api"]["operations"] < 1:
            pass
        began_ns = monotonic_ns()
        assert own.stop() == ExitCode.CLEAN
        assert elapsed_ms(began_ns) < 4_000
        assert writer.recv(65536).startswith(b"HTTP/1.1 504 ")
        assert slow.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_a_restart_takes_the_same_port_at_once(own: ApiServer) -> None:
    """Promise: connections in TIME_WAIT do not keep a successor out."""
    for _ in range(5):
        own.request("GET", "/health/live")
    assert own.stop() == ExitCode.CLEAN
    successor = ApiServer(port=own.port)
    try:
        successor.wait_until_up()
    finally:
        successor.close()


def test_a_taken_port_is_one_sentence_and_its_own_exit_code() -> None:
    """Promise: ADDRESS_TAKEN, with the address named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = ApiServer(port=port, siblings=False)
        try:
            assert server.child.wait(20) == ExitCode.ADDRESS_TAKEN
            assert f"http://127.0.0.1:{port} cannot be bound: Address already in use" in server.log()
            assert "Traceback" not in server.log()
        finally:
            server.close()


def test_ctrl_c_is_left_to_the_launcher(own: ApiServer) -> None:
    """Promise: SIGINT, which a terminal sends to all, ends nothing here. Catches: uvicorn's own signal handlers."""
    own.child.send_signal(signal.SIGINT)
    until_ns = deadline_after_ms(500)
    while ms_until(until_ns) > 0:
        assert own.request("GET", "/health/live").status == 200


def test_without_siblings_it_is_alive_not_ready_and_tells_status() -> None:
    """Promise: graceful degradation: status within a second with nulls and who is missing; reads and writes 503
    in time.
    """
    server = ApiServer("request_timeout_ms = 700", siblings=False, port=free_port())
    try:
        server.wait_until_up("/health/live")
        began_ns = monotonic_ns()
        status = server.request("GET", "/status")
        assert elapsed_ms(began_ns) < 1_000
        fields = status.json
        assert (status.status, fields["degraded"]) == (200, ["consensus", "storage"])
        for name in ("role", "term", "commit_index", "applied_index", "revision", "leader", "consensus", "storage"):
            assert fields[name] is None, name
        assert fields["me"]["id"] == "node0"
        assert [follower["id"] for follower in fields["followers"]] == ["node0"]
        for method, target in (
            ("PUT", "/key/k"),
            ("GET", "/key/k"),
            ("GET", "/key/k?consistency=stale"),
            ("GET", "/health/ready"),
        ):
            began_ns = monotonic_ns()
            reply = server.request(method, target)
            assert (reply.status, reply.json["outcome"]) == (503, "rejected"), target
            assert reply.headers["retry-after"] == "1"
            assert elapsed_ms(began_ns) < 2_000
    finally:
        server.close()


def test_status_names_everything(own: ApiServer) -> None:
    own.node.supervisor_status_path.write_text('{"processes": [{"name": "api", "pid": 1}]}')
    own.request("PUT", "/key/k", body=b"v")
    fields = own.request("GET", "/status").json
    me = {"id": "node0", "address": own.node.me.peer_address, "http": own.node.me.http_url}
    assert fields["me"] == fields["leader"] == me
    assert fields["followers"] == []
    expected = {"node": "node0", "id": 0, "cluster": "local", "role": "leader", "term": 3, "leader_id": 0}
    expected |= {"commit_index": 1, "applied_index": 1, "revision": 1, "degraded": []}
    assert {name: fields[name] for name in expected} == expected
    assert fields["processes"] == [{"name": "api", "pid": 1}]
    assert fields["consensus"]["term"] == 3
    assert fields["storage"]["flushed_index"] == 0
    assert fields["api"]["writes_total"] == 1
    assert fields["api"]["requests_total"]["done"] >= 2
    own.node.supervisor_status_path.write_text("not json")
    assert own.request("GET", "/status").json["processes"] == []


def test_requests_wait_for_siblings_that_restart(own: ApiServer) -> None:
    """Promise: while consensus and storage restart, requests wait within their deadline, and then succeed."""
    assert own.siblings is not None
    own.request("PUT", "/key/k", body=b"v")
    own.siblings.close()
    replies: list[int] = []
    targets = [("PUT", "/key/new"), ("GET", "/key/k"), ("GET", "/key/k?consistency=stale")]
    threads = [
        threading.Thread(target=lambda m=method, t=target: replies.append(own.request(m, t).status))
        for method, target in targets
    ]
    for thread in threads:
        thread.start()
    while own.request("GET", "/status").json["api"]["operations"] < len(targets):
        assert not replies, "a request did not wait"
    own.siblings = SiblingsThread(own.node.consensus_endpoint, own.node.storage_endpoint)
    for thread in threads:
        thread.join(10)
    assert sorted(replies) == [200, 404, 404]
