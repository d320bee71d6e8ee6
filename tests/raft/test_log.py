"""The log: what is known where, and what each watermark promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.raft.disk import SimulatedDisk, Write
from vaultdb.errors import BrokenInvariant, CorruptData
from vaultdb.raft.log import RaftLog
from vaultdb.raft.membership import Membership, encode
from vaultdb.raft.messages import Entry, EntryKind
from vaultdb.raft.state import HardState, RestoredState, Snapshot, fresh

MEMORY_BYTES = 1 << 20


def entries(first: int, *terms: int, payload: bytes = b"0123456789") -> list[Entry]:
    return [Entry(term, first + n, EntryKind.COMMAND, payload) for n, term in enumerate(terms)]


def log_with(*terms: int, disk: SimulatedDisk | None = None, memory_bytes: int = MEMORY_BYTES) -> RaftLog:
    """A log that was written in this life, nothing of it durable."""
    log = RaftLog(fresh((0,)), disk or SimulatedDisk(), memory_bytes)
    log.append(entries(1, *terms))
    return log


def restored(*terms: int, commit: int = 0) -> tuple[RaftLog, SimulatedDisk]:
    """A log that was found on the disk."""
    disk = SimulatedDisk(HardState(max(terms), -1, commit), durable=entries(1, *terms))
    return RaftLog(disk.restored(), disk, MEMORY_BYTES), disk


def write(log: RaftLog, disk: SimulatedDisk, number: int) -> None:
    """One write, from the log to the disk and reported durable."""
    disk.pending.append(Write(number, None, log.take_unwritten(), []))
    log.written(number)
    disk.complete_one()
    log.persisted(number)


def terms(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(log.base_index + 1, log.last_index + 1)]


class TestMerge:
    @pytest.mark.parametrize(
        ("first", "new", "result"),
        [
            (5, (), [1, 1, 2, 2]),
            (5, (3, 3), [1, 1, 2, 2, 3, 3]),
            (3, (2, 2), [1, 1, 2, 2]),
            (1, (1,), [1, 1, 2, 2]),
            (3, (2, 2, 2), [1, 1, 2, 2, 2]),
            (4, (3,), [1, 1, 2, 3]),
            (2, (1, 3), [1, 1, 3]),
            (1, (3,), [3]),
        ],
    )
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_only_a_conflict_truncates(
        self, first: int, new: tuple[int, ...], result: list[int], on_disk: bool
    ) -> None:
        """Paper §5.3. The same in memory and on the disk."""
        log = restored(1, 1, 2, 2)[0] if on_disk else log_with(1, 1, 2, 2)
        log.merge(entries(first, *new))
        assert terms(log) == result
        assert log.last_term == result[-1]

    def test_committed_entries_are_never_truncated(self) -> None:
        log = log_with(1, 1, 2)
        log.commit_to(2)
        with pytest.raises(BrokenInvariant, match="truncation to 1, below the commit index 2"):
            log.merge(entries(2, 3))
        assert terms(log) == [1, 1, 2]

    def test_a_gap_is_refused(self) -> None:
        with pytest.raises(BrokenInvariant, match="entry 5 appended to a log that ends at 3"):
            log_with(1, 1, 2).merge(entries(5, 3))


class TestDurability:
    def test_stable_follows_the_writes_in_order(self) -> None:
        log = log_with(1, 1)
        assert [entry.index for entry in log.take_unwritten()] == [1, 2]
        log.written(1)
        log.append(entries(3, 1))
        assert [entry.index for entry in log.take_unwritten()] == [3]
        log.written(2)
        assert (log.stable_index, log.has_unwritten, log.writes_outstanding) == (0, False, True)
        log.persisted(1)
        assert log.stable_index == 2
        log.persisted(2)
        assert (log.stable_index, log.writes_outstanding) == (3, False)

    def test_one_completion_covers_earlier_writes(self) -> None:
        log = log_with(1, 1)
        for number in (1, 2, 3):
            log.append(entries(log.last_index + 1, 1))
            log.take_unwritten()
            log.written(number)
        log.persisted(3)
        assert log.stable_index == 5

    def test_numbers_that_are_not_under_way_are_passed_over(self) -> None:
        log = log_with(1)
        log.take_unwritten()
        log.written(1)
        log.persisted(2)
        assert log.stable_index == 0

    def test_truncation_lowers_what_is_stable_and_what_will_be(self) -> None:
        log = log_with(1, 1, 1)
        log.take_unwritten()
        log.written(1)
        log.merge(entries(3, 2))
        assert [entry.index for entry in log.take_unwritten()] == [3]
        log.written(2)
        log.persisted(1)
        assert log.stable_index == 2
        log.persisted(2)
        assert log.stable_index == 3
        log.merge(entries(2, 3))
        assert log.stable_index == 1

    def test_a_commit_counts_here_once_it_is_durable(self) -> None:
        log = log_with(1, 1)
        log.commit_to(2)
        assert (log.commit_index, log.durable_commit_index) == (2, 0)
        log.take_unwritten()
        log.written(1)
        log.persisted(1)
        assert log.durable_commit_index == 2


class TestMemory:
    def test_durable_committed_entries_leave_memory_oldest_first(self) -> None:
        """Applied or not: a storage process that is away must not grow the log's memory."""
        disk = SimulatedDisk()
        log = log_with(*[1] * 10, disk=disk, memory_bytes=40)
        assert log.memory_bytes == 100
        write(log, disk, 1)
        log.commit_to(5)
        log.applied_to(3)
        assert log.memory_bytes == 50, "what is not committed must stay"
        log.commit_to(8)
        log.applied_to(4)
        assert 20 <= log.memory_bytes <= 40
        assert terms(log) == [1] * 10
        assert log.slice(1, 10, MEMORY_BYTES)[0][0].index == 1

    def test_slices_come_from_disk_and_from_memory(self) -> None:
        disk = SimulatedDisk()
        log = log_with(*[1] * 10, disk=disk, memory_bytes=40)
        write(log, disk, 1)
        log.commit_to(10)
        log.applied_to(10)
        found: list[Entry] = []
        while len(found) < 10:
            batch, size = log.slice(len(found) + 1, 10, 30)
            assert 0 < size <= 30
            assert size == 10 * len(batch)
            found += batch
        assert found == entries(1, *[1] * 10)

    def test_a_slice_holds_at_least_one_entry(self) -> None:
        log = log_with(1, 1)
        assert log.slice(1, 2, 3) == (entries(1, 1), 10)
        assert log.slice(3, 2, 100) == ([], 0)

    @given(
        sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
        low=st.integers(1, 12),
        high=st.integers(1, 12),
        limit=st.integers(0, 60),
    )
    def test_a_slice_is_the_longest_prefix_within_the_limit(
        self, sizes: list[int], low: int, high: int, limit: int
    ) -> None:
        log = RaftLog(fresh((0,)), SimulatedDisk(), MEMORY_BYTES)
        log.append([Entry(1, index, 1, b"x" * size) for index, size in enumerate(sizes, 1)])
        high = min(high, len(sizes))
        found, size = log.slice(low, high, limit)
        wanted = sizes[low - 1 : high]
        count = next((n for n in range(len(wanted), 0, -1) if sum(wanted[:n]) <= limit), min(1, len(wanted)))
        assert [len(entry.payload) for entry in found] == wanted[:count]
        assert size == sum(wanted[:count])

    def test_uncommitted_bytes(self) -> None:
        log = log_with(1, 1, 1)
        log.commit_to(2)
        assert log.uncommitted_bytes == 30, "committed elsewhere, not durable here"
        log.take_unwritten()
        log.written(1)
        log.persisted(1)
        assert log.uncommitted_bytes == 10

    def test_a_reader_that_serves_the_wrong_entries_is_found_out(self) -> None:
        log, disk = restored(1, 1, 1)
        disk.durable[0:2] = entries(2, 1, 1)
        with pytest.raises(BrokenInvariant, match="log reader served"):
            log.slice(1, 3, MEMORY_BYTES)


class TestCut:
    def test_the_term_at_the_cut_stays_known(self) -> None:
        disk = SimulatedDisk()
        log = log_with(1, 2, 2, disk=disk)
        write(log, disk, 1)
        log.commit_to(3)
        log.applied_to(3)
        log.compact(2)
        assert (log.base_index, log.base_term, log.term(2), log.term(3)) == (2, 2, 2, 2)
        with pytest.raises(BrokenInvariant, match="term of 1 asked for"):
            log.term(1)
        with pytest.raises(BrokenInvariant, match="entry 2 asked for, the log is cut up to 2"):
            log.slice(2, 3, MEMORY_BYTES)
        log.compact(1)
        assert log.base_index == 2
        log.compact(3)
        assert (log.term(3), log.last_index) == (2, 3)
        log.append(entries(4, 3))
        assert log.last_term == 3

    def test_only_what_is_applied_and_durable_is_cut(self) -> None:
        log = log_with(1, 1)
        with pytest.raises(BrokenInvariant, match="applied is 0 and durable is 0"):
            log.compact(1)


def changed(term: int, index: int, voters: tuple[int, ...]) -> Entry:
    return Entry(term, index, EntryKind.MEMBERSHIP, encode(Membership(voters)))


class TestMembership:
    """In force from the append on, and back with the log."""

    @staticmethod
    def log() -> RaftLog:
        """0 at first, 0 1 from index 3, 0 1 2 from index 5."""
        log = log_with(1, 1)
        log.append([changed(1, 3, (0, 1)), *entries(4, 1), changed(2, 5, (0, 1, 2)), *entries(6, 2)])
        return log

    def test_the_newest_counts(self) -> None:
        log = self.log()
        assert (log.membership.voters, log.membership_index) == ((0, 1, 2), 5)
        found = [log.membership_at(index).voters for index in range(7)]
        assert found == [(0,)] * 3 + [(0, 1)] * 2 + [(0, 1, 2)] * 2

    @pytest.mark.parametrize(
        ("last", "voters", "index"), [(5, (0, 1, 2), 5), (4, (0, 1), 3), (3, (0, 1), 3), (2, (0,), 0), (0, (0,), 0)]
    )
    def test_truncation_takes_it_back(self, last: int, voters: tuple[int, ...], index: int) -> None:
        log = self.log()
        log.merge(entries(last + 1, 9))
        assert (log.membership.voters, log.membership_index) == (voters, index)

    def test_another_takes_its_place(self) -> None:
        log = self.log()
        log.merge([changed(9, 3, (7,))])
        assert (log.membership.voters, log.membership_index) == ((7,), 3)

    @pytest.mark.parametrize(("cut", "index"), [(1, 0), (2, 0), (3, 3), (4, 3), (5, 5), (6, 5)])
    def test_a_cut_keeps_the_one_in_force_there(self, cut: int, index: int) -> None:
        log, disk = self.log(), SimulatedDisk()
        wanted = log.membership_at(cut)
        write(log, disk, 1)
        log.commit_to(6)
        log.applied_to(6)
        log.compact(cut)
        assert (log.membership_at(cut), log.membership.voters) == (wanted, (0, 1, 2))
        assert log._memberships[0][0] == index

    def test_what_is_no_membership_is_not_believed(self) -> None:
        with pytest.raises(CorruptData):
            log_with(1).append([Entry(1, 2, EntryKind.MEMBERSHIP, b"x")])


class TestRestore:
    """The log begins anew after a snapshot."""

    SNAPSHOT = Snapshot(9, 3, Membership((4, 5)))

    def test_nothing_that_was_held_stays(self) -> None:
        log, disk = restored(1, 1, 2, 2, commit=1)
        log.append(entries(5, 2, 2))
        log.restore(self.SNAPSHOT)
        assert (log.base_index, log.commit_index, log.last_index, log.last_term) == (9, 9, 9, 3)
        assert (log.membership, log.membership_index) == (Membership((4, 5)), 9)
        assert (log.memory_bytes, log.uncommitted_bytes, log.take_unwritten()) == (0, 0, [])
        assert (log.term(9), log.matches(9, 3), log.matches(10, 3)) == (3, True, False)
        log.append(entries(10, 3))
        assert (terms(log), log.memory_bytes) == ([3], 10)
        assert disk.last_index == 4

    def test_it_is_handed_out_once_and_before_entries(self) -> None:
        log = log_with(1, 1)
        log.restore(self.SNAPSHOT)
        assert log.has_unwritten
        assert (log.take_snapshot(), log.take_snapshot()) == (self.SNAPSHOT, None)
        assert not log.has_unwritten

    def test_writes_under_way_vouch_for_nothing_of_it(self) -> None:
        log = log_with(*[1] * 12)
        log.take_unwritten()
        log.written(1)
        log.restore(self.SNAPSHOT)
        log.persisted(1)
        assert (log.stable_index, log.durable_commit_index) == (0, 0)
        log.take_snapshot()
        log.written(2)
        log.append(entries(10, 3))
        log.take_unwritten()
        log.written(3)
        log.persisted(2)
        assert (log.stable_index, log.durable_commit_index) == (9, 9)
        log.persisted(3)
        assert (log.stable_index, log.durable_commit_index) == (10, 9)

    def test_what_is_committed_is_never_replaced(self) -> None:
        log = log_with(1, 1)
        log.commit_to(2)
        with pytest.raises(BrokenInvariant, match="a snapshot of 2 over a commit index of 2"):
            log.restore(Snapshot(2, 1, Membership((0,))))


class TestSearch:
    @pytest.mark.parametrize(
        ("term", "low", "high", "index"),
        [
            (1, 0, 6, 2),
            (2, 0, 6, 3),
            (3, 0, 6, 3),
            (4, 0, 6, 6),
            (9, 0, 5, 5),
            (0, 0, 6, 0),
            (1, 4, 6, 4),
            (2, 2, 2, 2),
        ],
    )
    def test_last_at_most(self, term: int, low: int, high: int, index: int) -> None:
        assert log_with(1, 1, 2, 4, 4, 4).last_at_most(term, low, high) == index


@pytest.mark.parametrize(
    "state",
    [
        RestoredState(HardState(1, -1, 4), 0, 0, 3, 1, ((0, Membership((0,))),)),
        RestoredState(HardState(1, -1, 0), 5, 1, 3, 1, ((0, Membership((0,))),)),
        RestoredState(HardState(1, -1, 0), 0, 0, 3, 2, ((0, Membership((0,))),)),
    ],
    ids=["commit beyond the end", "cut beyond the end", "term beyond the hard state"],
)
def test_a_log_that_contradicts_itself_is_refused(state: RestoredState) -> None:
    """A node whose durable log got shorter must not vote (paper §5.2: it may have promised what it forgot)."""
    with pytest.raises(CorruptData):
        RaftLog(state, SimulatedDisk(), MEMORY_BYTES)
