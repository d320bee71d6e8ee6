"""Forking a process that is tied to this one by a lifeline, and what is known of it until it was reaped."""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import setproctitle

from vaultdb import logs
from vaultdb.clock import monotonic_ns
from vaultdb.config import LoggingSettings
from vaultdb.errors import ConfigInvalid, ExitCode, Fatal
from vaultdb.lifeline import Lifeline
from vaultdb.supervisor.identity import Identity
from vaultdb.supervisor.signals import STOP_SIGNALS

Main = Callable[[Lifeline], int]
"""What a child does; returns its exit code."""


class LastWords:
    """The sentence with which a forked process ended, in a page of memory that it shares with its forker: a full disk
    cannot lose it, and nothing needs to be closed in siblings. To be made before the fork.
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def say(self, sentence: str) -> None:
        """In the child. What does not fit is cut."""
        words = sentence.encode(errors="backslashreplace")[: len(self._page) - 1]
        self._page[: len(words) + 1] = words + b"\0"

    def heard(self) -> str | None:
        """In the forker, once the child has ended; None when it said nothing."""
        words = self._page[:].split(b"\0", 1)[0]
        return words.decode(errors="replace") if words else None

    def close(self) -> None:
        self._page.close()


class Child:
    """A forked process, from its fork until `reap` told its exit code. Its pid cannot be a stranger's meanwhile, for
    it is unreaped.
    """

    def __init__(self, name: str, pid: int, heartbeat_fd: int, words: LastWords) -> None:
        self.name = name
        self.identity = Identity.of(pid)
        self.started_ns = monotonic_ns()
        self.last_beat_ns = self.started_ns
        self.has_beaten = False
        self.heartbeat_fd = heartbeat_fd
        self.last_words: str | None = None
        """Why it ended, once it is reaped and if it said so."""
        self._words = words
        self._reaped = False

    def listen(self, now_ns: int) -> None:
        """Take the beats that have arrived."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.heartbeat_fd, 512):
                self.last_beat_ns = now_ns
                self.has_beaten = True

    def signal(self, number: signal.Signals) -> None:
        if not self._reaped:
            os.kill(self.identity.pid, number)

    def reap(self) -> int | None:
        """The exit code (negative: the signal) once the child has ended, else None. Afterwards this object holds
        nothing.
        """
        pid, status = os.waitpid(self.identity.pid, os.WNOHANG)
        if pid == 0:
            return None
        self._reaped = True
        os.close(self.heartbeat_fd)
        self.last_words = self._words.heard()
        self._words.close()
        return os.waitstatus_to_exitcode(status)


def fork_child(
    name: str, title: str, main: Main, *, release: Callable[[], None], logging: LoggingSettings, **bound: str | int
) -> Child:
    """Fork a process that runs `main` on a lifeline to this one.

    `release` closes in the child what belongs to the parent: the pipes of siblings above all, for a pipe that a
    sibling holds open hides the death of its owner. `bound` stands on every log line. Raises OSError when the system
    refuses a process.
    """
    words = LastWords()
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    parent_pid = os.getpid()

    def in_child() -> int:
        os.close(read_fd)
        release()
        setproctitle.setproctitle(title)
        lifeline = Lifeline(write_fd, parent_pid)
        lifeline.arm()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return main(lifeline)

    # A stop must not fall between the fork and `arm`.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        pid = fork(in_child, words, logging, bound)
    except OSError:
        os.close(read_fd)
        words.close()
        raise
    finally:
        os.close(write_fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Child(name, pid, read_fd, words)


def fork(main: Callable[[], int], words: LastWords, logging: LoggingSettings, bound: dict[str, str | int]) -> int:
    """Fork a process whose whole life is `main`; the caller gets its pid. Raises OSError when the system refuses a
    process.
    """
    _flush_standard_streams()
    pid = os.fork()
    if pid == 0:
        exit_with_outcome_of(main, words, logging, bound)
    return pid


def exit_with_outcome_of(
    main: Callable[[], int], words: LastWords, logging: LoggingSettings, bound: dict[str, str | int]
) -> NoReturn:
    """Run `main` as the whole life of this process: whatever it raises becomes its last words, a line of the log, and
    the exit code.
    """
    code: int = ExitCode.BROKEN_INVARIANT
    try:
        logs.configure(logging, **bound)
        if not faulthandler.is_enabled():
            faulthandler.enable()
        code = main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else ExitCode.BROKEN_INVARIANT
    except Fatal as error:
        code = error.exit_code
        words.say(str(error))
        logs.logger("process").error("ended by a fatal error", error=str(error), kind=error.code, exit_code=int(code))
    except ConfigInvalid as error:
        code = ExitCode.CONFIG
        words.say(str(error))
        logs.logger("process").error("ended by a fatal error", error=str(error), kind=error.code, exit_code=int(code))
    except BaseException as error:  # noqa: BLE001 (the last frame of the process)
        sentence = f"{type(error).__name__}: {error}"
        words.say(sentence)
        logs.logger("process").exception("ended by a bug", error=sentence, exit_code=int(code))
    finally:
        _flush_standard_streams()
        os._exit(code)


def _flush_standard_streams() -> None:
    """What cannot be written must not end anyone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
