"""The monitor must stand whatever a node answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from monitor import limits
from monitor.reading import exit_in_words, read_status
from tests.monitor.fakes import member, process, status, with_members

ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    math.nan,
    math.inf,
    "",
    "x" * 9999,
    "5",
    [],
    [None, 3, [], {}],
    [{"pid": "x"}],
    {},
]


def places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The path of every field, at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        for path in places(inner):
            yield (key, *path)


def test_a_healthy_answer_is_read_in_full() -> None:
    """Guards the contract with the nodes' /status: each shown figure comes from its field."""
    read = read_status(json.loads(json.dumps(status(2, leader_id=2, term=7))))
    assert (read.node, read.role, read.term, read.leads, read.leader_id) == ("node2", "leader", 7, True, 2)
    assert (read.commit_index, read.applied_index, read.revision) == (1200, 1200, 1100)
    assert (read.api_incarnation, read.writes_total, read.reads_total) == (7002, 5000, 9000)
    assert (read.peers_connected, read.consensus_serves, read.cache_hits) == ((0, 1, 3, 4), True, 975)
    storage = read.processes[1]
    assert (storage.name, storage.pid, storage.memory_bytes, storage.restarts) == ("storage", 4022, 6_200_000, 0)


def test_no_field_of_any_type_breaks_the_reading() -> None:
    """Guards: a null or odd field anywhere becomes None and never an exception; what is read is finite JSON."""
    for path in places(with_members(status(1), member(1), member(5, role="learner"))):
        for odd in ODD:
            answer = with_members(status(1), member(1), member(5, role="learner"))
            target: Any = answer
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = odd
            read = read_status(answer)
            assert json.dumps(asdict(read), allow_nan=False), (path, odd)
            assert len(read.processes) <= limits.PROCESSES_MAX
            assert all(len(text) <= limits.TEXT_CHARACTERS_MAX for text in (read.role or "", read.version or ""))


@pytest.mark.parametrize("answer", [None, [], "ok", 3, {}, {"hello": 1}])
def test_what_is_no_status_is_refused(answer: object) -> None:
    """Guards: another server on a node's port is not taken for a healthy node."""
    with pytest.raises(ValueError, match="not a node's status"):
        read_status(answer)


def test_a_membership_is_read_whole_or_not_at_all() -> None:
    """Guards: a member of which one field makes no sense does not vanish: the membership is not believed."""
    read = read_status(with_members(status(1), member(0), member(5, role="learner"), index=7)).membership
    assert read is not None
    assert (read.index, [(one.address.id, one.role, one.votes) for one in read.members]) == (
        7,
        [(0, "voter", True), (5, "learner", False)],
    )
    for odd in ({"host": None}, {"host": "a b"}, {"http_port": 0}, {"id": -1}, {"name": ""}):
        assert read_status(with_members(status(1), member(0), member(1) | odd)).membership is None, odd
    for count, known in ((limits.MEMBERS_MAX, True), (limits.MEMBERS_MAX + 1, False), (0, False)):
        answer = with_members(status(1), *(member(i) for i in range(count)))
        assert (read_status(answer).membership is not None) == known


def test_parts_that_are_null_are_told_apart_from_parts_that_serve() -> None:
    """Guards: a node whose consensus process is down answers, but does not count as taking part."""
    read = read_status(status(1, consensus=None, storage=None, api=None, processes=None))
    assert not read.consensus_serves
    assert read.writes_total is None
    assert read.processes == ()


def test_memory_falls_back_to_the_resident_set() -> None:
    """Guards: a process without a known PSS still shows its memory."""
    read = read_status(status(1, processes=[process("api", 5, pss_bytes=None)]))
    assert read.processes[0].memory_bytes == 41_000_000


@pytest.mark.parametrize(
    ("last_exit", "words"),
    [
        (None, None),
        (-9, "killed by SIGKILL"),
        (-250, "killed by signal 250"),
        (70, "exit code 70, broken invariant"),
        (3, "exit code 3"),
        ("silence", "silence"),
        (True, None),
        ({}, None),
    ],
)
def test_exits_are_told_in_words(last_exit: object, words: str | None) -> None:
    """Guards: an operator reads the signal or the meaning of a named exit code, not a bare number."""
    assert exit_in_words(last_exit) == words
