"""Fixtures of the api's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.lanes import ExpressAsgi, FlaskLane, Lane
from tests.api.server import ApiServer


class ServerLane:
    """The real process, as a lane."""

    def __init__(self, server: ApiServer) -> None:
        assert server.siblings is not None
        self.store = server.siblings.store
        self.request = server.request


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """One real api process for all tests that do not stop it; body_timeout_ms is short, for slow senders."""
    server = ApiServer("request_timeout_ms = 1000", "body_timeout_ms = 600", "connections_max = 200")
    try:
        yield server.wait_until_up()
    finally:
        server.close()


def _lane(name: str, request: pytest.FixtureRequest) -> Any:
    if name == "flask":
        return FlaskLane()
    if name == "express":
        express = ExpressAsgi()
        request.addfinalizer(express.close)
        return express
    lane = ServerLane(request.getfixturevalue("server"))
    lane.store.reset()
    return lane


LANES = ["flask", "express", pytest.param("server", marks=pytest.mark.system)]


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    """The API by each of its ways, over an empty store."""
    found: Lane = _lane(request.param, request)
    return found


@pytest.fixture(params=["flask", "express"])
def fake_lane(request: pytest.FixtureRequest) -> Lane:
    """Both lanes in this process, over an empty store."""
    found: Lane = _lane(request.param, request)
    return found
