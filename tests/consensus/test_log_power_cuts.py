"""Whatever the log was doing when the power went: what was acknowledged stands, and nothing stands in part."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.consensus.log_harness import SMALL_SEGMENT_BYTES, VOTERS, Harness, Image, change, entry, image_of, open_log
from tests.consensus.power_cuts import PowerCuts, State, restore
from vaultdb.consensus.log_files import segment_path
from vaultdb.raft.membership import Membership, decode
from vaultdb.raft.messages import NOBODY, Entry, EntryKind
from vaultdb.raft.state import HardState, RestoredState, Snapshot

NEVER_RUN = HardState(0, NOBODY, 0)
GROWN = Membership((1, 2, 3, 4), context="four")


def image_on(state: State, directory: Path) -> Image:
    """What a log that finds this disk says; and it can be written, and opened once more."""
    log = open_log(restore(state, directory))
    found = image_of(log)
    tail = log.tail()
    more = entry(log.last_index + 1, term=log.last_term or 1)
    log.written(tail.write(None, [more], SMALL_SEGMENT_BYTES))
    tail.close()
    log.close()
    log = open_log(directory)
    assert image_of(log).entries == [*found.entries, more]
    assert log.memberships == found.restored.memberships
    log.close()
    return found


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "log")
    yield made
    made.close()


@pytest.fixture
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For speed. What a sync is good for is PowerCuts' to know."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)


def write_a_log(harness: Harness) -> None:
    """Several segments, with everything that a log can hold."""
    harness.append(change(1, GROWN), hard_state=HardState(1, 2, 0), notes=b"old")
    for index in range(2, 10):
        harness.append(entry(index))
    assert harness.log.segments >= 3


@pytest.mark.usefixtures("_no_syncs")
def test_a_power_cut_at_any_step_of_taking_a_snapshot(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old log or the new one, whole; entries that came with the snapshot may be missing while they are not
    acknowledged.

    Planted bugs: older segments deleted before the new one is durable; a header that promises the commit of entries
    behind it; a header with the hard state of before.
    """
    write_a_log(harness)
    harness.reopen()
    old = image_of(harness.log)
    disk = PowerCuts(harness.directory)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        written = harness.tail.write(
            HardState(5, 3, 22),
            [entry(21, term=4), entry(22, term=5)],
            SMALL_SEGMENT_BYTES,
            snapshot=Snapshot(20, 4, VOTERS),
            notes=b"new",
        )
        disk.is_acknowledged = True
        harness.log.written(written)
        states = disk.take()
    harness.reopen()
    new = image_of(harness.log)
    assert new.restored == (HardState(5, 3, 22), 20, 4, 22, 5, ((20, VOTERS),))
    bare = Image(RestoredState(HardState(5, 3, 20), 20, 4, 20, 4, ((20, VOTERS),)), [], b"new")
    found = [(image_on(state, tmp_path / "cut"), is_acknowledged) for state, is_acknowledged in states]
    for image, is_acknowledged in found:
        assert image in ([new] if is_acknowledged else [old, bare, new])
    assert {image.restored for image, _ in found} == {old.restored, bare.restored, new.restored}, "no step was left out"


@pytest.mark.usefixtures("_no_syncs")
@pytest.mark.parametrize("is_bare", [False, True])
def test_a_power_cut_while_recovery_deletes_what_a_snapshot_voided(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_bare: bool
) -> None:
    """The process before was killed, and what it had not synced is in the page cache only: recovery must make it last
    before it deletes. Planted bug: the other order."""
    write_a_log(harness)
    old_files = {path.name: path.read_bytes() for path in harness.files}
    harness.reopen()
    old = image_of(harness.log)
    number = harness.log.segments + 1
    harness.tail.write(None, [], SMALL_SEGMENT_BYTES, snapshot=Snapshot(20, 4, VOTERS))
    begun = segment_path(harness.directory, number)
    data = begun.read_bytes()
    header = data[: data.rindex(b"VLR1")]
    harness.close()
    restore(old_files | {begun.name: header if is_bare else data}, harness.directory)
    disk = PowerCuts(harness.directory)
    with monkeypatch.context() as patch:
        disk.watch(patch, unsynced={begun.name: b"" if is_bare else header})
        harness.open()
        disk.is_acknowledged = True
        new = image_of(harness.log)
        states = disk.take()
    assert (new.restored.base_index, new.restored.memberships) == (20, ((20, VOTERS),))
    for state, is_acknowledged in states:
        assert image_on(state, tmp_path / "cut") in ([new] if is_acknowledged else [old, new])


@dataclass
class Model:
    """What a log must hold, the plain way."""

    base_index: int = 0
    base_term: int = 0
    base_membership: Membership = VOTERS
    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState = NEVER_RUN
    notes: bytes = b""

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def write(
        self, hard_state: HardState | None, entries: list[Entry], snapshot: Snapshot | None, notes: bytes
    ) -> Model:
        made = Model(*(getattr(self, name) for name in self.__dataclass_fields__))
        if snapshot is not None:
            made.base_index, made.base_term, made.base_membership = snapshot
            made.entries = []
        if entries:
            made.entries = [*made.entries[: entries[0].index - made.base_index - 1], *entries]
        made.hard_state = hard_state or self.hard_state
        made.notes = notes or self.notes
        return made

    def image(self, base_index: int) -> Image:
        """Of the log, cut at `base_index`."""
        cut = self.entries[: base_index - self.base_index]
        kept = self.entries[base_index - self.base_index :]
        memberships = [(self.base_index, self.base_membership), *_changes(cut)]
        known = [(base_index, memberships[-1][1]), *_changes(kept)]
        base_term = cut[-1].term if cut else self.base_term
        last_term = kept[-1].term if kept else base_term
        restored = RestoredState(self.hard_state, base_index, base_term, self.last_index, last_term, tuple(known))
        return Image(restored, kept, self.notes)


def _changes(entries: list[Entry]) -> list[tuple[int, Membership]]:
    return [(e.index, decode(e.payload)) for e in entries if e.kind == EntryKind.MEMBERSHIP]


class History:
    """A random life of one log, checked against its Model and against a power cut at each step."""

    def __init__(self, seed: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = random.Random(seed)
        self.harness = Harness(directory / "log", segment_bytes=self.rng.choice([400, 700, 1500]))
        self.cut_directory = directory / "cut"
        self.disk = PowerCuts(self.harness.directory)
        self.disk.watch(monkeypatch)
        self.model = Model()

    def step(self) -> None:
        self.rng.choices([self.write, self.snapshot, self.cut, self.reopen], weights=[20, 1, 3, 2])[0]()
        log, expected = self.harness.log, self.model.image(self.harness.log.base_index)
        assert image_of(log).entries == expected.entries
        assert log.memberships == expected.restored.memberships
        assert log.term(log.base_index) == expected.restored.base_term

    def write(self) -> None:
        model, rng = self.model, self.rng
        settled = max(model.base_index, model.hard_state.commit)
        first = model.last_index + 1 if rng.random() < 0.7 else rng.randint(settled + 1, model.last_index + 1)
        term = self.harness.log.last_term + (first <= model.last_index) + (rng.random() < 0.1)
        entries = self.some_entries(first, max(term, 1), rng.randint(0, 3))
        last = entries[-1].index if entries else model.last_index
        self.ask(self.some_hard_state(max(term, 1), last), entries, None)

    def snapshot(self) -> None:
        index = self.rng.randint(
            max(self.model.hard_state.commit, self.model.base_index) + 1, self.model.last_index + 9
        )
        term = self.harness.log.last_term + 1
        entries = self.some_entries(index + 1, term, self.rng.randint(0, 2))
        snapshot = Snapshot(index, term, self.some_membership(index))
        self.ask(HardState(term, 1, self.rng.randint(index, index + len(entries))), entries, snapshot)

    def cut(self) -> None:
        before = self.harness.log.base_index
        settled = max(before, self.model.hard_state.commit)
        index = self.rng.choice([settled, self.rng.randint(before, settled)])
        self.disk.take()
        after = self.harness.log.cut(index)
        for state, _ in self.disk.take():
            found = image_on(state, self.cut_directory)
            assert before <= found.restored.base_index <= after <= index
            assert found == self.model.image(found.restored.base_index)

    def reopen(self) -> None:
        base = self.harness.log.base_index
        self.disk.take()
        self.harness.reopen()
        assert image_of(self.harness.log) == self.model.image(base)
        for state, _ in self.disk.take():
            assert image_on(state, self.cut_directory) == self.model.image(base)

    def ask(self, hard_state: HardState | None, entries: list[Entry], snapshot: Snapshot | None) -> None:
        """Write it, and look at every disk that a power cut might have left."""
        notes = self.rng.randbytes(4) if self.rng.random() < 0.2 else b""
        before = self.model.image(self.harness.log.base_index)
        self.model = self.model.write(hard_state, entries, snapshot, notes)
        self.disk.take()
        written = self.harness.tail.write(
            hard_state, entries, self.harness.segment_bytes, snapshot=snapshot, notes=notes
        )
        self.disk.is_acknowledged = True
        self.harness.log.written(written)
        after = self.model.image(self.harness.log.base_index)
        for state, is_acknowledged in self.disk.take():
            found = image_on(state, self.cut_directory)
            if is_acknowledged:
                assert found == after
            elif snapshot is not None and found.restored.base_index == snapshot.index:
                assert (
                    found.restored.hard_state == self.model.hard_state._replace(commit=snapshot.index) or found == after
                )
            else:
                assert found in (before, after)

    def some_entries(self, first: int, term: int, count: int) -> list[Entry]:
        return [
            change(index, self.some_membership(index), term)
            if self.rng.random() < 0.3
            else entry(index, term, size=self.rng.randint(0, 120))
            for index in range(first, first + count)
        ]

    def some_membership(self, index: int) -> Membership:
        return Membership((1, 2, 3), context=f"{index}/{self.rng.randrange(100)}")

    def some_hard_state(self, term: int, last_index: int) -> HardState | None:
        if self.rng.random() < 0.75:
            return None
        commit = self.rng.randint(min(self.model.hard_state.commit, last_index), last_index)
        return HardState(term, self.rng.randint(-1, 3), max(commit, self.model.hard_state.commit))


@pytest.mark.usefixtures("_no_syncs")
@pytest.mark.parametrize("seed", range(8))
def test_a_random_history_with_a_power_cut_at_every_step(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bugs that it found: a membership not taken back on overwrite, by the index or by the tail; notes
    lost with a new segment; `begins` ignored; older segments deleted before the new one is durable; `overwrites_base`
    ignored.
    """
    history = History(seed, tmp_path, monkeypatch)
    for _ in range(60):
        history.step()
    history.harness.close()
