"""Start, watch and stop a VaultDB cluster on this machine: `python launcher.py --help`."""

import os
import signal


def leave_at_once(*_: object) -> None:
    """Ctrl-C while modules are imported: there is nothing to clean up, and a traceback helps nobody."""
    os._exit(130)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave_at_once)
    from pathlib import Path

    from vaultdb.cli import main

    main(Path(__file__).resolve().parent / "config" / "local.toml")
