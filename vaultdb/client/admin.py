"""Asking a cluster about its members, and changing them, over HTTP: for commands, so plain and blocking.

The nodes are asked one after the other until one answers. A change goes to the next node only when nothing can have
happened at the one before.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from vaultdb import limits
from vaultdb.errors import REJECTIONS, ConfigInvalid, Rejected, Unavailable, Unknown, VaultError

Document = dict[str, Any]


class ClusterAdmin:
    """Every method raises Unavailable when no node answered, a Rejected with the cluster's reason when it refused, and
    for a change Unknown when it may have happened.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], *, timeout_s: float) -> None:
        """`addresses`: host and HTTP port of nodes. `timeout_s`: for each of them; longer than a node takes itself."""
        self._addresses = addresses
        self._timeout_s = timeout_s

    def members(self, *, stale: bool = False) -> Document:
        """The members as the leader, or with `stale` the node that answers, knows them."""
        return self._ask("GET", f"/cluster/members{'?consistency=stale' if stale else ''}")

    def change(self, *changes: Document) -> Document:
        """Make all changes as one; the members afterwards."""
        return self._ask("POST", "/cluster/members", {"changes": list(changes)})

    def transfer(self, member: int | None) -> Document:
        """Hand the leadership over to `member`, or to the best one; {"leader": id, "term": term}."""
        return self._ask("POST", "/cluster/leader", {} if member is None else {"id": member})

    def _ask(self, method: str, path: str, body: Document | None = None) -> Document:
        failures: list[Unavailable] = []
        for host, port in self._addresses:
            try:
                return self._exchange(host, port, method, path, body)
            except Unavailable as error:
                failures.append(error)
        # The last to speak has waited for a leader; one that cannot be reached has nothing to say.
        spoken = [error for error in failures if not isinstance(error, NotReached)]
        if spoken:
            raise spoken[-1]
        raise Unavailable("no node answers: " + "; ".join(map(str, failures)))

    def _exchange(self, host: str, port: int, method: str, path: str, body: Document | None) -> Document:
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise NotReached(f"{host}:{port} cannot be reached: {error.strerror or error}") from error
            sent = None if body is None else json.dumps(body).encode()
            try:
                connection.request(method, path, sent, {"Connection": "close"})
                response = connection.getresponse()
                answer = json.loads(response.read(limits.MESSAGE_BYTES_MAX))
            except (OSError, http.client.HTTPException, ValueError) as error:
                sentence = f"{host}:{port} did not answer: {error}"
                raise Unknown(sentence) if method != "GET" else NotReached(sentence) from error
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise NotReached(f"{host}:{port} is no node of VaultDB")
        if response.status != 200:
            raise _error_of(response.status, answer)
        return answer


class NotReached(Unavailable):
    """This node did not say anything; another one may."""


def address_of(url: str) -> tuple[str, int]:
    """Host and port of http://host:port. Raises ConfigInvalid."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigInvalid("the URL of a node", [f"{url!r}: {error}"]) from error
    if parts.scheme != "http" or not host or port is None or parts.path not in ("", "/") or parts.query:
        raise ConfigInvalid("the URL of a node", [f"{url!r} is not of the form http://host:port"])
    return host, port


def _error_of(status: int, problem: Document) -> VaultError:
    """The error that the node answered with."""
    sentence = str(problem.get("detail") or f"HTTP status {status}")
    if problem.get("outcome") != "rejected":
        return Unknown(sentence)
    code = str(problem.get("code"))
    return REJECTIONS.get(code, Rejected)(sentence)
