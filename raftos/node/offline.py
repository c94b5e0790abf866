"""What is done to files while no daemon has them open: look at a snapshot, restore one, recover a member.

    python -m raftos snapshot inspect FILE
    python -m raftos snapshot restore FILE --config CONFIG
    python -m raftos recover --config CONFIG [--yes CLUSTER]

The command line runs these as processes of their own, because it knows nothing of consensus. What was found
or done goes to stdout as one JSON object, sentences go to stderr, the exit code is the error's.

**Restoring** fills the empty data directory of one initial member of a new cluster. The state in the file is
given to the new cluster, and becomes the newest snapshot of the member, which its daemon starts from:

    identity.json -> restoring/ (the state, then the snapshot made of it) -> snapshots/

Interrupted before the last step, which is one rename, it may be begun again.

**Recovering** makes a stopped member the only voter of its cluster (`raftos/consensus/recovery.py`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from raftos.config import Config, load
from raftos.consensus import snapshots
from raftos.consensus.configuration import decode, encode
from raftos.consensus.journal.storage import FileStorage
from raftos.consensus.opening import first_configuration
from raftos.consensus.recovery import make_sole_voter
from raftos.durable import DRAFT, sync_folder
from raftos.errors import UNDECODABLE, InvalidInput, RaftosError, StartupError
from raftos.node.directory import DataDirectory
from raftos.state.copying import refuse_unfit
from raftos.state.rehome import adopt

WORDS = ("snapshot", "recover")
"""The first word of what belongs here; anything else runs a daemon."""
RESTORING = "restoring"
INTERRUPTED = 130
_BEFORE = {"identity.json", f"identity.json{DRAFT}", RESTORING}
"""What a data directory may hold that was never used: an interrupted restore leaves no more."""


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot file: what its header says, and whether the rest of it is as it was written."""

    file: str
    size_bytes: int
    state_bytes: int
    cluster_id: str
    index: int
    term: int
    revision: int
    time_ms: int
    created_ms: int
    version: str
    state_hash: str
    members: list[dict[str, str]]
    ok: bool
    trouble: str | None = None
    digest: str | None = None


class Restored(msgspec.Struct, frozen=True):
    """A member whose data directory holds the state of a snapshot now."""

    member: str
    data_dir: str
    index: int
    revision: int


class RecoveredMember(msgspec.Struct, frozen=True):
    """A member that is the only voter of its cluster now, and the ids it goes on without."""

    member: str
    cluster: str
    index: int
    term: int
    dropped: list[str]


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands above. Returns the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        value = chosen.run(chosen)
    except RaftosError as error:
        sys.stderr.write(f"raftos: {error.message}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    return 1 if isinstance(value, Inspected) and not value.ok else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raftos", description="Work on files of a raftos cluster."
    )
    words = parser.add_subparsers(required=True)
    snapshot = words.add_parser("snapshot", help="snapshot files").add_subparsers(required=True)
    inspect_ = snapshot.add_parser("inspect", help="read a whole file and say what is in it")
    inspect_.add_argument("file", type=Path)
    inspect_.set_defaults(run=lambda chosen: inspect(chosen.file))
    restore_ = snapshot.add_parser("restore", help="fill the empty data directory of an initial member")
    restore_.add_argument("file", type=Path)
    restore_.add_argument("--config", required=True, type=Path)
    restore_.set_defaults(run=lambda chosen: restore(chosen.file, _config(chosen.config)))
    recover_ = words.add_parser("recover", help="make a stopped member the only voter of its cluster")
    recover_.add_argument("--config", required=True, type=Path)
    recover_.add_argument("--yes", metavar="CLUSTER", help="the cluster's name: do not ask for it")
    recover_.set_defaults(run=lambda chosen: recover(_config(chosen.config), chosen.yes))
    return parser


def _config(file: Path) -> Config:
    """The configuration somebody named. Raises InvalidInput: here it is not a daemon that cannot start."""
    try:
        return load(file)
    except StartupError as error:
        raise InvalidInput(error.message) from error


# Snapshots.


def inspect(file: Path) -> Inspected:
    """Read a whole snapshot. Raises RaftosError where not even its header can be read."""
    summary, trouble = None, None
    with _opened(file) as source:
        header = snapshots.read_header(source)
        source.seek(0)
        try:
            summary = snapshots.verify(source)
        except snapshots.CorruptSnapshot as error:
            trouble = error.message
        except OSError as error:
            trouble = f"cannot read {file}: {error.strerror}"
    return Inspected(
        file=str(file),
        size_bytes=file.stat().st_size,
        state_bytes=header.raw_bytes,
        cluster_id=header.cluster_id,
        index=header.index,
        term=header.term,
        revision=header.revision,
        time_ms=header.time_ms,
        created_ms=header.created_ms,
        version=header.version,
        state_hash=header.state_hash.hex(),
        members=_members_in(header.configuration),
        ok=summary is not None,
        trouble=trouble,
        digest=summary.digest if summary else None,
    )


def _members_in(configuration: bytes) -> list[dict[str, str]]:
    try:
        peers = decode(configuration).peers if configuration else ()
    except UNDECODABLE as error:
        raise InvalidInput(
            f"this version of raftos cannot read who belongs to the cluster: {error}"
        ) from error
    return [{"id": peer.id, "address": peer.address, "standing": str(peer.standing)} for peer in peers]


def restore(file: Path, config: Config) -> Restored:
    """Let a member of a new cluster begin with the state in a snapshot. Raises RaftosError."""
    if config.joined:
        raise InvalidInput(
            "a snapshot is restored on the initial members of a new cluster; this one joined later"
        )
    folder = Path(config.data_dir)
    _refuse_used(folder)
    with DataDirectory(config) as directory:
        directory.claim()
        work = folder / RESTORING
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            header = _put_together(file, config, work)
            work.rename(folder / "snapshots")
            sync_folder(folder)
        except OSError as error:
            raise StartupError(f"cannot write to {folder}: {error.strerror}; nothing was restored") from error
    return Restored(config.name, config.data_dir, header.index, header.revision)


def _refuse_used(folder: Path) -> None:
    if folder.is_dir() and (found := {each.name for each in folder.iterdir()} - _BEFORE):
        raise InvalidInput(
            f"{folder} is not empty (it holds {', '.join(sorted(found))}); a snapshot is restored into an "
            "empty data directory only, nothing was changed"
        )


def _put_together(file: Path, config: Config, work: Path) -> snapshots.Header:
    """Make the snapshot of the new cluster out of the old one's; returns its header."""
    state = work / "state.db"
    with _opened(file) as source, state.open("wb") as target:
        decoder = snapshots.Decoder(source)
        for piece in decoder.chunks():
            target.write(piece)
    refuse_unfit(state, decoder.header.cluster_id)
    adopt(state, config.cluster_id)
    header = msgspec.structs.replace(
        decoder.header,
        cluster_id=config.cluster_id,
        configuration=encode(first_configuration(config)),
        raw_bytes=state.stat().st_size,
    )
    store = snapshots.SnapshotStore(FileStorage(work), config.cluster_id)
    try:
        store.write(header, snapshots.pieces_of(state))
    finally:
        store.close()
    state.unlink()
    return header


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error


# Recovery.


def recover(
    config: Config, answer: str | None, ask: Callable[[], str] = sys.stdin.readline
) -> RecoveredMember:
    """Make a stopped member the only voter, once its cluster's name was given. Raises RaftosError."""
    if not (Path(config.data_dir) / "identity.json").exists():
        raise InvalidInput(f"{config.data_dir} holds no member's data, so there is nothing to recover")
    with DataDirectory(config) as directory:
        if answer is None:
            sys.stderr.write(_warning(config))
            sys.stderr.flush()
            answer = ask().strip()
        if answer != config.cluster:
            raise InvalidInput(
                f"{answer!r} is not the name of this cluster, {config.cluster!r}; nothing was changed"
            )
        done = make_sole_voter(directory.path, config)
    return RecoveredMember(config.name, config.cluster, done.index, done.term, list(done.dropped))


def _warning(config: Config) -> str:
    others = ", ".join(voter.name for voter in config.voters if voter.id != config.member_id)
    known = f" (configured at first: {others})" if others else ""
    return (
        f"{config.name} becomes the only voter of the cluster {config.cluster!r}.\n"
        "What the others acknowledged and this member has not received is lost for good; what it received\n"
        "counts from now on, acknowledged or not. Everybody else is removed, and has to join again under a\n"
        f"new id{known}. Make sure that none of them runs any more.\n"
        f"Type the cluster's name, {config.cluster}, to go on: "
    )
