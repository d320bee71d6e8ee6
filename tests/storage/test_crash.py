"""Killed at any moment, the database comes back as some state that it really had, and says which (failures, row 30)."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kv.memory_store import MemoryStore
from tests.storage.crashing_child import requests_of
from tests.storage.databases import open_engine
from vaultdb.kv.machine import Machine, Position

PROJECT = Path(__file__).parents[2]
KEYS = [b"key%03d" % number for number in range(300)]


def run_until_killed(directory: Path, entries: int, *arguments: str) -> tuple[int, int]:
    """Let a child apply `entries` more, kill it with -9. Returns what it last said: (applied, flushed)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.crashing_child", str(directory), *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    first: int | None = None
    said = (0, 0)
    try:
        for line in child.stdout:
            applied, flushed = map(int, line.split())
            said = (applied, flushed)
            first = applied if first is None else first
            if applied - first >= entries:
                break
        else:
            pytest.fail(f"the child ended by itself with {child.wait()}")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return said


def inconsistency(directory: Path, model: tuple[Machine, MemoryStore]) -> str | None:
    """Open what the crash left, bring the model to the index that it names, and say what differs; None if nothing."""
    machine, store = model
    engine = open_engine(directory)
    try:
        position = engine.position()
        found = engine.read(KEYS)
        scan = engine.scan()
        keys_count = len(scan.take(10_000, 1 << 30))
        scan.close()
    finally:
        engine.close()
    while machine.applied_index < position.applied_index:
        machine.begin(machine.applied_index + 1, stamp_ms=machine.applied_index)
        machine.apply(requests_of(machine.applied_index))
        machine.write()
    if machine.applied_index > position.applied_index:
        return f"it went back from {machine.applied_index} to {position.applied_index}"
    if position != store.position():
        return f"it stands at {position}; it should be {store.position()}"
    wrong = [key for key, versioned in zip(KEYS, found, strict=True) if versioned != store.data.get(key)]
    if wrong or keys_count != len(store.data):
        return (
            f"at index {position.applied_index}, {len(wrong)} keys are wrong, {keys_count} of {len(store.data)} there"
        )
    return None


def new_model() -> tuple[Machine, MemoryStore]:
    store = MemoryStore()
    return Machine(store), store


@pytest.mark.system
def test_c30_after_kill_9_data_index_and_revision_are_of_one_state(tmp_path: Path) -> None:
    """Eight crashes of one database, each going on from where the last one came back.

    Flushes run all the time, by interval, by size and by RocksDB itself. Nothing called flushed is lost.
    """
    source = random.Random(30)
    model = new_model()
    went_back = False
    for crash in range(8):
        applied, flushed = run_until_killed(tmp_path / "db", source.randint(50, 2_500))
        assert (found := inconsistency(tmp_path / "db", model)) is None, f"after crash {crash}: {found}"
        back_at = model[1].position().applied_index
        assert back_at >= flushed, (
            f"crash {crash}: entries up to {flushed} were called flushed, it is back at {back_at}"
        )
        went_back |= back_at < applied
    assert went_back, "no crash lost anything unflushed: too gentle to mean anything"
    assert model[1].position() > Position(1_000, 1_000, 0), "too little happened for this test to mean anything"


@pytest.mark.system
def test_c30_the_check_catches_a_position_that_is_not_in_the_batch_of_its_data(tmp_path: Path) -> None:
    """The checker's control: with the bug planted, one of some crashes must show it."""
    found = None
    for crash in range(10):
        directory = tmp_path / str(crash)
        run_until_killed(directory, 200 + 37 * crash, "split")
        found = inconsistency(directory, new_model())
        if found is not None:
            break
    assert found is not None, "position and data were written separately, and no crash showed it"
