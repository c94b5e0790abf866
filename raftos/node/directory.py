"""A member's data directory: whose it is, and that one daemon at a time uses it.

    identity.json    {"cluster_id", "member_id", "format"}, written once, before anything else
    removed.json     {"reason"}, once the member was removed from the cluster: it does not start again
    journal/         the log (raftos/consensus/journal)
    snapshots/       the state as of some indexes (raftos/consensus/snapshots)
    state/           the applied state, SQLite (raftos/state)

A directory that cannot be used is refused with one sentence, and nothing in it is changed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Self

import msgspec

from raftos.config import Config
from raftos.durable import make_folder, write_file
from raftos.errors import UNDECODABLE, StartupError

SECRET_BYTES = 32
FORMAT = 1
REMOVED = "removed.json"


def read_secret(path: Path) -> bytes:
    """The cluster's shared secret. Raises StartupError when it is missing, open to others or malformed."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"cannot read the secret file {path}: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StartupError(f"the secret file {path} is open to other users; run `chmod 600 {path}`")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise StartupError(f"the secret file {path} has to hold {SECRET_BYTES} bytes as hex, nothing else")
    return secret


class Identity(msgspec.Struct, frozen=True):
    """Whose data a directory holds; kept in `identity.json`."""

    cluster_id: str
    member_id: str
    format: int = FORMAT


class DataDirectory:
    """A member's directory, locked for this process. Raises StartupError and then changed nothing in it."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.data_dir)
        self._identity = Identity(config.cluster_id, config.member_id)
        self._lock = self._take_lock()
        try:
            self._refuse_foreign()
        except BaseException:  # Nobody has this object yet who could let go of the lock.
            self.close()
            raise

    def claim(self) -> None:
        """Write the identity of a new directory, durably, before anything else is written."""
        target = self.path / "identity.json"
        if not target.exists():
            self._write(target, msgspec.json.encode(self._identity))

    def retire(self, reason: str) -> None:
        """Remember durably that this member was removed. Raises StartupError."""
        self._write(self.path / REMOVED, msgspec.json.encode({"reason": reason}))

    def _write(self, target: Path, content: bytes) -> None:
        try:
            write_file(target, content)
        except OSError as error:
            raise StartupError(f"cannot write to the data directory {self.path}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> int:
        """A lock on the directory itself: it needs no file, and ends with the process however that ends."""
        try:
            make_folder(self.path)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StartupError(f"cannot use the data directory {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StartupError(
                f"another daemon uses the data directory {self.path}; "
                "stop it first, or choose another data_dir"
            ) from error
        return lock

    def _refuse_foreign(self) -> None:
        if (self.path / REMOVED).exists():
            raise StartupError(
                f"the member whose data is in {self.path} was removed from the cluster; let the machine join "
                "again under a new id, with an empty data directory"
            )
        found = self._read_identity()
        if found is None:
            return
        if found.format > FORMAT:
            raise StartupError(
                f"the data directory {self.path} has format {found.format}, newer than the {FORMAT} this "
                "version knows; start it with the version of raftos that wrote it"
            )
        if (found.cluster_id, found.member_id) != (self._identity.cluster_id, self._identity.member_id):
            raise StartupError(
                f"the data directory {self.path} belongs to member {found.member_id} of cluster "
                f"{found.cluster_id}; choose another data_dir, nothing was changed"
            )

    def _read_identity(self) -> Identity | None:
        try:
            return msgspec.json.decode((self.path / "identity.json").read_bytes(), type=Identity)
        except FileNotFoundError:
            if any((self.path / name).exists() for name in ("journal", "state")):
                raise StartupError(
                    f"the data directory {self.path} holds data but no identity.json; restore that file, "
                    "or choose another data_dir"
                ) from None
            return None
        except (OSError, *UNDECODABLE) as error:
            raise StartupError(
                f"cannot read {self.path / 'identity.json'}: {error}; mend or restore that file, or let this "
                "member rejoin under a new id with an empty data directory"
            ) from error
