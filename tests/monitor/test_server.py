"""The monitor's process against nodes on real connections."""

from __future__ import annotations

import socket

import pytest

from monitor.server import run
from tests.monitor.fakes import FakeCluster, configuration
from tests.monitor.process import MonitorProcess
from tests.monitor.waiting import eventually
from vaultdb.clock import deadline_after_ms, ms_until
from vaultdb.errors import AddressTaken, ExitCode
from vaultdb.lifeline import BEAT_INTERVAL_MS, Lifeline


def test_taken_port_is_one_clear_sentence(free_port: int) -> None:
    """Guards: a second monitor names the address and ends with the exit code that no restart cures."""
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(AddressTaken, match=f"127.0.0.1:{free_port}") as e,
    ):
        run(configuration([free_port + 1], monitor_port=free_port), Lifeline(-1, 0))
    assert e.value.exit_code == ExitCode.ADDRESS_TAKEN


@pytest.mark.system
def test_monitor_follows_the_nodes(cluster: FakeCluster, free_port: int) -> None:
    """Guards the whole way from /status to /api/state: leader change, lost nodes, return, rates."""
    with MonitorProcess(cluster.http_ports, free_port, poll_ms=250) as monitor:
        eventually("all five answer", lambda: monitor.state()["cluster"]["condition"] == "serving")
        cluster.elect(3, 4)
        eventually("node3 leads", lambda: monitor.state()["cluster"]["leader"] == "node3", within_ms=3000)
        cluster.serve(writes=500, reads=900)
        eventually("writes show", lambda: max(s[1][0] or 0 for s in monitor.state()["samples"]) > 100)
        cluster.nodes[1].stop()
        down = eventually("node1 is down", lambda: monitor.state()["nodes"][1]["contact"] == "down", within_ms=3000)
        assert down
        assert monitor.state()["cluster"]["headline"] == "node1 is down – still serving"
        cluster.nodes[1].start()
        eventually("node1 is back", lambda: monitor.state()["nodes"][1]["contact"] == "up", within_ms=3000)
        cluster.nodes[2].hang(True)
        eventually("node2 is down", lambda: monitor.state()["nodes"][2]["contact"] == "down", within_ms=3000)
        texts = [event["text"] for event in monitor.state()["events"]]
        assert "node0 → node3 leads now, term 3 → 4" in texts
        assert "node1 is down: connection refused" in texts


@pytest.mark.system
def test_monitor_beats_and_stops_promptly(cluster: FakeCluster, free_port: int) -> None:
    """Guards: the supervisor hears it, and an open stream does not keep it from stopping."""
    with MonitorProcess(cluster.http_ports, free_port) as monitor:
        monitor.beats()
        deadline_ns = deadline_after_ms(4 * 2 * BEAT_INTERVAL_MS)
        beats = 0

        def enough() -> bool:
            nonlocal beats
            beats += monitor.beats()
            return beats >= 4

        eventually("four beats", enough, within_ms=int(ms_until(deadline_ns)))
        with socket.create_connection(("127.0.0.1", free_port)) as stream:
            stream.sendall(b"GET /api/stream HTTP/1.1\r\nHost: monitor\r\n\r\n")
            assert stream.recv(100).startswith(b"HTTP/1.1 200")
            assert monitor.stop(within_ms=2000) == ExitCode.CLEAN
