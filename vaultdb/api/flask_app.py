"""The HTTP API as a Flask application: every route, under any WSGI server and Flask's test client.

Paths are taken as they come: no slash is merged, nothing is redirected, and a key is everything behind /key/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.routing import BaseConverter

from vaultdb import limits
from vaultdb.api import cluster_requests, operations, responses
from vaultdb.api.cluster_requests import AdminRequest
from vaultdb.api.operations import Bounded, Headers, Kind
from vaultdb.api.responses import Response
from vaultdb.api.results import Digest, ReadResult, WriteResult
from vaultdb.errors import BadRequest, MethodNotAllowed, NotFound, TooLarge, VaultError
from vaultdb.kv.commands import Command
from vaultdb.logs import logger


class Service(Protocol):
    """The node, as the views need it. Methods block and raise VaultError; they may be called from many threads."""

    def write(self, command: Command, *, queued: bool) -> WriteResult: ...

    def read(self, key: bytes, *, linearizable: bool) -> ReadResult: ...

    def status(self) -> dict[str, Any]: ...

    def digest(self) -> Digest: ...

    def ready(self) -> None: ...

    def admin(self, request: AdminRequest) -> dict[str, Any]: ...


class _Everything(BaseConverter):
    """The rest of the path, slashes and all, or nothing."""

    regex = r"[\s\S]*"
    part_isolating = False


class _Plain(flask.Response):
    default_mimetype = None
    """A response without a body has no type."""


def create_app(service: Service) -> flask.Flask:
    """The application over `service`. It keeps no state of its own."""
    app = flask.Flask("vaultdb.api", static_folder=None)
    app.response_class = _Plain
    app.config["MAX_CONTENT_LENGTH"] = limits.HTTP_BODY_BYTES_MAX
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.url_map.converters["everything"] = _Everything
    _add_key_routes(app, service)
    _add_views(app, service)
    _add_cluster_routes(app, service)
    _add_errors(app)

    @app.before_request
    def refuse_or_describe() -> flask.Response | None:
        """What is the same for every route: OPTIONS, and what a request may not carry."""
        rule = flask.request.url_rule
        if _path().startswith(b"//"):
            raise NotFound("there is no such route")
        if rule is None:
            return None
        if flask.request.method == "OPTIONS":
            return _as_flask(responses.options(_allowed(rule.methods or ())))
        if not rule.rule.startswith(("/key", "/cluster")):
            operations.check_view(flask.request.query_string, _headers())
        return None

    return app


def _add_key_routes(app: flask.Flask, service: Service) -> None:
    def key_request(key: str = "") -> flask.Response:  # noqa: ARG001
        headers = _headers()
        plan = operations.plan(flask.request.method, _path(), flask.request.query_string, headers)
        if plan is None:
            raise NotFound("there is no such route")
        operations.check_body_bytes(plan, headers)
        if plan.kind is Kind.READ:
            return _as_flask(responses.read(plan, service.read(plan.key, linearizable=plan.linearizable)))
        command = operations.command_of(plan, _body(plan))
        return _as_flask(responses.written(plan, service.write(command, queued=plan.queued)))

    methods = operations.KEY_METHODS.split(", ")
    app.add_url_rule("/key/<everything:key>", view_func=key_request, methods=methods, provide_automatic_options=False)
    methods = operations.KEYS_METHODS.split(", ")
    app.add_url_rule(
        "/key", endpoint="keys_request", view_func=key_request, methods=methods, provide_automatic_options=False
    )


def _add_views(app: flask.Flask, service: Service) -> None:
    def ready() -> Response:
        service.ready()
        return responses.ready()

    views: dict[str, Callable[[], Response]] = {
        "/": responses.index,
        "/status": lambda: responses.document(service.status()),
        "/digest": lambda: responses.digest(service.digest()),
        "/health/live": responses.alive,
        "/health/ready": ready,
    }
    for path, answer in views.items():
        app.add_url_rule(
            path,
            endpoint=path,
            view_func=lambda answer=answer: _as_flask(answer()),
            methods=operations.VIEW_METHODS.split(", "),
            provide_automatic_options=False,
        )


def _add_cluster_routes(app: flask.Flask, service: Service) -> None:
    def cluster_request(member: str = "") -> flask.Response:  # noqa: ARG001
        headers = _headers()
        plan = cluster_requests.plan(flask.request.method, _path(), flask.request.query_string, headers)
        if plan is None:
            raise NotFound("there is no such route")
        operations.check_body_bytes(plan, headers)
        request = cluster_requests.request_of(plan, _body(plan))
        return _as_flask(responses.document(service.admin(request)))

    routes = {
        "/cluster/members": cluster_requests.MEMBERS_METHODS,
        "/cluster/members/<member>": cluster_requests.MEMBER_METHODS,
        "/cluster/leader": cluster_requests.LEADER_METHODS,
    }
    for path, methods in routes.items():
        app.add_url_rule(
            path,
            endpoint=path,
            view_func=cluster_request,
            methods=methods.split(", "),
            provide_automatic_options=False,
        )


def _add_errors(app: flask.Flask) -> None:
    log = logger("api.flask")

    @app.errorhandler(VaultError)
    def refused(error: VaultError) -> flask.Response:
        return _as_flask(responses.problem(error))

    @app.errorhandler(HTTPException)
    def foreign(error: HTTPException) -> flask.Response:
        """Werkzeug's own refusals, in our words."""
        if isinstance(error, WrongMethod):
            ours: VaultError = MethodNotAllowed(flask.request.method, _allowed(error.valid_methods or ()))
        elif error.code == 404:
            ours = NotFound("there is no such route")
        elif error.code == 413:
            ours = TooLarge(f"the body is over the limit of {limits.HTTP_BODY_BYTES_MAX} bytes")
        else:
            ours = BadRequest(error.description or "the request is malformed")
        return _as_flask(responses.problem(ours))

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> flask.Response:
        log.error("request failed", path=flask.request.path, exc_info=error)
        return _as_flask(responses.internal_error())


def _allowed(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods))


def _path() -> bytes:
    """The percent-decoded path as bytes: WSGI hands it over as if it were Latin-1 (PEP 3333)."""
    path: str = flask.request.environ["PATH_INFO"]
    return path.encode("latin-1")


def _headers() -> Headers:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in flask.request.headers.items()}


def _body(plan: Bounded) -> bytes:
    """The whole body, or BadRequest: a part of a body is never taken for the whole."""
    announced = flask.request.content_length
    environ = flask.request.environ
    if announced is None and "HTTP_TRANSFER_ENCODING" in environ and not environ.get("wsgi.input_terminated"):
        raise BadRequest("a chunked body needs a server that can tell its end; send Content-Length")
    body = flask.request.get_data(cache=False)
    if announced is not None and len(body) != announced:
        raise BadRequest(f"the body has {len(body)} bytes; Content-Length announced {announced}")
    operations.check_received_bytes(plan, len(body))
    return body


def _as_flask(response: Response) -> flask.Response:
    headers = [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in response.headers]
    return _Plain(response.body, response.status, headers)
