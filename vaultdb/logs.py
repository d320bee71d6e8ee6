"""Structured logs: one line an event, to standard error, JSON or for a console. Never on a hot path."""

from __future__ import annotations

import logging
import sys

import structlog

from vaultdb.config import LoggingSettings


def configure(settings: LoggingSettings, **bound: str | int) -> None:
    """Set up logging of this process; `bound` (node, process) stands on every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `component=name`."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return log
