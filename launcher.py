"""Start, watch and stop a VaultDB cluster on this machine: `python launcher.py --help`."""

from pathlib import Path

from vaultdb.cli import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "config" / "local.toml")
