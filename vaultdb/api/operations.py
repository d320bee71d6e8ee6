"""Requests become operations. Pure: the same functions serve Flask and the express lane.

A request is planned from its method, path, query and headers, before its body is read; a body then becomes a command of
`kv.commands`. Keys are taken as they stand in the percent-decoded path: no slash is merged, no dot segment resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

from vaultdb import limits
from vaultdb.api import flat_json
from vaultdb.api.flat_json import shown
from vaultdb.errors import BadRequest, Forbidden, NotImplementedYet, TooLarge, UnsupportedMedia
from vaultdb.kv import commands

KEY_PREFIX = b"/key/"
KEYS_PATH = b"/key"
JSON_TYPE = b"application/json"
RAW_TYPE = b"application/octet-stream"

KEY_METHODS = "DELETE, GET, HEAD, OPTIONS, PUT"
KEYS_METHODS = "OPTIONS, POST"
VIEW_METHODS = "GET, HEAD, OPTIONS"

_NO_BODY = "this request takes no body"
_QUERY_FIELDS_MAX = 16
_UNHEEDED_ON_WRITES = frozenset(
    (b"if-match", b"if-none-match", b"if-unmodified-since", b"idempotency-key", b"content-range")
)
_OWN_SITES = (b"same-origin", b"none")
"""Sec-Fetch-Site of a page that this node served, or of no page at all."""
_UNHEEDED_ON_READS = frozenset((b"if-match", b"if-unmodified-since"))

Headers = Mapping[bytes, bytes]
"""Names in lower case; values of a repeated name joined by commas."""


class Kind(Enum):
    READ = "read"
    PUT = "put"
    DELETE = "delete"
    POST = "post"


class Plan(NamedTuple):
    """What a request asks for, as far as it is known without its body."""

    kind: Kind
    key: bytes = b""
    body_bytes_max: int = 0
    """0: the request takes no body."""
    linearizable: bool = True
    queued: bool = False
    raw: bool = False
    """The value itself is wanted, not JSON."""
    if_none_match: bytes | None = None


class Bounded(Protocol):
    """What the length of a body is checked against."""

    @property
    def kind(self) -> Kind: ...

    @property
    def body_bytes_max(self) -> int: ...


_VIEW = Plan(Kind.READ)


def plan(method: str, path: bytes, query: bytes, headers: Headers) -> Plan | None:
    """The plan of a request to /key or /key/…; None for every other route and method. `path` is percent-decoded.

    Raises Rejected when the request can be refused without its body.
    """
    if path.startswith(KEY_PREFIX):
        if method in ("GET", "HEAD"):
            return _plan_read(key_of(path), query, headers)
        if method == "PUT":
            return _plan_write(Kind.PUT, key_of(path), limits.VALUE_BYTES_MAX, query, headers)
        if method == "DELETE":
            return _plan_write(Kind.DELETE, key_of(path), 0, query, headers)
    elif path == KEYS_PATH and method == "POST":
        return _plan_write(Kind.POST, b"", limits.HTTP_BODY_BYTES_MAX, query, headers)
    return None


def key_of(path: bytes) -> bytes:
    """The key that a path below /key/ names. Raises BadRequest or TooLarge."""
    key = path[len(KEY_PREFIX) :]
    commands.check_key(key)
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"the key in the path is not UTF-8: {error.reason} at byte {error.start}") from error
    return key


def check_body_bytes(plan: Bounded, headers: Headers) -> None:
    """Refuse by what the headers announce alone. Raises TooLarge or BadRequest."""
    if plan.body_bytes_max == 0 and b"transfer-encoding" in headers:
        raise BadRequest(_NO_BODY)
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit():
        raise BadRequest("Content-Length is not a number")
    check_received_bytes(plan, int(announced[:20]))


def check_received_bytes(plan: Bounded, size_bytes: int) -> None:
    """Refuse a body that has or will have `size_bytes`. Raises TooLarge or BadRequest."""
    if size_bytes > plan.body_bytes_max:
        if plan.body_bytes_max == 0:
            raise BadRequest(_NO_BODY)
        what = "value" if plan.kind is Kind.PUT else "body"
        raise TooLarge(f"the {what} has {size_bytes} bytes or more; the limit is {plan.body_bytes_max}")


def command_of(plan: Plan, body: bytes) -> commands.Command:
    """The command of a planned write. Raises BadRequest or TooLarge."""
    if plan.kind is Kind.PUT:
        return commands.put(((plan.key, body),))
    if plan.kind is Kind.DELETE:
        return commands.delete((plan.key,))
    return commands.put(pairs_of(body))


def check_view(query: bytes, headers: Headers) -> None:
    """For routes that have neither parameters nor a body. Raises BadRequest or TooLarge."""
    parameters(query, {})
    check_body_bytes(_VIEW, headers)


def check_write(headers: Headers) -> None:
    """What no request that changes anything may carry. Raises Forbidden, NotImplementedYet or UnsupportedMedia."""
    _refuse_foreign_pages(headers)
    _refuse_unheeded(headers, _UNHEEDED_ON_WRITES)
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity":
        raise UnsupportedMedia(f"Content-Encoding {coding.decode('latin-1')} is not understood; send the body as it is")


def _plan_read(key: bytes, query: bytes, headers: Headers) -> Plan:
    _refuse_unheeded(headers, _UNHEEDED_ON_READS)
    accept = headers.get(b"accept")
    return Plan(
        Kind.READ,
        key,
        linearizable=is_linearizable(query) if query else True,
        raw=accept is not None and wants_raw(accept),
        if_none_match=headers.get(b"if-none-match"),
    )


def _plan_write(kind: Kind, key: bytes, body_bytes_max: int, query: bytes, headers: Headers) -> Plan:
    check_write(headers)
    return Plan(kind, key, body_bytes_max, queued=_is_queued(query) if query else False)


def _refuse_foreign_pages(headers: Headers) -> None:
    """Raises Forbidden when a browser says that a page of another site sends this.

    A node without authentication trusts who can reach it, and a browser on the same host lets every page reach it.
    """
    site = headers.get(b"sec-fetch-site", b"none")
    if site not in _OWN_SITES:
        what = f"Sec-Fetch-Site: {shown(site.decode('latin-1'))}"
        raise Forbidden(f"a web page of another site may not write here ({what})")
    origin = headers.get(b"origin")
    if origin is not None and not _names_host(origin, headers.get(b"host", b"")):
        what = f"Origin: {shown(origin.decode('latin-1'))}"
        raise Forbidden(f"a web page of another site may not write here ({what} is not the Host of the request)")


def _names_host(origin: bytes, host: bytes) -> bool:
    """True when both have the same host and port; an Origin without a host, such as null, has none of them."""
    scheme, _, authority = origin.strip().lower().partition(b"://")
    default_port = b":443" if scheme == b"https" else b":80"
    return authority != b"" and authority.removesuffix(default_port) == host.strip().lower().removesuffix(default_port)


def _refuse_unheeded(headers: Headers, names: frozenset[bytes]) -> None:
    if not names.isdisjoint(headers):
        name = next(name for name in sorted(names) if name in headers).decode().title()
        raise NotImplementedYet(f"{name} is not supported yet, and ignoring it could do harm; send the request without")


@lru_cache(maxsize=64)
def is_linearizable(query: bytes) -> bool:
    allowed = {"consistency": ("linearizable", "stale")}
    return parameters(query, allowed).get("consistency", "linearizable") == "linearizable"


@lru_cache(maxsize=64)
def _is_queued(query: bytes) -> bool:
    return parameters(query, {"ack": ("committed", "queued")}).get("ack", "committed") == "queued"


def parameters(query: bytes, allowed: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The parameters of a query string; each at most once and with one of its allowed values."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError as error:
        raise BadRequest(f"the query string has more than {_QUERY_FIELDS_MAX} parameters") from error
    chosen: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            known = f"known here: {', '.join(allowed)}" if allowed else "this route has none"
            raise BadRequest(f"the parameter {shown(name)} is unknown; {known}")
        if name in chosen:
            raise BadRequest(f"the parameter {name} is given twice")
        if value not in allowed[name]:
            raise BadRequest(f"{name}={shown(value)} is not one of {', '.join(allowed[name])}")
        chosen[name] = value
    return chosen


@lru_cache(maxsize=256)
def wants_raw(accept: bytes) -> bool:
    """True when Accept names application/octet-stream and does not prefer application/json to it."""
    quality = {RAW_TYPE: 0.0, JSON_TYPE: 0.0}
    for media_range in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in media_range.split(b";"))
        if name not in quality:
            continue
        weight = next((p[2:] for p in parameters if p.startswith(b"q=")), b"1")
        try:
            quality[name] = float(weight)
        except ValueError:
            quality[name] = 0.0
    return quality[RAW_TYPE] > quality[JSON_TYPE]


def pairs_of(body: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and values of a JSON object of strings. Raises BadRequest, naming what is wrong, or TooLarge.

    Nothing behind the first fault is parsed.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    pairs: dict[bytes, bytes] = {}
    for key, value in flat_json.members(text):
        try:
            name, content = key.encode(), value.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"the key or value of {shown(key)} has half a surrogate pair; it is no text") from error
        if name in pairs:
            raise BadRequest(f"the key {shown(key)} is given twice in the JSON object")
        if len(pairs) == limits.COMMAND_OPERATIONS_MAX:
            raise TooLarge(
                f"the command has {len(pairs) + 1} operations or more; the limit is {limits.COMMAND_OPERATIONS_MAX}"
            )
        pairs[name] = content
    if not pairs:
        raise BadRequest("the JSON object is empty; it must have at least one key")
    return list(pairs.items())
