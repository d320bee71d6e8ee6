"""Requests to /cluster/… become operations of the consensus process. Pure; Flask answers them, for both lanes.

    GET    /cluster/members                     members         the leader's view; argument None
           /cluster/members?consistency=stale   members_here    this node's view; argument None
    POST   /cluster/members                     change          one change object, or {"changes": [...]}; a list of maps
    DELETE /cluster/members/<id>                change          [{"change": "remove", "id": <id>}]
    POST   /cluster/leader                      transfer        {"id": <id>}, or {} or nothing for ANY_MEMBER; a node id

Whether a change makes sense is the leader's to judge; here it is only well-formed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from vaultdb import limits
from vaultdb.api.flat_json import shown
from vaultdb.api.operations import Headers, Kind, check_write, is_linearizable, parameters
from vaultdb.config import Host, MemberId, Name, Port
from vaultdb.errors import BadRequest, TooLarge

MEMBERS_PATH = b"/cluster/members"
LEADER_PATH = b"/cluster/leader"
MEMBERS_METHODS = "GET, HEAD, OPTIONS, POST"
MEMBER_METHODS = "DELETE, OPTIONS"
LEADER_METHODS = "OPTIONS, POST"

MEMBERS = "members"
MEMBERS_HERE = "members_here"
CHANGE = "change"
TRANSFER = "transfer"
ANY_MEMBER = -1
CHANGES_MAX = 64
"""In one request."""

_ADDRESS = ("name", "host", "http_port", "peer_port", "native_port")
_REQUIRED = {"add": _ADDRESS, "promote": ("id",), "demote": ("id",), "remove": ("id",)}
_OPTIONAL = {"add": ("id",)}
_TYPES: dict[str, TypeAdapter[Any]] = {
    "id": TypeAdapter(MemberId),
    "name": TypeAdapter(Name),
    "host": TypeAdapter(Host),
    "http_port": TypeAdapter(Port),
    "peer_port": TypeAdapter(Port),
    "native_port": TypeAdapter(Port),
}


class AdminPlan(NamedTuple):
    """What a request asks for, as far as it is known without its body."""

    kind: Kind
    operation: str
    body_bytes_max: int = 0
    member: int | None = None
    """Named by the path."""


class AdminRequest(NamedTuple):
    """As ipc.ADMIN carries it."""

    operation: str
    argument: Any

    @property
    def changes_something(self) -> bool:
        return self.operation in (CHANGE, TRANSFER)


def plan(method: str, path: bytes, query: bytes, headers: Headers) -> AdminPlan | None:
    """The plan of a request to /cluster/…; None for every other route and method. `path` is percent-decoded.

    Raises Rejected when the request can be refused without its body.
    """
    if path == MEMBERS_PATH and method in ("GET", "HEAD"):
        return AdminPlan(Kind.READ, MEMBERS if is_linearizable(query) else MEMBERS_HERE)
    found: AdminPlan | None = None
    if path == MEMBERS_PATH and method == "POST":
        found = AdminPlan(Kind.POST, CHANGE, limits.ADMIN_BODY_BYTES_MAX)
    elif path == LEADER_PATH and method == "POST":
        found = AdminPlan(Kind.POST, TRANSFER, limits.ADMIN_BODY_BYTES_MAX)
    elif method == "DELETE" and path.startswith(MEMBERS_PATH + b"/"):
        member = path[len(MEMBERS_PATH) + 1 :]
        if member and b"/" not in member:
            found = AdminPlan(Kind.DELETE, CHANGE, member=_member_of(member))
    if found is not None:
        check_write(headers)
        parameters(query, {})
    return found


def request_of(plan: AdminPlan, body: bytes) -> AdminRequest:
    """The request of a plan and its whole body. Raises BadRequest, naming the field that is wrong, or TooLarge."""
    if plan.kind is Kind.READ:
        return AdminRequest(plan.operation, None)
    if plan.kind is Kind.DELETE:
        return AdminRequest(CHANGE, [{"change": "remove", "id": plan.member}])
    if plan.operation == TRANSFER:
        fields = _object(_parsed(body) if body else {}, "the body")
        _check_known(fields, ("id",), "")
        return AdminRequest(TRANSFER, _valid(fields, "id", "") if "id" in fields else ANY_MEMBER)
    return AdminRequest(CHANGE, _changes_of(_object(_parsed(body), "the body")))


def _changes_of(fields: dict[str, Any]) -> list[dict[str, Any]]:
    if "changes" not in fields:
        return [_change_of(fields, "")]
    _check_known(fields, ("changes",), "")
    changes = fields["changes"]
    if not isinstance(changes, list) or not changes:
        raise BadRequest('the field "changes" must be an array of at least one change')
    if len(changes) > CHANGES_MAX:
        raise TooLarge(f"the request has {len(changes)} changes; the limit is {CHANGES_MAX}")
    return [_change_of(_object(change, f"changes[{i}]"), f"changes[{i}]: ") for i, change in enumerate(changes)]


def _change_of(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """The change with its fields in their order. `where` begins the sentence of a fault."""
    change = fields.get("change")
    if not isinstance(change, str) or change not in _REQUIRED:
        given = "is missing" if "change" not in fields else f"is {_given(change)}"
        raise BadRequest(f'{where}the field "change" {given}; it must be one of {", ".join(_REQUIRED)}')
    required, optional = _REQUIRED[change], _OPTIONAL.get(change, ())
    _check_known(fields, ("change", *required, *optional), where)
    for name in required:
        if name not in fields:
            raise BadRequest(f'{where}the field "{name}" is missing; "{change}" needs {", ".join(required)}')
    given_fields = [name for name in (*required, *optional) if name in fields]
    return {"change": change, **{name: _valid(fields, name, where) for name in given_fields}}


def _check_known(fields: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in fields:
        if name not in known:
            raise BadRequest(f"{where}the field {shown(name)} is unknown; known here: {', '.join(known)}")


def _valid(fields: dict[str, Any], name: str, where: str) -> Any:
    try:
        return _TYPES[name].validate_python(fields[name], strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should be", "must be").replace("String should", "must")
        sentence = f'{where}the field "{name}" {said[0].lower()}{said[1:]}; it is {_given(fields[name])}'
        raise BadRequest(sentence) from error


def _given(value: Any) -> str:
    """A value of the body, as it may stand in a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _member_of(text: bytes) -> int:
    if text.isdigit() and len(text) <= 5 and (member := int(text)) <= 10_000:
        return member
    raise BadRequest(f"the member in the path is {shown(text.decode('latin-1'))}; it must be an id, from 0 to 10000")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is not a JSON object")
    return value


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_without_repetition)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            "the body is not a description of members: it is too deep or has too large a number"
        ) from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"the field {shown(name)} is given twice")
        found[name] = value
    return found
