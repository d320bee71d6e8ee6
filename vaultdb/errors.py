"""Every error that VaultDB raises on purpose, in one tree.

::

    VaultError
    ├── Rejected              nothing happened, and nothing will
    │   ├── BadRequest        400  the request is malformed; the sentence names the field
    │   ├── Forbidden         403  a browser says that a page of another site sends this write
    │   ├── NotFound          404  no such key or route
    │   ├── MethodNotAllowed  405  the route exists, the method does not
    │   ├── NotAcceptable     406  the stored value has no such representation
    │   ├── BodyTimeout       408  the request did not arrive in time
    │   ├── ChangeRefused     409  a change of members or leader that cannot be made now; the sentence says why
    │   ├── TooLarge          413  over a limit of limits.py; the sentence names it
    │   ├── UnsupportedMedia  415  the body is encoded in a way that is not understood
    │   ├── Busy              429  a bounded queue is full; try again later
    │   ├── HeadersTooLarge   431  request line and headers are over their limit
    │   ├── NotImplementedYet 501  a method or condition of HTTP that this release does not know
    │   ├── Unavailable       503  no leader, no quorum, or a process is restarting
    │   │   └── NotLeader     503  this core is not the leader (the driver forwards or waits)
    │   └── ConfigInvalid     ---  the configuration has faults, all of them listed
    ├── Unknown               504  the write may or may not have happened
    └── Fatal                 ---  this process must end; carries an exit code
        ├── BrokenInvariant    70  a bug: the message holds the numbers
        ├── AddressTaken       71  a port or socket path is in use
        ├── AlreadyOwned       73  another running process owns the data directory
        ├── IoFailed           74  a disk operation failed; a restart re-reads the disk
        ├── CorruptData        65  durable data is damaged; a restart cannot cure it
        └── WrongIdentity      78  the data directory belongs to another node or cluster

Foreign exceptions are translated in the one module that imports their library. `http_status` is what the
API answers; `retry_after_s` becomes Retry-After; `code` is the stable, machine-readable name.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a VaultDB process ended (numbers after sysexits.h). The supervisor's policy is a table over these."""

    CLEAN = 0
    USAGE = 64
    CORRUPT_DATA = 65
    BROKEN_INVARIANT = 70
    ADDRESS_TAKEN = 71
    ALREADY_OWNED = 73
    IO_FAILED = 74
    CONFIG = 78
    ORPHANED = 79
    """The supervisor disappeared; the child ended itself."""


class VaultError(Exception):
    """Root of the tree. `str(error)` is one sentence for a human."""

    code = "error"
    http_status = 500
    retry_after_s: int | None = None

    @property
    def title(self) -> str:
        """The class of the error in words, the same for every instance."""
        return self.code.replace("_", " ")


class Rejected(VaultError):
    """Nothing happened and nothing will: the request may safely be sent again."""

    code = "rejected"
    http_status = 400


class BadRequest(Rejected):
    code = "bad_request"
    http_status = 400


class Forbidden(Rejected):
    code = "forbidden"
    http_status = 403


class NotFound(Rejected):
    code = "not_found"
    http_status = 404


class MethodNotAllowed(Rejected):
    """`allowed` lists the methods of the route, as the Allow header wants them."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, method: str, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(f"{method} is not a method of this route; it has {allowed}")


class NotAcceptable(Rejected):
    code = "not_acceptable"
    http_status = 406


class BodyTimeout(Rejected):
    code = "body_timeout"
    http_status = 408


class ChangeRefused(Rejected):
    code = "change_refused"
    http_status = 409


class ChangeNotYet(ChangeRefused):
    """It may be possible in a moment: whoever passes it on may try again first."""


class TooLarge(Rejected):
    code = "too_large"
    http_status = 413


class UnsupportedMedia(Rejected):
    code = "unsupported_media"
    http_status = 415


class Busy(Rejected):
    code = "busy"
    http_status = 429
    retry_after_s = 1


class HeadersTooLarge(Rejected):
    code = "headers_too_large"
    http_status = 431


class NotImplementedYet(Rejected):
    code = "not_implemented"
    http_status = 501


class Unavailable(Rejected):
    code = "unavailable"
    http_status = 503
    retry_after_s = 1


class NotLeader(Unavailable):
    code = "not_leader"


class ConfigInvalid(Rejected):
    """The configuration cannot be used. `faults` lists every fault found, one sentence each."""

    code = "config_invalid"

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source = source
        self.faults = faults
        super().__init__(f"{source}: " + "; ".join(faults))


class Unknown(VaultError):
    """The write may have happened or may still happen."""

    code = "unknown_outcome"
    http_status = 504
    retry_after_s = 1


class Fatal(VaultError):
    """This process cannot go on. Its main loop logs the sentence and exits with `exit_code`."""

    code = "fatal"
    exit_code = ExitCode.BROKEN_INVARIANT


class BrokenInvariant(Fatal):
    code = "broken_invariant"
    exit_code = ExitCode.BROKEN_INVARIANT


class AddressTaken(Fatal):
    code = "address_taken"
    exit_code = ExitCode.ADDRESS_TAKEN


class AlreadyOwned(Fatal):
    code = "already_owned"
    exit_code = ExitCode.ALREADY_OWNED


class IoFailed(Fatal):
    code = "io_failed"
    exit_code = ExitCode.IO_FAILED


class CorruptData(Fatal):
    code = "corrupt_data"
    exit_code = ExitCode.CORRUPT_DATA


class WrongIdentity(Fatal):
    code = "wrong_identity"
    exit_code = ExitCode.CONFIG


REJECTIONS: dict[str, type[Rejected]] = {
    leaf.code: leaf
    for leaf in (BadRequest, NotFound, BodyTimeout, ChangeRefused, TooLarge, Busy, Unavailable, NotLeader)
}
"""For errors that crossed a process boundary as (code, sentence)."""
