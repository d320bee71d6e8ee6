"""Logging when standard error cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaultdb.logs import LineSink


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_lost_lines_are_counted_and_told(tmp_path: Path) -> None:
    """No line raises; the first that can be written again comes after a line that says how many are missing, which
    does not run into what the full disk took of another. Planted bug that this catches: a sink that raises OSError.
    """
    path = tmp_path / "log"
    path.write_text("whole\nhalf a li")
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = LineSink(fd, lambda lost: f"{lost} lost")
        for line in ("one", "two", "three"):
            sink.msg(line)
        assert sink.lost == 3
        file_fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file_fd, fd)
        os.close(file_fd)
        sink.info("four")
        sink.error("five")
        assert sink.lost == 0
    finally:
        os.close(fd)
    assert path.read_text().splitlines() == ["whole", "half a li", "3 lost", "four", "five"]


def test_a_closed_descriptor_ends_nobody() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)
    sink = LineSink(fd, str)
    sink.warning("nobody reads this")
    assert sink.lost == 1
