"""The storage process alone, as the supervisor would run it: python -m tests.storage.storage_child CONFIG."""

from __future__ import annotations

import os
import sys

from vaultdb import config, logs
from vaultdb.errors import Fatal
from vaultdb.lifeline import Lifeline
from vaultdb.storage import process


def main() -> int:
    node = config.load(sys.argv[1], environment={}).node(0)
    lifeline = Lifeline(os.open(os.devnull, os.O_WRONLY), os.getppid())
    lifeline.arm()
    logs.configure(node.config.logging, process="storage")
    try:
        return process.run(node, lifeline)
    except Fatal as error:
        print(f"fatal: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
