"""RaftNode: the public face of the core. Everything enters by method call, everything leaves in a Ready.

The rules live in `protocol`; this module checks requests at the door and assembles what must be done. Same inputs and
the same `rng` give the same outputs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vaultdb.errors import Busy, ChangeRefused, NotLeader
from vaultdb.raft import changes as rules
from vaultdb.raft import membership
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Change, Membership
from vaultdb.raft.messages import NOBODY, Entry, EntryKind, Message, NodeId, ReadIndex
from vaultdb.raft.progress import Progress
from vaultdb.raft.protocol import Protocol
from vaultdb.raft.replication import Replication
from vaultdb.raft.state import HardState, LogReader, RaftConfig, Ready, RestoredState, Role, SoftState


class RaftNode:
    """One member of a Raft group. Single-threaded; no method blocks or does I/O, except through `reader`.

    Time: before `step` the driver delivers the ticks that have passed, so that silence is judged by what really
    elapsed. Errors: BrokenInvariant ends the process; after it the node must not be used. NotLeader and Busy change
    nothing. What `reader` raises passes through and is equally final.
    """

    def __init__(self, config: RaftConfig, restored: RestoredState, reader: LogReader, rng: random.Random) -> None:
        """Raises CorruptData when `restored` contradicts itself. A node that is no voter of the newest membership takes
        part, and does not stand.
        """
        self._log = RaftLog(restored, reader, config.log_memory_bytes)
        self._protocol = Protocol(config, restored.hard_state, self._log, rng)
        self._config = config
        self._number = 0
        self._given_vote = (restored.hard_state.term, restored.hard_state.vote)
        self._vote_number = 0
        """The Ready that carries the term and vote, until they are durable; 0 then."""
        self._given_commit = 0
        self._given_soft: SoftState | None = None

    # What happens to the node.

    def tick(self) -> None:
        """One tick of time has passed."""
        self._protocol.tick()

    def ticks_until_due(self) -> int:
        """After how many ticks (≥ 1) `tick` can next have an effect: until then the driver may sleep, and then deliver
        them together.
        """
        return self._protocol.ticks_until_due()

    def clock(self, now_us: int) -> None:
        """It is `now_us` > 0 on a monotonic clock, which was read after everything that was handed in had arrived.

        Only leases use it. A read is answered by lease only if the time was told after the read came in.
        """
        self._protocol.now_us = now_us

    def step(self, message: Message) -> None:
        """A message arrived. Misaddressed ones are ignored; late, duplicate or odd ones do no harm. Whom to listen to
        at all is for the driver to know.
        """
        self._protocol.step(message)

    def leader_unreachable(self) -> None:
        """The connection to the leader broke: a follower starts its pre-vote within `unreachable_ticks_max` ticks, but
        not before a lease promise has run out, nor if it hears the leader before. Only timing changes.
        """
        self._protocol.leader_unreachable()

    def peer_unreachable(self, peer: NodeId) -> None:
        """Messages to `peer` may have been lost: a leader probes again from what `peer` is known to hold."""
        if self._protocol.replication is not None:
            self._protocol.replication.unreachable(peer)

    def persisted(self, number: int) -> None:
        """Everything up to and including Ready `number` is durable.

        Only Readys with `must_sync` count: the number of any other is passed over, since it may be reported while
        earlier writes are still under way.
        """
        stable_before = self._log.stable_index
        self._log.persisted(number)
        if number >= self._vote_number:
            self._vote_number = 0
        if self._protocol.replication is not None and self._log.stable_index > stable_before:
            self._protocol.replication.maybe_commit()

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`. May run ahead of `commit_index` after a restart."""
        self._log.applied_to(index)

    def compact(self, index: int) -> None:
        """Forget everything up to `index`, except its term. It must be applied and durable (else BrokenInvariant)."""
        self._log.compact(index)

    def send_snapshot(self, peer: NodeId, index: int) -> None:
        """A state of `index`, at or above the log's base and applied, is ready to be sent to `peer`: an InstallSnapshot
        follows in `messages_now`, unless the peer needs none any more.
        """
        if self._protocol.replication is not None:
            self._protocol.now += self._protocol.replication.send_snapshot(peer, index)

    def snapshot_failed(self, peer: NodeId) -> None:
        """No state could be made for, or brought to, `peer`. It will be asked for again after a heartbeat."""
        if self._protocol.replication is not None:
            self._protocol.replication.snapshot_failed(peer)

    # What the node is asked for.

    def propose(self, payloads: Sequence[bytes]) -> tuple[int, int]:
        """Append one COMMAND entry per payload; returns (term, index of the first).

        They are committed when an entry of that term stands committed at that index; another term there means they are
        lost. Raises NotLeader, or Busy while leadership is handed over and when `uncommitted_bytes_max` would be
        exceeded; while nothing is uncommitted any size passes.
        """
        protocol, log = self._protocol, self._log
        self._leading()
        self._refuse_while_transferring()
        waiting_bytes = log.uncommitted_bytes
        if waiting_bytes and waiting_bytes + sum(map(len, payloads)) > self._config.uncommitted_bytes_max:
            raise Busy(f"{waiting_bytes} bytes wait for commit; the limit is {self._config.uncommitted_bytes_max}")
        first, term = log.last_index + 1, protocol.term
        log.append([Entry(term, first + n, EntryKind.COMMAND, payload) for n, payload in enumerate(payloads)])
        return term, first

    def propose_membership(
        self, changes: Sequence[Change], *, context: str | None = None, joint: bool | None = None
    ) -> tuple[int, int]:
        """Append one MEMBERSHIP entry with `changes` made to the newest membership; returns its (term, index).

        `context` replaces the driver's string, None keeps it. `joint`: by way of a joint membership, which is left by
        itself; None: only where more than one voter changes. Raises NotLeader, Busy while leadership is handed over, or
        ChangeRefused: another change is under way, the term has no commit yet, a new voter has not caught up, there
        would be no quorum, or the change makes no sense.
        """
        protocol, log = self._protocol, self._log
        replication = self._leading()
        self._refuse_while_transferring()
        rules.check_may_begin(log, replication)
        wanted = rules.target(log.membership, changes, context, joint=joint)
        rules.check_safe(wanted, log, replication, self._config.promotion_lag_max)
        return protocol.term, protocol.append_membership(wanted)

    def leave_joint(self) -> tuple[int, int]:
        """Leave a joint membership that is not left by itself. Raises as `propose_membership`."""
        replication = self._leading()
        self._refuse_while_transferring()
        rules.check_may_begin(self._log, replication)
        return self._protocol.term, self._protocol.append_membership(membership.leave_joint(self._log.membership))

    def transfer_leadership(self, target: NodeId) -> None:
        """Hand over to `target`, NOBODY: to the voter that is best prepared. Until it stands, or `election_ticks_min`
        ticks have passed, nothing is proposed (`transferring`).

        Raises NotLeader, or ChangeRefused when there is nobody to hand over to.
        """
        protocol = self._protocol
        replication = self._leading()
        if target == NOBODY:
            target = replication.best_voter()
        if protocol.transfer is not None:
            raise ChangeRefused(f"leadership is being handed over to node {protocol.transfer.target} already")
        if target == self.id or target not in self._log.membership.voters:
            raise ChangeRefused(f"node {target} is no other voter" if target != NOBODY else "no other voter is heard")
        if not replication.progress[target].is_alive:
            raise ChangeRefused(f"node {target} is not heard")
        protocol.begin_transfer(target)

    def request_read(self, context: int) -> None:
        """Ask for a read index; a ReadState with `context` follows in a later Ready, once leadership is confirmed.

        It never follows when messages are lost or the leader or term changes (then `soft_state` says so): the driver
        asks again, with a new context. Raises NotLeader when no leader is known, Busy over READS_WAITING_MAX.
        """
        protocol = self._protocol
        if protocol.rounds is not None:
            protocol.ask_read(self.id, context)
        elif protocol.leader == NOBODY:
            raise NotLeader("no leader is known")
        else:
            protocol.asked.add(context, protocol.ticks)
            protocol.now.append(ReadIndex(self.id, protocol.leader, protocol.term, context))

    def entries(self, first: int, bytes_max: int) -> list[Entry]:
        """Committed and durable entries from `first` on, at least one if there is one, payloads cut off at `bytes_max`.

        Raises BrokenInvariant when `first` has been compacted. None while a snapshot is being installed.
        """
        if self._log.stable_index < self._log.base_index:
            return []
        return self._log.slice(first, self._log.durable_commit_index, bytes_max)[0]

    def _leading(self) -> Replication:
        if self._protocol.replication is None:
            raise NotLeader("this node is not the leader")
        return self._protocol.replication

    def _refuse_while_transferring(self) -> None:
        if self._protocol.transfer is not None:
            raise Busy("leadership is being handed over")

    # What must be done.

    def has_ready(self) -> bool:
        """Whether `ready` has anything to say. Cheap; changes nothing."""
        protocol, log = self._protocol, self._log
        return bool(
            protocol.now
            or protocol.after_sync
            or protocol.read_states
            or log.has_unwritten
            or log.durable_commit_index > self._given_commit
            or (protocol.term, protocol.vote) != self._given_vote
            or protocol.soft_state != self._given_soft
            or protocol.has_work
        )

    def ready(self) -> Ready:
        """What must be done now. Nothing is given out twice; several Readys may await `persisted`."""
        protocol, log = self._protocol, self._log
        protocol.flush()
        self._number += 1
        snapshot, entries = log.take_snapshot(), log.take_unwritten()
        vote = (protocol.term, protocol.vote)
        if protocol.replication is not None and (self._vote_number or vote != self._given_vote):
            # A sole voter wins before its vote is durable. Until it is, nobody may hear of this leadership: after a
            # crash the node would lead the same term again, with other entries.
            protocol.after_sync[:0], protocol.now = protocol.now, []
        # A promise about entries that an earlier Ready carries must wait for that Ready's write, although it adds none
        # of its own.
        must_sync = (
            bool(entries)
            or snapshot is not None
            or vote != self._given_vote
            or bool(protocol.after_sync and log.writes_outstanding)
        )
        if must_sync:
            log.written(self._number)
        if vote != self._given_vote:
            self._vote_number = self._number
        soft_state = protocol.soft_state
        ready = Ready(
            number=self._number,
            hard_state=HardState(protocol.term, protocol.vote, log.commit_index) if must_sync else None,
            entries=entries,
            snapshot=snapshot,
            must_sync=must_sync,
            messages_now=protocol.now,
            messages_after_sync=protocol.after_sync,
            commit_index=max(log.durable_commit_index, self._given_commit),
            read_states=protocol.read_states,
            snapshots_wanted=self._take_snapshots_wanted(),
            soft_state=soft_state if soft_state != self._given_soft else None,
        )
        protocol.now, protocol.after_sync, protocol.read_states = [], [], []
        self._given_vote, self._given_commit, self._given_soft = vote, ready.commit_index, soft_state
        return ready

    def _take_snapshots_wanted(self) -> list[NodeId]:
        replication = self._protocol.replication
        if replication is None or not replication.snapshots_wanted:
            return []
        wanted, replication.snapshots_wanted = replication.snapshots_wanted, []
        return wanted

    # Status.

    @property
    def id(self) -> NodeId:
        return self._config.id

    @property
    def role(self) -> Role:
        return self._protocol.role

    @property
    def term(self) -> int:
        return self._protocol.term

    @property
    def leader(self) -> NodeId:
        """NOBODY when none is known."""
        return self._protocol.leader

    @property
    def commit_index(self) -> int:
        """Known to be committed; may exceed what is durable here (`Ready.commit_index` does not)."""
        return self._log.commit_index

    @property
    def applied_index(self) -> int:
        return self._log.applied_index

    @property
    def last_index(self) -> int:
        return self._log.last_index

    @property
    def stable_index(self) -> int:
        """Durable here, and still part of the log."""
        return self._log.stable_index

    @property
    def uncommitted_bytes(self) -> int:
        """Payload bytes in memory that are not committed, or not durable here: a slow disk must not grow the log."""
        return self._log.uncommitted_bytes

    @property
    def log_memory_bytes(self) -> int:
        """Payload bytes that the core holds in memory."""
        return self._log.memory_bytes

    @property
    def progress(self) -> Mapping[NodeId, Progress]:
        """A leader's view of its peers, for reading only; empty on others."""
        replication = self._protocol.replication
        return MappingProxyType(replication.progress if replication is not None else {})

    @property
    def membership(self) -> Membership:
        """The newest that the log holds: in force, committed or not."""
        return self._log.membership

    @property
    def membership_index(self) -> int:
        return self._log.membership_index

    @property
    def committed_membership(self) -> Membership:
        """The newest that is known to be committed here."""
        return self._log.membership_at(self._log.commit_index)

    @property
    def is_membership_committed(self) -> bool:
        return self._log.membership_index <= self._log.commit_index

    @property
    def transferring(self) -> NodeId:
        """To whom this leader is handing over; NOBODY when it is not."""
        transfer = self._protocol.transfer
        return NOBODY if transfer is None else transfer.target

    @property
    def has_lease(self) -> bool:
        """This leader may answer reads without asking, as of the last `clock`."""
        return self._protocol.has_lease
