"""The driver: what surrounds the Raft core, with every input a method and every output an injected object.

It obeys Ready (persist, then send, then report), makes one log entry of all proposals that wait, forwards proposals
to the leader, answers the api's questions for read indexes and streams committed entries to storage. It reads no
clock and owns no socket: `process.py` does. One turn of the loop is: `pass_ticks`, hand in everything that arrived
(`on_*`), then `turn`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from vaultdb import limits
from vaultdb.clock import NS_PER_MS
from vaultdb.config import NodeConfig
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_writer import Completion, Write
from vaultdb.consensus.peer_format import (
    REFUSED_BUSY,
    REFUSED_LEADER,
    TAKEN_QUEUED,
    TAKEN_SYNC,
    Floor,
    Forward,
    ForwardAnswer,
    Item,
)
from vaultdb.consensus.proposals import Proposals
from vaultdb.consensus.reads import ReadQuestions
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.errors import BadRequest, Busy, CorruptData, NotLeader, Rejected, Unavailable
from vaultdb.logs import logger
from vaultdb.raft.messages import NOBODY, EntryKind, Message, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.quorum import majority
from vaultdb.raft.state import Ready, Role
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack

STALLED_MS = 1_000
"""A leader whose disk has kept one write waiting for longer takes no proposals."""
_FLOOR_INTERVAL_NS = 1_000 * NS_PER_MS
_EXPIRY_INTERVAL_NS = 50 * NS_PER_MS


class Peers(Protocol):
    """The other nodes."""

    connected: set[NodeId]

    def send(self, peer: NodeId, item: Item) -> None: ...

    def flush(self) -> Mapping[NodeId, list[Item]]:
        """Returns what of it was dropped: items that certainly did not leave."""
        ...


class Writer(Protocol):
    """Makes writes durable, in order."""

    def submit(self, write: Write) -> None: ...

    def busy_ms(self, now_ns: int) -> float:
        """How long the write under way has taken so far."""
        ...


class Api(Protocol):
    """The api process of this node."""

    def send(self, message: bytes) -> bool: ...


class Taken(NamedTuple):
    """A proposal on its way into an entry."""

    origin: NodeId
    incarnation: int
    batch: int
    queued: bool
    payload: bytes
    term: int
    """In which its origin sent it: in no other may it be proposed, and a refusal must name it."""


class Driver:
    def __init__(
        self,
        node: NodeConfig,
        raft: RaftNode,
        log: WriteAheadLog,
        writer: Writer,
        peers: Peers,
        api: Api,
        storage: StorageStream,
        *,
        first_context: int,
    ) -> None:
        self._id = node.id
        self._raft = raft
        self._log = log
        self._writer = writer
        self._peers = peers
        self._api = api
        self._storage = storage
        api_settings = node.config.api
        self._proposals = Proposals(api_settings.leader_wait_ms)
        self._reads = ReadQuestions(
            api_settings.leader_wait_ms, node.config.raft.election_timeout_min_ms, first_context
        )
        self._forwarded: deque[Taken] = deque()
        self._after_sync: dict[int, list[Message]] = {}
        """Messages of Readys that are not durable yet, by the Ready's number; ascending."""
        self._peer_ids = [peer.id for peer in node.peers]
        self._voters = 1 + len(node.peers)
        self._commit_index = 0
        self._observed_index = raft.commit_index
        """Committed entries up to here were looked through for our own proposals."""
        self._observed_term = 0
        self._queued_bytes: dict[int, int] = {}
        """Entry index → bytes answered early in it and not committed yet."""
        self._is_stalled = False
        self._floor = 0
        self._next_floor_ns = 0
        self._next_expiry_ns = 0
        self._logger = logger("consensus")
        self.leader_changes_total = 0
        self.entries_proposed_total = 0
        self.proposals_refused_total = 0
        self.unsent_answers_total = 0

    # What arrives.

    def on_api(self, message: list[Any], now_ns: int) -> None:
        """PROPOSE, READ_INDEX or STATUS of wire/ipc.py; anything else raises BadRequest."""
        match message:
            case [ipc.PROPOSE, int(incarnation), int(batch), int(deadline_ns), bool(queued), bytes(payload)]:
                try:
                    self._proposals.add(
                        (incarnation, batch), payload, queued=queued, deadline_ns=deadline_ns, now_ns=now_ns
                    )
                except Busy as error:
                    self._refuse(incarnation, batch, error)
            case [ipc.READ_INDEX, int(incarnation), int(batch), int(deadline_ns)]:
                try:
                    self._reads.add(incarnation, batch, deadline_ns, now_ns)
                except Busy as error:
                    self._refuse(incarnation, batch, error)
            case [ipc.STATUS, int(incarnation), int(batch)]:
                self._answer([ipc.STATUS_IS, incarnation, batch, self.status()])
            case _:
                raise BadRequest("not a message of the api that is known here")

    def on_storage(self, message: list[Any]) -> None:
        """SUBSCRIBE or APPLIED of wire/ipc.py; anything else raises BadRequest.

        Raises CorruptData when storage and log do not meet.
        """
        match message:
            case [ipc.SUBSCRIBE, int(incarnation), int(applied), int(flushed)]:
                if not self._log.base_index <= applied <= self._raft.last_index:
                    raise CorruptData(
                        f"storage has applied index {applied}, but the log holds"
                        f" ({self._log.base_index}, {self._raft.last_index}]: one of them was lost or replaced"
                    )
                self._storage.subscribed(incarnation, applied, flushed)
                self._raft.applied(applied)
                self._logger.info("storage subscribed", applied_index=applied, flushed_index=flushed)
            case [ipc.APPLIED, int(incarnation), int(applied), int(flushed)]:
                if self._storage.applied(incarnation, applied, flushed):
                    self._raft.applied(applied)
            case _:
                raise BadRequest("not a message of storage that is known here")

    def on_peer(self, src: NodeId, item: Item) -> None:
        """One item of consensus/peer_format.py."""
        if isinstance(item, Forward):
            self._on_forward(src, item)
        elif isinstance(item, ForwardAnswer):
            self._on_forward_answer(item)
        elif isinstance(item, Floor):
            if item.term == self._raft.term:
                self._floor = max(self._floor, item.floor)
        elif item.src == src:
            self._raft.step(item)

    def on_connection(self, peer: NodeId, *, connected: bool) -> None:
        """A connection was made or broke: either way what was on it may be lost, so replication begins with a probe."""
        self._logger.info("peer connected" if connected else "peer disconnected", peer=peer)
        self._raft.peer_unreachable(peer)
        if not connected and peer == self._raft.leader:
            self._raft.leader_unreachable()

    def on_durable(self, completions: Iterable[Completion]) -> None:
        """The log writer reports: now what asserted those writes may leave."""
        for number, written in completions:
            if written is not None:
                self._log.written(written)
            while self._after_sync and (first := next(iter(self._after_sync))) <= number:
                self._send_all(self._after_sync.pop(first))
            self._raft.persisted(number)

    def pass_ticks(self, ticks: int) -> None:
        for _ in range(ticks):
            self._raft.tick()

    def ticks_until_due(self) -> int:
        return self._raft.ticks_until_due()

    # What follows from it.

    def turn(self, now_ns: int, wall_ms: int) -> None:
        """Act once on everything that was handed in."""
        self._is_stalled = self._writer.busy_ms(now_ns) > STALLED_MS
        if now_ns >= self._next_expiry_ns:
            self._expire(now_ns)
        self._place_proposals(wall_ms)
        self._ask_reads(now_ns)
        while self._raft.has_ready():
            self._obey(self._raft.ready(), now_ns)
        self._storage.pump(self._commit_index, self._raft.entries)
        if now_ns >= self._next_floor_ns:
            self._move_floor(now_ns)
        for peer, dropped in self._peers.flush().items():
            self._raft.peer_unreachable(peer)
            self._park_unsent(dropped)

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for time to pass (a leader, a deadline)."""
        return len(self._proposals) > 0 or len(self._reads) > 0

    def _obey(self, ready: Ready, now_ns: int) -> None:
        """The order that Ready prescribes."""
        if ready.soft_state is not None:
            self._leadership_changed(ready)
        self._send_all(ready.messages_now)
        if ready.must_sync:
            self._after_sync[ready.number] = ready.messages_after_sync
            self._writer.submit(Write(ready.number, ready.hard_state, list(ready.entries)))
        else:
            self._send_all(ready.messages_after_sync)
        if ready.commit_index > self._commit_index:
            self._commit_index = ready.commit_index
            self._observe_committed(now_ns)
        for context, index in ready.read_states:
            for question in self._reads.confirmed(context):
                self._answer([ipc.READ_STATE, question.incarnation, question.batch, index])

    def _send_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._peers.send(message.dst, message)

    def _leadership_changed(self, ready: Ready) -> None:
        state = ready.soft_state
        assert state is not None
        self._reads.ask_again()
        self._queued_bytes.clear()
        if state.leader != NOBODY:
            self.leader_changes_total += 1
        self._logger.info("role", role=state.role.value, leader=state.leader, term=state.term)

    def _observe_committed(self, now_ns: int) -> None:
        """Look through newly committed entries for our own proposals, and for terms that seal the fate of others."""
        if not len(self._proposals) and not self._queued_bytes:
            self._observed_index = self._commit_index
            return
        while self._observed_index < self._commit_index:
            for entry in self._raft.entries(self._observed_index + 1, limits.APPEND_BYTES_MAX):
                if entry.term > self._observed_term:
                    self._observed_term = entry.term
                    self._proposals.term_committed(entry.term, now_ns)
                if entry.kind == EntryKind.COMMAND:
                    for origin, incarnation, batch, _ in unpack(entry.payload)[1]:
                        if origin == self._id:
                            self._proposals.remove((incarnation, batch))
                self._queued_bytes.pop(entry.index, None)
                self._observed_index = entry.index

    # Proposals.

    @property
    def _leads_quorum(self) -> bool:
        """Leader, with a disk that works, and connected to enough peers: otherwise a proposal would end as unknown."""
        if self._raft.role is not Role.LEADER or self._is_stalled:
            return False
        return 1 + len(self._peers.connected) >= majority(self._voters)

    def _place_proposals(self, wall_ms: int) -> None:
        if self._leads_quorum:
            while self._forwarded_in_term or self._proposals.parked(1):
                if not self._propose_entry(wall_ms):
                    break
        elif self._raft.role is not Role.LEADER and self._raft.leader in self._peers.connected:
            self._forward_to_leader()
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
                self._refuse(*proposal.key, error)
            return False
        self.entries_proposed_total += 1
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
                self._answer([ipc.QUEUED, incarnation, batch, has_room])
            else:
                verdict = TAKEN_QUEUED if has_room else TAKEN_SYNC
                self._peers.send(origin, ForwardAnswer(term, [(incarnation, batch, verdict)]))

    def _forward_to_leader(self) -> None:
        while batch := self._proposals.parked(limits.ENTRY_BATCH_BYTES):
            proposals = [(*proposal.key, proposal.queued, proposal.payload) for proposal in batch]
            self._peers.send(self._raft.leader, Forward(self._raft.term, proposals))
            self._proposals.sent(batch, self._raft.term)

    def _park_unsent(self, dropped: list[Item]) -> None:
        """A forward that did not leave was not sent."""
        for item in dropped:
            if isinstance(item, Forward):
                for incarnation, batch, _, _ in item.proposals:
                    self._proposals.refused((incarnation, batch), item.term)

    def _on_forward(self, src: NodeId, forward: Forward) -> None:
        """Whether they are taken is decided in `turn`: what else arrived may end the term."""
        self._forwarded.extend(Taken(src, *proposal, forward.term) for proposal in forward.proposals)

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

    def _on_forward_answer(self, answer: ForwardAnswer) -> None:
        for incarnation, batch, verdict in answer.verdicts:
            key = (incarnation, batch)
            if verdict in (REFUSED_LEADER, REFUSED_BUSY):
                if self._proposals.refused(key, answer.term) and verdict == REFUSED_BUSY:
                    self._proposals.remove(key)
                    self._refuse(*key, Busy("the leader holds as many uncommitted bytes as it may"))
            else:
                self._answer([ipc.QUEUED, incarnation, batch, verdict == TAKEN_QUEUED])

    # Reads.

    def _ask_reads(self, now_ns: int) -> None:
        if not self._reads.wants_context or self._raft.leader == NOBODY:
            return
        try:
            self._raft.request_read(self._reads.ask(now_ns))
        except (NotLeader, Busy):
            self._reads.ask_again()

    # Time.

    def _expire(self, now_ns: int) -> None:
        self._next_expiry_ns = now_ns + _EXPIRY_INTERVAL_NS
        refusal = Unavailable(self._why_unavailable())
        for proposal in self._proposals.expire(now_ns):
            self._refuse(*proposal.key, refusal)
        for question in self._reads.expire(now_ns):
            self._refuse(question.incarnation, question.batch, refusal)

    def _why_unavailable(self) -> str:
        reachable = 1 + len(self._peers.connected)
        if reachable < majority(self._voters):
            return (
                f"no quorum: {reachable} of {self._voters} nodes reach each other; {majority(self._voters)} are needed"
            )
        if self._raft.leader == NOBODY:
            return "no leader is known; an election is under way"
        if self._is_stalled:
            return f"the disk of node {self._id} has not completed a write for more than {STALLED_MS} ms"
        return f"the leader, node {self._raft.leader}, did not confirm in time"

    def _move_floor(self, now_ns: int) -> None:
        """Cut the log below what storage has made durable and every member's log holds."""
        self._next_floor_ns = now_ns + _FLOOR_INTERVAL_NS
        if self._raft.role is Role.LEADER:
            matches = [progress.match_index for progress in self._raft.progress.values()]
            self._floor = max(self._floor, min([*matches, self._raft.stable_index]))
            for peer in self._peers.connected:
                self._peers.send(peer, Floor(self._raft.term, self._floor))
        base = self._log.cut(min(self._floor, self._storage.flushed_index))
        self._raft.compact(base)

    # Answers.

    def _refuse(self, incarnation: int, batch: int, error: Rejected) -> None:
        self.proposals_refused_total += 1
        self._answer([ipc.REJECTED, incarnation, batch, error.code, str(error), error.retry_after_s])

    def _answer(self, message: list[Any]) -> None:
        if not self._api.send(pack(message)):
            self.unsent_answers_total += 1

    def status(self) -> dict[str, Any]:
        """The figures of this process, for /status."""
        raft = self._raft
        return {
            "role": raft.role.value,
            "term": raft.term,
            "leader": raft.leader,
            "commit_index": raft.commit_index,
            "applied_index": self._storage.applied_index,
            "flushed_index": self._storage.flushed_index,
            "last_index": raft.last_index,
            "stable_index": raft.stable_index,
            "log_base_index": self._log.base_index,
            "log_segments": self._log.segments,
            "uncommitted_bytes": raft.uncommitted_bytes,
            "peers": [self._peer_status(peer) for peer in self._peer_ids],
            "counters": {
                "leader_changes_total": self.leader_changes_total,
                "entries_proposed_total": self.entries_proposed_total,
                "proposals_refused_total": self.proposals_refused_total,
                "proposals_resent_total": self._proposals.resent_total,
                "proposals_waiting": len(self._proposals),
                "reads_waiting": len(self._reads),
                "unsent_answers_total": self.unsent_answers_total,
            },
        }

    def _peer_status(self, peer: NodeId) -> dict[str, Any]:
        progress = self._raft.progress.get(peer)
        return {
            "id": peer,
            "connected": peer in self._peers.connected,
            "match_index": None if progress is None else progress.match_index,
            "state": None if progress is None else progress.state.value,
        }
