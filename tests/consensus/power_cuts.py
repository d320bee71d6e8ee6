"""A directory of which every state is noted that a power cut might leave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

State = dict[str, bytes]
"""What stands on the disk: file name → content."""


class PowerCuts:
    """Between `watch` and the end of the test, notes what the disk may hold at each write, sync and unlink.

    What was synced is there. Of what was not: each unlink may have happened or not; new files are all there or all
    missing; what was written since a file's last sync is there, or half of it, or nothing. Nothing is really synced.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._names: set[str] = set()
        self._synced: State = {}
        self._noted: dict[tuple[tuple[str, bytes], ...], bool] = {}
        self.is_acknowledged = False
        """Set by the test: from now on what was asked for must stand."""

    def watch(self, monkeypatch: pytest.MonkeyPatch, *, unsynced: State | None = None) -> None:
        """All that the directory holds counts as synced, but of the files in `unsynced` only what is said there."""
        self._synced = self._contents() | (unsynced or {})
        self._names = set(self._synced)
        write, unlink = os.write, Path.unlink

        def noting_write(fd: int, data: bytes) -> int:
            if self._path_of(fd) is not None:
                self.note()
            return write(fd, data)

        def noting_unlink(path: Path, missing_ok: bool = False) -> None:
            if path.parent.resolve() == self._directory:
                self.note()
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(os, "write", noting_write)
        monkeypatch.setattr(os, "fsync", self._sync)
        monkeypatch.setattr(os, "fdatasync", self._sync)
        monkeypatch.setattr(Path, "unlink", noting_unlink)

    def note(self) -> None:
        for state in self._possible():
            key = tuple(sorted(state.items()))
            self._noted[key] = self._noted.get(key, False) or self.is_acknowledged

    def take(self) -> list[tuple[State, bool]]:
        """What was noted since the last call: each state, and whether it may be left after the acknowledgement."""
        self.note()
        taken = [(dict(state), is_acknowledged) for state, is_acknowledged in self._noted.items()]
        self._noted.clear()
        self.is_acknowledged = False
        return taken

    def _sync(self, fd: int) -> None:
        path = self._path_of(fd)
        if path is None:
            return
        self.note()
        if path == self._directory:
            self._names = set(self._contents())
            self._synced = {name: data for name, data in self._synced.items() if name in self._names}
        else:
            self._synced[path.name] = path.read_bytes()
        self.note()

    def _path_of(self, fd: int) -> Path | None:
        """None: it is none of this directory."""
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        return path if self._directory in (path, path.parent) else None

    def _contents(self) -> State:
        return {path.name: path.read_bytes() for path in self._directory.iterdir()}

    def _possible(self) -> Iterator[State]:
        seen = self._contents()
        made, gone = seen.keys() - self._names, self._names - seen.keys()
        kept_names = [{*seen}, {*seen} - made] if made else [{*seen}]
        for written in ("all", "half", "nothing"):
            contents = {name: self._reached(name, data, written) for name, data in seen.items()}
            for names in kept_names:
                for back in _subsets(sorted(gone)):
                    yield {name: contents[name] for name in names} | {name: self._synced[name] for name in back}

    def _reached(self, name: str, data: bytes, written: str) -> bytes:
        synced = self._synced.get(name, b"")
        if written == "all":
            return data
        if written == "half" and data.startswith(synced):
            return data[: (len(synced) + len(data)) // 2]
        return synced


def _subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    """None, each alone, all but each, all; of a few names, that is every subset."""
    for count in {0, 1, len(names) - 1, len(names)}:
        if count >= 0:
            yield from combinations(names, count)


def restore(state: State, directory: Path) -> Path:
    """Make `directory` hold exactly `state`."""
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for name, data in state.items():
        (directory / name).write_bytes(data)
    return directory
