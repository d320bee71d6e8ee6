"""The state hash: the same for the same state, different for any other."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.storage.databases import open_engine
from vaultdb.kv.machine import Changes, Position
from vaultdb.storage.digest import Asker, DigestQueue, StateDigest
from vaultdb.storage.engine import Engine


def digest_of(engine: Engine) -> str:
    digest = StateDigest(engine)
    while not digest.advance():
        pass
    return digest.hexdigest()


def fresh(path: Path, changes: Changes, revision: int = 1) -> str:
    engine = open_engine(path)
    engine.write(changes, Position(1, revision, 0))
    digest = digest_of(engine)
    engine.close()
    return digest


def test_the_hash_is_what_its_specification_says(tmp_path: Path) -> None:
    stored = (5).to_bytes(8, "big") + b"value"
    expected = hashlib.blake2b(digest_size=32)
    expected.update((3).to_bytes(4, "big") + len(stored).to_bytes(4, "big") + b"key" + stored)
    expected.update((9).to_bytes(8, "big"))
    assert fresh(tmp_path / "db", {b"key": (b"value", 5)}, revision=9) == expected.hexdigest()


def test_any_difference_shows(tmp_path: Path) -> None:
    base: Changes = {b"a": (b"1", 1), b"bc": (b"2", 1)}
    others: list[tuple[Changes, int]] = [
        (base, 1),
        (base, 2),
        ({}, 1),
        (base | {b"d": (b"", 1)}, 1),
        (base | {b"a": (b"9", 1)}, 1),
        (base | {b"a": (b"1", 2)}, 1),
        ({b"a": (b"1", 1), b"b": (b"c2", 1)}, 1),
        ({b"a": (b"1", 1), b"bc2": (b"", 1)}, 1),
    ]
    digests = [fresh(tmp_path / str(number), *other) for number, other in enumerate(others)]
    assert len(set(digests)) == len(others)


def test_the_way_there_does_not_matter(tmp_path: Path) -> None:
    """Replicas group entries differently and flush at different times."""
    straight = fresh(tmp_path / "straight", {b"%d" % number: (b"v", number) for number in range(3_000)}, 3_000)
    engine = open_engine(tmp_path / "winding")
    for number in range(3_000):
        changes: Changes = {b"%d" % number: (b"v", number), b"gone": (b"x", number)}
        engine.write(changes, Position(number + 1, number, 5))
    engine.flush()
    engine.write({b"gone": None}, Position(4_000, 3_000, 0))
    assert digest_of(engine) == straight
    engine.close()


def test_a_digest_is_of_the_instant_it_began(tmp_path: Path) -> None:
    """It takes many turns of the loop, and writes come in between.

    Planted bug: a new iterator for every slice; the hash is then of a state that never existed.
    """
    engine = open_engine(tmp_path / "db")
    engine.write({b"%05d" % number: (b"v", 1) for number in range(5_000)}, Position(1, 1, 0))
    before = digest_of(engine)
    digest = StateDigest(engine)
    revision = 1
    while not digest.advance():
        revision += 1
        engine.write({b"00000": (b"w", revision), b"99999": (b"w", revision)}, Position(revision, revision, 0))
    assert revision > 2, "it took several slices"
    assert (digest.hexdigest(), digest.position, digest.keys) == (before, Position(1, 1, 0), 5_000)
    assert digest_of(engine) != before
    engine.close()


def test_all_who_asked_before_the_scan_began_get_its_result_and_later_ones_the_next(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    engine.write({b"%05d" % number: (b"v", 1) for number in range(5_000)}, Position(1, 1, 0))
    queue = DigestQueue(engine)
    assert queue.advance() is None
    assert not queue.busy
    first, second, late = (Asker(b"api", 1, batch) for batch in range(3))
    queue.add(first)
    queue.add(second)
    assert queue.advance() is None
    queue.add(late)
    served: list[tuple[list[Asker], int]] = []
    while queue.busy:
        if (finished := queue.advance()) is not None:
            served.append((finished[0], finished[1].keys))
    assert served == [([first, second], 5_000), ([late], 5_000)]
    engine.close()


def test_too_many_askers_are_refused(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "db")
    queue = DigestQueue(engine)
    assert [queue.add(Asker(b"api", 1, batch)) for batch in range(17)] == [True] * 16 + [False]
    queue.close()
    engine.close()
