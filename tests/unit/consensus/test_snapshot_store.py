"""The store: a snapshot is there whole, or not at all, whatever happened meanwhile."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from raftos.consensus.journal import FileStorage, Storage
from raftos.consensus.snapshots import (
    CorruptSnapshot,
    ForeignSnapshot,
    Header,
    SnapshotFailed,
    SnapshotStore,
    Stored,
    format,  # noqa: A004 - the module is named for what it is
    snapshot_name,
)
from raftos.consensus.snapshots import (
    store as store_module,
)
from tests.simulation.storage import SimulatedStorage
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut, from_image

RAW = Random(1).randbytes(300)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, and several syncs, in a small file."""
    monkeypatch.setattr(format, "MAX_CHUNK_BYTES", 100)
    monkeypatch.setattr(store_module, "SYNC_BYTES", 200)


def header_of(index: int, **changes: object) -> Header:
    header = Header("c1", index, 2, b"", 1_700, 5, b"h" * 16, 2, len(RAW), "0.1.0", 1_800)
    return msgspec.structs.replace(header, **changes)


def open_store(storage: Storage) -> SnapshotStore:
    return SnapshotStore(storage, "c1")


def put(store: SnapshotStore, index: int) -> Stored:
    return store.write(header_of(index), [RAW])


def names(store: SnapshotStore) -> list[int]:
    return [stored.header.index for stored in store.all()]


def content(store: SnapshotStore, index: int) -> bytes:
    return b"".join(store.pieces(snapshot_name(index, 2)))


def file_of(index: int, **changes: object) -> bytes:
    return b"".join(format.encoded(header_of(index, **changes), [RAW]))


# What is kept.


@pytest.fixture(params=["files", "forgetful", "simulated"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    kinds: dict[str, Callable[[], Storage]] = {
        "files": lambda: FileStorage(tmp_path / "snapshots"),
        "forgetful": ForgetfulStorage,
        "simulated": SimulatedStorage,
    }
    return kinds[request.param]()


def test_a_snapshot_is_kept_and_found_again(storage: Storage) -> None:
    """On every kind of storage, with its content, and read raw for a follower."""
    store = open_store(storage)
    assert not store.all()
    stored = put(store, 7)
    assert stored == Stored(snapshot_name(7, 2), header_of(7), len(file_of(7)))
    assert open_store(storage).newest == store.newest == stored
    assert content(store, 7) == RAW
    raw = [store.read(stored.name, at, 37) for at in range(0, stored.size_bytes, 37)]
    assert b"".join(raw) == file_of(7)
    assert storage.names() == [stored.name]


def test_they_are_sorted_by_index_and_old_ones_go(storage: Storage) -> None:
    """Never the newest, however few are wanted."""
    store = open_store(storage)
    for index in (9, 100, 20):
        put(store, index)
    assert names(store) == [100, 20, 9]
    assert store.keep(2) == [snapshot_name(9, 2)]
    assert store.keep(0) == [snapshot_name(20, 2)]
    assert names(open_store(storage)) == names(store) == [100]


def test_what_is_pinned_stays(storage: Storage) -> None:
    """Until each pin is released; a pin released twice counts once."""
    store = open_store(storage)
    for index in (1, 2, 3):
        put(store, index)
    first, second = store.pin(snapshot_name(1, 2)), store.pin(snapshot_name(1, 2))
    assert first.stored.header.index == 1
    assert store.keep(1) == [snapshot_name(2, 2)]
    first.release()
    first.release()
    assert store.keep(1) == []
    with pytest.raises(SnapshotFailed, match="being read"):
        store.discard(snapshot_name(1, 2))
    with second:
        assert content(store, 1) == RAW
    assert store.keep(1) == [snapshot_name(1, 2)]
    with pytest.raises(SnapshotFailed, match="not kept any more"):
        store.read(snapshot_name(1, 2), 0, 1)


def test_reading_the_content_pins_it(storage: Storage) -> None:
    """From the first piece to the last, or until the reader gives up."""
    store = open_store(storage)
    put(store, 1)
    put(store, 2)
    pieces = store.pieces(snapshot_name(1, 2))
    next(pieces)
    assert store.keep(1) == []
    assert b"".join(pieces) == RAW[100:]
    assert store.keep(1) == [snapshot_name(1, 2)]


def test_the_same_index_again_is_the_one_that_is_there(storage: Storage) -> None:
    """An index has one state: no piece is taken, nothing is written."""
    store = open_store(storage)
    stored = put(store, 1)
    assert store.write(header_of(1, created_ms=9), iter(())) == stored
    assert names(store) == [1]


def test_a_damaged_header_is_named_and_passed_over() -> None:
    """Others are used; the file stays until a newer snapshot has taken its place."""
    image = {snapshot_name(index, 2): file_of(index) for index in (1, 5, 9)}
    image[snapshot_name(9, 2)] = image[snapshot_name(9, 2)][:30]
    image[snapshot_name(5, 2)] = file_of(5, cluster_id="c2")
    image[snapshot_name(4, 2)] = file_of(3)
    image["notes.txt"] = b"somebody's"
    storage = from_image(image)
    store = open_store(storage)
    assert names(store) == [1]
    assert set(store.damaged) == {snapshot_name(index, 2) for index in (4, 5, 9)}
    assert "ends too early" in store.damaged[snapshot_name(9, 2)]
    assert "is of cluster 'c2'" in store.damaged[snapshot_name(5, 2)]
    assert "is of index 3" in store.damaged[snapshot_name(4, 2)]
    assert store.keep(1) == []
    put(store, 7)
    assert sorted(store.keep(2)) == [snapshot_name(4, 2), snapshot_name(5, 2)]
    put(store, 9)
    assert store.damaged == {}
    assert content(store, 9) == RAW
    assert set(storage.names()) == {snapshot_name(index, 2) for index in (1, 7, 9)} | {"notes.txt"}


def test_damage_behind_the_header_is_found_by_reading_and_can_be_discarded() -> None:
    """Even if it is the newest: then another is taken, or received again."""
    damaged = bytearray(file_of(9))
    damaged[-50] ^= 1
    store = open_store(from_image({snapshot_name(9, 2): bytes(damaged), snapshot_name(1, 2): file_of(1)}))
    assert names(store) == [9, 1]
    with pytest.raises(CorruptSnapshot):
        content(store, 9)
    store.discard(snapshot_name(9, 2))
    store.discard(snapshot_name(9, 2))
    assert names(store) == [1]


def test_another_clusters_state_is_never_written() -> None:
    """That would be a mistake of ours."""
    with pytest.raises(ValueError, match="c2"):
        open_store(ForgetfulStorage()).write(header_of(1, cluster_id="c2"), [RAW])


# Receiving.


def receive(store: SnapshotStore, index: int, file: bytes, step: int = 64) -> Stored:
    incoming = store.incoming(snapshot_name(index, 2), len(file))
    for at in range(0, len(file), step):
        assert incoming.write(at, file[at : at + step]) == min(len(file), at + step)
    return incoming.complete()


def test_a_received_snapshot_is_like_one_of_our_own(storage: Storage) -> None:
    """Its bytes are the sender's."""
    store = open_store(storage)
    stored = receive(store, 7, file_of(7))
    assert stored == store.newest == open_store(storage).newest
    assert content(store, 7) == RAW


def test_receiving_goes_on_after_an_interruption() -> None:
    """Same name and size: what came stays, repetitions are passed over, and gaps."""
    store, file = open_store(ForgetfulStorage()), file_of(7)
    store.incoming(snapshot_name(7, 2), len(file)).write(0, file[:50])
    again = store.incoming(snapshot_name(7, 2), len(file))
    assert again.received == 50
    assert again.write(0, file[:20]) == 50
    assert again.write(60, file[60:]) == 50
    assert again.write(40, file[40:70]) == 70
    assert again.write(-5, file[:5]) == 70
    again.write(70, file[70:])
    assert again.complete() == store.newest
    assert content(store, 7) == RAW


def test_another_snapshot_takes_the_place_of_the_one_being_received() -> None:
    """One at a time, so that interrupted ones do not fill the disk."""
    storage = ForgetfulStorage()
    store = open_store(storage)
    old = store.incoming(snapshot_name(7, 2), 500)
    old.write(0, b"abc")
    for name, size in ((snapshot_name(7, 2), 501), (snapshot_name(8, 2), 501)):
        new = store.incoming(name, size)
        assert new.received == 0
        assert storage.names() == [f"{name}.incoming"]
        with pytest.raises(SnapshotFailed, match="begin again"):
            old.write(3, b"d")
        old = new
    old.abandon()
    old.abandon()
    assert storage.names() == []


@pytest.mark.parametrize(
    ("name", "size_bytes"),
    [
        ("../../etc/passwd", 100),
        ("7-2.snapshot", 100),
        (snapshot_name(7, 2) + ".partial", 100),
        (snapshot_name(7, 2), 0),
        (snapshot_name(7, 2), format.MAX_FILE_BYTES + 1),
    ],
)
def test_no_name_and_no_size_of_a_peer_is_trusted(name: str, size_bytes: int) -> None:
    """Nothing is created for it."""
    storage = ForgetfulStorage()
    with pytest.raises(CorruptSnapshot, match="cannot have the name"):
        open_store(storage).incoming(name, size_bytes)
    assert storage.names() == []


REFUSED: dict[str, tuple[Callable[[], bytes], type[CorruptSnapshot], str]] = {
    "of another cluster": (lambda: file_of(7, cluster_id="c2"), ForeignSnapshot, "is of cluster 'c2'"),
    "of another index": (lambda: file_of(8), ForeignSnapshot, "is of index 8"),
    "of another term": (lambda: file_of(7, term=3), ForeignSnapshot, "in term 3"),
    "cut short": (lambda: file_of(7)[:-1], CorruptSnapshot, "ends too early"),
    "too long": (lambda: file_of(7) + b"\0", CorruptSnapshot, "goes on behind"),
    "nothing of the kind": (lambda: bytes(500), CorruptSnapshot, "is damaged"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_with_a_received_snapshot_is_found_before_it_counts(what: str) -> None:
    """Nothing is left of it, and the one before stays."""
    make, kind, sentence = REFUSED[what]
    storage = ForgetfulStorage()
    store = open_store(storage)
    put(store, 1)
    with pytest.raises(kind, match=sentence):
        receive(store, 7, make())
    assert names(store) == [1]
    assert storage.names() == [snapshot_name(1, 2)]
    assert receive(store, 7, file_of(7)).header.index == 7


def test_every_byte_changed_on_the_way_is_found() -> None:
    """Also by a peer that means well."""
    file = file_of(7)
    store = open_store(ForgetfulStorage())
    for at in range(len(file)):
        damaged = bytearray(file)
        damaged[at] ^= 0x10
        with pytest.raises(CorruptSnapshot):
            receive(store, 7, bytes(damaged), step=10_000)
    assert store.newest is None


def test_more_or_less_than_announced_is_refused() -> None:
    """And receiving ends by it."""
    storage = ForgetfulStorage()
    store, file = open_store(storage), file_of(7)
    incoming = store.incoming(snapshot_name(7, 2), len(file))
    with pytest.raises(CorruptSnapshot, match="more came"):
        incoming.write(0, file + b"!")
    incoming = store.incoming(snapshot_name(7, 2), len(file))
    incoming.write(0, file[:-1])
    with pytest.raises(CorruptSnapshot, match=f"only {len(file) - 1} of the {len(file)} bytes"):
        incoming.complete()
    assert storage.names() == []


def test_a_received_one_takes_the_place_of_ours_unless_somebody_reads_it() -> None:
    """It was verified a moment ago; ours may be damaged."""
    storage = ForgetfulStorage()
    store = open_store(storage)
    put(store, 7)
    theirs = file_of(7, created_ms=9)
    with store.pin(snapshot_name(7, 2)):
        assert receive(store, 7, theirs).header.created_ms == 1_800
    assert receive(store, 7, theirs).header.created_ms == 9
    assert storage.image() == {snapshot_name(7, 2): theirs}
    assert open_store(storage).newest == store.newest


# Trouble with the disk, and power cuts.


def write_one(store: SnapshotStore) -> None:
    put(store, 7)


def receive_one(store: SnapshotStore) -> None:
    receive(store, 7, file_of(7))


WAYS = {"write": write_one, "receive": receive_one}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [0, 1])
def test_a_power_cut_leaves_all_or_nothing(way: str, before: int) -> None:
    """At every operation of the disk, whatever of the unsynced it kept: what was durable stays."""
    image = {snapshot_name(1, 2): file_of(1)} if before else {}
    choice = random.Random(3)
    for step in range(100):
        storage = from_image(image)
        store = open_store(storage)
        storage.cut_after = step
        try:
            WAYS[way](store)
        except PowerCut:
            pass
        else:
            break
        for _ in range(20):
            found = storage.power_cut(choice)
            again = open_store(found)
            assert names(again) in ([1] * before, [7] + [1] * before)
            assert all(content(again, index) == RAW for index in names(again))
            assert not again.damaged
            assert set(found.names()) == {stored.name for stored in again.all()}
            WAYS[way](again)
            assert content(again, 7) == RAW
    assert 5 < step < 99
    for _ in range(20):
        assert names(open_store(storage.power_cut(choice)))[0] == 7


def test_a_power_cut_while_one_takes_the_place_of_another_leaves_one_of_them() -> None:
    """The name never leads to half of each."""
    choice = random.Random(4)
    for step in range(100):
        storage = from_image({snapshot_name(7, 2): file_of(7)})
        store = open_store(storage)
        storage.cut_after = step
        try:
            receive(store, 7, file_of(7, created_ms=9))
        except PowerCut:
            pass
        else:
            break
        for _ in range(10):
            again = open_store(storage.power_cut(choice))
            assert again.newest is not None
            assert again.newest.header.created_ms in {9, 1_800}
            assert content(again, 7) == RAW
    assert 5 < step < 99


def test_the_simulations_disk_loses_a_name_that_was_not_synced() -> None:
    """Renamed, and the machine stops: the old name or the new one, with what was synced."""
    outcomes = set()
    for seed in range(20):
        storage = SimulatedStorage()
        storage.create("new.partial")
        storage.write("new.partial", 0, b"content")
        storage.sync("new.partial")
        storage.create("new")
        storage.sync_directory()
        storage.rename("new.partial", "new")
        assert storage.read("new", 0, 100) == b"content"
        storage.write("new", 7, b"!")
        storage.crash(Random(seed))
        outcomes.add(tuple((name, storage.read(name, 0, 100)) for name in storage.names()))
    assert outcomes == {
        (("new", b"content"),),
        (("new", b"content!"),),
        (("new", b""), ("new.partial", b"content")),
        (("new", b""), ("new.partial", b"content!")),
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(way: str) -> None:
    """However much of it fitted; with space again it works."""
    whole = len(file_of(7))
    for room in range(0, whole, 30):
        storage = from_image({snapshot_name(1, 2): file_of(1)})
        store = open_store(storage)
        storage.capacity_bytes = len(file_of(1)) + room
        with pytest.raises(SnapshotFailed, match="No space left on device; free some space"):
            WAYS[way](store)
        assert storage.names() == [snapshot_name(1, 2)]
        assert names(store) == [1]
        storage.capacity_bytes = 1 << 40
        WAYS[way](store)
        assert names(store) == [7, 1]


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_does_not_sync_keeps_no_snapshot(way: str) -> None:
    """What is not durable does not count."""
    storage = ForgetfulStorage()
    store = open_store(storage)
    storage.sync_errno = errno.EIO
    with pytest.raises(SnapshotFailed, match="sync failed"):
        WAYS[way](store)
    assert (store.newest, storage.names()) == (None, [])


class UnsyncedFolder(ForgetfulStorage):
    """A disk that syncs files, but no folder."""

    def sync_directory(self) -> None:
        raise OSError(errno.EIO, "folder not synced")


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_does_not_sync_keeps_no_snapshot(way: str) -> None:
    """The name could be gone after a power cut."""
    storage = UnsyncedFolder()
    store = open_store(storage)
    with pytest.raises(SnapshotFailed, match="folder not synced"):
        WAYS[way](store)
    assert (store.newest, storage.names()) == (None, [])


def test_a_replacement_whose_folder_does_not_sync_leaves_a_whole_one() -> None:
    """What was durable is not thrown away for what may not be."""
    storage = UnsyncedFolder(from_image({snapshot_name(7, 2): file_of(7)}).files)
    store = open_store(storage)
    with pytest.raises(SnapshotFailed):
        receive(store, 7, file_of(7, created_ms=9))
    assert content(store, 7) == RAW
    assert storage.names() == [snapshot_name(7, 2)]


def test_a_state_that_cannot_be_read_while_writing_leaves_nothing() -> None:
    """Whatever the source raises goes on to the caller."""
    storage = ForgetfulStorage()

    def pieces() -> object:
        yield RAW[:200]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        open_store(storage).write(header_of(7), pieces())  # type: ignore[arg-type]
    assert storage.names() == []


def test_renaming_on_a_real_disk_keeps_descriptors_with_their_files(tmp_path: Path) -> None:
    """Both files were open: reads under the new name see what was written under the old one."""
    storage = FileStorage(tmp_path / "files")
    for name in ("old", "new"):
        storage.create(name)
        storage.write(name, 0, name.encode())
    storage.rename("old", "new")
    assert storage.read("new", 0, 10) == b"old"
    storage.write("new", 3, b"!")
    assert (tmp_path / "files" / "new").read_bytes() == b"old!"
    with pytest.raises(FileNotFoundError):
        storage.read("old", 0, 1)
    storage.close()
