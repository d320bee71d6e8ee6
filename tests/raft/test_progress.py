"""Progress: the window and the three states."""

from __future__ import annotations

import pytest

from vaultdb.raft.progress import Progress, ProgressState


def replicating(match: int) -> Progress:
    progress = Progress(match + 1)
    assert progress.acknowledged(match, 0)
    return progress


def test_an_acknowledgement_ends_probing() -> None:
    progress = Progress(next_index=8)
    assert progress.state is ProgressState.PROBE
    assert progress.acknowledged(7, 0)
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.REPLICATE, 7, 8)


def test_an_empty_log_matches_too() -> None:
    progress = Progress(next_index=1)
    assert not progress.acknowledged(0, 0)
    assert progress.state is ProgressState.REPLICATE


def test_the_window_opens_as_acknowledgements_arrive() -> None:
    progress = replicating(7)
    for last, size in ((9, 100), (12, 50), (13, 7)):
        progress.sent(last, size)
    assert (progress.next_index, progress.inflight_bytes, progress.inflight_appends) == (14, 157, 3)
    progress.acknowledged(12, 0)
    assert (progress.match_index, progress.inflight_bytes, progress.inflight_appends) == (12, 7, 1)
    assert progress.next_index == 14


def test_match_never_goes_back() -> None:
    progress = replicating(7)
    assert not progress.acknowledged(3, 0)
    assert (progress.match_index, progress.next_index) == (7, 8)


def test_probing_starts_again_above_what_is_known() -> None:
    progress = replicating(7)
    progress.sent(9, 100)
    progress.become_probe()
    assert (progress.state, progress.next_index, progress.inflight_bytes) == (ProgressState.PROBE, 8, 0)
    assert progress.inflight_appends == 0
    progress.acknowledged(9, 0)
    assert (progress.state, progress.next_index) == (ProgressState.REPLICATE, 10)


def test_stale_refusals() -> None:
    progress = Progress(next_index=8)
    assert progress.is_stale_refusal(6)
    assert not progress.is_stale_refusal(7)
    progress.acknowledged(7, 0)
    assert progress.is_stale_refusal(7)
    assert not progress.is_stale_refusal(9)


def test_nothing_old_survives_the_way_into_a_snapshot() -> None:
    progress = replicating(7)
    progress.sent(9, 100)
    progress.become_snapshot()
    assert (progress.state, progress.pending_snapshot) == (ProgressState.SNAPSHOT, 0)
    assert (progress.match_index, progress.next_index, progress.inflight_bytes) == (7, 8, 0)
    for index in (0, 7, 8, 99):
        assert progress.is_stale_refusal(index), "no refusal means anything now"


@pytest.mark.parametrize(("index", "state"), [(9, ProgressState.SNAPSHOT), (10, ProgressState.REPLICATE)])
def test_a_snapshot_ends_where_the_log_continues_it(index: int, state: ProgressState) -> None:
    """The leader's log begins after 10. What is acknowledged there may also have come by an append."""
    progress = replicating(7)
    progress.become_snapshot()
    progress.pending_snapshot = 12
    assert not progress.acknowledged(7, 10)
    assert progress.state is ProgressState.SNAPSHOT
    assert progress.acknowledged(index, 10)
    assert progress.state is state
    assert (progress.match_index, progress.next_index) == (index, index + 1)


def test_a_failed_snapshot_begins_with_a_probe() -> None:
    progress = replicating(7)
    progress.become_snapshot()
    progress.pending_snapshot = 12
    progress.become_probe()
    assert (progress.state, progress.next_index, progress.pending_snapshot) == (ProgressState.PROBE, 8, 0)


def test_a_peer_is_alive_until_two_looks_in_a_row_found_nothing() -> None:
    progress = Progress(next_index=8)
    assert not progress.is_alive
    progress.active = True
    for alive in (True, True, False):
        assert progress.is_alive is alive
        progress.checked()


def test_a_late_acknowledgement_frees_only_what_it_covers() -> None:
    progress = replicating(7)
    progress.sent(8, 10)
    progress.sent(9, 10)
    progress.acknowledged(9, 0)
    progress.sent(10, 10)
    assert not progress.acknowledged(8, 0)
    assert (progress.inflight_appends, progress.inflight_bytes, progress.match_index) == (1, 10, 9)
