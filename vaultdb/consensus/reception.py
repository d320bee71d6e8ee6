"""What peers say, on its way to those who look after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vaultdb.consensus.addresses import Address, AddressBook
from vaultdb.consensus.administration import Administration
from vaultdb.consensus.admission import Admission, Standing
from vaultdb.consensus.peer_format import (
    Admin,
    AdminAnswer,
    Floor,
    Forward,
    ForwardAnswer,
    Frame,
    Hello,
    Item,
    Notice,
    Promises,
    Sender,
)
from vaultdb.consensus.placement import Placement
from vaultdb.consensus.promises import PromiseTable
from vaultdb.consensus.retention import Retention
from vaultdb.consensus.surroundings import Peers
from vaultdb.raft.messages import AppendResponse, Message, VoteResponse
from vaultdb.raft.node import RaftNode


class Reception:
    """Keeps out what does not count, and answers it with a NOTICE."""

    def __init__(
        self,
        raft: RaftNode,
        peers: Peers,
        admission: Admission,
        promises: PromiseTable,
        addresses: AddressBook,
        placement: Placement,
        retention: Retention,
        administration: Administration,
    ) -> None:
        self._raft = raft
        self._peers = peers
        self._admission = admission
        self._promises = promises
        self._takers: dict[type[Item], Callable[[Sender, Any, int], None]] = {
            Forward: lambda sender, item, _: placement.on_forward(sender.src, item),
            ForwardAnswer: lambda _, item, __: placement.on_forward_answer(item),
            Floor: lambda _, item, __: retention.on_floor(item),
            Promises: lambda _, item, __: retention.on_promises(item),
            Admin: lambda sender, item, now_ns: administration.on_request(sender.src, item, now_ns),
            AdminAnswer: lambda _, item, __: administration.on_answer(item),
            Notice: lambda _, item, __: admission.on_notice(item),
            Hello: lambda sender, item, _: addresses.said_hello(sender.src, Address(item.host, item.port)),
        }

    def take(self, frame: Frame, now_ns: int) -> None:
        sender, admission = frame.sender, self._admission
        standing = admission.standing(sender)
        for item in frame.items:
            if admission.counts(standing, item):
                take = self._takers.get(type(item), self._take_message)
                take(sender, item, now_ns)
        if standing is not Standing.MEMBER:
            notice = admission.objection(sender, now_ns, is_committed=self._raft.is_membership_committed)
            if notice is not None:
                self._peers.send(sender.src, notice)

    def _take_message(self, sender: Sender, message: Message, _now_ns: int) -> None:
        if message.src == sender.src:
            self._note_promise(sender, message)
            self._raft.step(message)

    def _note_promise(self, sender: Sender, message: Message) -> None:
        if type(message) is AppendResponse:
            if message.accepted:
                self._promises.note(sender.incarnation, sender.life, message.term, message.index)
        elif type(message) is VoteResponse and message.granted and not message.pre:
            self._promises.note(sender.incarnation, sender.life, message.term, 0)
