"""The snapshots that one member keeps, newest first, in a flat folder of files.

    INDEX-TERM.snapshot             whole, verified and durable: this one counts
    INDEX-TERM.snapshot.partial     being written from this member's own state
    INDEX-TERM.snapshot.incoming    being received from another member

A file becomes a snapshot by one rename, after all of it was synced; the folder is synced before anybody is
told. So whatever stops in between leaves either a snapshot or a leftover, and leftovers are removed when
the store is opened. Opening reads headers only. A file whose header cannot be used stays as it is and is
named in `damaged`, for the log; it goes when a newer snapshot has taken its place.

An index has one term, so two snapshots of one index have one name and hold the same state. `write` returns
the one that is there; a received one takes its place, unless that is pinned.

`write`, `keep`, `check`, `discard`, `Incoming.complete` and reading `pieces` take long and belong on a
thread; the rest may be called on the event loop meanwhile. What is pinned is never removed, and every read
pins for as long as it takes: a descriptor is never closed under a reader. All changes of what is kept happen
under one lock, which nobody holds while writing or syncing content.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, Self

from raftos.consensus.journal.storage import Storage
from raftos.consensus.snapshots.errors import CorruptSnapshot, ForeignSnapshot, SnapshotFailed
from raftos.consensus.snapshots.files import verify
from raftos.consensus.snapshots.format import MAX_FILE_BYTES, Decoder, Header, encoded
from raftos.errors import StartupError

SYNC_BYTES: Final = 8 * 2**20
"""So much is written between syncs: one large sync at the end would hold up those of the journal."""

_NAME: Final = re.compile(r"\d{20}-\d{20}\.snapshot")
_PARTIAL: Final = ".partial"
_INCOMING: Final = ".incoming"


def snapshot_name(index: int, term: int) -> str:
    return f"{index:020d}-{term:020d}.snapshot"


class Stored(NamedTuple):
    """A snapshot that is kept."""

    name: str
    header: Header
    size_bytes: int


class StorageStream:
    """A file of a `Storage`, read from its beginning."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        data = self._storage.read(self._name, self._offset, size)
        self._offset += len(data)
        return data


class SnapshotStore:
    """Opens the folder behind `storage`. Raises StartupError when it cannot be read."""

    def __init__(self, storage: Storage, cluster_id: str) -> None:
        self._storage = storage
        self._cluster_id = cluster_id
        self._lock = threading.Lock()
        self._kept: dict[str, Stored] = {}
        self._damaged: dict[str, str] = {}
        self._pins: Counter[str] = Counter()
        self._incoming: Incoming | None = None
        try:
            for name in storage.names():
                self._look_at(name)
        except OSError as error:
            raise StartupError(
                f"cannot read the snapshots: {error}; check the disk and its rights"
            ) from error

    def _look_at(self, name: str) -> None:
        if name.endswith((_PARTIAL, _INCOMING)) and _NAME.fullmatch(name.rpartition(".")[0]):
            self._storage.remove(name)
        elif _NAME.fullmatch(name):
            try:
                header = Decoder(StorageStream(self._storage, name)).header
                self._refuse_foreign(name, header)
            except CorruptSnapshot as error:
                self._damaged[name] = error.message
            else:
                self._kept[name] = Stored(name, header, self._storage.size(name))

    def _refuse_foreign(self, name: str, header: Header) -> None:
        if header.cluster_id != self._cluster_id:
            raise ForeignSnapshot(
                f"the snapshot {name} is of cluster {header.cluster_id!r}, not of {self._cluster_id!r}; "
                "remove it from this data directory"
            )
        if snapshot_name(header.index, header.term) != name:
            raise ForeignSnapshot(
                f"the snapshot {name} is of index {header.index} in term {header.term}; use another copy"
            )

    # What is kept.

    @property
    def newest(self) -> Stored | None:
        kept = self.all()
        return kept[0] if kept else None

    def all(self) -> list[Stored]:
        """What is kept, the newest first."""
        with self._lock:
            return sorted(self._kept.values(), reverse=True, key=lambda stored: stored.name)

    @property
    def damaged(self) -> Mapping[str, str]:
        """Files that cannot be used, by name, each with a sentence that says why."""
        with self._lock:
            return dict(self._damaged)

    def pin(self, name: str) -> Pin:
        """Have a snapshot stay until the pin is released. Raises SnapshotFailed when it is not kept."""
        with self._lock:
            if name not in self._kept:
                raise SnapshotFailed(f"the snapshot {name} is not kept any more; take the newest one")
            self._pins[name] += 1
            return Pin(self, self._kept[name])

    def release(self, name: str) -> None:
        """Undo one `pin`; a `Pin` does it by itself."""
        with self._lock:
            self._pins[name] -= 1

    def keep(self, count: int) -> list[str]:
        """Remove all but the `count` newest and those that are pinned, at least one stays; what went.

        Damaged files go that are older than the newest. Raises SnapshotFailed.
        """
        kept = [stored.name for stored in self.all()]
        with self._lock:
            going = [name for name in kept[max(1, count) :] if not self._pins[name]]
            going += [name for name in self._damaged if kept and name < kept[0]]
            for name in going:
                self._forget(name)
        self._remove(going)
        return going

    def discard(self, name: str) -> None:
        """Remove a snapshot whose content was found corrupt, the newest one even. Raises SnapshotFailed."""
        with self._lock:
            if self._pins[name]:
                raise SnapshotFailed(f"the snapshot {name} is being read; discard it later")
            known = name in self._kept or name in self._damaged
            self._forget(name)
        if known:
            self._remove([name])

    def _forget(self, name: str) -> None:
        self._kept.pop(name, None)
        self._damaged.pop(name, None)

    def _remove(self, names: Iterable[str]) -> None:
        # Not synced: one that comes back after a crash is a snapshot still.
        try:
            for name in names:
                self._storage.remove(name)
        except OSError as error:
            raise SnapshotFailed(f"cannot remove old snapshots: {error}; check the disk") from error

    def sync_names(self) -> None:
        """Have what is kept still be there after a power cut. Raises SnapshotFailed.

        A process that was killed may have renamed one, and not have synced the folder any more.
        """
        try:
            self._storage.sync_directory()
        except OSError as error:
            raise SnapshotFailed(
                f"cannot sync the folder of the snapshots: {error}; check the disk"
            ) from error

    # Reading.

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of the file as they are, for a follower; fewer at its end. Raises SnapshotFailed."""
        with self.pin(name):
            return self._read(name, offset, size)

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return self._storage.read(name, offset, size)
        except OSError as error:
            raise SnapshotFailed(f"cannot read the snapshot {name}: {error}; check the disk") from error

    def pieces(self, name: str) -> Iterator[bytes]:
        """The state's SQLite file, 1 MiB at a time; complete only when this ends by itself. Pinned meanwhile.

        Raises CorruptSnapshot and SnapshotFailed.
        """
        with self.pin(name):
            try:
                decoder = Decoder(StorageStream(self._storage, name))
                self._refuse_foreign(name, decoder.header)
                yield from decoder.chunks()
            except OSError as error:
                raise SnapshotFailed(f"cannot read the snapshot {name}: {error}; check the disk") from error

    def check(self, name: str) -> None:
        """Read all of it. Raises CorruptSnapshot and SnapshotFailed, if it cannot be used."""
        for _ in self.pieces(name):
            pass

    # Writing.

    def write(self, header: Header, pieces: Iterable[bytes]) -> Stored:
        """Keep a snapshot of the state in `pieces`; nothing counts before this returns. One at a time.

        Raises SnapshotFailed, and then the disk is as it was before.
        """
        name = snapshot_name(header.index, header.term)
        if header.cluster_id != self._cluster_id:
            raise ValueError(
                f"a snapshot of cluster {header.cluster_id!r} among those of {self._cluster_id!r}"
            )
        with self._lock:
            if name in self._kept:
                return self._kept[name]
        partial = name + _PARTIAL
        try:
            size_bytes = self._write_partial(partial, header, pieces)
            return self._put_in_place(partial, Stored(name, header, size_bytes))
        except OSError as error:
            self._clean_up(partial)
            raise SnapshotFailed(f"cannot write a snapshot: {error}; free some space") from error
        except BaseException:  # What the pieces raise, or a bug: no half file takes space.
            self._clean_up(partial)
            raise

    def _write_partial(self, partial: str, header: Header, pieces: Iterable[bytes]) -> int:
        size_bytes = synced_bytes = 0
        self._storage.create(partial)
        for data in encoded(header, pieces):
            self._storage.write(partial, size_bytes, data)
            size_bytes += len(data)
            if size_bytes - synced_bytes >= SYNC_BYTES:
                self._storage.sync(partial)
                synced_bytes = size_bytes
        self._storage.sync(partial)
        return size_bytes

    def _put_in_place(self, partial: str, stored: Stored) -> Stored:
        """The file `partial`, which is synced, becomes a snapshot. Raises OSError."""
        name = stored.name
        with self._lock:
            if self._pins[name]:
                # The same state, and somebody reads it: the one that is there stays.
                self._storage.remove(partial)
                return self._kept[name]
            self._storage.rename(partial, name)
            is_new = name not in self._kept
            if not is_new:  # Whichever of the two a crash leaves is whole.
                self._kept[name] = stored
        try:
            self._storage.sync_directory()
        except OSError:
            if is_new:
                self._clean_up(name)
            raise
        with self._lock:
            self._damaged.pop(name, None)
            self._kept[name] = stored
        return stored

    def _clean_up(self, name: str) -> None:
        # What cannot be removed now is removed, or written over, the next time.
        with suppress(OSError):
            if name in self._storage.names():
                self._storage.remove(name)

    # Receiving.

    def incoming(self, name: str, size_bytes: int) -> Incoming:
        """Begin to receive a snapshot of that name and size, or go on with the one that was interrupted.

        One at a time: another that was begun before is given up. Raises CorruptSnapshot for a name or a size
        that no snapshot has, SnapshotFailed.
        """
        if not _NAME.fullmatch(name) or not 0 < size_bytes <= MAX_FILE_BYTES:
            raise CorruptSnapshot(f"a snapshot cannot have the name {name[:64]!r} and {size_bytes} bytes")
        begun = self._incoming
        if begun is not None and not begun.ended:
            if (begun.name, begun.size_bytes) == (name, size_bytes):
                return begun
            begun.abandon()
        self._incoming = Incoming(self, self._storage, name, size_bytes)
        return self._incoming

    def admit(self, incoming: Incoming) -> Stored:
        """Verify a file that was received, and keep it; what `Incoming.complete` does."""
        partial = incoming.partial
        header = verify(StorageStream(self._storage, partial)).header
        self._refuse_foreign(incoming.name, header)
        self._storage.sync(partial)
        return self._put_in_place(partial, Stored(incoming.name, header, incoming.size_bytes))

    def close(self) -> None:
        self._storage.close()


class Pin:
    """Keeps one snapshot from being removed, until it is released; `with` does so at its end."""

    def __init__(self, store: SnapshotStore, stored: Stored) -> None:
        self._store = store
        self._is_held = True
        self.stored = stored

    def release(self) -> None:
        """Safe to be called again."""
        if self._is_held:
            self._is_held = False
            self._store.release(self.stored.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Incoming:
    """A snapshot that is being received; made by `SnapshotStore.incoming`.

    It ends by `complete`, by `abandon`, and by every error: then nothing is left of it, and receiving begins
    anew. Not used by two threads at once.
    """

    def __init__(self, store: SnapshotStore, storage: Storage, name: str, size_bytes: int) -> None:
        self._store = store
        self._storage = storage
        self.name = name
        self.size_bytes = size_bytes
        self.partial = name + _INCOMING
        self.received = 0
        """How many bytes are there, from the beginning on: where the next ones belong."""
        self.ended = False
        with self._or_nothing():
            storage.create(self.partial)

    def write(self, offset: int, data: bytes) -> int:
        """Take bytes that begin at an offset; how many are there now, which says where to go on.

        What is there already is passed over, and what leaves a gap as well. Raises CorruptSnapshot when it is
        more than was announced, SnapshotFailed when the disk does not take it.
        """
        self._refuse_ended()
        with self._or_nothing():
            if offset + len(data) > self.size_bytes:
                raise CorruptSnapshot(
                    f"more came of the snapshot {self.name} than the {self.size_bytes} bytes that were "
                    "announced; receive it again"
                )
            fresh = data[self.received - offset :] if 0 <= offset <= self.received else b""
            if fresh:
                self._storage.write(self.partial, self.received, fresh)
                self.received += len(fresh)
        return self.received

    def complete(self) -> Stored:
        """Verify all of it, make it durable, and keep it. Raises CorruptSnapshot, SnapshotFailed."""
        self._refuse_ended()
        with self._or_nothing():
            if self.received != self.size_bytes:
                raise CorruptSnapshot(
                    f"only {self.received} of the {self.size_bytes} bytes of the snapshot {self.name} came; "
                    "receive it again"
                )
            stored = self._store.admit(self)
        self.ended = True
        return stored

    def abandon(self) -> None:
        """Give it up."""
        if not self.ended:
            self.ended = True
            with suppress(OSError):  # Opening the store removes it.
                self._storage.remove(self.partial)

    def _refuse_ended(self) -> None:
        if self.ended:
            raise SnapshotFailed(f"receiving the snapshot {self.name} was given up; begin again")

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            raise SnapshotFailed(
                f"cannot receive the snapshot {self.name}: {error}; free some space"
            ) from error
        except BaseException:  # Whatever it is: of what is damaged nothing stays.
            self.abandon()
            raise
