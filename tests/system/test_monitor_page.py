"""The monitor's page on a real cluster: the leader is killed, and an operator sees the new one."""

from __future__ import annotations

import os
import signal

import pytest

from bench.cluster import LocalCluster
from tests.monitor.browser import WatchedPage
from vaultdb.clock import monotonic_ns

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SHOWN_WITHIN_MS = 3_000


def test_the_page_shows_the_new_leader_within_three_seconds_of_the_kill(
    fresh_cluster: LocalCluster, watched_page: WatchedPage
) -> None:
    """And says that the old one is down. Timed from the SIGKILL, not from the election."""
    cluster = fresh_cluster
    leader = cluster.leader()
    pids = cluster.pids(leader)
    watched_page.page.goto(f"http://127.0.0.1:{cluster.monitor_port}/")
    watched_page.wait_for_text("#headline-detail", f"Leader node{leader}", within_ms=10_000)
    watched_page.wait_for_text("#headline-detail", "5 of 5 nodes up", within_ms=10_000)

    killed_ns = monotonic_ns()
    for _, pid in sorted(pids.items(), reverse=True):
        os.kill(pid, signal.SIGKILL)
    new_leader = cluster.leader(but=leader)
    left_ms = SHOWN_WITHIN_MS - (monotonic_ns() - killed_ns) / 1e6
    watched_page.wait_for_text("#headline-detail", f"Leader node{new_leader}", within_ms=left_ms)
    watched_page.wait_for_text(f'[data-node="node{leader}"] .condition', "down for", within_ms=SHOWN_WITHIN_MS)
    watched_page.wait_for_text("#events", f"node{new_leader} leads now", within_ms=SHOWN_WITHIN_MS)
    assert watched_page.errors == []
