"""Progress: the window and the two states."""

from __future__ import annotations

from vaultdb.raft.progress import Progress, ProgressState


def replicating(match: int) -> Progress:
    progress = Progress(match + 1)
    assert progress.acknowledged(match)
    return progress


def test_an_acknowledgement_ends_probing() -> None:
    progress = Progress(next_index=8)
    assert progress.state is ProgressState.PROBE
    assert progress.acknowledged(7)
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.REPLICATE, 7, 8)


def test_an_empty_log_matches_too() -> None:
    progress = Progress(next_index=1)
    assert not progress.acknowledged(0)
    assert progress.state is ProgressState.REPLICATE


def test_the_window_opens_as_acknowledgements_arrive() -> None:
    progress = replicating(7)
    for last, size in ((9, 100), (12, 50), (13, 7)):
        progress.sent(last, size)
    assert (progress.next_index, progress.inflight_bytes, progress.inflight_appends) == (14, 157, 3)
    progress.acknowledged(12)
    assert (progress.match_index, progress.inflight_bytes, progress.inflight_appends) == (12, 7, 1)
    assert progress.next_index == 14


def test_match_never_goes_back() -> None:
    progress = replicating(7)
    assert not progress.acknowledged(3)
    assert (progress.match_index, progress.next_index) == (7, 8)


def test_probing_starts_again_above_what_is_known() -> None:
    progress = replicating(7)
    progress.sent(9, 100)
    progress.become_probe()
    assert (progress.state, progress.next_index, progress.inflight_bytes) == (ProgressState.PROBE, 8, 0)
    assert progress.inflight_appends == 0
    progress.acknowledged(9)
    assert (progress.state, progress.next_index) == (ProgressState.REPLICATE, 10)


def test_stale_refusals() -> None:
    progress = Progress(next_index=8)
    assert progress.is_stale_refusal(6)
    assert not progress.is_stale_refusal(7)
    progress.acknowledged(7)
    assert progress.is_stale_refusal(7)
    assert not progress.is_stale_refusal(9)
