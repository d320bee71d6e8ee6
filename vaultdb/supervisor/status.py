"""What a supervisor tells the world about its processes: one JSON file, replaced atomically."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from vaultdb.clock import NS_PER_S
from vaultdb.supervisor.identity import Identity

PSS_INTERVAL_S = 10
"""The kernel walks every page table entry for it: too dear for each second."""


@dataclass
class Usage:
    """Resources of one process as last sampled."""

    process: psutil.Process
    rss_bytes: int = 0
    pss_bytes: int = 0
    cpu_percent: float = 0.0
    _pss_due_ns: int = field(default=0, repr=False)

    @classmethod
    def of(cls, identity: Identity) -> Usage:
        """Raises psutil.NoSuchProcess."""
        usage = cls(psutil.Process(identity.pid))
        usage.process.cpu_percent()  # the first call is the base of the next
        return usage

    def sample(self, now_ns: int) -> None:
        """Read what the kernel says now; a process that has just ended keeps its last figures."""
        with contextlib.suppress(psutil.Error):
            self.cpu_percent = self.process.cpu_percent()
            self.rss_bytes = self.process.memory_info().rss
            if now_ns >= self._pss_due_ns:
                self._pss_due_ns = now_ns + PSS_INTERVAL_S * NS_PER_S
                memory = self.process.memory_full_info()
                self.pss_bytes = getattr(memory, "pss", memory.uss)

    def record(self) -> dict[str, Any]:
        return {"rss_bytes": self.rss_bytes, "pss_bytes": self.pss_bytes, "cpu_percent": self.cpu_percent}


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace the file; a reader sees the old record or the new one. A failure leaves the old one: it is
    information, not state.
    """
    temporary = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(record, file)
        temporary.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """The record, or None when there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
