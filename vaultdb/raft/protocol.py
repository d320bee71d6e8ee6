"""Protocol: term, vote and role of one node, and which role answers which message how.

The paper's rules for all servers stand in `step`, the rules per role in `HANDLERS`; a message that a role has no
handler for is ignored there. What is asserted about durable state goes to `after_sync`, everything else to `now`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from vaultdb.errors import BrokenInvariant, Busy
from vaultdb.raft.election import Ballot, ElectionTimer, deserves_vote
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    NodeId,
    ReadIndex,
    ReadIndexResponse,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.quorum import VoteResult
from vaultdb.raft.reads import Read, ReadRounds, ReadsAsked
from vaultdb.raft.replication import Replication, accept_append
from vaultdb.raft.state import HardState, RaftConfig, ReadState, Role, SoftState


class Protocol:
    """Owns the node's part in the protocol. `ballot` exists while standing, `replication` and `rounds` while leading.

    `term` never decreases; `vote` changes once per term, from NOBODY.
    """

    def __init__(self, config: RaftConfig, hard_state: HardState, log: RaftLog, rng: random.Random) -> None:
        self.config = config
        self.id = config.id
        self.peers = tuple(voter for voter in config.voters if voter != config.id)
        self.log = log
        self.term, self.vote = hard_state.term, hard_state.vote
        self.role = Role.FOLLOWER
        self.leader: NodeId = NOBODY
        self.timer = ElectionTimer(config, rng)
        self.ticks = 0
        self.ballot: Ballot | None = None
        self.replication: Replication | None = None
        self.rounds: ReadRounds | None = None
        self.asked = ReadsAsked(config.election_ticks_max)
        self.now: list[Message] = []
        self.after_sync: list[Message] = []
        self.read_states: list[ReadState] = []

    @property
    def soft_state(self) -> SoftState:
        return SoftState(self.role, self.leader, self.term)

    @property
    def hears_leader(self) -> bool:
        return self.leader == self.id or (self.leader != NOBODY and self.timer.hears_leader)

    # Time.

    def tick(self) -> None:
        self.ticks += 1
        if self.replication is not None:
            self._tick_leader(self.replication)
        elif self.timer.tick():
            self._campaign(pre=self.config.pre_vote)

    def ticks_until_due(self) -> int:
        return self.timer.ticks_left if self.replication is None else self.replication.ticks_left

    def leader_unreachable(self) -> None:
        if self.role is Role.FOLLOWER and self.leader != NOBODY:
            self.timer.lost_leader()
            self.timer.hurry()

    def _tick_leader(self, replication: Replication) -> None:
        replication.tick()
        if replication.check_due() and not replication.hears_quorum():
            self._become_follower(self.term, NOBODY)
        elif replication.heartbeat_due():
            self._send_heartbeats()

    # Sending.

    @property
    def has_work(self) -> bool:
        """Whether `flush` would produce anything."""
        return self.replication is not None and (self.replication.has_work or self._can_start_round())

    def flush(self) -> None:
        """What waits so that a whole turn's proposals and reads go out together: appends and a read round."""
        if self.replication is None or self.rounds is None:
            return
        if self._can_start_round():
            self.rounds.start(self.log.commit_index)
            self._send_heartbeats()
            self._answer_reads(*self.rounds.confirm_self())
        self.now += self.replication.appends()

    def _can_start_round(self) -> bool:
        """Not before the term's first entry is committed: only then the commit index is known to be up to date (thesis
        §6.4).
        """
        return (
            self.rounds is not None
            and self.replication is not None
            and self.rounds.startable
            and self.log.commit_index >= self.replication.first_index
        )

    def _send_heartbeats(self) -> None:
        if self.replication is not None and self.rounds is not None:
            self.now += self.replication.heartbeats(self.rounds.running_number)

    def _answer_reads(self, index: int, reads: Sequence[Read]) -> None:
        for origin, context in reads:
            if origin == self.id:
                self.read_states.append(ReadState(context, index))
            else:
                self.now.append(ReadIndexResponse(self.id, origin, self.term, context, index))

    # Changes of role and term.

    def _enter_term(self, term: int) -> None:
        """Promises of the former term that have not left are void: no answer is the same as a lost one."""
        self.term, self.vote = term, NOBODY
        self.after_sync.clear()

    def _become(self, role: Role, leader: NodeId) -> None:
        """Leave whatever the former role held. The election timer runs on; a former leader's stood still and starts."""
        if leader != self.leader:
            self.asked.clear()
        if self.role is Role.LEADER:
            self.timer.reset()
        self.role, self.leader = role, leader
        self.ballot = self.replication = self.rounds = None
        self.timer.lost_leader()

    def _become_follower(self, term: int, leader: NodeId) -> None:
        if term > self.term:
            self.asked.clear()
            self._enter_term(term)
        self._become(Role.FOLLOWER, leader)

    def _campaign(self, *, pre: bool) -> None:
        """Ask for votes, with `pre` only whether they would be given: that changes neither term nor vote.

        A real request leaves only when the own vote is durable: after a crash the node could otherwise stand again in
        the same term, with a shorter log, and count votes that were given to the longer one.
        """
        self._become(Role.PRE_CANDIDATE if pre else Role.CANDIDATE, NOBODY)
        self.timer.reset()
        if not pre:
            self._enter_term(self.term + 1)
            self.vote = self.id
        self.ballot = Ballot(self.config.voters, pre=pre)
        term, outbox = (self.term + 1, self.now) if pre else (self.term, self.after_sync)
        log = self.log
        outbox += [VoteRequest(self.id, peer, term, log.last_index, log.last_term, pre) for peer in self.peers]
        self._count_vote(self.ballot, self.id, granted=True)

    def _count_vote(self, ballot: Ballot, voter: NodeId, *, granted: bool) -> None:
        result = ballot.record(voter, granted)
        if result is VoteResult.LOST:
            self._become_follower(self.term, NOBODY)
        elif result is VoteResult.WON and ballot.pre:
            self._campaign(pre=False)
        elif result is VoteResult.WON:
            self._become_leader()

    def _become_leader(self) -> None:
        self._become(Role.LEADER, self.id)
        self.replication = Replication(self.config, self.term, self.log)
        self.rounds = ReadRounds(len(self.config.voters), self.id)

    # Messages.

    def step(self, message: Message) -> None:
        if message.dst != self.id or message.src not in self.peers or message.term < 1:
            return
        if message.term < self.term:
            self._answer_stale(message)
        elif message.term == self.term or self._admits_higher_term(message):
            handler = HANDLERS[self.role].get(type(message))
            if handler is not None:
                handler(self, message)

    def _admits_higher_term(self, message: Message) -> bool:
        """Enter the message's term, unless it is only a possible one (pre-vote). Returns whether the message is to be
        handled.

        A candidate does not depose a leader that is heard (thesis §4.2.3). Should the candidate be right, its refusal
        of the leader's next message (`_answer_stale`) takes the leader down instead.
        """
        if isinstance(message, VoteRequest):
            if message.pre:
                return True
            if self.hears_leader:
                return False
        elif isinstance(message, VoteResponse) and message.pre and message.granted:
            return True
        self._become_follower(message.term, NOBODY)
        return True

    def _answer_stale(self, message: Message) -> None:
        """Tell a leader or candidate of a former term that it is over."""
        match message:
            case VoteRequest():
                self.now.append(VoteResponse(self.id, message.src, self.term, granted=False, pre=message.pre))
            case Append():
                self.now.append(AppendResponse(self.id, message.src, self.term, False, message.prev_index, 0, 0))
            case Heartbeat():
                self.now.append(HeartbeatResponse(self.id, message.src, self.term, message.round))
            case _:
                pass

    def _follow(self, leader: NodeId) -> None:
        """A message of this term's leader arrived (paper §5.2: a candidate returns to follower)."""
        if self.leader not in (NOBODY, leader):
            raise BrokenInvariant(f"term {self.term} has two leaders, {self.leader} and {leader}")
        if self.leader == NOBODY:
            self._become_follower(self.term, leader)
        self.timer.heard_leader()

    def on_vote_request(self, request: VoteRequest) -> None:
        granted = deserves_vote(
            request,
            term=self.term,
            vote=self.vote,
            leader=self.leader,
            hears_leader=self.hears_leader,
            last_index=self.log.last_index,
            last_term=self.log.last_term,
        )
        if not granted:
            self.now.append(VoteResponse(self.id, request.src, self.term, granted=False, pre=request.pre))
        elif request.pre:
            self.now.append(VoteResponse(self.id, request.src, request.term, granted=True, pre=True))
        else:
            self.vote = request.src
            self.timer.reset()
            self.after_sync.append(VoteResponse(self.id, request.src, self.term, granted=True, pre=False))

    def on_vote_response(self, response: VoteResponse) -> None:
        ballot = self.ballot
        if ballot is None or ballot.pre != response.pre:
            return
        if response.granted and response.term != self.term + ballot.pre:
            return
        self._count_vote(ballot, response.src, granted=response.granted)

    def on_append(self, append: Append) -> None:
        self._follow(append.src)
        answer = accept_append(self.log, append)
        if answer is not None:
            outbox = self.after_sync if answer[0] else self.now
            outbox.append(AppendResponse(self.id, append.src, self.term, *answer))

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Commit as far as this log is known to equal the leader's: it is, to its end, once it ends in an entry of this
        term.
        """
        self._follow(heartbeat.src)
        log = self.log
        if log.last_term == self.term:
            log.commit_to(min(heartbeat.commit, log.last_index))
        self.now.append(HeartbeatResponse(self.id, heartbeat.src, self.term, heartbeat.round))

    def on_append_response(self, response: AppendResponse) -> None:
        if self.replication is not None:
            if response.accepted:
                self.replication.accepted(response)
            else:
                self.replication.refused(response)

    def on_heartbeat_response(self, response: HeartbeatResponse) -> None:
        if self.replication is not None and self.rounds is not None:
            self.replication.heartbeat_answered(response.src)
            self._answer_reads(*self.rounds.confirm(response.src, response.round))

    def on_read_index(self, request: ReadIndex) -> None:
        """A follower's question; when too many wait it is dropped, and the follower asks again."""
        if self.rounds is not None:
            with suppress(Busy):
                self.rounds.ask(request.src, request.context)

    def on_read_index_response(self, response: ReadIndexResponse) -> None:
        if self.asked.answered(response.context):
            self.read_states.append(ReadState(response.context, response.index))

    def on_second_leader(self, message: Append | Heartbeat) -> None:
        self._follow(message.src)


Handler = Callable[[Protocol, Any], None]

_STANDING: dict[type[Message], Handler] = {
    VoteRequest: Protocol.on_vote_request,
    VoteResponse: Protocol.on_vote_response,
    Append: Protocol.on_append,
    Heartbeat: Protocol.on_heartbeat,
}

HANDLERS: dict[Role, dict[type[Message], Handler]] = {
    Role.FOLLOWER: {
        VoteRequest: Protocol.on_vote_request,
        Append: Protocol.on_append,
        Heartbeat: Protocol.on_heartbeat,
        ReadIndexResponse: Protocol.on_read_index_response,
    },
    Role.PRE_CANDIDATE: _STANDING,
    Role.CANDIDATE: _STANDING,
    Role.LEADER: {
        VoteRequest: Protocol.on_vote_request,
        AppendResponse: Protocol.on_append_response,
        HeartbeatResponse: Protocol.on_heartbeat_response,
        ReadIndex: Protocol.on_read_index,
        Append: Protocol.on_second_leader,
        Heartbeat: Protocol.on_second_leader,
    },
}
"""What a role does with a message of its own term. Other messages mean nothing to it."""
