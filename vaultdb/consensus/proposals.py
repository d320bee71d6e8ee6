"""The fate of every proposal that this node's api has asked for.

A proposal is *parked* (no leader has it), or *sent* to the leader of one term, our own core included. It leaves the
table when it is seen in the committed log, when it is refused, or when its time is up.

The rule that decides the rest: terms never decrease along the log. Once an entry of a later term is committed here, a
proposal that was sent in an earlier term and has not been seen can never be committed any more. So it is parked and
sent again, to the new leader, without any risk of happening twice. A client of a surviving node notices a leader's
death as a delay only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vaultdb import limits
from vaultdb.clock import NS_PER_MS
from vaultdb.errors import Busy

Key = tuple[int, int]
"""(api incarnation, batch)."""

PARKED = 0
"""In place of the term that a proposal was sent in; real terms start at 1."""


@dataclass(slots=True)
class Proposal:
    key: Key
    payload: bytes
    queued: bool
    deadline_ns: int
    """The client's. Past it nobody waits for the answer."""
    parked_until_ns: int
    """Refused if no leader has taken it by then."""
    term: int = PARKED


class Proposals:
    """Owns the table. Its size is bounded by the api's own limits and, while parked, by `parked_bytes_max`."""

    def __init__(self, wait_ms: int, parked_bytes_max: int = limits.PARKED_BYTES_MAX) -> None:
        self._wait_ns = wait_ms * NS_PER_MS
        self._parked_bytes_max = parked_bytes_max
        self._all: dict[Key, Proposal] = {}
        self._parked: dict[Key, Proposal] = {}
        self._parked_bytes = 0
        self.resent_total = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def parked_bytes(self) -> int:
        return self._parked_bytes

    def add(self, key: Key, payload: bytes, *, queued: bool, deadline_ns: int, now_ns: int) -> None:
        """Park a new proposal. Raises Busy when the parking space is full."""
        if self._parked_bytes + len(payload) > self._parked_bytes_max:
            raise Busy(f"{self._parked_bytes} bytes wait for a leader; the limit is {self._parked_bytes_max}")
        proposal = Proposal(key, payload, queued, deadline_ns, min(deadline_ns, now_ns + self._wait_ns))
        self._all[key] = proposal
        self._park(proposal)

    def parked(self, bytes_max: int) -> list[Proposal]:
        """The oldest parked proposals, at least one if there is one, up to `bytes_max`. They stay parked."""
        batch: list[Proposal] = []
        size = 0
        for proposal in self._parked.values():
            size += len(proposal.payload)
            if batch and size > bytes_max:
                break
            batch.append(proposal)
        return batch

    def sent(self, proposals: Iterable[Proposal], term: int) -> None:
        """The leader of `term` was given these: from now on only the log, or that leader's refusal, decides."""
        for proposal in proposals:
            if self._parked.pop(proposal.key, None) is not None:
                self._parked_bytes -= len(proposal.payload)
            proposal.term = term

    def refused(self, key: Key, term: int) -> bool:
        """The leader of `term` did not take it: parked again. False: it is settled, or was sent in another term."""
        proposal = self._all.get(key)
        if proposal is None or proposal.term != term:
            return False
        self._park(proposal)
        return True

    def remove(self, key: Key) -> Proposal | None:
        """Take a proposal out: it is committed, or was refused for good."""
        proposal = self._all.pop(key, None)
        if proposal is not None and self._parked.pop(key, None) is not None:
            self._parked_bytes -= len(proposal.payload)
        return proposal

    def term_committed(self, term: int, now_ns: int) -> None:
        """An entry of `term` is committed, and all before it were passed to `remove`: what was sent earlier is lost."""
        for proposal in self._all.values():
            if PARKED < proposal.term < term:
                proposal.parked_until_ns = min(proposal.deadline_ns, now_ns + self._wait_ns)
                self.resent_total += 1
                self._park(proposal)

    def forget_sent(self, term: int) -> None:
        """What was sent up to `term` may or may not have been committed, and will not be seen: it leaves silently."""
        for proposal in [p for p in self._all.values() if PARKED < p.term <= term]:
            self.remove(proposal.key)

    def expire(self, now_ns: int) -> list[Proposal]:
        """Take out and return those that no leader took in time: nothing happened. Sent ones past their deadline
        leave silently.
        """
        over = [p for p in self._all.values() if now_ns >= (p.deadline_ns if p.term else p.parked_until_ns)]
        for proposal in over:
            self.remove(proposal.key)
        return [proposal for proposal in over if proposal.term == PARKED]

    def _park(self, proposal: Proposal) -> None:
        proposal.term = PARKED
        self._parked[proposal.key] = proposal
        self._parked_bytes += len(proposal.payload)
