"""What the head of a request must be, over all routes: its size, version, Host and method. Pure."""

from __future__ import annotations

import re

from vaultdb import limits
from vaultdb.errors import BadRequest, HeadersTooLarge, NotImplementedYet

METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"

_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%]+\]|[^\x00-\x20\x7f,/?#@\\\[\]:]*)(?::[0-9]*)?")
"""A name or address, or nothing, and a port; wider than RFC 3986, 3.2.2, but nothing that two readers could take for
different hosts.
"""
_REQUEST_LINE = re.compile(rb"(?:\r?\n)*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) [!-~]+ HTTP/1\.[01]\r?\n")


def check(method: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises BadRequest for what RFC 9112 (2.3, 3.2) wants refused, NotImplementedYet for CONNECT."""
    if version not in ("1.1", "1.0"):
        raise BadRequest(f"HTTP/{version} is not spoken here; send HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise BadRequest(f"the request has {len(hosts) or 'no'} Host headers; it must have exactly one")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest("the Host header is not a host with or without a port")
    if method == b"CONNECT":
        raise NotImplementedYet(f"the method CONNECT is unknown: this server is no proxy; known here: {METHODS}")


def check_bytes(size_bytes: int) -> None:
    """Raises HeadersTooLarge."""
    if size_bytes > limits.HTTP_HEADER_BYTES_MAX:
        raise too_large(size_bytes)


def too_large(size_bytes: int) -> HeadersTooLarge:
    limit = limits.HTTP_HEADER_BYTES_MAX
    return HeadersTooLarge(f"request line and headers have {size_bytes} bytes or more; the limit is {limit}")


def method_of(data: bytes) -> str | None:
    """The method of the request line that `data` begins with; None when that is no line of HTTP/1."""
    line = _REQUEST_LINE.match(data)
    return None if line is None else line[1].decode()
