"""The black-box checker knows right from wrong: small histories with known verdicts, and random ones that are right by
construction, then spoilt.
"""

from __future__ import annotations

import random

import pytest

from tests.simulation.checkers import Violation
from tests.simulation.history import Operation, Witness
from tests.simulation.linearizability import Verdict, by_key, search


def swap(new: int, invoked: int, returned: int | None, old: int = 0) -> Operation:
    return Operation(client=0, key=0, new=new, invoked_ns=invoked, returned_ns=returned, result=old)


def read(value: int, invoked: int, returned: int | None) -> Operation:
    return Operation(client=0, key=0, new=None, invoked_ns=invoked, returned_ns=returned, result=value)


LINEARIZABLE = {
    "nothing": [],
    "one after the other": [swap(1, 0, 1), read(1, 2, 3), swap(2, 4, 5, old=1), read(2, 6, 7)],
    "a read beside a swap may see it or not": [swap(1, 0, 10), read(0, 1, 2), read(1, 3, 4)],
    "two swaps at once, in the other order": [swap(1, 0, 10, old=2), swap(2, 0, 10), read(1, 11, 12)],
    "an unknown swap that nobody saw": [swap(1, 0, None), read(0, 100, 101)],
    "an unknown swap that took effect late": [swap(1, 0, None), read(0, 100, 101), read(1, 102, 103)],
    "an unknown swap between two others": [swap(1, 0, None), swap(2, 5, 6, old=1), read(2, 7, 8)],
}
NOT_LINEARIZABLE = {
    "a stale read": [swap(1, 0, 1), read(0, 2, 3)],
    "a value that nobody wrote": [read(7, 0, 1)],
    "values go back": [swap(1, 0, 10), read(1, 1, 2), read(0, 3, 4)],
    "a lost swap": [swap(1, 0, 1), swap(2, 2, 3, old=0)],
    "one old value answered twice": [swap(1, 0, 10), swap(2, 0, 10)],
    "an unknown swap that was seen, and is gone": [swap(1, 0, None), read(1, 2, 3), read(0, 4, 5)],
    "an effect before its cause": [read(1, 0, 1), swap(1, 2, 3)],
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_right_histories_pass(name: str) -> None:
    assert search(LINEARIZABLE[name]) is Verdict.LINEARIZABLE


@pytest.mark.parametrize("name", NOT_LINEARIZABLE)
def test_wrong_histories_are_found(name: str) -> None:
    assert search(NOT_LINEARIZABLE[name]) is Verdict.NOT_LINEARIZABLE


def drawn(rng: random.Random, operations: int, clients: int) -> list[Operation]:
    """Each operation takes effect at one instant between its invocation and its answer, or after it was given up."""
    free_at = [0] * clients
    planned: list[tuple[float, Operation]] = []
    for number in range(1, operations + 1):
        client = min(range(clients), key=free_at.__getitem__)
        invoked = free_at[client] + rng.randint(1, 5)
        returned = invoked + rng.randint(1, 30)
        free_at[client] = returned
        made = read(0, invoked, returned) if rng.random() < 0.5 else swap(number, invoked, returned)
        effect = rng.uniform(invoked, returned)
        if rng.random() < 0.1:
            made.returned_ns = None
            effect += rng.choice((0, 50, 1 << 40))
        planned.append((effect, made))
    value = 0
    for _, operation in sorted(planned, key=lambda item: item[0]):
        operation.result = value
        value = value if operation.new is None else operation.new
    return [operation for _, operation in planned]


@pytest.mark.parametrize("seed", range(20))
def test_random_right_histories_pass_and_spoilt_ones_do_not(seed: int) -> None:
    rng = random.Random(seed)
    history = drawn(rng, operations=120, clients=6)
    assert search(by_key(history)[0]) is Verdict.LINEARIZABLE
    victim = rng.choice([operation for operation in history if operation.returned_ns is not None])
    victim.result = -1
    assert search(by_key(history)[0]) is Verdict.NOT_LINEARIZABLE


def test_a_search_that_takes_too_long_is_given_up() -> None:
    history = drawn(random.Random(1), operations=120, clients=6)
    assert search(history, steps_max=10) is Verdict.UNDECIDED


def test_the_witness_finds_an_answer_from_before_an_earlier_one() -> None:
    witness = Witness()
    first, second = swap(1, 0, None), read(0, 2, None)
    witness.invoked(first)
    first.position = (7, 0)
    witness.returned(first)
    witness.invoked(second)
    second.position = (6, 1 << 30)
    with pytest.raises(Violation, match="stale"):
        witness.returned(second)
