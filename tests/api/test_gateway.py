"""The gateway against scripted siblings: no sockets, and no time but what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from vaultdb import limits
from vaultdb.api.gateway import DIGESTS_MAX, Gateway
from vaultdb.api.reads import FETCH_KEYS_MAX, FETCH_RESEND_MS
from vaultdb.api.results import Counters, Digest, ReadResult, WriteResult
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.config import ApiSettings
from vaultdb.errors import BadRequest, BrokenInvariant, Busy, NotLeader, Rejected, Unavailable, Unknown
from vaultdb.kv import commands
from vaultdb.wire import ipc
from vaultdb.wire.codec import pack, unpack

ME = 4711
SETTINGS = ApiSettings(request_timeout_ms=5_000, leader_wait_ms=1_500)


class ScriptedLink:
    """What the gateway sends is kept in `sent`; `there` is whether the sibling can be reached."""

    def __init__(self) -> None:
        self.there = True
        self.sent: list[list[Any]] = []
        self.closed = False

    def start(
        self, on_message: Callable[[bytes], None], on_writable: Callable[[], None], on_lost: Callable[[], None]
    ) -> None:
        self._on_message, self._on_writable, self._on_lost = on_message, on_writable, on_lost

    def try_send(self, frame: bytes) -> bool:
        if self.there:
            self.sent.append(unpack(frame))
        return self.there

    def close(self) -> None:
        self.closed = True

    def take(self, kind: int) -> list[Any]:
        """The fields behind the incarnation of the only message that was sent."""
        assert [message[0] for message in self.sent] == [kind], self.sent
        sent_kind, incarnation, *fields = self.sent.pop()
        assert (sent_kind, incarnation) == (kind, ME)
        return fields

    def say(self, kind: int, *fields: Any, incarnation: int = ME) -> None:
        self._on_message(pack((kind, incarnation, *fields)))

    def say_bytes(self, frame: bytes) -> None:
        self._on_message(frame)

    def die(self) -> None:
        self.there = False
        self._on_lost()

    def come_back(self) -> None:
        self.there = True
        self._on_writable()


class Node:
    """A gateway between two scripted links."""

    def __init__(self) -> None:
        self.consensus, self.storage = ScriptedLink(), ScriptedLink()
        self.counters = Counters()
        self.gateway = Gateway(
            asyncio.get_running_loop(),
            self.consensus,
            self.storage,
            SETTINGS,
            incarnation=ME,
            counters=self.counters,
        )

    def write(self, key: bytes = b"k", value: bytes = b"v", *, queued: bool = False) -> asyncio.Future[WriteResult]:
        return self.gateway.write(commands.put([(key, value)]), queued=queued)

    def later(self, ms: int) -> None:
        """As if so much time had passed since the requests came."""
        self.gateway.sweep(monotonic_ns() + ms * NS_PER_MS)

    def requests_of(self, payload: bytes) -> list[int]:
        return [request for request, _ in unpack(payload)]


def scripted(test: Callable[[Node], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run the test in a loop; at its end nothing may be left under way."""

    async def run() -> None:
        node = Node()
        await test(node)
        figures = node.gateway.figures()
        assert figures == {"operations": 0, "outbox_bytes": 0, "outbox_messages": 0}, f"left behind: {figures}"

    def wrapper() -> None:
        asyncio.run(run())

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper


async def turn() -> None:
    """Let the loop come round."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def failure_of(future: Awaitable[Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await future
    return caught.value


@scripted
async def test_writes_of_one_turn_are_one_message(node: Node) -> None:
    """Promise: what is done once per message is not done once per request."""
    futures = [node.write(b"k%d" % i) for i in range(50)]
    await turn()
    number, deadline_ns, queued, payload = node.consensus.take(ipc.PROPOSE)
    assert not queued
    assert 4_000 < (deadline_ns - monotonic_ns()) / NS_PER_MS <= 5_000
    batch = unpack(payload)
    assert [command for _, command in batch] == [[commands.PUT, [b"k%d" % i, b"v"]] for i in range(50)]
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, 7 + i, 1] for i, (request, _) in enumerate(batch)])
    assert [(await future) for future in futures] == [WriteResult(7 + i, 1) for i in range(50)]
    node.consensus.say(ipc.REJECTED, number, "busy", "late", 1)
    assert node.counters.stray == 1


@scripted
async def test_queued_writes_travel_apart(node: Node) -> None:
    plain, queued = node.write(), node.write(queued=True)
    await turn()
    first, second = node.consensus.sent
    node.consensus.sent.clear()
    assert (first[4], second[4]) == (False, True)
    node.consensus.say(ipc.QUEUED, second[2], True)
    assert await queued == WriteResult(0, 0, queued=True)
    assert not plain.done()
    node.storage.say(ipc.RESULTS, [[r, ipc.DONE, 1, 1] for m in (first, second) for r in node.requests_of(m[5])])
    assert await plain == WriteResult(1, 1)


@scripted
async def test_a_full_queue_waits_for_the_commit(node: Node) -> None:
    """Promise: QUEUED with accepted false leaves the answer to the commit."""
    future = node.write(queued=True)
    await turn()
    number, _, _, payload = node.consensus.take(ipc.PROPOSE)
    node.consensus.say(ipc.QUEUED, number, False)
    assert not future.done()
    node.storage.say(ipc.RESULTS, [[node.requests_of(payload)[0], ipc.DONE, 3, 1]])
    assert await future == WriteResult(3, 1, queued=False)


@scripted
async def test_large_writes_are_split_below_the_message_limit(node: Node) -> None:
    """Promise: no PROPOSE carries more than BATCH_BYTES_MAX, and none is lost at the cuts."""
    pairs = [(b"k%d" % i, b"x" * limits.VALUE_BYTES_MAX) for i in range(11)]
    futures = [node.gateway.write(commands.put(pairs[i : i + 2])) for i in range(0, 11, 2)]
    await turn()
    payloads = [message[5] for message in node.consensus.sent]
    assert len(payloads) > 1
    assert all(len(payload) <= limits.BATCH_BYTES_MAX for payload in payloads)
    requests = [request for payload in payloads for request in node.requests_of(payload)]
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, request, 2] for request in requests])
    assert len(await asyncio.gather(*futures)) == 6


@scripted
async def test_reads_of_one_turn_ask_once(node: Node) -> None:
    """Promise: one READ_INDEX and, as far as the values are sure to fit one message, one READ for all reads of
    a turn.
    """
    count = FETCH_KEYS_MAX + 2
    futures = [node.gateway.read(b"k%d" % i) for i in range(count)]
    await turn()
    number, _ = node.consensus.take(ipc.READ_INDEX)
    assert node.storage.sent == []
    node.consensus.say(ipc.READ_STATE, number, 42)
    fetches = node.storage.sent
    assert [len(fetch[5]) for fetch in fetches] == [FETCH_KEYS_MAX, 2]
    assert FETCH_KEYS_MAX * limits.VALUE_BYTES_MAX < limits.MESSAGE_BYTES_MAX
    for _, _, fetch_number, min_index, _, keys in fetches:
        assert min_index == 42
        node.storage.say(ipc.VALUES, fetch_number, 50, 9, [None if k == b"k1" else [b"v" + k, 5] for k in keys])
    results = [await future for future in futures]
    assert results[0] == ReadResult(b"vk0", 5, 50, 9)
    assert results[1] == ReadResult(None, 0, 50, 9)
    assert results[-1].value == b"vk%d" % (count - 1)


@scripted
async def test_a_read_never_uses_an_index_asked_for_before_it_came(node: Node) -> None:
    """Promise: linearizable. Catches: a later read joining the batch whose question is already on its way."""
    early = node.gateway.read(b"a")
    await turn()
    first, _ = node.consensus.take(ipc.READ_INDEX)
    late = node.gateway.read(b"b")
    node.consensus.say(ipc.READ_STATE, first, 10)
    fetch, min_index, _, keys = node.storage.take(ipc.READ)
    assert (min_index, keys) == (10, [b"a"])
    node.storage.say(ipc.VALUES, fetch, 10, 1, [None])
    await early
    await turn()
    second, _ = node.consensus.take(ipc.READ_INDEX)
    assert second != first
    node.consensus.say(ipc.READ_STATE, second, 12)
    fetch, min_index, _, keys = node.storage.take(ipc.READ)
    assert (min_index, keys) == (12, [b"b"])
    node.storage.say(ipc.VALUES, fetch, 12, 1, [None])
    await late


@scripted
async def test_stale_reads_ask_storage_alone(node: Node) -> None:
    """Promise: stale reads go on without consensus."""
    node.consensus.there = False
    futures = [node.gateway.read(b"k", linearizable=False) for _ in range(3)]
    await turn()
    number, min_index, _, keys = node.storage.take(ipc.READ)
    assert (min_index, keys) == (0, [b"k"] * 3)
    node.storage.say(ipc.VALUES, number, 1, 1, [[b"v", 1]] * 3)
    assert [(await future).value for future in futures] == [b"v"] * 3


@scripted
async def test_a_rejection_keeps_its_class_sentence_and_retry_after(node: Node) -> None:
    """Promise: rejected is told as raised on the other side; an unknown code counts as unavailable."""
    for code, kind in (("busy", Busy), ("not_leader", NotLeader), ("too_new", Unavailable)):
        write, read = node.write(), node.gateway.read(b"k")
        await turn()
        proposal, question = node.consensus.sent
        node.consensus.sent.clear()
        for message in (proposal, question):
            node.consensus.say(ipc.REJECTED, message[2], code, "because", 3)
        for future in (write, read):
            error = await failure_of(future)
            assert type(error) is kind
            assert str(error) == "because"
            assert isinstance(error, Rejected)
            assert error.retry_after_s == 3


@scripted
async def test_refused_by_the_state_machine_is_rejected(node: Node) -> None:
    future = node.write()
    await turn()
    payload = node.consensus.take(ipc.PROPOSE)[3]
    node.storage.say(ipc.RESULTS, [[node.requests_of(payload)[0], ipc.REFUSED, 3, 0]])
    assert isinstance(await failure_of(future), Rejected)


@scripted
async def test_sent_and_unanswered_is_unknown(node: Node) -> None:
    """Promise: after PROPOSE went out, a deadline never claims that nothing happened."""
    future = node.write()
    await turn()
    payload = node.consensus.take(ipc.PROPOSE)[3]
    node.later(4_900)
    assert not future.done()
    node.later(5_001)
    assert isinstance(await failure_of(future), Unknown)
    node.storage.say(ipc.RESULTS, [[node.requests_of(payload)[0], ipc.DONE, 1, 1]])
    assert node.counters.stray == 1


@scripted
async def test_never_sent_is_unavailable(node: Node) -> None:
    """Promise: a write that did not leave this process is rejected, and does not leave it later."""
    node.consensus.there = False
    future = node.write()
    await turn()
    node.later(5_001)
    assert isinstance(await failure_of(future), Unavailable)
    node.consensus.come_back()
    assert node.consensus.sent == []


@scripted
async def test_what_waited_goes_out_in_order_when_the_process_is_back(node: Node) -> None:
    """Promise: requests wait for a restarting process within their deadline."""
    node.consensus.there = False
    futures = []
    for i in range(3):
        futures.append(node.write(b"k%d" % i))
        await turn()
    node.consensus.come_back()
    payloads = [unpack(message[5]) for message in node.consensus.sent]
    assert [command[1][0] for [(_, command)] in payloads] == [b"k0", b"k1", b"k2"]
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, 1, 1] for [(request, _)] in payloads])
    await asyncio.gather(*futures)


@scripted
async def test_a_proposal_is_never_sent_twice(node: Node) -> None:
    """Promise: no write is applied twice by us. Catches: resending every open batch when the process is lost."""
    future = node.write()
    await turn()
    node.consensus.take(ipc.PROPOSE)
    node.consensus.die()
    node.consensus.come_back()
    node.later(4_000)
    assert node.consensus.sent == []
    node.later(5_001)
    assert isinstance(await failure_of(future), Unknown)


@scripted
async def test_results_may_come_after_consensus_died(node: Node) -> None:
    """Promise: a committed write is done, whatever became of the process that proposed it."""
    future = node.write()
    await turn()
    payload = node.consensus.take(ipc.PROPOSE)[3]
    node.consensus.die()
    node.storage.say(ipc.RESULTS, [[node.requests_of(payload)[0], ipc.DONE, 1, 1]])
    assert await future == WriteResult(1, 1)


@scripted
async def test_a_read_survives_the_restart_of_storage(node: Node) -> None:
    """Promise: reads sent to a storage process that died are asked again, under a fresh number, at the same index."""
    future = node.gateway.read(b"k")
    await turn()
    node.consensus.say(ipc.READ_STATE, node.consensus.take(ipc.READ_INDEX)[0], 10)
    first = node.storage.take(ipc.READ)
    node.storage.die()
    assert node.storage.sent == []
    node.storage.come_back()
    second = node.storage.take(ipc.READ)
    assert second[0] != first[0]
    assert second[1:] == first[1:]
    node.storage.say(ipc.VALUES, first[0], 9, 1, [[b"old", 1]])
    assert not future.done()
    node.storage.say(ipc.VALUES, second[0], 10, 2, [[b"new", 2]])
    assert (await future).value == b"new"
    assert (node.counters.resent, node.counters.stray) == (1, 1)


@scripted
async def test_a_question_is_asked_afresh_when_consensus_restarts(node: Node) -> None:
    """Promise: as above for READ_INDEX, and an answer to the lost question is not used."""
    future = node.gateway.read(b"k")
    await turn()
    first, _ = node.consensus.take(ipc.READ_INDEX)
    node.consensus.die()
    node.consensus.come_back()
    second, _ = node.consensus.take(ipc.READ_INDEX)
    node.consensus.say(ipc.READ_STATE, first, 1)
    assert node.storage.sent == []
    node.consensus.say(ipc.READ_STATE, second, 5)
    number, min_index, _, _ = node.storage.take(ipc.READ)
    assert min_index == 5
    node.storage.say(ipc.VALUES, number, 5, 1, [None])
    await future


@scripted
async def test_silence_is_asked_again(node: Node) -> None:
    """Promise: a lost answer costs a second, not the request."""
    future = node.gateway.read(b"k", linearizable=False)
    await turn()
    node.storage.take(ipc.READ)
    node.later(FETCH_RESEND_MS // 2)
    assert node.storage.sent == []
    node.later(FETCH_RESEND_MS + 1)
    number = node.storage.take(ipc.READ)[0]
    node.storage.say(ipc.VALUES, number, 1, 1, [None])
    await future


@scripted
async def test_reads_that_time_out_are_unavailable(node: Node) -> None:
    """Promise: a failed read is 503 whichever process was silent."""
    linearizable, stale = node.gateway.read(b"k"), node.gateway.read(b"k", linearizable=False)
    node.storage.there = False
    await turn()
    node.later(5_001)
    for future in (linearizable, stale):
        assert type(await failure_of(future)) is Unavailable


@scripted
async def test_answers_to_a_former_incarnation_are_ignored(node: Node) -> None:
    """Promise: request numbers start anew with each process; what belongs to a predecessor is recognised."""
    write, read = node.write(), node.gateway.read(b"k", linearizable=False)
    await turn()
    payload = node.consensus.take(ipc.PROPOSE)[3]
    number = node.storage.take(ipc.READ)[0]
    request = node.requests_of(payload)[0]
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, 99, 1]], incarnation=ME - 1)
    node.storage.say(ipc.VALUES, number, 1, 1, [[b"old", 1]], incarnation=ME - 1)
    assert not write.done()
    assert not read.done()
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, 1, 1]])
    node.storage.say(ipc.VALUES, number, 1, 1, [[b"new", 1]])
    assert (await write).revision == 1
    assert (await read).value == b"new"


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", pack(7), pack([]), pack([999, ME]), pack([ipc.VALUES]), pack({"a": 1})]
)
def test_nonsense_from_a_sibling_is_a_broken_invariant(frame: bytes) -> None:
    """Promise: our own processes speak our own protocol; otherwise it is a bug, and bugs crash with their numbers."""

    async def run() -> None:
        node = Node()
        with pytest.raises(BrokenInvariant):
            node.storage.say_bytes(frame)

    asyncio.run(run())


def test_operations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: one over API_REQUESTS_MAX is refused as busy; the others are not disturbed."""
    monkeypatch.setattr(limits, "API_REQUESTS_MAX", 4)

    @scripted
    async def run(node: Node) -> None:
        futures: list[asyncio.Future[Any]] = [node.write(), node.write(), node.gateway.read(b"k"), node.write()]
        for request in (node.write, lambda: node.gateway.read(b"k")):
            with pytest.raises(Busy, match="4 operations"):
                request()
        await turn()
        node.later(5_001)
        assert len(await asyncio.gather(*futures, return_exceptions=True)) == 4
        last = node.write()
        node.gateway.close()
        await failure_of(last)

    run()


def test_bytes_of_writes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: what waits for consensus is bounded in bytes, sent or not, and the room comes back."""
    monkeypatch.setattr(limits, "API_OUTBOX_BYTES_MAX", 10_000)

    @scripted
    async def run(node: Node) -> None:
        first = node.write(value=b"x" * 9_000)
        with pytest.raises(Busy, match="10000"):
            node.write(value=b"x" * 1_000)
        await turn()
        payload = node.consensus.take(ipc.PROPOSE)[3]
        node.storage.say(ipc.RESULTS, [[node.requests_of(payload)[0], ipc.DONE, 1, 1]])
        await first
        second = node.write(value=b"x" * 9_000)
        await turn()
        node.later(5_001)
        await failure_of(second)

    run()


@scripted
async def test_status_says_null_for_who_is_silent(node: Node) -> None:
    """Promise: the status page does not hang on a dead process."""
    node.storage.there = False
    status = asyncio.ensure_future(node.gateway.status())
    await turn()
    node.consensus.say(ipc.STATUS_IS, node.consensus.take(ipc.STATUS)[0], {"role": "follower"})
    node.later(501)
    siblings = await status
    assert siblings == ({"role": "follower"}, None)


@scripted
async def test_digest_and_its_bound(node: Node) -> None:
    """Promise: at most DIGESTS_MAX scans at once, and one that dies with storage is asked again."""
    digests = [asyncio.ensure_future(node.gateway.digest()) for _ in range(DIGESTS_MAX)]
    await turn()
    assert isinstance(await failure_of(node.gateway.digest()), Busy)
    node.storage.die()
    node.storage.sent.clear()
    node.storage.come_back()
    for message in node.storage.sent:
        node.storage.say(ipc.DIGEST_IS, message[2], 8, 4, 2, "ab")
    assert [await digest for digest in digests] == [Digest(8, 4, 2, "ab")] * DIGESTS_MAX


@scripted
async def test_ready_is_a_linearizable_read(node: Node) -> None:
    ready = asyncio.ensure_future(node.gateway.ready())
    await turn()
    node.consensus.say(ipc.READ_STATE, node.consensus.take(ipc.READ_INDEX)[0], 3)
    number, min_index, _, _ = node.storage.take(ipc.READ)
    assert min_index == 3
    node.storage.say(ipc.VALUES, number, 3, 1, [None])
    await ready
    unready = asyncio.ensure_future(node.gateway.ready())
    await turn()
    node.later(1_001)
    assert isinstance(await failure_of(unready), Unavailable)


@scripted
async def test_close_ends_everything(node: Node) -> None:
    """Promise: a stopping node leaves nobody waiting, and tells unknown from rejected."""
    sent = node.write()
    await turn()
    node.consensus.there = False
    unsent, read = node.write(), node.gateway.read(b"k")
    node.gateway.close()
    assert isinstance(await failure_of(sent), Unknown)
    assert isinstance(await failure_of(unsent), Unavailable)
    assert isinstance(await failure_of(read), Unavailable)
    assert node.consensus.closed
    assert node.storage.closed
    for request in (node.write, lambda: node.gateway.read(b"k")):
        with pytest.raises(Unavailable, match="stopping"):
            request()
    assert await node.gateway.status() == (None, None)
    with pytest.raises(Unavailable, match="stopping"):
        await asyncio.wait_for(node.gateway.ready(), 10)


@scripted
async def test_a_client_that_gave_up_disturbs_nobody(node: Node) -> None:
    """Promise: a cancelled request leaves the others of its batch alone."""
    gone, stays = node.write(), node.write()
    read_gone, read_stays = node.gateway.read(b"a"), node.gateway.read(b"b")
    await turn()
    gone.cancel()
    read_gone.cancel()
    proposal, question = node.consensus.sent
    node.storage.say(ipc.RESULTS, [[request, ipc.DONE, 1, 1] for request in node.requests_of(proposal[5])])
    node.consensus.say(ipc.READ_STATE, question[2], 1)
    node.storage.say(ipc.VALUES, node.storage.take(ipc.READ)[0], 1, 1, [None, None])
    assert (await stays).revision == 1
    assert (await read_stays).value is None


def test_every_rejection_code_is_known() -> None:
    """Promise: what consensus raises arrives as what it was."""
    for error in (BadRequest, Busy, Unavailable, NotLeader):
        assert issubclass(error, Rejected)
