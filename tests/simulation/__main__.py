"""python -m tests.simulation: many seeds, one seed with its trace, or the planted bugs."""

from __future__ import annotations

import argparse

from tests.simulation import runner
from tests.simulation.bugs.finding import find_all

_SEEDS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help=f"how many (default {_SEEDS})")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--minutes", type=float, help="as many seeds as fit, instead")
    parser.add_argument("--trace", action="store_true", help="print everything that happens in the first seed")
    parser.add_argument("--bugs", nargs="?", const="", metavar="PATTERN", help="plant each known bug, and find it")
    options = parser.parse_args()
    if options.bugs is not None:
        return find_all(options.bugs)
    if options.trace:
        return runner.trace(options.first)
    seeds = options.seeds
    if seeds is None and options.minutes is None:
        seeds = _SEEDS
    return runner.run_many(options.first, seeds, options.minutes)


if __name__ == "__main__":
    raise SystemExit(main())
