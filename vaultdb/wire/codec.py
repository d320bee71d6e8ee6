"""msgpack, configured once: bytes stay bytes and text stays text.

Nothing unpacks larger than its message: msgpack derives its bounds from the length of the input.
"""

from __future__ import annotations

from typing import Any

import msgpack

from vaultdb.errors import BadRequest


def pack(value: Any) -> bytes:
    """Encode lists, tuples, dicts, str, bytes, int, float, bool and None. Safe in any thread."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """Decode one value; arrays become lists, map keys are str or bytes.

    Raises BadRequest on anything that is not exactly one such value.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadRequest(f"not a msgpack message: {error}") from error
