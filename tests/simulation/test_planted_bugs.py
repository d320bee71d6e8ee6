"""The planted bugs that are found soon are found. `make planted-bugs` looks for all, for some tens of minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.bugs.finding import find
from tests.simulation.bugs.planting import BUGS
from tests.simulation.runner import quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


SOON = [number for number, bug in enumerate(BUGS) if bug.seeds <= 100]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", SOON, ids=[BUGS[number].plant.__name__ for number in SOON])
def test_the_simulation_finds(number: int) -> None:
    bug = BUGS[number]
    took, what = find(number, bug.pinned, bug.seeds)
    assert took, f"{bug.name}: {what}"
