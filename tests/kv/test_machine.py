"""The state machine: what commands do, and that every replica agrees about it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.kv.memory_store import MemoryStore
from vaultdb import limits
from vaultdb.errors import BrokenInvariant
from vaultdb.kv import commands, machine
from vaultdb.kv.machine import DONE, REFUSED, Machine, Position
from vaultdb.wire import ipc


def apply_one(replica: Machine, *pairs: Any, stamp_ms: int = 0) -> list[list[int]]:
    """One entry with one proposal, applied and written."""
    replica.begin(replica.applied_index + 1, stamp_ms)
    results = replica.apply(list(pairs))
    replica.write()
    return results


def test_put_sets_all_keys_under_one_revision() -> None:
    store = MemoryStore()
    results = apply_one(Machine(store), [7, commands.put([(b"a", b"1"), (b"b", b"2")])])
    assert results == [[7, DONE, 1, 2]]
    assert store.data == {b"a": (b"1", 1), b"b": (b"2", 1)}


def test_put_changes_the_revision_even_when_the_value_is_the_same() -> None:
    store = MemoryStore()
    replica = Machine(store)
    apply_one(replica, [1, commands.put([(b"a", b"1")])])
    assert apply_one(replica, [2, commands.put([(b"a", b"1")])]) == [[2, DONE, 2, 1]]
    assert store.data == {b"a": (b"1", 2)}


def test_a_key_named_twice_in_a_put_takes_the_last_value_and_counts_once() -> None:
    store = MemoryStore()
    assert apply_one(Machine(store), [1, commands.put([(b"a", b"1"), (b"a", b"2")])]) == [[1, DONE, 1, 1]]
    assert store.data == {b"a": (b"2", 1)}


def test_delete_of_missing_keys_changes_nothing_and_names_the_current_revision() -> None:
    store = MemoryStore()
    replica = Machine(store)
    apply_one(replica, [1, commands.put([(b"a", b"1")])])
    assert apply_one(replica, [2, commands.delete([b"x", b"y"])]) == [[2, DONE, 1, 0]]
    assert store.at == Position(applied_index=2, revision=1)


def test_delete_counts_each_existing_key_once() -> None:
    replica = Machine(MemoryStore())
    apply_one(replica, [1, commands.put([(b"a", b"1"), (b"b", b"2")])])
    assert apply_one(replica, [2, commands.delete([b"a", b"x", b"a"])]) == [[2, DONE, 2, 1]]


def test_commands_of_one_write_see_each_other() -> None:
    """Planted bug: asking the store alone, without the changes not yet written. The counts below are then wrong."""
    replica = Machine(MemoryStore())
    results = apply_one(
        replica,
        [1, commands.put([(b"a", b"1")])],
        [2, commands.delete([b"a"])],
        [3, commands.delete([b"a"])],
        [4, commands.put([(b"a", b"2")])],
    )
    assert results == [[1, DONE, 1, 1], [2, DONE, 2, 1], [3, DONE, 2, 0], [4, DONE, 3, 1]]


def test_log_time_is_the_highest_stamp_seen() -> None:
    """A new leader's clock may be behind: time never goes back."""
    store = MemoryStore()
    replica = Machine(store)
    seen = []
    for stamp_ms in (5_000, 3_000, 0, 6_000):
        apply_one(replica, stamp_ms=stamp_ms)
        seen.append(store.at.clock_ms)
    assert seen == [5_000, 5_000, 5_000, 6_000]


@pytest.mark.parametrize("index", [0, 1, 3])
def test_an_entry_out_of_order_is_a_broken_invariant_and_changes_nothing(index: int) -> None:
    replica = Machine(MemoryStore())
    apply_one(replica)
    with pytest.raises(BrokenInvariant, match=f"entry {index} .* applied 1"):
        replica.begin(index, 9)
    assert (replica.applied_index, replica.clock_ms) == (1, 0)


def test_a_new_machine_goes_on_where_the_store_stands() -> None:
    store = MemoryStore()
    apply_one(Machine(store), [1, commands.put([(b"a", b"1")])], stamp_ms=8)
    successor = Machine(store)
    assert apply_one(successor, [2, commands.put([(b"b", b"1")])]) == [[2, DONE, 2, 1]]
    assert store.at == Position(applied_index=2, revision=2, clock_ms=8)


def test_nothing_is_stored_before_write() -> None:
    """Answers leave after `write`; a crash before it must leave the store as it was."""
    store = MemoryStore()
    replica = Machine(store)
    replica.begin(1, 1)
    replica.apply([[1, commands.put([(b"a", b"1")])]])
    assert (store.data, store.at) == ({}, Position())


MALFORMED: list[Any] = [
    None,
    7,
    b"\x01",
    "put",
    {},
    [],
    [commands.PUT],
    [commands.PUT, []],
    [commands.PUT, [b"k"]],
    [commands.PUT, [b"k", b"v", b"odd"]],
    [commands.PUT, [b"k", "text"]],
    [commands.PUT, [b"k", None]],
    [commands.PUT, [b"good", b"v", 7, b"v"]],
    [commands.PUT, [b"good", b"v", [], b"v"]],
    [commands.PUT, [b"good", b"v", b"", b"an empty key"]],
    [commands.PUT, b"kv"],
    [commands.PUT, {b"k": b"v"}],
    [commands.PUT, [b"k", b"v"], 1],
    [True, [b"k", b"v"]],
    [1.0, [b"k", b"v"]],
    [0, [b"k", b"v"]],
    [-1, [b"k", b"v"]],
    [3, [b"k", b"v"]],
    ["1", [b"k", b"v"]],
    [commands.DELETE, []],
    [commands.DELETE, [b"old", 7]],
    [commands.DELETE, [b"old", b""]],
    [commands.DELETE, "old"],
]


@pytest.mark.parametrize("command", MALFORMED, ids=repr)
def test_an_unknown_or_malformed_command_is_refused_and_changes_nothing(command: Any) -> None:
    """It is committed everywhere, so it must neither stop a replica nor be applied in part.

    Planted bug: mutating while validating; the commands whose first operands are good then leave a trace.
    """
    store = MemoryStore()
    replica = Machine(store)
    apply_one(replica, [1, commands.put([(b"old", b"1")])])
    assert apply_one(replica, [2, command]) == [[2, REFUSED, 1, 0]]
    assert store.data == {b"old": (b"1", 1)}
    assert store.at == Position(applied_index=2, revision=1)


@pytest.mark.parametrize(
    "requests", [None, 7, b"x", "x", {}, [[]], [7], [[1]], [[1, 2, 3]], [[b"id", [1, [b"k", b"v"]]]]]
)
def test_what_is_no_request_is_passed_over(requests: Any) -> None:
    store = MemoryStore()
    replica = Machine(store)
    replica.begin(1, 0)
    assert replica.apply(requests) == []
    replica.write()
    assert (store.data, store.at) == ({}, Position(applied_index=1))


def test_a_refused_command_does_not_stop_those_after_it() -> None:
    replica = Machine(MemoryStore())
    good = commands.put([(b"a", b"1")])
    assert apply_one(replica, [1, [99, []]], "no pair", [2, good]) == [[1, REFUSED, 0, 0], [2, DONE, 1, 1]]


def test_limits_are_the_doors_business() -> None:
    """A replica of an older version must apply what a newer one, with higher limits, let in."""
    store = MemoryStore()
    key, value = b"k" * (limits.KEY_BYTES_MAX + 1), b"v" * (limits.VALUE_BYTES_MAX + 1)
    assert apply_one(Machine(store), [1, [commands.PUT, [key, value]]]) == [[1, DONE, 1, 1]]
    assert store.data == {key: (value, 1)}


def test_outcomes_are_those_of_the_wire() -> None:
    assert (machine.DONE, machine.REFUSED) == (ipc.DONE, ipc.REFUSED)


def test_statistics_count_keys() -> None:
    replica = Machine(MemoryStore())
    apply_one(replica, [1, commands.put([(b"a", b"1"), (b"b", b"2")])], [2, commands.delete([b"a", b"x"])])
    assert (replica.keys_written, replica.keys_deleted) == (2, 1)


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
COMMANDS = st.one_of(
    st.lists(st.tuples(KEYS, st.binary(max_size=2)), min_size=1, max_size=4).map(commands.put),
    st.lists(KEYS, min_size=1, max_size=4).map(commands.delete),
    st.sampled_from(MALFORMED),
)
ENTRIES = st.lists(st.tuples(st.integers(0, 50), st.lists(COMMANDS, max_size=4)), max_size=12)
"""(stamp, commands) each."""


class Model:
    """What the documentation says, over a plain dictionary, one command at a time."""

    def __init__(self) -> None:
        self.data: dict[bytes, tuple[bytes, int]] = {}
        self.revision = 0

    def apply(self, command: Any) -> list[int]:
        if command in MALFORMED:
            return [REFUSED, self.revision, 0]
        kind, operands = command
        if kind == commands.PUT:
            self.revision += 1
            pairs = dict(zip(operands[::2], operands[1::2], strict=True))
            for key, value in pairs.items():
                self.data[key] = (value, self.revision)
            return [DONE, self.revision, len(pairs)]
        gone = {key for key in operands if key in self.data}
        for key in gone:
            del self.data[key]
        self.revision += bool(gone)
        return [DONE, self.revision, len(gone)]


@given(ENTRIES, st.lists(st.booleans(), min_size=12, max_size=12))
@example([(1, [commands.put([(b"a", b"")]), commands.delete([b"a"])]), (0, [commands.delete([b"a"])])], [False] * 12)
def test_two_replicas_and_the_model_agree(entries: list[tuple[int, list[Any]]], writes_after: list[bool]) -> None:
    """Same entries, same results and state, however the entries are grouped into writes; revisions have no gap."""
    model = Model()
    stores = [MemoryStore(), MemoryStore()]
    eager, lazy = map(Machine, stores)
    revisions = [0]
    for index, ((stamp_ms, entry_commands), writes) in enumerate(zip(entries, writes_after, strict=False), start=1):
        requests = [[number, command] for number, command in enumerate(entry_commands)]
        expected = [[number, *model.apply(command)] for number, command in enumerate(entry_commands)]
        for replica in (eager, lazy):
            replica.begin(index, stamp_ms)
            assert replica.apply(requests) == expected
        eager.write()
        if writes:
            lazy.write()
        revisions += [revision for _, _, revision, _ in expected]
    lazy.write()
    assert stores[0].data == stores[1].data == model.data
    assert stores[0].at == stores[1].at
    assert stores[0].at.revision == model.revision
    assert stores[0].at.clock_ms == max((stamp_ms for stamp_ms, _ in entries), default=0)
    steps = {later - earlier for earlier, later in pairwise(revisions)}
    assert steps <= {0, 1}, f"revisions grow by one for each change: {revisions}"
