"""RocksDB as we open it: nothing but ours is accepted, nothing is hidden, nothing is logged twice."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from tests.storage.databases import SMALL, flip_byte, open_engine, sst_files
from vaultdb.errors import BrokenInvariant, CorruptData, Fatal, IoFailed
from vaultdb.kv.machine import Changes, Position
from vaultdb.storage.digest import StateDigest
from vaultdb.storage.engine import Engine


def random_changes(keys: int, revision: int = 1) -> Changes:
    source = random.Random(revision)
    return {b"key%06d" % number: (source.randbytes(100), revision) for number in range(keys)}


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    scan = engine.scan()
    found = []
    while part := scan.take(1_000, 1 << 20):
        found += part
    return found


def test_a_clean_close_and_open_gives_everything_back(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    changes = random_changes(500, revision=3)
    engine.write(dict(changes), Position(9, 3, 77))
    engine.flush()
    engine.close()
    engine = open_engine(tmp_path / "db")
    assert engine.position() == Position(9, 3, 77)
    assert engine.read(list(changes)) == list(changes.values())
    engine.close()


def test_the_write_ahead_log_of_rocksdb_stays_empty(tmp_path: Path) -> None:
    """The Raft log is the log. Planted bug: writing without the options; the .log file then holds the batch."""
    engine = open_engine(tmp_path / "db")
    engine.write(random_changes(1_000), Position(1, 1, 0))
    logs = list((tmp_path / "db").glob("*.log"))
    assert logs, "RocksDB makes the file even if it never writes to it"
    assert sum(file.stat().st_size for file in logs) == 0
    engine.close()


def test_the_options_are_those_that_were_asked_for(tmp_path: Path) -> None:
    open_engine(tmp_path / "db").close()
    options = max((tmp_path / "db").glob("OPTIONS-*")).read_text()
    for line in (
        "compression=kLZ4Compression",
        "bottommost_compression=kZSTD",
        f"write_buffer_size={SMALL.memtable_bytes}",
        "filter_policy=bloomfilter",
        "level_compaction_dynamic_level_bytes=true",
    ):
        assert re.search(rf"^\s*{re.escape(line)}", options, re.MULTILINE), f"{line} is not among RocksDB's options"


def read_one_by_one(engine: Engine) -> None:
    for number in range(2_000):
        engine.read([b"key%06d" % number])


def read_together(engine: Engine) -> None:
    engine.read([b"key%06d" % number for number in range(2_000)])


def run_digest(engine: Engine) -> None:
    digest = StateDigest(engine)
    while not digest.advance():
        pass


@pytest.mark.parametrize("touch", [read_one_by_one, read_together, everything, run_digest])
def test_a_damaged_block_is_reported_and_never_passed_over(tmp_path: Path, touch: Callable[[Engine], object]) -> None:
    """RocksDB's iterators end at a damaged block as if the data ended there.

    Planted bug: a scan that does not ask for the status. It returns a part of the keys, and no error.
    """
    engine = open_engine(tmp_path / "db")
    engine.write(random_changes(2_000), Position(1, 1, 0))
    engine.flush()
    engine.close()
    file = max(sst_files(tmp_path / "db"), key=lambda sst: sst.stat().st_size)
    flip_byte(file, file.stat().st_size // 3)
    engine = open_engine(tmp_path / "db")
    with pytest.raises(CorruptData, match=r"is damaged: .*checksum"):
        touch(engine)
    engine.close()


def test_a_missing_file_is_reported_when_the_database_is_opened(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write(random_changes(10), Position(1, 1, 0))
    engine.flush()
    engine.close()
    sst_files(tmp_path / "db")[-1].unlink()
    with pytest.raises(CorruptData, match="No such file"):
        open_engine(tmp_path / "db")


def test_a_format_of_the_future_is_refused_and_named(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine._db.put(b"\x00format", b"\x00\x00\x00\x07", engine._write_options)
    engine.flush()
    engine.close()
    with pytest.raises(CorruptData, match="format version 7; this program knows 1"):
        open_engine(tmp_path / "db")
    with pytest.raises(CorruptData):  # and the refusal gave the lock back
        open_engine(tmp_path / "db")


@pytest.mark.parametrize("raw_mode", [True, False])
def test_a_database_of_someone_else_is_refused(tmp_path: Path, raw_mode: bool) -> None:
    foreign = rocksdict.Rdict(str(tmp_path / "db"), rocksdict.Options(raw_mode=raw_mode))
    foreign[b"key"] = b"value"
    foreign.close()
    with pytest.raises(CorruptData, match="not VaultDB's data"):
        open_engine(tmp_path / "db")


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_mode_file_that_cannot_be_understood_is_refused(tmp_path: Path, text: str) -> None:
    open_engine(tmp_path / "db").close()
    assert json.loads((tmp_path / "db" / "rocksdict-config.json").read_text())["raw_mode"] is True
    (tmp_path / "db" / "rocksdict-config.json").write_text(text)
    with pytest.raises(CorruptData, match="cannot be understood"):
        open_engine(tmp_path / "db")


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    with pytest.raises(IoFailed, match="lock"):
        open_engine(tmp_path / "db")
    engine.close()
    open_engine(tmp_path / "db").close()


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("Corruption: block checksum mismatch: stored = 1, computed = 2", CorruptData),
        ("IO error: No space left on device: While appending to file: 000012.sst", IoFailed),
        ("IO error: While fdatasync: 000012.sst: Input/output error", IoFailed),
        ("Invalid argument: something new", BrokenInvariant),
    ],
)
def test_errors_are_told_apart_by_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, becomes: type[Fatal]
) -> None:
    class Failing:
        def write(self, *_arguments: Any) -> None:
            raise Exception(text)

    engine = open_engine(tmp_path / "db")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_db", Failing())
        with pytest.raises(becomes, match=re.escape(text)):
            engine.write({b"a": (b"1", 1)}, Position(1, 1, 0))
        assert engine.position() == Position(), "a failed write moves nothing"
    engine.close()


def test_our_own_mistakes_are_not_taken_for_rocksdbs(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    with pytest.raises(TypeError):
        engine.read([7])  # type: ignore[list-item]
    engine.close()


def test_use_after_close_is_a_broken_invariant(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.close()
    with pytest.raises(BrokenInvariant, match="closed"):
        engine.read([b"a"])


def test_a_scan_sees_the_instant_it_began_and_only_data(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write({b"a": (b"1", 1), b"b": (b"2", 1)}, Position(1, 1, 0))
    scan = engine.scan()
    engine.write({b"a": None, b"b": (b"3", 2), b"c": (b"4", 2)}, Position(2, 2, 0))
    engine.flush()
    revision = (1).to_bytes(8, "big")
    assert scan.take(10, 1 << 20) == [(b"a", revision + b"1"), (b"b", revision + b"2")]
    assert scan.take(10, 1 << 20) == []
    scan.close()
    assert scan.take(10, 1 << 20) == []
    engine.close()


def test_a_scan_stops_at_either_bound(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write(random_changes(100), Position(1, 1, 0))
    scan = engine.scan()
    assert len(scan.take(7, 1 << 20)) == 7
    assert len(scan.take(50, 1)) == 1
    assert len(scan.take(1_000, 1 << 20)) == 92
    scan.close()
    engine.close()


def test_reads_and_writes_go_on_during_a_flush(tmp_path: Path) -> None:
    """The flush runs beside the main loop. What it makes durable includes everything written before it began."""
    engine = open_engine(tmp_path / "db")
    for revision in range(1, 6):
        engine.write(random_changes(2_000, revision), Position(revision, revision, 0))
    flush = threading.Thread(target=engine.flush)
    flush.start()
    revision = 5
    while flush.is_alive():
        revision += 1
        engine.write({b"during": (b"%d" % revision, revision)}, Position(revision, revision, 0))
        assert engine.read([b"during"]) == [(b"%d" % revision, revision)]
    flush.join()
    engine.close()
    engine = open_engine(tmp_path / "db")
    assert engine.position().applied_index >= 5
    engine.close()


def test_statistics_are_integers(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write(random_changes(1_000), Position(1, 1, 0))
    engine.flush()
    statistics = engine.statistics()
    assert statistics["sst_bytes"] > 100_000
    assert all(type(value) is int for value in statistics.values())
    assert engine.keys_estimate() >= 1_000
    engine.close()
