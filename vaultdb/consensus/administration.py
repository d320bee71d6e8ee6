"""Requests about the members, from the api process of any node to the leader and back.

    members_here   answered by this node
    members        answered by the leader
    change         made by the leader; answered once it is committed and the membership simple
    transfer       done by the leader; answered once another node leads

A request waits here until a leader is known, then goes there (ADMIN) until it is answered; when a second passes, or the
leader changes, it goes again, marked as such: done is then not an error. A change is also answered when this node's own
log shows that it was made, so nothing depends on the leader that made it, which may have removed itself. Past the
api's deadline a change or transfer that went out is dropped silently: its outcome is unknown here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from vaultdb.clock import NS_PER_MS, NS_PER_S
from vaultdb.consensus import changes
from vaultdb.consensus.answers import Answers
from vaultdb.consensus.members import Roster, render
from vaultdb.consensus.peer_format import Admin, AdminAnswer
from vaultdb.consensus.surroundings import Peers
from vaultdb.errors import REJECTIONS, BadRequest, Busy, ChangeNotYet, ChangeRefused, Rejected, Unavailable
from vaultdb.raft.messages import NOBODY, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Role
from vaultdb.wire import ipc

MEMBERS_HERE = "members_here"
MEMBERS = "members"
CHANGE = "change"
TRANSFER = "transfer"

REQUESTS_MAX = 64
_RESEND_NS = NS_PER_S


@dataclass(slots=True)
class Request:
    """`origin` and `number` name it everywhere; `batch` is the api's name of it, on the node that was asked."""

    origin: NodeId
    number: int
    operation: str
    argument: Any
    deadline_ns: int
    refuse_at_ns: int
    """If no leader has taken it by then."""
    batch: tuple[int, int] | None = None
    again: bool = False
    """It went to a leader before, and may be done."""
    term: int = 0
    """In which a leader got it last; this node, if it led. 0: none did."""
    leader: NodeId = NOBODY
    resend_at_ns: int = 0


class View(NamedTuple):
    """What a turn needs to know. `roster`: of the newest membership."""

    roster: Roster
    leads: bool
    """This node leads a quorum and has committed in its term."""
    reaches_leader: bool
    """Another node leads that would listen to this one."""
    log_is_whole: bool
    """It begins at index 1, so a new node can be brought up from it."""
    why_not: Callable[[], str]
    """Why there is no leader that could act."""


class Administration:
    """Owns the requests of this node's api until they are answered, and of others while this node leads."""

    def __init__(
        self,
        me: NodeId,
        raft: RaftNode,
        peers: Peers,
        answers: Answers,
        document: Callable[[], dict[str, Any]],
        *,
        leader_wait_ms: int,
        request_timeout_ms: int,
        first_number: int,
    ) -> None:
        """`document` gives the members document. `first_number` should be random: answers to a predecessor's requests
        must not fit ours.
        """
        self._id = me
        self._raft = raft
        self._peers = peers
        self._answers = answers
        self._document = document
        self._wait_ns = leader_wait_ms * NS_PER_MS
        self._timeout_ns = request_timeout_ms * NS_PER_MS
        self._numbers = count(first_number)
        self._requests: dict[tuple[NodeId, int], Request] = {}

    def __len__(self) -> int:
        return len(self._requests)

    # What arrives.

    def add(self, incarnation: int, batch: int, deadline_ns: int, operation: str, argument: Any, now_ns: int) -> None:
        """ADMIN of wire/ipc.py. Raises BadRequest for an operation that there is not."""
        if operation == MEMBERS_HERE:
            self._answers.send([ipc.ADMIN_DONE, incarnation, batch, self._document()])
        elif operation not in (MEMBERS, CHANGE, TRANSFER):
            raise BadRequest(f"{operation!r} is no operation on the members")
        elif len(self._requests) >= REQUESTS_MAX:
            self._answers.refuse(incarnation, batch, _too_many())
        else:
            number, refuse_at_ns = next(self._numbers), min(deadline_ns, now_ns + self._wait_ns)
            self._requests[self._id, number] = Request(
                self._id, number, operation, argument, deadline_ns, refuse_at_ns, (incarnation, batch)
            )

    def on_request(self, src: NodeId, asked: Admin, now_ns: int) -> None:
        """A follower's. Unless this node leads it is dropped: the follower asks again, somebody else if need be."""
        if self._raft.role is not Role.LEADER or (src, asked.request) in self._requests:
            return
        request = Request(
            src, asked.request, asked.operation, asked.argument, now_ns + self._timeout_ns, now_ns + self._wait_ns
        )
        request.again = asked.again
        if len(self._requests) >= REQUESTS_MAX:
            self._refuse(request, _too_many())
        else:
            self._requests[src, asked.request] = request

    def on_answer(self, answer: AdminAnswer) -> None:
        request = self._requests.get((self._id, answer.request))
        if request is None:
            return
        if answer.ok:
            self._done(request, answer.answer)
        else:
            match answer.answer:
                case [str(code), str(sentence)]:
                    self._refuse(request, REJECTIONS.get(code, Unavailable)(sentence))

    # What follows from it.

    def turn(self, now_ns: int, view: View) -> None:
        raft = self._raft
        # First what is over: what begins below may undo it, and then nobody could tell.
        waiting = [r for r in [*self._requests.values()] if not self._is_answered_by_what_happened(r, view.roster)]
        for request in waiting:
            is_own, is_question = request.origin == self._id, request.operation == MEMBERS
            if now_ns >= request.deadline_ns or (raft.role is not Role.LEADER and not is_own):
                del self._requests[request.origin, request.number]
            elif view.leads:
                self._execute(request, view, now_ns)
            elif is_own and now_ns >= request.refuse_at_ns and (is_question or not request.term):
                self._refuse(request, Unavailable(view.why_not()))
            elif view.reaches_leader:
                self._forward(request, now_ns)

    def _is_answered_by_what_happened(self, request: Request, roster: Roster) -> bool:
        """Its effect is there, whatever became of the leader that made it."""
        raft = self._raft
        if request.operation == CHANGE:
            was_made_here = request.term > 0 and request.leader == self._id
            may_be_made = was_made_here or request.again or 0 < request.term < raft.term
            is_settled = raft.is_membership_committed and not raft.membership.is_joint
            if may_be_made and is_settled and changes.is_in_effect(request.argument, raft.membership, roster):
                self._done(request, self._document())
                return True
        elif request.operation == TRANSFER and 0 < request.term < raft.term and raft.leader != NOBODY:
            if raft.leader == request.argument or (request.argument == NOBODY and raft.leader != request.leader):
                self._done(request, {"leader": raft.leader, "term": raft.term})
            else:
                self._refuse(request, ChangeRefused(f"node {raft.leader} leads since, which was not asked for"))
            return True
        return False

    def _forward(self, request: Request, now_ns: int) -> None:
        if request.term == self._raft.term and now_ns < request.resend_at_ns:
            return
        self._peers.send(
            self._raft.leader, Admin(request.number, request.operation, request.argument, request.term > 0)
        )
        self._given(request, now_ns)

    def _given(self, request: Request, now_ns: int) -> None:
        request.again = request.again or request.term > 0
        request.term, request.leader, request.resend_at_ns = self._raft.term, self._raft.leader, now_ns + _RESEND_NS

    def _execute(self, request: Request, view: View, now_ns: int) -> None:
        try:
            if request.operation == MEMBERS:
                self._done(request, self._document())
            elif request.operation == CHANGE:
                self._change(request, view, now_ns)
            elif request.operation == TRANSFER:
                self._transfer(request, now_ns)
            else:
                raise BadRequest(f"{request.operation!r} is no operation on the members")
        except Rejected as error:
            self._refuse(request, error)

    def _change(self, request: Request, view: View, now_ns: int) -> None:
        """Propose it, once what was proposed before it is through."""
        raft = self._raft
        is_under_way = not raft.is_membership_committed or raft.membership.is_joint
        if is_under_way and request.term == raft.term and request.leader == self._id:
            return  # perhaps this very one: only what comes of it can answer
        if is_under_way or raft.transferring != NOBODY:
            if now_ns >= request.refuse_at_ns:
                raise ChangeRefused("another change of the members or of the leader is under way")
            return
        planned = changes.plan(request.argument, raft.membership, view.roster, log_is_whole=view.log_is_whole)
        try:
            raft.propose_membership(planned.changes, context=render(planned.roster))
        except ChangeNotYet:
            if now_ns >= request.refuse_at_ns:
                raise
        else:
            self._given(request, now_ns)

    def _transfer(self, request: Request, now_ns: int) -> None:
        raft, target = self._raft, request.argument
        if type(target) is not int:
            raise BadRequest("leadership is handed over to a node id")
        if target == self._id:
            self._done(request, {"leader": self._id, "term": raft.term})
        elif request.term != raft.term or request.leader != self._id:
            raft.transfer_leadership(target)
            self._given(request, now_ns)
        elif raft.transferring == NOBODY:
            raise Unavailable(f"leadership was not taken over in time; node {self._id} still leads")

    # Answers.

    def _done(self, request: Request, document: Any) -> None:
        self._requests.pop((request.origin, request.number), None)
        if request.batch is not None:
            self._answers.send([ipc.ADMIN_DONE, *request.batch, document])
        else:
            self._peers.send(request.origin, AdminAnswer(request.number, True, document))

    def _refuse(self, request: Request, error: Rejected) -> None:
        self._requests.pop((request.origin, request.number), None)
        if request.batch is not None:
            self._answers.refuse(*request.batch, error)
        else:
            self._peers.send(request.origin, AdminAnswer(request.number, False, [error.code, str(error)]))


def _too_many() -> Busy:
    return Busy(f"{REQUESTS_MAX} requests about the members wait already")
