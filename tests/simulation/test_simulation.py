"""The simulation over fixed seeds, and its own trustworthiness: it repeats itself, and it does enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from tests.simulation import rendering
from tests.simulation.checkers import Violation
from tests.simulation.cluster import Cluster, SimulationFailed, run_seed
from tests.simulation.liveness import Liveness
from tests.simulation.runner import outcomes, quiet

SEEDS = 48


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


def test_promises_hold_under_faults_and_runs_are_not_idle() -> None:
    """All checkers over fixed seeds on all cores; then the averages, for a run with too little load proves nothing."""
    failures, figures = [], Counter[str]()
    for outcome in outcomes(1, SEEDS):
        figures.update(outcome.figures)
        if outcome.failure:
            failures.append(outcome.failure)
    assert not failures, failures[0]
    a_seed = {name: total / SEEDS for name, total in figures.items()}
    assert a_seed["entries"] > 60
    assert a_seed["answered"] > 150
    assert a_seed["reads_confirmed"] > 60
    assert a_seed["reads_by_lease"] > 10
    assert a_seed["terms_led"] > 3
    assert a_seed["crashes"] > 3
    assert a_seed["logs_cut"] > 2
    assert a_seed["snapshots_installed"] > 0.5
    assert a_seed["changes_done"] > 1
    assert a_seed["transfers_done"] > 1
    assert figures["undecided_keys"] == 0
    faults = {name for name in figures if name.startswith("fault_")}
    assert len(faults) >= 16, f"some faults never happened: {sorted(faults)}"


def test_the_same_seed_gives_the_same_trace() -> None:
    """Byte for byte: without that no failure could be replayed."""

    def trace(seed: int) -> bytes:
        cluster = Cluster(seed, keep_all=True)
        cluster.run()
        return "\n".join(rendering.lines(cluster.world.trace)).encode()

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def test_a_failure_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Liveness) -> None:
        raise Violation("everything is wrong")

    monkeypatch.setattr(Liveness, "check", broken)
    with pytest.raises(SimulationFailed) as failure:
        run_seed(42)
    text = str(failure.value)
    assert "seed 42: everything is wrong" in text
    assert "python -m tests.simulation --first 42 --seeds 1 --trace" in text
    assert text.count("\n") > 100
