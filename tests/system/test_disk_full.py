"""A full disk under a real cluster: writes are refused, the node stays up, and it recovers unaided."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import ROOT, LocalCluster
from tests.system.test_five_nodes import wait_until
from vaultdb import limits
from vaultdb.errors import ExitCode, Unavailable, Unknown

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

DISK_BYTES = 96 * limits.MIB
BALLAST_BYTES = 48 * limits.MIB
VALUE_BYTES = 64 * limits.KIB
WRITES_MAX = 3 * DISK_BYTES // VALUE_BYTES
RECOVERS_WITHIN_MS = 20_000
"""The longest back-off is 5 s; an election and a reopened database come on top, for one process after the other."""


class SmallDisk:
    """A tmpfs of its own, with a ballast file that makes room when it is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"
        self._ballast.write_bytes(b"\1" * BALLAST_BYTES)

    def fill(self) -> None:
        """Take every block that is left."""
        with open(self.path / "filler", "wb", buffering=0) as file:
            try:
                while file.write(b"\1" * limits.KIB):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    path = Path(tempfile.mkdtemp(prefix="vdb"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        path.rmdir()
        pytest.skip(f"NOT TESTED: a full disk needs the privilege to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


def value_of(number: int) -> str:
    return f"{number:08}" * (VALUE_BYTES // 8)


def fill_with_writes(cluster: LocalCluster) -> dict[str, int]:
    """Write until a node refuses with 503 or 507; returns what was acknowledged."""
    acknowledged: dict[str, int] = {}
    for number in range(WRITES_MAX):
        try:
            status = cluster.put(number % cluster.nodes, f"fill/{number}", value_of(number)).status
        except (Unavailable, Unknown):
            continue
        if status in (503, 507):
            return acknowledged
        if status == 200:
            acknowledged[f"fill/{number}"] = number
    raise AssertionError(f"{WRITES_MAX} writes of {VALUE_BYTES} bytes did not fill {DISK_BYTES} bytes")


def supervisors(cluster: LocalCluster) -> list[int]:
    return [cluster.pids(node)["supervisor"] for node in range(cluster.nodes)]


def test_f33_a_full_disk_is_survived(disk: SmallDisk) -> None:
    """Three nodes on one disk that their own writes fill. Writes are refused, stale reads go on as long as the database
    itself need not write (it is flushed rarely here), no supervisor and no launcher ends, and once there is room
    writes succeed without anyone's hand; nothing acknowledged is lost and the copies are equal.

    Planted bug that this catches: a log sink that raises.
    """
    settings = {
        "storage.flush_interval_ms": "600000", "storage.memtable_bytes": str(256 * limits.MIB),
        "supervisor.crash_loop_restarts": "2",
    }  # fmt: skip
    with LocalCluster(3, settings=settings, directory=disk.path / "cluster") as cluster:
        before = supervisors(cluster)
        acknowledged = fill_with_writes(cluster)
        assert len(acknowledged) > 50, f"only {len(acknowledged)} writes were acknowledged: the run is void"
        disk.fill()
        for turn in range(30):
            with_trouble = cluster.launch("status", is_checked=False).stdout
            for node in range(3):
                key, number = list(acknowledged.items())[turn]
                assert cluster.get(node, key, "stale") == value_of(number)
            if "No space left on device" in with_trouble and turn > 5:
                break
            put_ignoring_the_answer(cluster, turn % 3)
        else:
            raise AssertionError(f"status does not tell why writes are refused:\n{with_trouble}")
        disk.make_room()
        wait_until(lambda: cluster.put(0, "after", "1").status == 200, "a write", RECOVERS_WITHIN_MS)
        wait_until(
            lambda: all(cluster.put(node, "after", "2").status == 200 for node in range(3)), "all", RECOVERS_WITHIN_MS
        )
        assert supervisors(cluster) == before
        lost = [key for key, number in acknowledged.items() if cluster.get(1, key) != value_of(number)]
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged writes are lost: {lost[:5]}"
        assert cluster.digests()["keys"] >= len(acknowledged)


def put_ignoring_the_answer(cluster: LocalCluster, node: int) -> None:
    """Let somebody need the disk."""
    try:
        cluster.put(node, "needs-room", value_of(0))
    except (Unavailable, Unknown):
        return


def test_f33_a_start_on_a_full_disk_is_one_sentence(disk: SmallDisk) -> None:
    """`start` exits with 1, `node` with 74; both name the path and the cause."""
    cluster = LocalCluster(1, directory=disk.path / "cluster")
    disk.fill()
    for command, code in ((["start", "--detach"], 1), (["start"], 1), (["node", "--id", "0"], ExitCode.IO_FAILED)):
        done = subprocess.run(
            [sys.executable, str(ROOT / "launcher.py"), *command, "--config", str(cluster.config_path)],
            capture_output=True, text=True, timeout=30, env=dict(os.environ),
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(f"Error: {cluster.directory}")
        assert ": No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1
