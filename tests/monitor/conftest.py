from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.monitor.browser import browser, watched_page
from tests.monitor.fakes import FakeCluster

__all__ = ["browser", "cluster", "free_port", "watched_page"]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    fakes = FakeCluster()
    yield fakes
    fakes.stop()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
