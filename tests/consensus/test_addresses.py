"""Whom a node is connected to: the members, those it does not know yet, and those that should be told."""

from __future__ import annotations

from pathlib import Path

from tests.consensus.cluster import address, config
from vaultdb.config import Config
from vaultdb.consensus.addresses import STRANGERS_MAX, Address, AddressBook
from vaultdb.consensus.members import UNFORMED, Member, Roster
from vaultdb.raft.membership import NOBODY_YET, Membership

ELSEWHERE = Address("elsewhere", 9)
FOUR = Member("node4", "roster", 1, 2, 3)
ROSTER = Roster("ab", 5, {1: Member("node1", "roster", 1, 2, 3), 4: FOUR}, ())


def test_the_own_configuration_knows_best_then_the_roster(tmp_path: Path) -> None:
    book = AddressBook(config(3, tmp_path).node(0))
    book.membership_changed(Membership((0, 1, 2), learners=(4,)), ROSTER, ())
    assert book.all == {1: Address("127.0.0.1", 2001), 2: Address("127.0.0.1", 2002), 4: Address("roster", 2)}


def test_a_node_that_waits_to_be_told_is_connected_to_those_it_was_started_with(tmp_path: Path) -> None:
    whole = Config(nodes=(address(0), address(1), address(4)), data_dir=str(tmp_path))
    book = AddressBook(whole.node(4, joins=True))
    book.membership_changed(NOBODY_YET, UNFORMED, ())
    assert sorted(book.all) == [0, 1]


def test_a_node_that_joined_was_told_addresses_once_and_believes_the_roster_over_them(tmp_path: Path) -> None:
    whole = Config(nodes=(address(0), address(1), address(4)), data_dir=str(tmp_path))
    book = AddressBook(whole.node(4, joins=True))
    book.membership_changed(Membership((0, 1), learners=(4,)), ROSTER, ())
    assert book.all == {0: Address("127.0.0.1", 2000), 1: Address("roster", 2)}


def test_a_leader_that_this_log_does_not_know_yet_is_answered_where_it_says_it_listens(tmp_path: Path) -> None:
    """Planted bug: answering members only. This node could never be brought up to date by it."""
    book = AddressBook(config(3, tmp_path).node(0))
    book.membership_changed(Membership((0, 1, 2)), UNFORMED, ())
    book.is_changed = False
    book.said_hello(4, ELSEWHERE)
    assert book.is_changed
    assert book.all[4] == ELSEWHERE
    book.membership_changed(Membership((0, 1, 2), learners=(4,)), ROSTER, {4})
    assert book.all[4] == Address("roster", 2)


def test_what_a_member_says_of_itself_is_not_believed_over_the_log(tmp_path: Path) -> None:
    book = AddressBook(config(3, tmp_path).node(0))
    book.membership_changed(Membership((0, 1, 2)), UNFORMED, ())
    book.said_hello(1, ELSEWHERE)
    assert book.all[1] == Address("127.0.0.1", 2001)


def test_a_removed_node_stays_connected_while_it_lives_and_no_longer(tmp_path: Path) -> None:
    """It is to hear that it was removed; a dead one would be dialled for ever."""
    book = AddressBook(config(3, tmp_path).node(0))
    book.membership_changed(Membership((0, 1, 2)), UNFORMED, ())
    book.membership_changed(Membership((0,)), UNFORMED, {1})
    assert list(book.all) == [1]
    book.disconnected(1)
    assert book.all == {}


def test_strangers_are_bounded(tmp_path: Path) -> None:
    book = AddressBook(config(1, tmp_path).node(0))
    for n in range(1, STRANGERS_MAX + 4):
        book.said_hello(n, Address("h", n))
    assert list(book.all) == list(range(4, STRANGERS_MAX + 4))
