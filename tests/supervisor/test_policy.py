"""The restart policy as a table."""

from __future__ import annotations

import pytest

from vaultdb.clock import NS_PER_MS
from vaultdb.config import SupervisorSettings
from vaultdb.errors import ExitCode
from vaultdb.supervisor.policy import INCURABLE, GiveUp, Restart, RestartPolicy, describe

SETTINGS = SupervisorSettings(backoff_min_ms=20, backoff_max_ms=100, crash_loop_restarts=5, crash_loop_window_ms=10_000)


def policy(settings: SupervisorSettings = SETTINGS) -> RestartPolicy:
    return RestartPolicy("storage", settings)


def ended_after_ms(subject: RestartPolicy, exit_code: int, started_ms: int, now_ms: int) -> Restart | GiveUp:
    return subject.ended(exit_code, started_ms * NS_PER_MS, now_ms * NS_PER_MS)


@pytest.mark.parametrize("exit_code", [*ExitCode, 1, 255, -9, -11])
def test_exit_code_decides(exit_code: int) -> None:
    """A restart follows every end but the four that it cannot cure; those end the node with the same code."""
    decision = ended_after_ms(policy(), exit_code, 0, 10)
    if exit_code in {64, 65, 71, 78}:
        assert isinstance(decision, GiveUp)
        assert decision.exit_code == exit_code
        assert ExitCode(exit_code).name in decision.reason
    else:
        assert decision == Restart(delay_ms=0)


def test_incurable_codes_are_named_once() -> None:
    assert {ExitCode.USAGE, ExitCode.CORRUPT_DATA, ExitCode.ADDRESS_TAKEN, ExitCode.CONFIG} == INCURABLE


def test_back_off_doubles_up_to_its_maximum() -> None:
    """The first restart is immediate, so that one crash costs milliseconds; a repeated one does not burn a core."""
    subject = policy()
    delays = [ended_after_ms(subject, -9, now, now) for now in range(5)]
    assert delays == [Restart(0), Restart(20), Restart(40), Restart(80), Restart(100)]


def test_back_off_is_reset_by_a_quiet_life() -> None:
    """A process that lived for backoff_max_ms is healthy; one millisecond less is not."""
    subject = policy()
    ended_after_ms(subject, -9, 0, 0)
    assert ended_after_ms(subject, -9, 100, 199) == Restart(20)
    assert ended_after_ms(subject, -9, 200, 300) == Restart(0)


def test_crash_loop_gives_up_past_its_count() -> None:
    """Exactly crash_loop_restarts restarts are granted within the window, the next end is the node's."""
    subject = policy()
    decisions = [ended_after_ms(subject, ExitCode.ORPHANED, now, now) for now in range(6)]
    assert all(isinstance(decision, Restart) for decision in decisions[:5])
    assert isinstance(decisions[5], GiveUp)
    assert decisions[5].exit_code == ExitCode.ORPHANED
    assert "storage ended 6 times within 10000 ms" in decisions[5].reason


def test_a_failing_disk_is_waited_for() -> None:
    """A full disk is no crash loop: restarts go on at the longest back-off, so that the node is back when there is
    room. Nor do they make a loop of a crash that follows.
    """
    subject = policy()
    decisions = [ended_after_ms(subject, ExitCode.IO_FAILED, now, now) for now in range(100)]
    assert decisions[5:] == [Restart(SETTINGS.backoff_max_ms)] * 95
    assert [isinstance(ended_after_ms(subject, -9, 100, 100), Restart) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize(("last_ms", "gives_up"), [(10_000, True), (10_001, False)])
def test_crash_loop_window_has_an_edge(last_ms: int, gives_up: bool) -> None:
    """Rare crashes over a long time are no loop."""
    subject = policy()
    for now in range(5):
        ended_after_ms(subject, -9, now, now)
    assert isinstance(ended_after_ms(subject, -9, 0, last_ms), GiveUp) is gives_up


@pytest.mark.parametrize("exit_code", [-9, 0])
def test_crash_loop_never_ends_the_node_with_success(exit_code: int) -> None:
    """A loop of clean exits or of signals has no exit code to pass on."""
    subject = policy()
    decisions = [ended_after_ms(subject, exit_code, now, now) for now in range(6)]
    assert isinstance(decisions[5], GiveUp)
    assert decisions[5].exit_code == ExitCode.BROKEN_INVARIANT


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "ended with exit code 0 (CLEAN)"),
        (65, "ended with exit code 65 (CORRUPT_DATA)"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-127, "was killed by signal 127"),
    ],
)
def test_an_end_in_words(exit_code: int, words: str) -> None:
    assert describe(exit_code) == words
