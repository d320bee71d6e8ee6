"""What the api process of this node is told."""

from __future__ import annotations

from typing import Any, Protocol

from vaultdb.errors import Rejected
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack


class Api(Protocol):
    """The api process of this node."""

    def send(self, message: bytes) -> bool: ...


class Answers:
    """Counts what it sends. What the api process cannot take is dropped: it has its own deadlines."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.refused_total = 0
        self.unsent_total = 0

    def send(self, message: list[Any]) -> None:
        """One message of wire/ipc.py."""
        if not self._api.send(pack(message)):
            self.unsent_total += 1

    def refuse(self, incarnation: int, batch: int, error: Rejected) -> None:
        """Nothing of that batch happened or will."""
        self.refused_total += 1
        self.send([ipc.REJECTED, incarnation, batch, error.code, str(error), error.retry_after_s])
