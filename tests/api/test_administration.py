"""Requests about the members between the gateway and a scripted consensus process."""

from __future__ import annotations

import asyncio

from tests.api.test_gateway import Node, failure_of, scripted, turn
from vaultdb.api import administration, express, gateway
from vaultdb.api.cluster_requests import ANY_MEMBER, AdminRequest
from vaultdb.clock import NS_PER_MS, monotonic_ns
from vaultdb.errors import Busy, ChangeRefused, Unavailable, Unknown
from vaultdb.wire import ipc

QUESTION = AdminRequest("members", None)
CHANGE = AdminRequest("change", [{"change": "remove", "id": 3}])
TRANSFER = AdminRequest("transfer", ANY_MEMBER)


@scripted
async def test_a_request_is_one_message_and_its_document_the_answer(node: Node) -> None:
    asked = asyncio.ensure_future(node.gateway.admin(CHANGE))
    await turn()
    number, deadline_ns, operation, argument = node.consensus.take(ipc.ADMIN)
    assert 4_000 < (deadline_ns - monotonic_ns()) / NS_PER_MS <= 5_000
    assert (operation, argument) == CHANGE
    node.consensus.say(ipc.ADMIN_DONE, number, {"index": 7})
    assert await asked == {"index": 7}
    node.consensus.say(ipc.ADMIN_DONE, number, {"index": 7})
    assert node.counters.stray == 1


@scripted
async def test_a_refusal_keeps_its_class(node: Node) -> None:
    """Promise: 409, 503 and 504 of the leader stay apart on the way to who asked."""
    for code, kind in (
        ("change_refused", ChangeRefused),
        ("not_leader", Unavailable),
        ("unavailable", Unavailable),
        ("unknown_outcome", Unknown),
    ):
        asked = asyncio.ensure_future(node.gateway.admin(CHANGE))
        await turn()
        number = node.consensus.take(ipc.ADMIN)[0]
        node.consensus.say(ipc.REJECTED, number, code, "why", None)
        error = await failure_of(asked)
        assert isinstance(error, kind)
        assert (str(error), error.code) == ("why", code)


@scripted
async def test_past_its_deadline_an_order_is_unknown_and_a_question_unavailable(node: Node) -> None:
    """Promise: what was sent and may have happened is never told as a no."""
    for request, kind in ((CHANGE, Unknown), (TRANSFER, Unknown), (QUESTION, Unavailable)):
        asked = asyncio.ensure_future(node.gateway.admin(request))
        await turn()
        node.consensus.take(ipc.ADMIN)
        node.later(4_900)
        assert not asked.done()
        node.later(5_100)
        assert isinstance(await failure_of(asked), kind)


@scripted
async def test_an_order_that_was_not_sent_is_unavailable(node: Node) -> None:
    node.consensus.there = False
    asked = asyncio.ensure_future(node.gateway.admin(CHANGE))
    await turn()
    node.later(5_100)
    assert isinstance(await failure_of(asked), Unavailable)


@scripted
async def test_an_order_is_never_sent_twice_and_a_question_is_asked_again(node: Node) -> None:
    """Promise: consensus restarts amid a change: nobody repeats it. Planted bug: a change with a resend_after_ns."""
    order = asyncio.ensure_future(node.gateway.admin(CHANGE))
    question = asyncio.ensure_future(node.gateway.admin(QUESTION))
    await turn()
    assert [message[5] for message in node.consensus.sent] == [CHANGE.argument, None]
    node.consensus.sent.clear()
    node.consensus.die()
    node.consensus.come_back()
    number, _, operation, _ = node.consensus.take(ipc.ADMIN)
    assert operation == "members"
    node.consensus.say(ipc.ADMIN_DONE, number, {"leader": 1})
    assert await question == {"leader": 1}
    node.later(5_100)
    assert isinstance(await failure_of(order), Unknown)


@scripted
async def test_requests_under_way_are_bounded(node: Node) -> None:
    """Promise: administration and state hashes together leave Flask threads for the rest, and the room comes back."""
    assert administration.REQUESTS_MAX + gateway.DIGESTS_MAX < express.FLASK_THREADS
    asked = [asyncio.ensure_future(node.gateway.admin(QUESTION)) for _ in range(administration.REQUESTS_MAX)]
    await turn()
    assert isinstance(await failure_of(node.gateway.admin(QUESTION)), Busy)
    for message in node.consensus.sent:
        node.consensus.say(ipc.ADMIN_DONE, message[2], {})
    node.consensus.sent.clear()
    assert await asyncio.gather(*asked) == [{}] * len(asked)
    again = asyncio.ensure_future(node.gateway.admin(QUESTION))
    await turn()
    node.consensus.say(ipc.ADMIN_DONE, node.consensus.take(ipc.ADMIN)[0], {})
    assert await again == {}


@scripted
async def test_a_stopping_node_ends_orders_as_unknown_and_takes_no_more(node: Node) -> None:
    order = asyncio.ensure_future(node.gateway.admin(CHANGE))
    await turn()
    node.gateway.close()
    assert isinstance(await failure_of(order), Unknown)
    assert isinstance(await failure_of(node.gateway.admin(QUESTION)), Unavailable)
