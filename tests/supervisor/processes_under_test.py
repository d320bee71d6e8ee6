"""Substitutes for a node's three processes, and a script that runs a real supervisor over them.

`python -m tests.supervisor.processes_under_test CONFIG NODE_ID DIRECTORY name=behaviour ...`: each process obeys its
behaviour and appends lines to DIRECTORY/events.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vaultdb import clock, config
from vaultdb.config import NodeConfig
from vaultdb.errors import CorruptData, ExitCode, IoFailed
from vaultdb.lifeline import Lifeline
from vaultdb.supervisor.processes import LastWords, exit_with_outcome_of
from vaultdb.supervisor.supervisor import START_ORDER, ProcessMain, run

TURN_MS = 20


def note(directory: Path, *words: object) -> None:
    """One appended write: lines of several processes never mix."""
    fd = os.open(directory / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def work(lifeline: Lifeline) -> None:
    while not lifeline.stopping:
        lifeline.beat()
        clock.sleep_ms(TURN_MS)


def pipes_of_this_process() -> int:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return sum(link.startswith("pipe:") for link in links)


def steady(directory: Path, name: str, node: NodeConfig, lifeline: Lifeline) -> int:
    """Works until it is told to stop."""
    note(directory, name, "pipes", pipes_of_this_process())
    (node.runtime_dir / name).touch()  # as a socket would stand there
    work(lifeline)
    note(directory, name, "stopping", clock.monotonic_ns())
    return ExitCode.CLEAN


def silent_while_alone(directory: Path, name: str, node: NodeConfig, lifeline: Lifeline) -> int:
    """Waits without a beat, which alone could tell it that it is orphaned: only the kernel can end it."""
    while not lifeline.stopping:
        clock.sleep_ms(TURN_MS)
    note(directory, name, "stopping", node.id)
    return ExitCode.CLEAN


def fails(exit_code: int, directory: Path, name: str, _node: NodeConfig, lifeline: Lifeline) -> int:
    lifeline.beat()
    note(directory, name, "fails")
    return exit_code


def corrupt(directory: Path, name: str, node: NodeConfig, _lifeline: Lifeline) -> int:
    note(directory, name, "corrupt")
    raise CorruptData(f"record 17 of {node.name} is damaged")


def disk_full(directory: Path, name: str, node: NodeConfig, _lifeline: Lifeline) -> int:
    note(directory, name, "disk_full")
    raise IoFailed(f"{node.data_dir}: No space left on device")


def bug(directory: Path, name: str, _node: NodeConfig, _lifeline: Lifeline) -> int:
    note(directory, name, "bug")
    raise ZeroDivisionError("a planted bug")


def stubborn(directory: Path, name: str, _node: NodeConfig, lifeline: Lifeline) -> int:
    """Never stops by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(directory, name, "stubborn")
    while True:
        lifeline.beat()
        clock.sleep_ms(TURN_MS)


BEHAVIOURS: dict[str, Callable[[Path, str, NodeConfig, Lifeline], int]] = {
    "steady": steady,
    "silent": silent_while_alone,
    "disk_full": disk_full,
    "fails_orphaned": partial(fails, int(ExitCode.ORPHANED)),
    "fails_clean": partial(fails, int(ExitCode.CLEAN)),
    "corrupt": corrupt,
    "bug": bug,
    "stubborn": stubborn,
}


def mains(directory: Path, behaviours: dict[str, str]) -> dict[str, ProcessMain]:
    def main_of(name: str) -> ProcessMain:
        behaviour = BEHAVIOURS[behaviours.get(name, "steady")]

        def main(node: NodeConfig, lifeline: Lifeline) -> int:
            note(directory, name, "started", os.getpid(), clock.monotonic_ns())
            return behaviour(directory, name, node, lifeline)

        return main

    return {name: main_of(name) for name in START_ORDER}


def script(arguments: list[str]) -> None:
    path, node_id, directory, *pairs = arguments
    loaded = config.load(path, environment={})
    node = loaded.node(int(node_id))
    behaviours = dict(pair.split("=") for pair in pairs)
    exit_with_outcome_of(
        lambda: run(node, mains(Path(directory), behaviours)),
        LastWords(),
        loaded.logging,
        {"node": node.name, "process": "supervisor"},
    )


if __name__ == "__main__":
    script(sys.argv[1:])
