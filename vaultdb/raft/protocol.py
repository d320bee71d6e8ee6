"""Protocol: term, vote and role of one node, and which role answers which message how.

The paper's rules for all servers stand in `step`, the rules per role in `HANDLERS`; a message that a role has no
handler for is ignored there. What is asserted about durable state goes to `after_sync`, everything else to `now`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vaultdb.errors import BrokenInvariant, Busy
from vaultdb.raft import membership
from vaultdb.raft.election import Ballot, ElectionTimer, deserves_vote
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import (
    NOBODY,
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    NodeId,
    ReadIndex,
    ReadIndexResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from vaultdb.raft.quorum import VoteResult
from vaultdb.raft.reads import Read, ReadRounds, ReadsAsked
from vaultdb.raft.replication import Replication, accept_append
from vaultdb.raft.state import HardState, RaftConfig, ReadState, Role, Snapshot, SoftState


@dataclass(slots=True)
class Transfer:
    """A leader's handing over (thesis §3.10). Nothing is proposed meanwhile, so that the target can catch up."""

    target: NodeId
    ticks_left: int
    was_sent: bool = False


class Protocol:
    """Owns the node's part in the protocol. `ballot` exists while standing, `replication` and `rounds` while leading.

    `term` never decreases; `vote` changes once per term, from NOBODY. Only a voter of the log's newest membership
    stands; whoever is asked votes, member or not: the candidate knows whose votes it needs (etcd#10998).
    """

    def __init__(self, config: RaftConfig, hard_state: HardState, log: RaftLog, rng: random.Random) -> None:
        self.config = config
        self.id = config.id
        self.log = log
        self.term, self.vote = hard_state.term, hard_state.vote
        self.role = Role.FOLLOWER
        self.leader: NodeId = NOBODY
        may_have_promised = (config.bound_at_start or config.lease_us > 0) and log.stable_index > 0
        self.timer = ElectionTimer(config, rng, may_have_promised=may_have_promised)
        self.ticks = 0
        self.now_us = 0
        """The driver's clock, for leases only; 0: it told no time since the last read came in."""
        self.ballot: Ballot | None = None
        self.replication: Replication | None = None
        self.rounds: ReadRounds | None = None
        self.transfer: Transfer | None = None
        self.has_handed_over = False
        """A TimeoutNow left in this term: another campaign may win at any time, so no lease holds (thesis §6.4.1)."""
        self._heartbeat_waits = False
        self.asked = ReadsAsked(config.election_ticks_max)
        self.now: list[Message] = []
        self.after_sync: list[Message] = []
        self.read_states: list[ReadState] = []

    @property
    def soft_state(self) -> SoftState:
        return SoftState(self.role, self.leader, self.term)

    @property
    def hears_leader(self) -> bool:
        return self.leader == self.id or self.timer.is_bound or (self.leader != NOBODY and self.timer.hears_leader)

    @property
    def membership(self) -> Membership:
        return self.log.membership

    # Time.

    def tick(self) -> None:
        self.ticks += 1
        if self.replication is not None:
            self._tick_leader(self.replication)
        elif self.timer.tick():
            self._stand()

    def ticks_until_due(self) -> int:
        if self.replication is None:
            return self.timer.ticks_left
        ticks_left = self.replication.ticks_left
        return ticks_left if self.transfer is None else min(ticks_left, self.transfer.ticks_left)

    def leader_unreachable(self) -> None:
        if self.role is Role.FOLLOWER and self.leader != NOBODY:
            self.timer.lost_leader()
            self.timer.hurry()

    def _stand(self) -> None:
        """A node that its newest membership leaves out stands all the same until that is committed, and does not count
        itself: the others may need its log (thesis §4.2.2).
        """
        decided = self.log.membership_at(self.log.commit_index)
        if self.membership.is_voter(self.id) or decided.is_voter(self.id):
            self._campaign(pre=self.config.pre_vote)
        else:
            self._become(Role.FOLLOWER, NOBODY)
            self.timer.reset()

    def _tick_leader(self, replication: Replication) -> None:
        replication.tick()
        if self.transfer is not None:
            self.transfer.ticks_left -= 1
            if self.transfer.ticks_left <= 0:
                self.transfer = None
        if replication.check_due() and not replication.hears_quorum():
            self._become_follower(self.term, NOBODY)
        elif replication.heartbeat_due():
            self._heartbeat_waits = True

    # Sending.

    @property
    def has_work(self) -> bool:
        """Whether `flush` would produce anything."""
        if self.replication is None or self.rounds is None:
            return False
        return (
            self._heartbeat_waits
            or self.replication.has_work
            or bool(self.replication.snapshots_wanted)
            or self._membership_is_due
            or (self.replication.has_term_commit and self._can_answer_reads(self.rounds))
        )

    def flush(self) -> None:
        """What waits so that a whole turn's proposals and reads go out together: appends and a read round; and what
        follows from a commit.
        """
        if self.replication is None or self.rounds is None:
            return
        if self.replication.has_term_commit:
            self._serve_reads(self.rounds)
        if self._heartbeat_waits:
            self._send_heartbeats()
        if self._membership_is_due:
            self._follow_up_membership(self.replication)
        else:
            self.now += self.replication.appends()

    # Reads (thesis §6.4). Not before the term's first commit: only then the commit index is known to be up to date.

    @property
    def has_lease(self) -> bool:
        """Nobody else can lead now: a quorum has promised so, later than `lease_us` ago (§6.4.1)."""
        replication = self.replication
        if replication is None or self.transfer is not None or self.has_handed_over or not self.now_us:
            return False
        promised_us = replication.promised_us()
        return promised_us > 0 and replication.has_term_commit and self.now_us < promised_us + self.config.lease_us

    def ask_read(self, origin: NodeId, context: int) -> None:
        """A read for the leader. Raises Busy. What time it is must be told again: the read is younger than the last."""
        if self.rounds is not None:
            self.rounds.ask(origin, context)
            self.now_us = 0

    def _can_answer_reads(self, rounds: ReadRounds) -> bool:
        return rounds.startable or (rounds.is_waiting and self.has_lease)

    def _serve_reads(self, rounds: ReadRounds) -> None:
        # Those who have answered the running round may be a quorum of what is the membership now.
        self._answer_reads(*rounds.confirm_self(self.membership.voter_sets))
        if rounds.is_waiting and self.has_lease:
            self._answer_reads(self.log.commit_index, rounds.take_waiting())
        elif rounds.startable:
            rounds.start(self.log.commit_index)
            self._send_heartbeats()
            self._answer_reads(*rounds.confirm_self(self.membership.voter_sets))

    def _send_heartbeats(self) -> None:
        if self.replication is not None and self.rounds is not None:
            self._heartbeat_waits = False
            self.replication.is_leasing = self.rounds.wants_lease() and self.config.lease_us > 0
            lease_us = self.now_us if self.replication.is_leasing else 0
            self.now += self.replication.heartbeats(self.rounds.running_number, lease_us)

    def _answer_reads(self, index: int, reads: Sequence[Read]) -> None:
        for origin, context in reads:
            if origin == self.id:
                self.read_states.append(ReadState(context, index))
            else:
                self.now.append(ReadIndexResponse(self.id, origin, self.term, context, index))

    # Membership and leadership, changed by the leader.

    def append_membership(self, changed: Membership) -> int:
        """Returns its index. It is in force from now on."""
        index = self.log.last_index + 1
        self.log.append([Entry(self.term, index, EntryKind.MEMBERSHIP, membership.encode(changed))])
        if self.replication is not None:
            self.replication.membership_changed()
        return index

    @property
    def _membership_is_due(self) -> bool:
        """The newest membership is committed, and something is still to be done about it."""
        log, replication = self.log, self.replication
        if replication is None or not replication.is_unsettled or log.membership_index > log.commit_index:
            return False
        return replication.has_term_commit and (self.transfer is None or not log.membership.auto_leave)

    def _follow_up_membership(self, replication: Replication) -> None:
        """Leave what is joint. Let those go that are out, once they were sent that; go oneself, if out (§4.2.2)."""
        if self.membership.auto_leave:
            self.append_membership(membership.leave_joint(self.membership))
            self.now += replication.appends()
            return
        self.now += replication.appends()
        replication.settle()
        if not self.membership.is_voter(self.id):
            heir = replication.best_voter()
            if heir != NOBODY:
                self.now.append(TimeoutNow(self.id, heir, self.term, self.log.membership_index))
            self._become_follower(self.term, NOBODY)

    def begin_transfer(self, target: NodeId) -> None:
        self.transfer = Transfer(target, self.config.election_ticks_min)
        self._continue_transfer()

    def _continue_transfer(self) -> None:
        """Once the target holds everything, it may stand."""
        transfer, replication = self.transfer, self.replication
        if transfer is None or replication is None or transfer.was_sent:
            return
        progress = replication.progress.get(transfer.target)
        if progress is not None and progress.match_index == self.log.last_index:
            transfer.was_sent = self.has_handed_over = True
            self.now.append(TimeoutNow(self.id, transfer.target, self.term, self.log.last_index))

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
        self.ballot = self.replication = self.rounds = self.transfer = None
        self.has_handed_over = self._heartbeat_waits = False
        self.timer.lost_leader()

    def _become_follower(self, term: int, leader: NodeId) -> None:
        if term > self.term:
            self.asked.clear()
            self._enter_term(term)
        self._become(Role.FOLLOWER, leader)

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        """Ask for votes, with `pre` only whether they would be given: that changes neither term nor vote. `transfer`:
        the leader asked for it.

        A real request leaves only when the own vote is durable: after a crash the node could otherwise stand again in
        the same term, with a shorter log, and count votes that were given to the longer one.
        """
        self._become(Role.PRE_CANDIDATE if pre else Role.CANDIDATE, NOBODY)
        self.timer.reset()
        if not pre:
            self._enter_term(self.term + 1)
            self.vote = self.id
        voter_sets, log = self.membership.voter_sets, self.log
        self.ballot = Ballot(voter_sets, pre=pre)
        term, outbox = (self.term + 1, self.now) if pre else (self.term, self.after_sync)
        outbox += [
            VoteRequest(self.id, voter, term, log.last_index, log.last_term, pre, transfer)
            for voter in sorted({*voter_sets[0], *voter_sets[1]} - {self.id})
        ]
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
        self.timer.release()
        self.replication = Replication(self.config, self.term, self.log)
        self.rounds = ReadRounds(self.id)

    # Messages.

    def step(self, message: Message) -> None:
        if message.dst != self.id or message.src in (self.id, NOBODY) or message.term < 1:
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

        A candidate does not depose a leader that is heard (thesis §4.2.3), unless that leader asked for it. Should the
        candidate be right, its refusal of the leader's next message (`_answer_stale`) takes the leader down instead.
        """
        if isinstance(message, VoteRequest):
            if message.pre:
                return True
            if self.hears_leader and not message.transfer:
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
                self.now.append(HeartbeatResponse(self.id, message.src, self.term, message.round, 0))
            case InstallSnapshot():
                self.now.append(AppendResponse(self.id, message.src, self.term, False, message.index, 0, 0))
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
            is_bound=self.timer.is_bound,
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
        # A promise must bind after a restart too: a node whose log is empty could not tell that it had given one.
        lease_us = heartbeat.lease_us if self.config.lease_us and log.stable_index > 0 else 0
        if lease_us:
            self.timer.promise()
        self.now.append(HeartbeatResponse(self.id, heartbeat.src, self.term, heartbeat.round, lease_us))

    def on_append_response(self, response: AppendResponse) -> None:
        if self.replication is not None:
            if response.accepted:
                self.replication.accepted(response)
                self._continue_transfer()
            else:
                self.replication.refused(response)

    def on_heartbeat_response(self, response: HeartbeatResponse) -> None:
        if self.replication is not None and self.rounds is not None:
            self.replication.heartbeat_answered(response.src, response.lease_us)
            self._answer_reads(*self.rounds.confirm(response.src, response.round, self.membership.voter_sets))

    def on_read_index(self, request: ReadIndex) -> None:
        """A follower's question; when too many wait it is dropped, and the follower asks again."""
        with suppress(Busy):
            self.ask_read(request.src, request.context)

    def on_read_index_response(self, response: ReadIndexResponse) -> None:
        if self.asked.answered(response.context):
            self.read_states.append(ReadState(response.context, response.index))

    def on_timeout_now(self, order: TimeoutNow) -> None:
        """The leader hands over. What was ordered in a former term does not get here."""
        if self.membership.is_voter(self.id) and self.log.last_index >= order.index:
            self._campaign(pre=False, transfer=True)

    def on_install_snapshot(self, message: InstallSnapshot) -> None:
        """What is committed here already needs no snapshot, nor does a log that holds the position: the answer says how
        far this log is known to equal the leader's. Otherwise the log begins anew; what it held may conflict.
        """
        self._follow(message.src)
        log = self.log
        if message.index > log.commit_index:
            if log.matches(message.index, message.index_term):
                log.commit_to(message.index)
            else:
                log.restore(Snapshot(message.index, message.index_term, membership.decode(message.membership)))
        self.after_sync.append(AppendResponse(self.id, message.src, self.term, True, log.commit_index, 0, 0))

    def on_second_leader(self, message: Append | Heartbeat | InstallSnapshot) -> None:
        self._follow(message.src)


Handler = Callable[[Protocol, Any], None]

_STANDING: dict[type[Message], Handler] = {
    VoteRequest: Protocol.on_vote_request,
    VoteResponse: Protocol.on_vote_response,
    Append: Protocol.on_append,
    Heartbeat: Protocol.on_heartbeat,
    InstallSnapshot: Protocol.on_install_snapshot,
}

HANDLERS: dict[Role, dict[type[Message], Handler]] = {
    Role.FOLLOWER: {
        VoteRequest: Protocol.on_vote_request,
        Append: Protocol.on_append,
        Heartbeat: Protocol.on_heartbeat,
        InstallSnapshot: Protocol.on_install_snapshot,
        ReadIndexResponse: Protocol.on_read_index_response,
        TimeoutNow: Protocol.on_timeout_now,
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
        InstallSnapshot: Protocol.on_second_leader,
    },
}
"""What a role does with a message of its own term. Other messages mean nothing to it."""
