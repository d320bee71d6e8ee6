"""Commands: one atomic unit of change each, as msgpack arrays. Format version 1.

    [PUT, [key, value, key, value, ...]]     every key is set, or none
    [DELETE, [key, ...]]                     every key is removed; missing ones are passed over

Keys and values are bytes. The numbers are never reused. Commands are checked here, at the door, before they are
proposed; the state machine meets only commands that passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vaultdb import limits
from vaultdb.errors import BadRequest, TooLarge

PUT = 1
DELETE = 2

Command = list[int | list[bytes]]


def put(pairs: Iterable[tuple[bytes, bytes]]) -> Command:
    """Set all `pairs` atomically. Raises BadRequest or TooLarge, naming the limit."""
    flat: list[bytes] = []
    for key, value in pairs:
        check_key(key)
        if len(value) > limits.VALUE_BYTES_MAX:
            raise TooLarge(f"the value has {len(value)} bytes; the limit is {limits.VALUE_BYTES_MAX}")
        flat.append(key)
        flat.append(value)
    _check_size(len(flat) // 2, sum(map(len, flat)))
    return [PUT, flat]


def delete(keys: Sequence[bytes]) -> Command:
    """Remove all `keys` atomically. Raises BadRequest or TooLarge, naming the limit."""
    for key in keys:
        check_key(key)
    _check_size(len(keys), sum(map(len, keys)))
    return [DELETE, list(keys)]


def check_key(key: bytes) -> None:
    """Raises BadRequest for an empty key, TooLarge for one over the limit."""
    if not key:
        raise BadRequest("the key is empty; a key has at least one byte")
    if len(key) > limits.KEY_BYTES_MAX:
        raise TooLarge(f"the key has {len(key)} bytes; the limit is {limits.KEY_BYTES_MAX}")


def _check_size(operations: int, size_bytes: int) -> None:
    if operations == 0:
        raise BadRequest("the command names no key")
    if operations > limits.COMMAND_OPERATIONS_MAX:
        raise TooLarge(f"the command has {operations} operations; the limit is {limits.COMMAND_OPERATIONS_MAX}")
    if size_bytes > limits.COMMAND_BYTES_MAX:
        raise TooLarge(f"the command has {size_bytes} bytes; the limit is {limits.COMMAND_BYTES_MAX}")
