"""What is kept, what may be forgotten, and what must be remembered; once a second.

The log is cut below what storage here has made durable *and* the logs of all members, learners included, hold. The
leader knows the latter and tells it (FLOOR), and it tells what the members have promised (PROMISES).
"""

from __future__ import annotations

from vaultdb.clock import NS_PER_MS
from vaultdb.consensus.admission import Admission
from vaultdb.consensus.log import WriteAheadLog
from vaultdb.consensus.peer_format import Floor, Promises
from vaultdb.consensus.promises import PromiseTable
from vaultdb.consensus.storage_stream import StorageStream
from vaultdb.consensus.surroundings import Peers
from vaultdb.raft.node import RaftNode
from vaultdb.raft.state import Role

_INTERVAL_NS = 1_000 * NS_PER_MS


class Retention:
    def __init__(
        self,
        raft: RaftNode,
        log: WriteAheadLog,
        storage: StorageStream,
        peers: Peers,
        admission: Admission,
        promises: PromiseTable,
    ) -> None:
        self._raft = raft
        self._log = log
        self._storage = storage
        self._peers = peers
        self._admission = admission
        self._promises = promises
        self._floor = 0
        self._next_ns = 0
        self._notes_are_due = False

    def on_floor(self, floor: Floor) -> None:
        """The newest word of the term's leader counts: a new learner takes the floor back."""
        if floor.term == self._raft.term:
            self._floor = floor.floor

    def on_promises(self, promises: Promises) -> None:
        self._promises.merge(promises.rows)

    def membership_changed(self) -> None:
        """Who is new needs the log from its beginning: nobody may cut by what was true before."""
        self._next_ns = 0

    def take_notes(self) -> bytes:
        """To be written along with something that is written anyway; empty when there is no news or it is too early."""
        if not self._notes_are_due:
            return b""
        self._notes_are_due = False
        return self._promises.notes()

    def turn(self, now_ns: int) -> None:
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + _INTERVAL_NS
        self._notes_are_due = self._promises.is_changed
        raft = self._raft
        if raft.role is Role.LEADER:
            me = self._admission.me
            self._promises.note(me.incarnation, me.life, raft.term, raft.stable_index)
            self._floor = min([raft.stable_index, *(progress.match_index for progress in raft.progress.values())])
            rows = self._promises.rows()
            for peer in raft.progress:
                self._peers.send(peer, Floor(raft.term, self._floor))
                self._peers.send(peer, Promises(raft.term, rows))
        base = self._log.cut(min(self._floor, self._storage.flushed_index))
        raft.compact(base)
