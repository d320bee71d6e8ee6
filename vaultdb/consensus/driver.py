"""The driver: what surrounds the Raft core, with every input a method and every output an injected object.

It obeys Ready (persist, then send, then report), passes requests to those who look after them (`placement` the
proposals, `reads` the read indexes, `administration` the members), decides who is listened to (`admission`) and streams
committed entries to storage. It reads no clock and owns no socket: `process.py` does. One turn of the loop is:
`pass_ticks`, hand in everything that arrived (`on_*`), then `turn`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vaultdb.clock import NS_PER_MS
from vaultdb.config import NodeConfig
from vaultdb.consensus import members, status
from vaultdb.consensus.addresses import AddressBook
from vaultdb.consensus.administration import Administration, View
from vaultdb.consensus.admission import Admission
from vaultdb.consensus.answers import Answers, Api
from vaultdb.consensus.availability import Availability
from vaultdb.consensus.handover import Handover
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.log_writer import Completion, Write
from vaultdb.consensus.peer_format import Frame, Hello, Sender
from vaultdb.consensus.placement import Placement
from vaultdb.consensus.promises import PromiseTable
from vaultdb.consensus.reads import ReadQuestions, Reads
from vaultdb.consensus.reception import Reception
from vaultdb.consensus.retention import Retention
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.consensus.surroundings import Peers, Snapshots, Writer
from vaultdb.consensus.upkeep import Upkeep
from vaultdb.errors import BadRequest, CorruptData, Unavailable
from vaultdb.logs import logger
from vaultdb.raft.messages import NOBODY, InstallSnapshot, Message, NodeId
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Ready, Role, Snapshot
from vaultdb.wire import ipc

_EXPIRY_INTERVAL_NS = 50 * NS_PER_MS


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
        snapshots: Snapshots,
        *,
        life: int,
        first_number: int,
        new_cluster_id: str,
    ) -> None:
        """`raft` was just made from what `log` restored. Random: `life` and `first_number` (62 bits), `new_cluster_id`
        (32 hex digits).
        """
        self._id = node.id
        self._raft = raft
        self._log = log
        self._writer = writer
        self._peers = peers
        self._storage = storage
        self._snapshots = snapshots
        self._answers = Answers(api)
        self._hello = Hello(node.me.host, node.me.peer_port)
        settings = node.config.api
        self._placement = Placement(node.id, raft, peers, self._answers, settings.leader_wait_ms)
        questions = ReadQuestions(settings.leader_wait_ms, node.config.raft.election_timeout_min_ms, first_number)
        self._reads = Reads(raft, self._answers, questions)
        promises = PromiseTable(log.notes)
        me = Sender(node.config.cluster.name, "", node.id, log.incarnation, life, raft.term, raft.last_index)
        self._admission = Admission(me, promises)
        self._addresses = AddressBook(node)
        self._retention = Retention(raft, log, storage, peers, self._admission, promises)
        self._upkeep = Upkeep(node, raft, self._admission, new_cluster_id)
        self._handover = Handover(raft, peers)
        self._administration = Administration(
            node.id,
            raft,
            peers,
            self._answers,
            self._members_document,
            leader_wait_ms=settings.leader_wait_ms,
            request_timeout_ms=settings.request_timeout_ms,
            first_number=first_number,
        )
        self._availability = Availability(raft, peers, writer, self._admission)
        self._reception = Reception(
            raft,
            peers,
            self._admission,
            promises,
            self._addresses,
            self._placement,
            self._retention,
            self._administration,
        )
        self._after_sync: dict[int, list[Message]] = {}
        """Messages of Readys that are not durable yet, by the Ready's number; ascending."""
        self._commit_index = 0
        self._led_from = (0, 0)
        """(term, index): this node leads that term; once it has committed that index, it has committed in its term."""
        self._next_expiry_ns = 0
        self._logger = logger("consensus")
        self.leader_changes_total = 0
        self._take_membership()
        self._connect()

    # What arrives.

    def on_api(self, message: list[Any], now_ns: int) -> None:
        """PROPOSE, READ_INDEX, ADMIN or STATUS of wire/ipc.py; anything else raises BadRequest."""
        match message:
            case [ipc.PROPOSE, int(incarnation), int(batch), int(deadline_ns), bool(queued), bytes(payload)]:
                self._placement.add(incarnation, batch, deadline_ns, queued, payload, now_ns)
            case [ipc.READ_INDEX, int(incarnation), int(batch), int(deadline_ns)]:
                self._reads.add(incarnation, batch, deadline_ns, now_ns)
            case [ipc.ADMIN, int(incarnation), int(batch), int(deadline_ns), str(operation), argument]:
                self._administration.add(incarnation, batch, deadline_ns, operation, argument, now_ns)
            case [ipc.STATUS, int(incarnation), int(batch)]:
                self._answers.send([ipc.STATUS_IS, incarnation, batch, self.status()])
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
                self._applied(applied)
                self._logger.info("storage subscribed", applied_index=applied, flushed_index=flushed)
            case [ipc.APPLIED, int(incarnation), int(applied), int(flushed)]:
                if self._storage.applied(incarnation, applied, flushed):
                    self._applied(applied)
            case _:
                raise BadRequest("not a message of storage that is known here")

    def _applied(self, index: int) -> None:
        self._raft.applied(index)
        self._placement.already_applied(index)

    def on_frame(self, frame: Frame, now_ns: int) -> None:
        """What a peer sent in one turn, if it is for this node and of its cluster's name."""
        self._reception.take(frame, now_ns)

    def on_connection(self, peer: NodeId, *, connected: bool) -> None:
        """A connection was made or broke: either way what was on it may be lost, so replication begins with a probe."""
        self._logger.info("peer connected" if connected else "peer disconnected", peer=peer)
        self._raft.peer_unreachable(peer)
        if connected:
            self._peers.send(peer, self._hello)
            return
        if peer == self._raft.leader:
            self._raft.leader_unreachable()
        else:
            self._addresses.disconnected(peer)

    def on_durable(self, completions: Iterable[Completion]) -> None:
        """The log writer reports: now what asserted those writes may leave."""
        for number, written in completions:
            if written is not None:
                self._log.written(written)
            while self._after_sync and (first := next(iter(self._after_sync))) <= number:
                self._send_all(self._after_sync.pop(first))
            self._raft.persisted(number)

    def snapshot_made(self, peer: NodeId, index: int) -> None:
        """`Snapshots.make` has a state of applied `index` ready; `Snapshots.carry` follows, if it is still wanted."""
        self._raft.send_snapshot(peer, index)

    def snapshot_failed(self, peer: NodeId) -> None:
        """`Snapshots` could not make or carry it."""
        self._raft.snapshot_failed(peer)

    def pass_ticks(self, ticks: int) -> None:
        """Time passed. A node that is not listened to does not stand, so time means nothing to it."""
        if self._admission.is_silenced:
            return
        for _ in range(ticks):
            self._raft.tick()

    def ticks_until_due(self) -> int:
        return self._raft.ticks_until_due()

    # What follows from it.

    def turn(self, now_ns: int, wall_ms: int, boot_ns: int) -> None:
        """Act once on everything that was handed in. `boot_ns` was read after all of it had arrived; leases rely on
        it, and it never stands still.
        """
        self._availability.look(now_ns)
        if self._availability.is_stalled:
            self._handover.disk_stalled(now_ns)
        if now_ns >= self._next_expiry_ns:
            self._expire(now_ns)
        self._follow_membership()
        leads_quorum = self._availability.leads_quorum
        self._change_membership(now_ns, leads_quorum=leads_quorum)
        self._place_proposals(wall_ms, leads_quorum=leads_quorum)
        if not self._admission.is_silenced:
            self._reads.ask(now_ns)
        self._raft.clock(boot_ns // 1_000)
        while self._raft.has_ready():
            self._obey(self._raft.ready(), now_ns)
        self._follow_membership()
        if self._addresses.is_changed:
            self._connect()
        self._storage.pump(self._commit_index, self._raft.entries)
        self._retention.turn(now_ns)
        for peer, dropped in self._peers.flush().items():
            self._raft.peer_unreachable(peer)
            self._placement.not_sent(dropped)

    def may_stop(self, now_ns: int) -> bool:
        """The node is to stop: whether it may at once, or must go on turning until another one leads."""
        return self._handover.may_stop(now_ns)

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for time to pass (a leader, a deadline)."""
        return len(self._placement) > 0 or len(self._reads) > 0 or len(self._administration) > 0

    def _obey(self, ready: Ready, now_ns: int) -> None:
        """The order that Ready prescribes."""
        if ready.soft_state is not None:
            self._leadership_changed(ready)
        self._send_all(ready.messages_now)
        if ready.snapshot is not None:
            self._begin_anew(ready.snapshot)
        if ready.must_sync:
            self._after_sync[ready.number] = ready.messages_after_sync
            entries, notes = list(ready.entries), self._retention.take_notes()
            self._writer.submit(Write(ready.number, ready.hard_state, entries, ready.snapshot, notes))
        else:
            self._send_all(ready.messages_after_sync)
        if ready.commit_index > self._commit_index:
            self._commit_index = ready.commit_index
            self._placement.committed(self._commit_index, self._raft.entries, now_ns)
        self._reads.answer(ready.read_states)
        for peer in ready.snapshots_wanted:
            if not self._snapshots.make(peer):
                self._raft.snapshot_failed(peer)

    def _send_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if type(message) is InstallSnapshot:
                if not self._snapshots.carry(message):
                    self._raft.snapshot_failed(message.dst)
            else:
                self._peers.send(message.dst, message)

    def _leadership_changed(self, ready: Ready) -> None:
        state = ready.soft_state
        assert state is not None
        self._reads.leadership_changed()
        self._placement.leadership_changed()
        self._led_from = (state.term, self._raft.last_index) if state.role is Role.LEADER else (0, 0)
        if state.leader != NOBODY:
            self.leader_changes_total += 1
        if state.role is not Role.FOLLOWER:
            for peer in self._peers.connected:
                self._peers.send(peer, self._hello)
        self._logger.info("role", role=state.role.value, leader=state.leader, term=state.term)

    def _begin_anew(self, snapshot: Snapshot) -> None:
        """A received state takes the place of storage's and of the log up to it."""
        self._logger.info("log begins anew after a snapshot", index=snapshot.index, term=snapshot.term)
        self._storage.reset()
        self._placement.replaced(snapshot.index, snapshot.term)

    # Membership.

    def _follow_membership(self) -> None:
        raft = self._raft
        if raft.membership is not self._membership or raft.committed_membership is not self._decided:
            self._take_membership()

    def _take_membership(self) -> None:
        """The newest membership is another one, or was committed: everybody who depends on it hears of it."""
        self._membership, self._decided = self._raft.membership, self._raft.committed_membership
        is_decided = self._membership is self._decided
        if is_decided:
            self._logger.info(
                "members",
                index=self._raft.membership_index,
                **{name: value for name, value in self._membership._asdict().items() if value and name != "context"},
            )
        self._roster = members.parse(self._membership.context)
        decided = None if is_decided else members.parse(self._decided.context)
        self._admission.membership_changed(self._membership, self._raft.membership_index, self._roster, decided)
        self._addresses.membership_changed(self._membership, self._roster, self._peers.connected)
        self._retention.membership_changed()

    def _connect(self) -> None:
        self._addresses.is_changed = False
        self._peers.set_members(self._addresses.all, self._admission.me)

    def _change_membership(self, now_ns: int, *, leads_quorum: bool) -> None:
        term, index = self._led_from
        leads = leads_quorum and self._raft.term == term and self._raft.commit_index >= index
        if leads:
            self._upkeep.turn(now_ns, self._roster)
        if len(self._administration):
            about = self._availability
            view = View(self._roster, leads, about.reaches_leader, self._log.base_index == 0, about.why_not)
            self._administration.turn(now_ns, view)

    def _members_document(self) -> dict[str, Any]:
        return status.members_of(self._raft, self._log, self._roster, self._peers.connected)

    # Proposals and reads.

    def _place_proposals(self, wall_ms: int, *, leads_quorum: bool) -> None:
        if self._raft.transferring != NOBODY:
            self._placement.hold()
        elif leads_quorum:
            self._placement.propose(wall_ms)
        elif self._availability.reaches_leader:
            self._placement.forward()
        else:
            self._placement.wait()

    # Time.

    def _expire(self, now_ns: int) -> None:
        self._next_expiry_ns = now_ns + _EXPIRY_INTERVAL_NS
        refusal = Unavailable(self._availability.why_not())
        self._placement.expire(now_ns, refusal)
        self._reads.expire(now_ns, refusal)

    def status(self) -> dict[str, Any]:
        """The figures of this process, for /status."""
        counters = {
            "leader_changes_total": self.leader_changes_total,
            "entries_proposed_total": self._placement.entries_total,
            "proposals_refused_total": self._answers.refused_total,
            "proposals_resent_total": self._placement.resent_total,
            "proposals_waiting": len(self._placement),
            "reads_waiting": len(self._reads),
            "unsent_answers_total": self._answers.unsent_total,
            "inadmissible_items_total": self._admission.dropped_total,
        }
        return status.figures(self._raft, self._log, self._storage) | {
            "admitted": not self._admission.is_silenced,
            "notice": self._admission.notice,
            "peers": status.peers_of(self._raft, self._peers.connected),
            "membership": self._members_document(),
            "counters": counters,
        }
