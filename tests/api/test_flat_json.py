"""The parser of POST bodies: what it takes is what JSON takes, and it stops at the first fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vaultdb import limits
from vaultdb.api import flat_json
from vaultdb.api.operations import pairs_of
from vaultdb.errors import BadRequest, Rejected, TooLarge


def expected(text: str) -> list[tuple[str, str]] | None:
    """The members, read with the whole parser of the standard library; None for what is no flat object of strings."""

    class Members(list[tuple[str, Any]]):
        pass

    try:
        document = json.loads(text, object_pairs_hook=Members)
    except ValueError:
        return None
    flat = type(document) is Members and all(isinstance(value, str) for _, value in document)
    return list(document) if flat else None


def found(text: str) -> list[tuple[str, str]] | None:
    try:
        return list(flat_json.members(text))
    except BadRequest:
        return None


texts = st.text(max_size=8)
objects = st.lists(st.tuples(texts, texts), max_size=4).map(
    lambda pairs: "{" + ", ".join(f"{json.dumps(key)} :\t{json.dumps(value)}" for key, value in pairs) + " }\n"
)
tokens = st.lists(
    st.sampled_from([*'{}[]:,"\\ \n', '"a"', '"b":', '"c": "d"', "1", "-", "null", "\\u00", "\\n", "\u00a0", "\x00"]),
    max_size=12,
).map("".join)


@given(st.one_of(objects, tokens, tokens.map(lambda inside: "{" + inside + "}"), st.text(max_size=20)))
@example('{"a": "1",}')
@example('{"a": "1"}}')
@example('{,"a": "1"}')
@example('{"a": "\t"}')
@example("{ }")
def test_it_takes_what_json_takes(text: str) -> None:
    """Promise: a body that is a JSON object of strings is read as any JSON parser reads it; nothing else is."""
    assert found(text) == expected(text)


GARBAGE = '"\\x}}]]'
"""A parser that comes this far says that it is not JSON."""


@pytest.mark.parametrize(
    ("head", "error", "phrase"),
    [
        ('{"a":[', BadRequest, 'the value of "a" is an array; values must be JSON strings'),
        ('{"a":{', BadRequest, 'the value of "a" is an object; values must be JSON strings'),
        ('{"a":1', BadRequest, 'the value of "a" is a number; values must be JSON strings'),
        ('{"k":"v","a":null', BadRequest, 'the value of "a" is null; values must be JSON strings'),
        ('{"a":"1","a":"2",', BadRequest, 'the key "a" is given twice'),
        ('{"\\ud800":"1",', BadRequest, "half a surrogate pair"),
        ("[", BadRequest, "the body is an array"),
        ("".join(f'{"{" if i == 0 else ""}"k{i}":"",' for i in range(10_001)), TooLarge, "10001 operations or more"),
    ],
)
def test_nothing_behind_the_first_fault_is_parsed(head: str, error: type[Rejected], phrase: str) -> None:
    """Promise: the first fault ends the work. Catches: parsing the whole document before judging it."""
    assert limits.COMMAND_OPERATIONS_MAX == 10_000
    with pytest.raises(error) as refused:
        pairs_of((head + GARBAGE).encode())
    assert phrase in str(refused.value)


@pytest.mark.parametrize(
    ("body", "bytes_max"),
    [
        (b'{"a":[' + b'{"b":"c"},' * 800_000 + b'"d"]}', 64 * limits.KIB),
        (b'{"a":"b","a":"b"' + b',"c":"d"' * 1_000_000 + b"}", 64 * limits.KIB),
        (b"{" + b",".join(b'"%d":""' % i for i in range(620_000)) + b"}", 16 * limits.COMMAND_OPERATIONS_MAX),
    ],
)
def test_legal_json_of_many_mb_is_refused_early(monkeypatch: pytest.MonkeyPatch, body: bytes, bytes_max: int) -> None:
    """Promise: a body that is to be refused cannot keep the event loop busy, however large it is.

    Counted in what the scanner was asked to read. Catches: parsing all, or counting keys when all are there.
    """
    assert len(body) < limits.HTTP_BODY_BYTES_MAX
    reached = 0
    scan = flat_json._scan_string

    def watched(text: str, position: int) -> tuple[str, int]:
        nonlocal reached
        string, reached = scan(text, position)
        return string, reached

    monkeypatch.setattr(flat_json, "_scan_string", watched)
    with pytest.raises(Rejected):
        pairs_of(body)
    assert 0 < reached < bytes_max


def test_large_strings_are_scanned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a legal body at its limit costs two scans a member, whatever the length of its strings."""
    members = {f"k{i}": "x" * 1_000_000 for i in range(8)}
    scans = 0
    scan = flat_json._scan_string

    def counted(text: str, position: int) -> tuple[str, int]:
        nonlocal scans
        scans += 1
        return scan(text, position)

    monkeypatch.setattr(flat_json, "_scan_string", counted)
    assert len(pairs_of(json.dumps(members).encode())) == 8
    assert scans == 16


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Expecting value at character 0"),
        ("{", "Expecting property name enclosed in double quotes at character 1"),
        ("{ x", "Expecting property name enclosed in double quotes at character 2"),
        ('{"a" "b"}', "Expecting ':' delimiter at character 5"),
        ('{"a": x}', "Expecting value at character 6"),
        ('{"a": "b"', "Expecting ',' delimiter at character 9"),
        ('{"a": "b" "c"}', "Expecting ',' delimiter at character 10"),
        ('{"a": "b", }', "Expecting property name enclosed in double quotes at character 11"),
        ('{"a": "b"} x', "Extra data at character 11"),
        ('{"a": "b', "Unterminated string starting at at character 6"),
    ],
)
def test_bad_syntax_is_named_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        list(flat_json.members(text))
    assert str(refused.value) == f"the body is not JSON: {sentence}"
