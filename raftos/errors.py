"""Every error a user of raftos can meet, in one tree.

    RaftosError
    |-- InvalidInput            the request is wrong and will stay wrong         400  exit 2
    |   `-- TooLarge            a stated limit is exceeded                       413  exit 2
    |-- NotFound                the thing named does not exist                   404  exit 3
    |-- Conflict                version, existence or request id does not match  409  exit 4
    |   |-- Expired             the request id is older than results are kept    409  exit 4
    |   |-- Busy                another change of the membership is under way    409  exit 4
    |   `-- NotEnabled          a member runs a version that cannot read this    409  exit 4
    |-- Compacted               the events asked for are no longer kept          410  exit 1
    |-- LimitReached            there are as many of these as there may be       429  exit 1
    |-- NoSpace                 the state is full: reads and deletes go on       507  exit 1
    |-- Unauthorized            no credential, or a wrong one                    401  exit 6
    |-- Denied                  the credential does not allow this               403  exit 6
    |-- Unavailable             the cluster cannot answer now                    503  exit 5
    |   |-- NoQuorum            never proposed: certainly not applied            503  exit 5
    |   |-- NotReady            this member cannot serve (starting, disk full)   503  exit 5
    |   |-- Unreachable         no member answered (client side)                 503  exit 5
    |   |-- SlowWatcher         it left too much unread: resume from its last id 503  exit 5
    |   `-- OutcomeUnknown      may be applied: retry with the same request id   504  exit 5
    |-- Fault                   a bug in raftos, rolled back and reported        500  exit 1
    `-- StartupError            the daemon refuses to start, and says why        500  exit 1

Each class states its stable `code` (the `error.code` of the API), its HTTP status, the exit
code of the command line and whether the same request may simply be sent again. A message is
one sentence that says what happened and what to do about it.

Failure to agree (`Unavailable`) and refusal by a domain (`Rejected`, see `state/command.py`)
travel separately; `error_for` turns the second into this tree at the edge.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=False):
    """The one JSON shape of an error, as `{"error": ErrorBody}`."""

    code: str
    message: str
    retryable: bool = False
    leader: str | None = None
    oldest_revision: int | msgspec.UnsetType = msgspec.UNSET
    """Of `compacted` alone: the earliest revision that a watcher can still resume from."""


class RaftosError(Exception):
    """Base of all errors shown to users."""

    code: ClassVar[str] = "failed"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, leader: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.leader = leader

    def body(self) -> ErrorBody:
        """The error as the API sends it."""
        return ErrorBody(self.code, self.message, self.retryable, self.leader)


class InvalidInput(RaftosError):
    code = "invalid"
    http_status = 400
    exit_code = 2


class TooLarge(InvalidInput):
    code = "too_large"
    http_status = 413


class NotFound(RaftosError):
    code = "not_found"
    http_status = 404
    exit_code = 3


class Conflict(RaftosError):
    code = "conflict"
    http_status = 409
    exit_code = 4


class Expired(Conflict):
    code = "expired"


class Busy(Conflict):
    code = "busy"


class NotEnabled(Conflict):
    code = "not_enabled"


class Compacted(RaftosError):
    code = "compacted"
    http_status = 410

    def __init__(self, message: str, *, leader: str | None = None, oldest_revision: int = 0) -> None:
        super().__init__(message, leader=leader)
        self.oldest_revision = oldest_revision

    def body(self) -> ErrorBody:
        return msgspec.structs.replace(super().body(), oldest_revision=self.oldest_revision)


class LimitReached(RaftosError):
    code = "limit_reached"
    http_status = 429


class NoSpace(RaftosError):
    code = "no_space"
    http_status = 507


class Unauthorized(RaftosError):
    code = "unauthorized"
    http_status = 401
    exit_code = 6


class Denied(RaftosError):
    code = "denied"
    http_status = 403
    exit_code = 6


class Unavailable(RaftosError):
    code = "unavailable"
    http_status = 503
    exit_code = 5
    retryable = True


class NoQuorum(Unavailable):
    code = "no_quorum"


class NotReady(Unavailable):
    code = "not_ready"


class Unreachable(Unavailable):
    code = "unreachable"


class SlowWatcher(Unavailable):
    code = "slow_watcher"


class OutcomeUnknown(Unavailable):
    code = "outcome_unknown"
    http_status = 504


class Fault(RaftosError):
    code = "fault"


class StartupError(RaftosError):
    code = "startup"


UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding bytes of others raises: beside its own errors msgspec lets two through, for bad UTF-8 and
for deep nesting."""


def _tree(root: type[RaftosError]) -> list[type[RaftosError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[RaftosError]] = {kind.code: kind for kind in _tree(RaftosError)}


def error_for(code: str, message: str, leader: str | None = None) -> RaftosError:
    """The typed error of a stable code; an unknown code becomes a plain `RaftosError`."""
    return BY_CODE.get(code, RaftosError)(message, leader=leader)
