"""Who is listened to: members with the disk that the cluster knows them by, and how far everybody else.

A quorum is only worth something if every member still has what it once promised. So what a node *asserts* (votes,
acknowledgements) counts only if it is a member and its incarnation is the one that the roster binds to its id: a wiped
disk has another. What a node *asks* (a vote) or orders as a leader harms nobody and may come from a member that this
node has not been told of yet: a newer membership, or a disk that was admitted anew (thesis §4.2.1, etcd#10998). Of an
old copy of a disk, or of a removed one, nothing counts; not even the vote that it would give itself. Another cluster's
frames mean nothing here.

Whoever is not a member in good standing is told so by a NOTICE, at most once a second. A node that is told so by a
member stops standing and voting (`is_silenced`), still follows, and says so in its status. The notice is void once the
node's own log holds a later membership that knows it well; that of an old copy lasts as long as the process.

Until a cluster is formed there is nothing to compare with. A disk that is wiped before a leader has bound its
incarnation, and before that binding has reached the next leader, is not recognised.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

from vaultdb.clock import NS_PER_S
from vaultdb.consensus.members import UNFORMED, Roster, incarnation_text
from vaultdb.consensus.peer_format import Hello, Item, Notice, Sender
from vaultdb.consensus.promises import PromiseTable
from vaultdb.logs import logger
from vaultdb.raft.membership import Membership
from vaultdb.raft.messages import Append, Heartbeat, InstallSnapshot, NodeId, TimeoutNow, VoteRequest

_NOTICE_INTERVAL_NS = NS_PER_S
_SENDERS_MAX = 256


class Standing(Enum):
    MEMBER = "member"
    ASKER = "asker"
    """Its requests and its orders as a leader count, its assertions do not."""
    OUTCAST = "outcast"
    """Of this cluster, but nothing that it says counts."""
    FOREIGN = "foreign"
    """Of another cluster."""


class Reason(IntEnum):
    OLD_COPY = 1
    WIPED = 2
    REMOVED = 3


_COUNTS: dict[Standing, frozenset[type[Item]]] = {
    Standing.ASKER: frozenset({VoteRequest, Append, Heartbeat, InstallSnapshot, TimeoutNow, Hello}),
    Standing.OUTCAST: frozenset({Hello}),
    Standing.FOREIGN: frozenset(),
}
_STANDING_ITEMS = frozenset({VoteRequest, TimeoutNow})
"""What a silenced node does not answer."""


class _Judgement(NamedTuple):
    sender: Sender
    standing: Standing
    reason: Reason | None


class Admission:
    """Owns what is known of every sender, and what this node was told of itself."""

    def __init__(self, me: Sender, promises: PromiseTable) -> None:
        """`me`: how this node introduces itself, but for the cluster id."""
        self._me = me
        self._promises = promises
        self._membership = Membership(())
        self._index = 0
        self._roster = UNFORMED
        self._cluster_id = ""
        """Once it is committed: a leader that was cut off while it formed the cluster may have thought of another."""
        self._retired: frozenset[str] = frozenset()
        """Those whose retirement is committed: until then the cluster may need their votes, and ask for them."""
        self._judged: dict[NodeId, _Judgement] = {}
        self._heard: dict[NodeId, str] = {me.src: incarnation_text(me.incarnation)}
        self._next_notice_ns: dict[NodeId, int] = {}
        self._notice: Notice | None = None
        self._logger = logger("consensus")
        self.dropped_total = 0
        """Items that did not count."""

    @property
    def me(self) -> Sender:
        return self._me._replace(cluster_id=self._cluster_id)

    @property
    def heard(self) -> dict[NodeId, str]:
        """The incarnation that each node spoke with last, this node included."""
        return self._heard

    @property
    def notice(self) -> str | None:
        """Why this node is not listened to; None while nobody says so."""
        return None if self._notice is None else self._notice.sentence

    @property
    def is_silenced(self) -> bool:
        return self._notice is not None

    def membership_changed(
        self, membership: Membership, index: int, roster: Roster, decided: Roster | None = None
    ) -> None:
        """The newest membership, or the newest committed one, is another. `decided`: the roster of the latter; None:
        they are one and the same.
        """
        self._cluster_id, self._retired = (decided or roster).cluster_id, frozenset((decided or roster).retired)
        self._membership, self._index, self._roster = membership, index, roster
        self._judged.clear()
        self._heard = {self._me.src: incarnation_text(self._me.incarnation)}
        if roster.cluster_id:
            known = {int(member.incarnation, 16) for member in roster.members.values() if member.incarnation}
            self._promises.keep(known | {self._me.incarnation})
        own = self._judge(self.me)
        is_removed_for_good = own.reason is Reason.REMOVED and decided is None
        if own.reason is Reason.WIPED or is_removed_for_good:
            # Void as soon as the log no longer says so.
            self._silence(self._objection(own, self.me)._replace(index=0))
        elif own.reason is None and self._is_void(self._notice, index):
            self._logger.info("this node is a member in good standing again", membership_index=index)
            self._notice = None

    # Senders.

    def standing(self, sender: Sender) -> Standing:
        """Cheap for a sender that has not changed."""
        judged = self._judged.get(sender.src)
        if judged is None or judged.sender != sender or self._is_unmasked(judged):
            if len(self._judged) >= _SENDERS_MAX:
                self._forget_senders()
            judged = self._judged[sender.src] = self._judge(sender)
            if judged.standing in (Standing.MEMBER, Standing.ASKER):
                self._heard[sender.src] = incarnation_text(sender.incarnation)
        return judged.standing

    def _is_unmasked(self, judged: _Judgement) -> bool:
        """What an old copy had promised was heard of only after it was judged."""
        return judged.standing is not Standing.OUTCAST and self._promises.is_broken_by(judged.sender)

    def _forget_senders(self) -> None:
        """There are not so many nodes: somebody invents them."""
        self._judged.clear()
        self._next_notice_ns.clear()
        self._heard = {self._me.src: incarnation_text(self._me.incarnation)}

    def counts(self, standing: Standing, item: Item) -> bool:
        """Whether an item from a sender of that standing is to be heard by this node."""
        if standing is Standing.MEMBER and self._notice is None:
            return True
        is_heard = standing is Standing.MEMBER or type(item) in _COUNTS[standing]
        if self.is_silenced and type(item) in _STANDING_ITEMS:
            is_heard = False
        self.dropped_total += not is_heard
        return is_heard

    def objection(self, sender: Sender, now_ns: int, *, is_committed: bool) -> Notice | None:
        """What to tell a sender that is no member in good standing; None if there is nothing to tell, or it was told
        within the last second, or the membership that says so is not committed and may be taken back.
        """
        judged = self._judged.get(sender.src)
        if judged is None or judged.standing is Standing.MEMBER or now_ns < self._next_notice_ns.get(sender.src, 0):
            return None
        self._next_notice_ns[sender.src] = now_ns + _NOTICE_INTERVAL_NS
        if judged.standing is Standing.FOREIGN:
            self._logger.error(
                "a node of another cluster of the same name speaks to this one; one of them is configured wrongly",
                src=sender.src,
                its_cluster_id=sender.cluster_id,
                cluster_id=self._cluster_id,
            )
        if judged.reason is None or not (is_committed or judged.reason is Reason.OLD_COPY):
            return None
        notice = self._objection(judged, sender)
        self._logger.error("a node is not listened to", src=sender.src, sentence=notice.sentence)
        return notice

    def _judge(self, sender: Sender) -> _Judgement:
        roster, nodes = self._roster, self._membership.nodes
        src, incarnation = sender.src, incarnation_text(sender.incarnation)
        member = roster.members.get(src)
        if self._cluster_id and sender.cluster_id not in ("", self._cluster_id):
            return _Judgement(sender, Standing.FOREIGN, None)
        if self._promises.is_broken_by(sender):
            return _Judgement(sender, Standing.OUTCAST, Reason.OLD_COPY)
        if incarnation in roster.retired:
            standing = Standing.OUTCAST if incarnation in self._retired else Standing.ASKER
            return _Judgement(sender, standing, Reason.REMOVED)
        # Whoever leads, or stands, after members have changed or were bound has the cluster's id in its log.
        newer = Standing.ASKER if sender.cluster_id else Standing.OUTCAST
        if nodes and src not in nodes:
            # Another incarnation may be of a member that this log does not reach to.
            was_member = member is not None and member.incarnation == incarnation
            return _Judgement(sender, newer, Reason.REMOVED if was_member else None)
        if member is not None and member.incarnation not in ("", incarnation):
            return _Judgement(sender, newer, Reason.WIPED)
        return _Judgement(sender, Standing.MEMBER, None)

    def _objection(self, judged: _Judgement, sender: Sender) -> Notice:
        assert judged.reason is not None
        node = f"node {sender.src}"
        sentence = {
            Reason.OLD_COPY: f"{node} runs on an old copy of its data directory: it started at term"
            f" {sender.start_term}, index {sender.start_index}, and had promised more; stop it, wipe the directory,"
            " remove the member and add it again",
            Reason.WIPED: f"{node} has another log (incarnation {incarnation_text(sender.incarnation)}) than the one"
            " that the cluster knows it by; if its data is lost, remove the member and add it again",
            Reason.REMOVED: f"{node} is not a member of the cluster any more; stop it, or wipe its data directory and"
            " add it again",
        }[judged.reason]
        return Notice(sender.life, self._index, judged.reason, sentence)

    # This node.

    def on_notice(self, notice: Notice) -> None:
        """A member objects to this node. Only if it means this process, and knows of a later membership than this
        node's own log; or of the same one, which has removed it: then it is committed, and until it was, this node's
        log might have been needed (thesis §4.2.2).
        """
        is_news = notice.index > self._index or (notice.index == self._index and self._is_removed)
        if notice.life == self._me.life and (notice.reason == Reason.OLD_COPY or is_news):
            self._silence(notice)

    @staticmethod
    def _is_void(notice: Notice | None, index: int) -> bool:
        """What was said before the membership of `index`, which knows this node well, was known."""
        return notice is not None and notice.reason != Reason.OLD_COPY and notice.index < index

    @property
    def _is_removed(self) -> bool:
        return self._judge(self.me).reason is Reason.REMOVED

    def _silence(self, notice: Notice) -> None:
        if self._notice is None or self._notice.reason != notice.reason:
            self._logger.error("this node is not listened to, and does not vote", sentence=notice.sentence)
        if self._notice is None or self._notice.reason != Reason.OLD_COPY:
            self._notice = notice
