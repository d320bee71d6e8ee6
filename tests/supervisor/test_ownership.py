"""Identities, the lock and the runtime directory, one by one (failure 42: a stranger killed, two owners)."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_until
from vaultdb.errors import AlreadyOwned, ConfigInvalid, IoFailed
from vaultdb.supervisor import ownership, status
from vaultdb.supervisor.identity import Identity
from vaultdb.supervisor.ownership import (
    DataLock,
    check_space,
    lock_holder,
    make_data_dir,
    make_private_dir,
    remove_private_dir,
)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A live process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.system
def test_f42_a_stranger_with_a_reused_pid_is_not_signalled(stranger: subprocess.Popen[bytes]) -> None:
    """A stale record names a pid that now is somebody else's. Planted bug: comparing the pid only."""
    stale = Identity(stranger.pid, psutil.Process(stranger.pid).create_time() - 60)
    assert not stale.is_alive()
    assert not stale.signal(signal.SIGKILL)
    assert stranger.poll() is None


@pytest.mark.system
def test_the_process_itself_is_signalled(stranger: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(stranger.pid)
    assert identity.is_alive()
    assert identity.signal(signal.SIGKILL)
    wait_until(lambda: not identity.is_alive(), "a zombie is not alive")
    stranger.wait()
    assert not identity.signal(signal.SIGKILL)


@pytest.mark.parametrize(
    "record", [None, [], {}, {"pid": 1}, {"pid": "1", "create_time": 1.0}, {"pid": -1, "create_time": 1.0}]
)
def test_a_damaged_record_is_nobody(record: object) -> None:
    """Signalling pid -1 would reach every process of the user."""
    assert Identity.parse(record) is None


def test_the_lock_has_one_owner_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "node0" / "lock"
    lock = DataLock.acquire(path)
    assert lock_holder(path) == f"pid {os.getpid()}"
    with pytest.raises(AlreadyOwned, match=f"node0 is in use by pid {os.getpid()}"):
        DataLock.acquire(path)
    lock.release()
    assert lock_holder(path) is None
    DataLock.acquire(path).release()


def test_f42_a_stale_lock_file_with_a_live_stranger_does_not_hinder(tmp_path: Path) -> None:
    """The lock is the kernel's, not the file: what a dead owner wrote neither blocks nor is believed."""
    path = tmp_path / "lock"
    path.write_text(json.dumps(Identity.of(os.getpid()).record()))
    assert lock_holder(path) is None
    DataLock.acquire(path).release()


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IoFailed, match="file is not a directory"):
        DataLock.acquire(tmp_path / "file" / "lock")


def test_a_directory_that_cannot_be_made_names_the_obstacle() -> None:
    """What the system says of /proc/x, "no such file", would send the operator to look for the wrong thing."""
    with pytest.raises(IoFailed, match="directory /dev/null/x cannot be made: /dev/null is not a directory"):
        make_data_dir(Path("/dev/null/x"))
    with pytest.raises(IoFailed, match="/proc/x cannot be made: the file system of /proc takes no new directories"):
        make_data_dir(Path("/proc/x"))


def test_a_start_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the path and the system's words; a directory that does not exist yet is not made."""
    check_space(tmp_path / "node0")
    monkeypatch.setattr(ownership, "START_BYTES_MIN", 1 << 60)
    with pytest.raises(IoFailed, match=f"{tmp_path}/node0: No space left on device"):
        check_space(tmp_path / "node0")
    assert not list(tmp_path.iterdir())


def test_private_directories_are_made_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "base" / "cluster" / "node0"
    os.close(make_private_dir(path, levels=2))
    assert [oct(level.stat().st_mode)[-3:] for level in (path, *path.parents[:2])] == ["700"] * 3
    (path / "socket").touch()
    remove_private_dir(path)
    assert not (tmp_path / "base" / "cluster").exists()


def test_a_private_directory_is_not_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "base").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigInvalid, match="base is not a directory"):
        make_private_dir(tmp_path / "base" / "cluster", levels=1)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    (tmp_path / "base").mkdir(mode=0o700)
    os.chown(tmp_path / "base", 12345, -1)
    with pytest.raises(ConfigInvalid, match="belongs to user id 12345"):
        make_private_dir(tmp_path / "base" / "cluster", levels=1)


def test_a_status_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the runtime directory costs the news, not the supervisor."""
    path = tmp_path / "supervisor.json"
    status.write(path, {"node": "node0"})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", fail)
    status.write(path, {"node": "node1"})
    assert status.read(path) == {"node": "node0"}


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    """A reader never sees half a record, and a damaged one counts as none."""
    path = tmp_path / "supervisor.json"
    assert status.read(path) is None
    status.write(path, {"node": "node0"})
    status.write(path, {"node": "node1"})
    assert status.read(path) == {"node": "node1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["supervisor.json"]
    path.write_text('{"node": ')
    assert status.read(path) is None
