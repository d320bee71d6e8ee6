"""Real five-node clusters for the system tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.cluster import LocalCluster
from tests.monitor.browser import browser, watched_page

__all__ = ["browser", "cluster", "fresh_cluster", "watched_page"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Five healthy nodes, shared by the tests of a module: each leaves them healthy."""
    with LocalCluster(5) as running:
        yield running
    assert running.processes() == [], "processes outlived the stop of the cluster"


@pytest.fixture
def fresh_cluster() -> Iterator[LocalCluster]:
    """Five nodes for one test, which may leave them in any state."""
    with LocalCluster(5) as running:
        yield running
    assert running.processes() == [], "processes outlived the stop of the cluster"
