"""Many seeds on all cores, and what came of it."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count, islice
from typing import NamedTuple

import structlog

from tests.simulation import rendering
from tests.simulation.cluster import Cluster, SimulationFailed, run_seed
from vaultdb.clock import NS_PER_S, monotonic_ns
from vaultdb.errors import VaultError

_PROGRESS_NS = 10 * NS_PER_S
_FAILURES_SHOWN = 3
_SEEDS_AHEAD = 32


class Outcome(NamedTuple):
    seed: int
    figures: Counter[str]
    failure: str
    """Empty when all promises were kept."""


def quiet() -> None:
    """Nothing of what drivers log is wanted here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def outcome_of(seed: int) -> Outcome:
    try:
        return Outcome(seed, run_seed(seed).figures(), "")
    except SimulationFailed as failure:
        return Outcome(seed, Counter(), str(failure))


def outcomes(first: int, seeds: int | None, limit_ns: int | None = None) -> Iterator[Outcome]:
    """On all cores, as they finish; no new seed begins past `limit_ns`."""
    waiting = count(first) if seeds is None else iter(range(first, first + seeds))
    running: set[Future[Outcome]] = set()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=quiet) as pool:
        while True:
            if limit_ns is None or monotonic_ns() < limit_ns:
                running |= {pool.submit(outcome_of, seed) for seed in islice(waiting, _SEEDS_AHEAD - len(running))}
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


def run_many(first: int, seeds: int | None, minutes: float | None) -> int:
    """Run `seeds` seeds, or as many as fit in `minutes`. Returns the exit status: 0 only without a violation."""
    began_ns = shown_ns = monotonic_ns()
    limit_ns = None if minutes is None else began_ns + int(minutes * 60 * NS_PER_S)
    figures: Counter[str] = Counter()
    done = failed = 0
    for outcome in outcomes(first, seeds, limit_ns):
        done += 1
        figures.update(outcome.figures)
        if outcome.failure:
            failed += 1
            shown = outcome.failure if failed <= _FAILURES_SHOWN else outcome.failure.partition("\n")[0]
            print(shown, flush=True)
        if monotonic_ns() - shown_ns > _PROGRESS_NS:
            shown_ns = monotonic_ns()
            print(_summary(done, failed, figures, shown_ns - began_ns), flush=True)
    for name, total in sorted(figures.items()):
        print(f"{name:28} {total:14}  {total / max(1, done):12.2f} a seed")
    print(_summary(done, failed, figures, monotonic_ns() - began_ns))
    return 1 if failed else 0


def _summary(done: int, failed: int, figures: Counter[str], elapsed_ns: int) -> str:
    elapsed_s = elapsed_ns / NS_PER_S
    simulated_s = figures["simulated_ns"] / NS_PER_S
    return (
        f"{done} seeds, {failed} violations; {done / elapsed_s:.1f} seeds/s;"
        f" {simulated_s / 3600:.2f} simulated hours in {elapsed_s:.0f} s, {simulated_s / elapsed_s:.0f} x real time"
    )


def trace(seed: int) -> int:
    """Run one seed and print everything that happened."""
    quiet()
    cluster = Cluster(seed, keep_all=True)
    try:
        cluster.run()
        end, status = "all promises kept", 0
    except (AssertionError, VaultError) as error:
        end, status = f"{type(error).__name__}: {error}", 1
    print("\n".join(rendering.lines(cluster.world.trace)))
    print(f"seed {seed}: {end}")
    return status
