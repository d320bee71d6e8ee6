"""RaftNode: the public face of the core. Everything enters by method call, everything leaves in a Ready.

The rules live in `protocol`; this module checks requests at the door and assembles what must be done. Same inputs and
the same `rng` give the same outputs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vaultdb.errors import Busy, NotLeader
from vaultdb.raft.log import RaftLog
from vaultdb.raft.messages import NOBODY, Entry, EntryKind, Message, NodeId, ReadIndex
from vaultdb.raft.progress import Progress
from vaultdb.raft.protocol import Protocol
from vaultdb.raft.state import HardState, LogReader, RaftConfig, Ready, RestoredState, Role, SoftState


class RaftNode:
    """One member of a Raft group. Single-threaded; no method blocks or does I/O, except through `reader`.

    Time: before `step` the driver delivers the ticks that have passed, so that silence is judged by what really
    elapsed. Errors: BrokenInvariant ends the process; after it the node must not be used. NotLeader and Busy change
    nothing. What `reader` raises passes through and is equally final.
    """

    def __init__(self, config: RaftConfig, restored: RestoredState, reader: LogReader, rng: random.Random) -> None:
        """Raises CorruptData when `restored` contradicts itself. `config.id` is one of `config.voters`."""
        self._log = RaftLog(restored, reader, config.log_memory_bytes)
        self._protocol = Protocol(config, restored.hard_state, self._log, rng)
        self._config = config
        self._number = 0
        self._given_vote = (restored.hard_state.term, restored.hard_state.vote)
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

    def step(self, message: Message) -> None:
        """A message arrived. Strangers' and misaddressed ones are ignored; late, duplicate or odd ones do no harm."""
        self._protocol.step(message)

    def leader_unreachable(self) -> None:
        """The connection to the leader broke: a follower starts its pre-vote within `unreachable_ticks_max` ticks,
        unless it hears the leader before. Only timing changes.
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
        self._log.persisted(number)
        if self._protocol.replication is not None:
            self._protocol.replication.maybe_commit()

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`. May run ahead of `commit_index` after a restart."""
        self._log.applied_to(index)

    def compact(self, index: int) -> None:
        """Forget everything up to `index`, except its term. It must be applied and durable (else BrokenInvariant)."""
        self._log.compact(index)

    # What the node is asked for.

    def propose(self, payloads: Sequence[bytes]) -> tuple[int, int]:
        """Append one COMMAND entry per payload; returns (term, index of the first).

        They are committed when an entry of that term stands committed at that index; another term there means they are
        lost. Raises NotLeader, or Busy when `uncommitted_bytes_max` would be exceeded; while nothing is uncommitted any
        size passes.
        """
        protocol, log = self._protocol, self._log
        if protocol.role is not Role.LEADER:
            raise NotLeader("this node is not the leader")
        waiting_bytes = log.uncommitted_bytes
        if waiting_bytes and waiting_bytes + sum(map(len, payloads)) > self._config.uncommitted_bytes_max:
            raise Busy(f"{waiting_bytes} bytes wait for commit; the limit is {self._config.uncommitted_bytes_max}")
        first, term = log.last_index + 1, protocol.term
        log.append([Entry(term, first + n, EntryKind.COMMAND, payload) for n, payload in enumerate(payloads)])
        return term, first

    def request_read(self, context: int) -> None:
        """Ask for a read index; a ReadState with `context` follows in a later Ready, once leadership is confirmed.

        It never follows when messages are lost or the leader or term changes (then `soft_state` says so): the driver
        asks again, with a new context. Raises NotLeader when no leader is known, Busy over READS_WAITING_MAX.
        """
        protocol = self._protocol
        if protocol.rounds is not None:
            protocol.rounds.ask(self.id, context)
        elif protocol.leader == NOBODY:
            raise NotLeader("no leader is known")
        else:
            protocol.asked.add(context, protocol.ticks)
            protocol.now.append(ReadIndex(self.id, protocol.leader, protocol.term, context))

    def entries(self, first: int, bytes_max: int) -> list[Entry]:
        """Committed and durable entries from `first` on, at least one if there is one, payloads cut off at `bytes_max`.

        Raises BrokenInvariant when `first` has been compacted.
        """
        return self._log.slice(first, self._log.durable_commit_index, bytes_max)[0]

    # What must be done.

    def has_ready(self) -> bool:
        """Whether `ready` has anything to say. Cheap; changes nothing."""
        protocol, log = self._protocol, self._log
        return bool(
            protocol.now
            or protocol.after_sync
            or protocol.read_states
            or log.has_unwritten
            or log.durable_commit_index != self._given_commit
            or (protocol.term, protocol.vote) != self._given_vote
            or protocol.soft_state != self._given_soft
            or protocol.has_work
        )

    def ready(self) -> Ready:
        """What must be done now. Nothing is given out twice; several Readys may await `persisted`."""
        protocol, log = self._protocol, self._log
        protocol.flush()
        self._number += 1
        entries = log.take_unwritten()
        vote = (protocol.term, protocol.vote)
        # A promise about entries that an earlier Ready carries must wait for that Ready's write, although it adds none
        # of its own.
        must_sync = bool(entries) or vote != self._given_vote or bool(protocol.after_sync and log.writes_outstanding)
        if must_sync:
            log.written(self._number)
        soft_state = protocol.soft_state
        ready = Ready(
            number=self._number,
            hard_state=HardState(protocol.term, protocol.vote, log.commit_index) if must_sync else None,
            entries=entries,
            must_sync=must_sync,
            messages_now=protocol.now,
            messages_after_sync=protocol.after_sync,
            commit_index=log.durable_commit_index,
            read_states=protocol.read_states,
            soft_state=soft_state if soft_state != self._given_soft else None,
        )
        protocol.now, protocol.after_sync, protocol.read_states = [], [], []
        self._given_vote, self._given_commit, self._given_soft = vote, ready.commit_index, soft_state
        return ready

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
