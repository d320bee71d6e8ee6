"""A process is its pid *and* its creation time: a pid alone may meanwhile belong to a stranger."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

CREATE_TIME_TOLERANCE_S = 1.5
"""The kernel's boot time, to which creation times are added, moves by up to a second when the wall clock is
adjusted.
"""


@dataclass(frozen=True)
class Identity:
    pid: int
    create_time: float
    """Seconds since the Unix epoch, as psutil tells it."""

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Of a process that exists: this one, or an unreaped child. Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    @classmethod
    def parse(cls, record: object) -> Identity | None:
        """From the pid and create_time of a status record; None when they are missing or not numbers."""
        if not isinstance(record, Mapping):
            return None
        pid, create_time = record.get("pid"), record.get("create_time")
        if isinstance(pid, int) and isinstance(create_time, int | float) and pid > 0:
            return cls(pid, float(create_time))
        return None

    def record(self) -> dict[str, Any]:
        return {"pid": self.pid, "create_time": self.create_time}

    def is_alive(self) -> bool:
        """False when the pid is gone, a zombie, or a stranger's."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) <= CREATE_TIME_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: signal.Signals) -> bool:
        """Signal the process if it is still the same one. False: it is gone, and nobody was signalled.

        The handle is opened before the check, so that the process that was checked is the one that is signalled.
        """
        try:
            handle = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        except OSError:
            return False
        try:
            if not self.is_alive():
                return False
            if handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            if handle is not None:
                os.close(handle)
        return True
