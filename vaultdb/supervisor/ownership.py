"""What makes a supervisor the only one on its data: the lock of the data directory and the private runtime
directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
from pathlib import Path

import psutil

from vaultdb import clock, limits
from vaultdb.errors import AlreadyOwned, ConfigInvalid, IoFailed
from vaultdb.supervisor.identity import Identity

_RETRY_MS = 10
START_BYTES_MIN = 1 * limits.MIB
"""A node that could not even open its log and its database is not started."""


class DataLock:
    """An exclusive flock on a file of the data directory, held by this process and by every child that inherits the
    descriptor.

    So a second owner is refused as long as any process of the first one lives. The file holds the identity of the
    owner and is never removed.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path, *, grace_ms: float = 0) -> DataLock:
        """Take the lock; wait up to `grace_ms` for children of a dead owner to be gone. Raises AlreadyOwned or
        IoFailed.
        """
        deadline_ns = clock.deadline_after_ms(grace_ms)
        make_data_dir(path.parent)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise IoFailed(f"{path}: {error.strerror}") from error
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if clock.ms_until(deadline_ns) <= 0:
                    os.close(fd)
                    raise AlreadyOwned(f"{path.parent} is in use by {holder_of(path)}") from error
                clock.sleep_ms(_RETRY_MS)
        lock = cls(path, fd)
        lock.sign()
        return lock

    def sign(self) -> None:
        """Write this process into the file, for the sentence that a second owner reads."""
        text = json.dumps(Identity.of(os.getpid()).record()).encode()
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text, 0)
        except OSError as error:
            raise IoFailed(f"{self._path}: {error.strerror}") from error

    def fileno(self) -> int:
        return self._fd

    def release(self) -> None:
        """Close this process's descriptor; the lock lives on while a child has it."""
        os.close(self._fd)


def holder_of(path: Path) -> str:
    """Who holds the lock file `path`: the process that signed it, or else any that has it open."""
    with contextlib.suppress(OSError, ValueError):
        owner = Identity.parse(json.loads(path.read_text()))
        if owner is not None and owner.is_alive():
            return f"pid {owner.pid}"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(entry.path == str(path) for entry in process.open_files()):
                return f"pid {process.pid}"
    return "another process"


def lock_holder(path: Path) -> str | None:
    """Who holds the lock now; None when it is free."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder_of(path)
    finally:
        os.close(fd)
    return None


def make_data_dir(path: Path) -> None:
    """Make `path` and its parents. Raises IoFailed with what stands in the way."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IoFailed(f"the directory {path} cannot be made: {_obstacle(path, error)}") from error


def _obstacle(path: Path, error: OSError) -> str:
    nearest = _nearest_existing(path)
    if not nearest.is_dir():
        return f"{nearest} is not a directory"
    if error.errno == errno.ENOENT:  # said of a directory that does exist
        return f"the file system of {nearest} takes no new directories"
    return os.strerror(error.errno or 0)


def check_space(path: Path) -> None:
    """Raises IoFailed when the disk under the directory `path`, which need not exist yet, has less than
    START_BYTES_MIN free.
    """
    try:
        disk = os.statvfs(_nearest_existing(path))
    except OSError as error:
        raise IoFailed(f"{path}: {error.strerror}") from error
    free_blocks = disk.f_bavail if os.geteuid() else disk.f_bfree
    free_bytes = free_blocks * disk.f_frsize
    if disk.f_blocks and free_bytes < START_BYTES_MIN:
        needed = f"{free_bytes // limits.KIB} KiB are free, a start needs {START_BYTES_MIN // limits.KIB}"
        raise IoFailed(f"{path}: {os.strerror(errno.ENOSPC)} ({needed})")


def _nearest_existing(path: Path) -> Path:
    return next(level for level in (path, *path.parents) if os.path.lexists(level))


def make_private_dir(path: Path, *, levels: int) -> int:
    """Create `path` and its last `levels` parents, each owned by this user, mode 0700, no symlink. Raises ConfigInvalid
    when one is not, IoFailed when the system refuses.

    Returns a descriptor that holds a shared lock on the directory: cleaners of temporary directories leave such a
    directory alone.
    """
    try:
        for level in [*reversed(path.parents[:levels]), path]:
            with contextlib.suppress(FileExistsError):
                level.mkdir(mode=0o700)
            _check_private(level)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise IoFailed(f"{path}: {error.strerror}") from error
    return fd


def _check_private(level: Path) -> None:
    found = level.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        fault = "is not a directory"
    elif found.st_uid != os.getuid():
        fault = f"belongs to user id {found.st_uid}, not to {os.getuid()}"
    elif mode & 0o077:
        fault = f"is open to others: mode {mode:04o}, not 0700"
    else:
        return
    raise ConfigInvalid("runtime directory", [f"{level} {fault}"])


def empty_dir(path: Path, *, keep: Path | None = None) -> None:
    """Remove the files of `path`, all but `keep`."""
    for entry in path.iterdir():
        if entry != keep:
            with contextlib.suppress(OSError):
                entry.unlink()


def remove_private_dir(path: Path) -> None:
    """Remove `path` with all that is in it, and its parent if that is empty now."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()
