"""Structured logs: one line an event, to standard error, JSON or for a console. Never on a hot path, and never the
reason why a process ends: a line that cannot be written is counted and dropped.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial

import structlog

from vaultdb.config import LoggingSettings

_STDERR = 2


class LineSink:
    """Writes whole lines to a descriptor, unbuffered, so that a fork inherits none. Raises nothing when that fails.

    The first line that can be written again is preceded by `notice(lost)`, the line that says how many are missing.
    """

    def __init__(self, fd: int, notice: Callable[[int], str]) -> None:
        self._fd = fd
        self._notice = notice
        self.lost = 0

    def msg(self, line: str) -> None:
        if self.lost and self._write("\n" + self._notice(self.lost)):  # a full disk may have taken a part of a line
            self.lost = 0
        if self.lost or not self._write(line):
            self.lost += 1

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg

    def _write(self, line: str) -> bool:
        data = (line + "\n").encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:  # a full disk, a reader that is gone, a descriptor that is closed
            return False
        return True


def configure(settings: LoggingSettings, **bound: str | int) -> None:
    """Set up logging of this process; `bound` (node, process) stands on every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    sink = LineSink(_STDERR, partial(_lost_in_words, processors))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)


def _lost_in_words(processors: list[structlog.typing.Processor], lost: int) -> str:
    event: structlog.typing.ProcessorReturnValue = {"event": "log lines could not be written", "lost": lost}
    for processor in processors:
        assert isinstance(event, dict)
        event = processor(None, "warning", event)
    return str(event)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `component=name`."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return log
