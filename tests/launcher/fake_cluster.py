"""A running cluster that is only its members document: in memory, and over HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vaultdb.errors import ChangeRefused, Unknown, VaultError

Document = dict[str, Any]


def row(member_id: int, name: str, port: int, *, role: str = "voter", incarnation: str = "00ff") -> Document:
    """One member; peer and native port follow `port`."""
    ports = {"http_port": port, "peer_port": port + 1, "native_port": port + 2}
    told = {"connected": True, "match_index": 7, "state": "replicate", "caught_up": True}
    return {
        "id": member_id,
        "name": name,
        "host": "127.0.0.1",
        **ports,
        "role": role,
        "incarnation": incarnation,
        **told,
    }


class FakeMembers:
    """`joining.Cluster`. `failure` ends the next request, `failure_after` the next change that was carried out."""

    def __init__(self, *rows: Document) -> None:
        self.rows = list(rows)
        self.leader = 0
        self.cluster_id = "ab" * 16
        self.next_id = 5
        self.can_add = True
        self.asked: list[Any] = []
        self.failure: VaultError | None = None
        self.failure_after: VaultError | None = None

    def members(self) -> Document:
        self._fail()
        return {
            "cluster_id": self.cluster_id, "leader": self.leader, "term": 4, "index": 9, "committed": True,
            "joint": False, "can_add": self.can_add, "members": self.rows,
        }  # fmt: skip

    def change(self, *changes: Document) -> Document:
        self._fail()
        self.asked += changes
        for change in changes:
            self._apply(dict(change))
        failure, self.failure_after = self.failure_after, None
        if failure is not None:
            raise failure
        return self.members()

    def transfer(self, member: int) -> Document:
        self._fail()
        self.asked.append(member)
        self.leader = member if member >= 0 else self.rows[-1]["id"]
        return {"leader": self.leader, "term": 5}

    def _apply(self, change: Document) -> None:
        kind = change.pop("change")
        if kind == "add":
            if "id" not in change:
                change["id"], self.next_id = self.next_id, self.next_id + 1
            self.rows.append(row(0, "", 0, role="learner", incarnation="") | change)
        elif kind == "remove":
            self.rows = [one for one in self.rows if one["id"] != change["id"]]
        else:
            one = next(one for one in self.rows if one["id"] == change["id"])
            if one["incarnation"] == "":
                raise ChangeRefused(f"{one['name']} lacks 900 entries")
            one["role"] = "voter"

    def _fail(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


class FakeApi:
    """FakeMembers over HTTP, as a node answers it."""

    def __init__(self, members: FakeMembers, port: int = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(members.members)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/cluster/leader":
                    self._answer(lambda: members.transfer(body.get("id", -1)))
                else:
                    self._answer(lambda: members.change(*body["changes"]))

            def _answer(self, carry_out: Any) -> None:
                try:
                    status, document = 200, carry_out()
                except VaultError as error:
                    outcome = "unknown" if isinstance(error, Unknown) else "rejected"
                    status, document = error.http_status, {"detail": str(error), "code": error.code, "outcome": outcome}
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
