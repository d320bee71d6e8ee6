"""Where proposals go: into an entry of this leader, to the leader, or back with a refusal.

All proposals that wait become one log entry. What a follower forwards carries the term it was sent in: it is taken in
that term only, and refused in its name, since its origin may have sent it again in another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vaultdb import limits
from vaultdb.consensus.answers import Answers
from vaultdb.consensus.peer_format import (
    REFUSED_BUSY,
    REFUSED_LEADER,
    TAKEN_QUEUED,
    TAKEN_SYNC,
    Forward,
    ForwardAnswer,
    Item,
)
from vaultdb.consensus.proposals import Proposals
from vaultdb.consensus.surroundings import Peers
from vaultdb.errors import Busy, Rejected
from vaultdb.raft.messages import Entry, EntryKind, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack


class Taken(NamedTuple):
    """A proposal on its way into an entry."""

    origin: NodeId
    incarnation: int
    batch: int
    queued: bool
    payload: bytes
    term: int
    """In which its origin sent it: in no other may it be proposed, and a refusal must name it."""


class Placement:
    """Owns what followers have forwarded, and the fate of this node's own proposals."""

    def __init__(self, me: NodeId, raft: RaftNode, peers: Peers, answers: Answers, wait_ms: int) -> None:
        self._id = me
        self._raft = raft
        self._peers = peers
        self._answers = answers
        self._proposals = Proposals(wait_ms)
        self._forwarded: deque[Taken] = deque()
        self._observed_index = raft.commit_index
        """Committed entries up to here were looked through for our own proposals."""
        self._observed_term = 0
        self._queued_bytes: dict[int, int] = {}
        """Entry index → bytes answered early in it and not committed yet."""
        self.entries_total = 0

    def __len__(self) -> int:
        return len(self._proposals)

    @property
    def resent_total(self) -> int:
        return self._proposals.resent_total

    # What arrives.

    def add(self, incarnation: int, batch: int, deadline_ns: int, queued: bool, payload: bytes, now_ns: int) -> None:
        """A proposal of this node's api."""
        try:
            self._proposals.add((incarnation, batch), payload, queued=queued, deadline_ns=deadline_ns, now_ns=now_ns)
        except Busy as error:
            self._answers.refuse(incarnation, batch, error)

    def on_forward(self, src: NodeId, forward: Forward) -> None:
        """Whether they are taken is decided in the turn: what else arrived may end the term."""
        self._forwarded.extend(Taken(src, *proposal, forward.term) for proposal in forward.proposals)

    def on_forward_answer(self, answer: ForwardAnswer) -> None:
        for incarnation, batch, verdict in answer.verdicts:
            key = (incarnation, batch)
            if verdict in (REFUSED_LEADER, REFUSED_BUSY):
                if self._proposals.refused(key, answer.term) and verdict == REFUSED_BUSY:
                    self._proposals.remove(key)
                    self._answers.refuse(*key, Busy("the leader holds as many uncommitted bytes as it may"))
            else:
                self._answers.send([ipc.QUEUED, incarnation, batch, verdict == TAKEN_QUEUED])

    def not_sent(self, items: Iterable[Item]) -> None:
        """A forward that did not leave was not sent."""
        for item in items:
            if isinstance(item, Forward):
                for incarnation, batch, _, _ in item.proposals:
                    self._proposals.refused((incarnation, batch), item.term)

    # Where it goes: one of these in every turn.

    def propose(self, wall_ms: int) -> None:
        """This node leads a quorum: everything that waits goes into the log."""
        while self._forwarded_in_term or self._proposals.parked(1):
            if not self._propose_entry(wall_ms):
                break
        self._refuse_forwarded(REFUSED_LEADER)

    def hold(self) -> None:
        """Leadership is being handed over: everything waits for what comes of it, within bounds."""
        if self._forwarded_in_term and sum(len(taken.payload) for taken in self._forwarded) > limits.PARKED_BYTES_MAX:
            self._refuse_forwarded(REFUSED_BUSY)

    def forward(self) -> None:
        """The leader is connected: it gets everything that waits here."""
        self._refuse_forwarded(REFUSED_LEADER)
        while batch := self._proposals.parked(limits.ENTRY_BATCH_BYTES):
            proposals = [(*proposal.key, proposal.queued, proposal.payload) for proposal in batch]
            self._peers.send(self._raft.leader, Forward(self._raft.term, proposals))
            self._proposals.sent(batch, self._raft.term)

    def wait(self) -> None:
        """There is nowhere to go. What others have forwarded is for them to send elsewhere."""
        self._refuse_forwarded(REFUSED_LEADER)

    def _propose_entry(self, wall_ms: int) -> bool:
        """One entry of what waits, up to ENTRY_BATCH_BYTES. False: the core is full, and what waits was refused."""
        own = self._proposals.parked(limits.ENTRY_BATCH_BYTES)
        taken = [Taken(self._id, *p.key, p.queued, p.payload, self._raft.term) for p in own]
        size = sum(len(proposal.payload) for proposal in own)
        while self._forwarded_in_term:
            size += len(self._forwarded[0].payload)
            if taken and size > limits.ENTRY_BATCH_BYTES:
                break
            taken.append(self._forwarded.popleft())
        entry = pack([wall_ms, [(t.origin, t.incarnation, t.batch, t.payload) for t in taken]])
        try:
            term, index = self._raft.propose([entry])
        except Busy as error:
            self._forwarded.extendleft(reversed(taken[len(own) :]))
            self._refuse_forwarded(REFUSED_BUSY)
            for proposal in own:
                self._proposals.remove(proposal.key)
                self._answers.refuse(*proposal.key, error)
            return False
        self.entries_total += 1
        self._proposals.sent(own, term)
        self._answer_queued(taken, index)
        return True

    def _answer_queued(self, taken: list[Taken], index: int) -> None:
        """Tell the origins of `queued` proposals whether the asynchronous queue had room for them."""
        held = sum(self._queued_bytes.values())
        for origin, incarnation, batch, queued, payload, term in taken:
            if not queued:
                continue
            has_room = held + len(payload) <= limits.QUEUED_BYTES_MAX
            if has_room:
                held += len(payload)
                self._queued_bytes[index] = self._queued_bytes.get(index, 0) + len(payload)
            if origin == self._id:
                self._answers.send([ipc.QUEUED, incarnation, batch, has_room])
            else:
                verdict = TAKEN_QUEUED if has_room else TAKEN_SYNC
                self._peers.send(origin, ForwardAnswer(term, [(incarnation, batch, verdict)]))

    @property
    def _forwarded_in_term(self) -> bool:
        """Drop from the head what was sent in another term, with a refusal; whether anything is left.

        Its origin may have sent it again in the present term: taken here too, it would happen twice.
        """
        while self._forwarded and self._forwarded[0].term != self._raft.term:
            self._send_verdict(self._forwarded.popleft(), REFUSED_LEADER)
        return bool(self._forwarded)

    def _refuse_forwarded(self, verdict: int) -> None:
        while self._forwarded:
            self._send_verdict(self._forwarded.popleft(), verdict)

    def _send_verdict(self, taken: Taken, verdict: int) -> None:
        self._peers.send(taken.origin, ForwardAnswer(taken.term, [(taken.incarnation, taken.batch, verdict)]))

    # What becomes of it.

    def leadership_changed(self) -> None:
        self._queued_bytes.clear()

    def committed(self, commit_index: int, entries: Callable[[int, int], list[Entry]], now_ns: int) -> None:
        """Look through newly committed entries for our own proposals, and for terms that seal the fate of others.
        `entries(first, bytes_max)` reads them.
        """
        if not len(self._proposals) and not self._queued_bytes:
            self._observed_index = max(self._observed_index, commit_index)
            return
        while self._observed_index < commit_index:
            for entry in entries(self._observed_index + 1, limits.APPEND_BYTES_MAX):
                if entry.term > self._observed_term:
                    self._observed_term = entry.term
                    self._proposals.term_committed(entry.term, now_ns)
                if entry.kind == EntryKind.COMMAND:
                    for origin, incarnation, batch, _ in unpack(entry.payload)[1]:
                        if origin == self._id:
                            self._proposals.remove((incarnation, batch))
                self._queued_bytes.pop(entry.index, None)
                self._observed_index = entry.index

    def already_applied(self, index: int) -> None:
        """Storage holds everything up to `index`. Where that is more than this process has seen committed, it was
        streamed by a former one, and so were the proposals in it.
        """
        self._observed_index = max(self._observed_index, index)

    def replaced(self, index: int, term: int) -> None:
        """A snapshot took the place of the log up to `index`, of `term`: what was sent until then may be in it."""
        self._observed_index = max(self._observed_index, index)
        self._observed_term = max(self._observed_term, term)
        self._proposals.forget_sent(term)

    def expire(self, now_ns: int, refusal: Rejected) -> None:
        for proposal in self._proposals.expire(now_ns):
            self._answers.refuse(*proposal.key, refusal)
