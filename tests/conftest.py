"""Shared set-up of all tests."""

from __future__ import annotations

import pytest

from vaultdb import logs
from vaultdb.config import LoggingSettings


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    """Warnings and errors only: what a failing test shows should be about the failure."""
    logs.configure(LoggingSettings(level="warning", format="console"))
