"""docs/raft.md: its examples run, and the names that it uses exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import vaultdb.raft
from vaultdb.raft import reads, state
from vaultdb.raft.messages import KINDS
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import RaftConfig, Ready

PAGE = Path(__file__).parents[2] / "docs" / "raft.md"


def test_the_examples_run() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 15
    assert results.failed == 0


def test_the_calls_and_settings_that_it_names_exist() -> None:
    page = PAGE.read_text(encoding="utf-8").split("## The parts on their own")[0]
    calls = set(re.findall(r"`(\w+)\(", page)) - {"min"}
    assert {call for call in calls if not hasattr(RaftNode, call)} == set()
    public = {name for name, value in vars(RaftNode).items() if callable(value) and not name.startswith("_")}
    assert public - calls == {"entries", "has_ready"}, "calls that the page does not explain"
    settings = set(re.findall(r"`(\w+_(?:ticks|bytes|appends|lag)_\w+)`", page))
    assert settings <= {*RaftConfig.__slots__}
    assert "`promotion_lag_max`" in page
    assert all(hasattr(Ready(0), name) for name in re.findall(r"`Ready\.(\w+)`", page))
    assert hasattr(reads, "LEASE_HEARTBEATS")
    assert f"{100 - state.CLOCK_DRIFT_PERCENT} %" in page
    assert "VoteRequest" in {kind.__name__ for kind in KINDS}


def test_the_modules_that_it_names_exist() -> None:
    folder = Path(vaultdb.raft.__path__[0])
    table = PAGE.read_text(encoding="utf-8").split("## What goes in")[0].split("## What comes from where")[1]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.rpartition(" | ")[2])}
    assert named == {path.stem for path in folder.glob("*.py")} - {"__init__", "messages", "state"}
