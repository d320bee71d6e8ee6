"""The simulation over fixed seeds, and its own trustworthiness: it repeats itself, and it does something."""

from __future__ import annotations

import pytest

from tests.raft.checkers import Violation
from tests.raft.simulation import Simulation, SimulationFailed, run_seed

GROUPS = 30
SEEDS_PER_GROUP = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_promises_hold_under_faults(group: int) -> None:
    """All checkers under faults; then, healed, a commit everywhere and a read on every node within bounded time."""
    first = 1000 * group
    for seed in range(first, first + SEEDS_PER_GROUP):
        run_seed(seed)


def test_the_same_seed_gives_the_same_trace() -> None:
    """Byte for byte: without that no failure could be replayed."""

    def trace(seed: int) -> bytes:
        simulation = Simulation(seed, keep_all=True)
        simulation.run()
        return "\n".join(simulation.trace()).encode()

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def test_runs_are_not_idle() -> None:
    """A run in which nothing happens proves nothing."""
    runs = [run_seed(seed) for seed in range(30)]
    assert {len(run.nodes) for run in runs} == {3, 5}
    assert sum(run.commits.commit_index for run in runs) / len(runs) > 40
    assert sum(run.reads.confirmed for run in runs) / len(runs) > 20
    assert sum(node.life - 1 for run in runs for node in run.nodes) / len(runs) > 3, "too few crashes"
    assert sum(node.disk.base_index > 0 for run in runs for node in run.nodes) > len(runs), "the log is hardly cut"


def test_a_failure_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Simulation) -> None:
        raise Violation("everything is wrong")

    monkeypatch.setattr(Simulation, "_check_liveness", broken)
    with pytest.raises(SimulationFailed) as failure:
        run_seed(42)
    text = str(failure.value)
    assert "seed 42: everything is wrong" in text
    assert "python -m tests.raft.simulation --first 42 --trace" in text
    assert text.count("\n") > 100
