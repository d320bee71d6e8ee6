"""Linearizable reads that wait for a read index.

All questions that arrived in one turn share one context of the core. A context is used once: when it was dropped (a
change of leader or term) or has had no answer for a while, its questions are asked again under a new one, so that no
confirmation older than a question can answer it (etcd#20418).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from vaultdb import limits
from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.answers import Answers
from vaultdb.errors import Busy, NotLeader, Rejected
from vaultdb.raft.messages import NOBODY
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import ReadState
from vaultdb.wire import ipc

_CONTEXTS_MAX = 64


@dataclass(slots=True)
class Question:
    """One READ_INDEX of the api."""

    incarnation: int
    batch: int
    refuse_at_ns: int


class ReadQuestions:
    def __init__(self, wait_ms: int, retry_ms: int, first_context: int) -> None:
        """`first_context` should be random: answers to a predecessor's questions must not fit ours."""
        self._wait_ns = wait_ms * NS_PER_MS
        self._retry_ns = retry_ms * NS_PER_MS
        self._contexts = count(first_context)
        self._waiting: list[Question] = []
        self._asked: dict[int, tuple[int, list[Question]]] = {}

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(questions) for _, questions in self._asked.values())

    def add(self, incarnation: int, batch: int, deadline_ns: int, now_ns: int) -> None:
        """Raises Busy when READS_WAITING_MAX questions wait already."""
        if len(self) >= limits.READS_WAITING_MAX:
            raise Busy(f"{limits.READS_WAITING_MAX} reads wait for a read index already")
        self._waiting.append(Question(incarnation, batch, min(deadline_ns, now_ns + self._wait_ns)))

    @property
    def wants_context(self) -> bool:
        return bool(self._waiting) and len(self._asked) < _CONTEXTS_MAX

    def ask(self, now_ns: int) -> int:
        """All waiting questions go under a new context, which is returned."""
        context = next(self._contexts)
        self._asked[context] = (now_ns, self._waiting)
        self._waiting = []
        return context

    def confirmed(self, context: int) -> list[Question]:
        """The questions that this context answers; none if it was given up."""
        return self._asked.pop(context, (0, []))[1]

    def ask_again(self) -> None:
        """Every context is void (the leader or the term changed)."""
        for _, questions in self._asked.values():
            self._waiting += questions
        self._asked.clear()

    def expire(self, now_ns: int) -> list[Question]:
        """Void the contexts without an answer, then take out and return the questions whose time is up."""
        for context in [c for c, (asked_ns, _) in self._asked.items() if now_ns - asked_ns >= self._retry_ns]:
            self._waiting += self._asked.pop(context)[1]
        over = [question for question in self._waiting if now_ns >= question.refuse_at_ns]
        if over:
            self._waiting = [question for question in self._waiting if now_ns < question.refuse_at_ns]
        return over


class Reads:
    """The api's questions on their way to the core, and its answers back."""

    def __init__(self, raft: RaftNode, answers: Answers, questions: ReadQuestions) -> None:
        self._raft = raft
        self._answers = answers
        self._questions = questions

    def __len__(self) -> int:
        return len(self._questions)

    def add(self, incarnation: int, batch: int, deadline_ns: int, now_ns: int) -> None:
        try:
            self._questions.add(incarnation, batch, deadline_ns, now_ns)
        except Busy as error:
            self._answers.refuse(incarnation, batch, error)

    def ask(self, now_ns: int) -> None:
        if not self._questions.wants_context or self._raft.leader == NOBODY:
            return
        try:
            self._raft.request_read(self._questions.ask(now_ns))
        except (NotLeader, Busy):
            self._questions.ask_again()

    def leadership_changed(self) -> None:
        self._questions.ask_again()

    def answer(self, confirmed: Iterable[ReadState]) -> None:
        for context, index in confirmed:
            for question in self._questions.confirmed(context):
                self._answers.send([ipc.READ_STATE, question.incarnation, question.batch, index])

    def expire(self, now_ns: int, refusal: Rejected) -> None:
        for question in self._questions.expire(now_ns):
            self._answers.refuse(question.incarnation, question.batch, refusal)
