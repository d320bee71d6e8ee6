"""The search for planted bugs."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count

from tests.simulation.bugs.planting import BUGS, planted
from tests.simulation.cluster import SimulationFailed, run_seed
from tests.simulation.runner import quiet


def find(number: int, first: int, seeds: int) -> tuple[int, str]:
    """(how many seeds it took to find BUGS[number], the failure's first line); (0, the reason) if it was not found."""
    sought = BUGS[number]
    others: list[str] = []
    with planted(sought.plant):
        for seed in range(first, first + seeds):
            try:
                run_seed(seed)
            except SimulationFailed as failure:
                line = str(failure).partition("\n")[0]
                if re.search(sought.symptom, line):
                    return seed - first + 1, line
                others.append(line)
    return 0, f"not found in {seeds} seeds; other failures: {len(others)} {others[:2]}"


def find_all(pattern: str = "") -> int:
    """Print after how many seeds each is found. Exit status 0 when all are, in time and with their symptom."""
    numbers = [number for number, sought in enumerate(BUGS) if re.search(pattern, sought.name)]
    missed = 0
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("fork"), initializer=quiet) as pool:
        searches = [pool.submit(find, number, 1, BUGS[number].seeds) for number in numbers]
        for number, search in zip(numbers, searches, strict=True):
            sought, (took, what) = BUGS[number], search.result()
            missed += not took
            rows = ", ".join(map(str, sought.rows))
            verdict = f"after {took:4} of {sought.seeds:4} seeds" if took else "MISSED               "
            print(f"{verdict}  {sought.name} (row {rows})\n    {what[:200]}", flush=True)
    print(f"{len(numbers) - missed} of {len(numbers)} planted bugs found")
    return 1 if missed else 0
