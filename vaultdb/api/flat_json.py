"""A pull parser for the one JSON document that POST /key takes: a flat object of strings.

It hands over one member at a time and stops at the first one that is not string to string, so that a body of many MB
costs no more than what its caller takes of it. Strings are scanned by the C code of the standard library.
"""

from __future__ import annotations

import json
import json.decoder
import re
from collections.abc import Callable, Iterator

from vaultdb.errors import BadRequest

_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]
"""The string whose first character is at that position, and the position behind its closing quote."""

_SPACE = re.compile(r"[ \t\n\r]*+")
_OPEN_OR_END = re.compile(r'[ \t\n\r]*+\{[ \t\n\r]*+(?:"|(\}))')
_COLON = re.compile(r'[ \t\n\r]*+:[ \t\n\r]*+"')
_COMMA_OR_END = re.compile(r'[ \t\n\r]*+(?:,[ \t\n\r]*+"|(\}))')
"""Each ends behind the opening quote of the next string, or behind the brace that ends the object."""

_KINDS = (
    (re.compile("null"), "null"),
    (re.compile("true"), "true"),
    (re.compile("false"), "false"),
    (re.compile('"'), "a string"),
    (re.compile(r"-?[0-9]|NaN|-?Infinity"), "a number"),
    (re.compile(r"\{"), "an object"),
    (re.compile(r"\["), "an array"),
)


def members(text: str) -> Iterator[tuple[str, str]]:
    """The keys and values in their order, repeated keys included; the object may be empty.

    Raises BadRequest when it comes to what is wrong: what stands behind has not been looked at.
    """
    try:
        yield from _members(text)
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, error.pos) from error


def shown(text: str) -> str:
    """A name from a request, short and printable, as it may stand in a sentence."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return json.dumps(short)


def _members(text: str) -> Iterator[tuple[str, str]]:
    between = _OPEN_OR_END.match(text)
    if between is None:
        raise _no_object(text)
    while between[1] is None:
        key, position = _scan_string(text, between.end())
        colon = _COLON.match(text, position)
        if colon is None:
            raise _no_string(text, position, key)
        value, position = _scan_string(text, colon.end())
        yield key, value
        between = _COMMA_OR_END.match(text, position)
        if between is None:
            raise _no_next_member(text, position)
    position = _behind_space(text, between.end())
    if position < len(text):
        raise _not_json("Extra data", position)


def _no_object(text: str) -> BadRequest:
    position = _behind_space(text, 0)
    kind = _kind(text, position)
    if kind is None:
        return _not_json("Expecting value", position)
    if kind == "an object":
        return _not_json("Expecting property name enclosed in double quotes", _behind_space(text, position + 1))
    return BadRequest(f"the body is {kind}; it must be a JSON object of keys and string values")


def _no_string(text: str, position: int, key: str) -> BadRequest:
    position = _behind_space(text, position)
    if not text.startswith(":", position):
        return _not_json("Expecting ':' delimiter", position)
    position = _behind_space(text, position + 1)
    kind = _kind(text, position)
    if kind is None:
        return _not_json("Expecting value", position)
    return BadRequest(
        f"the value of {shown(key)} is {kind}; values must be JSON strings"
        ' (write "100.5", not 100.5), or PUT the bytes to /key/<key>'
    )


def _no_next_member(text: str, position: int) -> BadRequest:
    position = _behind_space(text, position)
    if not text.startswith(",", position):
        return _not_json("Expecting ',' delimiter", position)
    return _not_json("Expecting property name enclosed in double quotes", _behind_space(text, position + 1))


def _kind(text: str, position: int) -> str | None:
    """What begins there, by its first characters; None when it is no JSON."""
    return next((kind for pattern, kind in _KINDS if pattern.match(text, position)), None)


def _behind_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None, "matches nothing too"
    return match.end()


def _not_json(what: str, position: int) -> BadRequest:
    return BadRequest(f"the body is not JSON: {what} at character {position}")
