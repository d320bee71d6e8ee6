"""Run by test_crash: applies a fixed, endless series of entries until it is killed.

    python -m tests.storage.crashing_child DIRECTORY [split]

Prints the applied index after every write. With `split` it has the bug that the test must catch: position and data in
two batches.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

from tests.storage.databases import SMALL
from vaultdb.clock import monotonic_ns
from vaultdb.kv import commands
from vaultdb.kv.machine import Changes, Machine, Position
from vaultdb.storage.engine import Engine
from vaultdb.storage.flusher import Flusher


def requests_of(index: int) -> list[list[Any]]:
    """The commands of the entry at `index`: few keys, much overwriting, some deletes."""
    source = random.Random(index)
    requests: list[list[Any]] = []
    for number in range(source.randint(0, 4)):
        keys = [b"key%03d" % source.randrange(300) for _ in range(source.randint(1, 20))]
        if source.random() < 0.3:
            requests.append([number, commands.delete(keys)])
        else:
            requests.append([number, commands.put((key, source.randbytes(source.randint(0, 100))) for key in keys)])
    return requests


class SplittingEngine(Engine):
    """The planted bug."""

    def write(self, changes: Changes, position: Position) -> None:
        before = self.position()
        super().write({}, position)
        if position.applied_index % 5 == 0:
            self.flush()  # as RocksDB does by itself whenever a memtable is full
        self._position = before
        for key, versioned in changes.items():
            batch_of_one: Changes = {key: versioned}
            super().write(batch_of_one, before)
        super().write({}, position)


def main() -> None:
    directory = Path(sys.argv[1])
    engine = (SplittingEngine if "split" in sys.argv[2:] else Engine)(directory, SMALL)
    machine = Machine(engine)
    flusher = Flusher(engine, SMALL)
    while True:
        for _ in range(random.Random(machine.applied_index).randint(1, 5)):
            machine.begin(machine.applied_index + 1, stamp_ms=machine.applied_index)
            machine.apply(requests_of(machine.applied_index))
        machine.write()
        flusher.poll(monotonic_ns())
        os.write(1, b"%d %d\n" % (machine.applied_index, flusher.flushed_index))


if __name__ == "__main__":
    main()
