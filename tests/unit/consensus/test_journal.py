"""The journal through its interface: what is visible, what is durable, and what failing disks do."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest

from raftos.consensus.journal import (
    CorruptJournal,
    DiskFull,
    Entry,
    FileStorage,
    Identity,
    Journal,
    JournalFailed,
    NewerFormat,
    WrongIdentity,
)
from raftos.consensus.journal.records import segment_name
from raftos.errors import StartupError
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut, from_image
from tests.unit.consensus.journals import fill, flush, open_journal


@pytest.fixture
def storage() -> ForgetfulStorage:
    return ForgetfulStorage()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileStorage]:
    storage = FileStorage(tmp_path / "journal")
    yield storage
    storage.close()


class TestLog:
    def test_a_new_journal_is_empty_and_leaves_the_disk_alone(self, storage: ForgetfulStorage) -> None:
        """Opening is not yet a promise: nothing is written, so nothing has to be synced."""
        journal = open_journal(storage)
        assert (journal.first_index, journal.last_index, journal.last_term) == (1, 0, 0)
        assert (journal.term, journal.vote, journal.synced_index) == (0, None, 0)
        assert journal.take() is None
        assert storage.image() == {}

    def test_a_journal_that_begins_has_a_file_before_it_has_a_record(self, storage: ForgetfulStorage) -> None:
        """Whatever a power cut takes, it is a new one or an empty one; beginning again is no mutation."""
        for cut in range(20):
            journal = open_journal(storage)
            assert journal.is_new
            journal.begin()
            storage.cut_after = cut
            with suppress(PowerCut):
                flush(journal)
                break
            storage = storage.power_cut(random.Random(cut))
        storage.cut_after = None
        again = open_journal(storage.power_cut(random.Random(0)))
        assert (again.is_new, again.last_index, again.term, again.vote) == (False, 0, 0, None)
        again.begin()
        assert again.take() is None

    def test_what_is_buffered_is_visible_at_once(self, storage: ForgetfulStorage) -> None:
        """The engine sees its own entries before the disk does."""
        journal = open_journal(storage)
        journal.append(b"a", 1, 1)
        journal.append(b"b", 2, 2)
        assert journal.entries(1) == [Entry(b"a", 1, 1), Entry(b"b", 2, 2)]
        assert (journal.last_index, journal.last_term, journal.synced_index) == (2, 2, 0)
        assert [journal.term_at(index) for index in (0, 1, 2, 3)] == [0, 1, 2, None]

    def test_an_entry_that_leaves_a_gap_is_refused(self, storage: ForgetfulStorage) -> None:
        """A gap can only be a bug of the caller, and must not reach the disk."""
        journal = open_journal(storage)
        with pytest.raises(ValueError, match="cannot follow entry 0"):
            journal.append(b"a", 2, 1)
        with pytest.raises(IndexError):
            journal.entry(1)

    @pytest.mark.parametrize(
        ("start", "stop", "max_bytes", "expected"),
        [
            (1, None, None, [1, 2, 3, 4, 5]),
            (2, 4, None, [2, 3]),
            (2, None, 0, [2]),
            (2, None, 20, [2, 3]),
            (2, None, 29, [2, 3]),
            (0, 99, 30, [1, 2, 3]),
            (6, None, 100, []),
        ],
    )
    def test_entries_obey_their_limits(
        self,
        storage: ForgetfulStorage,
        start: int,
        stop: int | None,
        max_bytes: int | None,
        expected: list[int],
    ) -> None:
        """`stop` is exclusive; `max_bytes` is kept to, except that one entry always comes."""
        journal = open_journal(storage)
        fill(journal, 5, b"0123456789")
        assert [entry.index for entry in journal.entries(start, stop, max_bytes)] == expected


class TestDurability:
    def test_synced_follows_finish_only(self, storage: ForgetfulStorage) -> None:
        """Neither taking nor writing makes anything count as durable; `finish` does, up to the take."""
        journal = open_journal(storage)
        journal.append(b"a", 1, 1)
        journal.set_hard_state(3, "member-2")
        write = journal.take()
        assert write is not None
        journal.append(b"b", 2, 3)
        journal.writer.write(write)
        assert (journal.synced_index, journal.synced_term, journal.synced_position) == (0, 0, 0)
        journal.finish(write)
        assert (journal.synced_index, journal.synced_term, journal.synced_vote) == (1, 3, "member-2")
        assert (journal.synced_position, journal.position) == (2, 3)

    def test_one_write_is_outstanding_at_most(self, storage: ForgetfulStorage) -> None:
        """The next one gathers until the first is finished, and only that one can be finished."""
        journal = open_journal(storage)
        journal.append(b"a", 1, 1)
        write = journal.take()
        assert write is not None
        journal.append(b"b", 2, 1)
        assert journal.take() is None
        with pytest.raises(ValueError, match="not the outstanding one"):
            journal.finish(write._replace(position=9))
        journal.finish(write)
        assert journal.take() is not None

    def test_one_sync_covers_entries_and_hard_state(self, storage: ForgetfulStorage) -> None:
        """Everything of a take comes back together."""
        journal = open_journal(storage)
        journal.set_hard_state(7, "member-3")
        journal.append(b"a", 1, 7)
        flush(journal)
        again = open_journal(storage)
        assert (again.term, again.vote, again.entries(1)) == (7, "member-3", [Entry(b"a", 1, 7)])
        assert (again.synced_index, again.synced_term, again.synced_vote) == (1, 7, "member-3")

    def test_the_same_hard_state_again_is_no_mutation(self, storage: ForgetfulStorage) -> None:
        """Repeating a vote costs no sync."""
        journal = open_journal(storage)
        journal.set_hard_state(1, None)
        flush(journal)
        journal.set_hard_state(1, None)
        assert journal.take() is None

    def test_truncation_lowers_what_is_durable(self, storage: ForgetfulStorage) -> None:
        """The replaced tail must not count before it is synced, also when its old form is being written."""
        journal = open_journal(storage)
        fill(journal, 3)
        journal.append(b"old", 4, 1)
        write = journal.take()
        assert write is not None
        journal.truncate_from(3)
        assert journal.synced_index == 2
        journal.append(b"new", 3, 2)
        journal.writer.write(write)
        journal.finish(write)
        assert journal.synced_index == 2
        flush(journal)
        assert journal.synced_index == 3
        assert open_journal(storage).entries(3) == [Entry(b"new", 3, 2)]

    def test_a_truncation_alone_is_durable(self, storage: ForgetfulStorage) -> None:
        """Dropped entries stay dropped although nothing was appended after them."""
        journal = open_journal(storage)
        fill(journal, 3)
        journal.truncate_from(2)
        journal.truncate_from(9)
        flush(journal)
        assert open_journal(storage).last_index == 1

    def test_writing_happens_on_another_thread(self, files: FileStorage) -> None:
        """The owner goes on appending, truncating and reading old entries while the disk works."""
        journal = open_journal(files, segment_bytes=4096, cache_bytes=0)
        with ThreadPoolExecutor(1) as disk:
            for _ in range(100):
                journal.append(os.urandom(100), journal.last_index + 1, 1)
                write = journal.take()
                assert write is not None
                written = disk.submit(journal.writer.write, write)
                journal.append(b"next", journal.last_index + 1, 1)
                assert [entry.index for entry in journal.entries(1)] == list(range(1, journal.last_index + 1))
                written.result()
                journal.finish(write)
        assert open_journal(files).entries(1) == journal.entries(1, journal.synced_index + 1)

    def test_what_a_killed_process_left_is_synced_when_it_is_read(self, storage: ForgetfulStorage) -> None:
        """Records still in the operating system's memory must not be called durable before they are."""
        journal = open_journal(storage)
        fill(journal, 1)
        journal.append(b"written, not synced", 2, 1)
        write = journal.take()
        assert write is not None
        storage.cut_after = 1
        with pytest.raises(PowerCut):
            journal.writer.write(write)
        storage.cut_after = None
        assert open_journal(storage).synced_index == 2
        for seed in range(20):
            assert open_journal(storage.power_cut(random.Random(seed))).last_index == 2


class TestSegments:
    def test_segments_follow_one_another(self, storage: ForgetfulStorage) -> None:
        """Rotation keeps the log and the hard state whole."""
        journal = open_journal(storage, segment_bytes=300)
        journal.set_hard_state(4, "member-2")
        fill(journal, 20, term=4)
        assert len(storage.files) > 5
        again = open_journal(storage, segment_bytes=300)
        assert again.entries(1) == journal.entries(1)
        assert (again.term, again.vote) == (4, "member-2")
        fill(again, 5, term=5)
        assert open_journal(storage).last_index == 25

    def test_a_log_cut_back_below_its_segment_recovers(self, storage: ForgetfulStorage) -> None:
        """Segments that hold lower indexes than older ones are read in the order they were written."""
        journal = open_journal(storage, segment_bytes=300)
        fill(journal, 12, b"old" * 20)
        journal.truncate_from(2)
        fill(journal, 4, b"new" * 20, term=2)
        journal.truncate_from(4)
        flush(journal)
        fill(journal, 6, b"newer" * 10, term=3)
        again = open_journal(storage, segment_bytes=300)
        assert again.entries(1) == journal.entries(1)
        assert again.last_index == 9

    def test_a_missing_segment_is_damage(self, storage: ForgetfulStorage) -> None:
        """It is named. Only one that is missing at the beginning may have been trimmed."""
        fill(open_journal(storage, segment_bytes=300), 12)
        for number in range(2, len(storage.files)):
            image = storage.image()
            del image[segment_name(number)]
            with pytest.raises(CorruptJournal, match=segment_name(number)):
                open_journal(from_image(image))

    def test_exchanged_segments_are_damage(self, storage: ForgetfulStorage) -> None:
        """Each segment says what has to come before it."""
        fill(open_journal(storage, segment_bytes=300), 12)
        image = storage.image()
        second, third = segment_name(2), segment_name(3)
        image[second], image[third] = image[third], image[second]
        with pytest.raises(CorruptJournal, match="does not continue"):
            open_journal(from_image(image))

    def test_other_files_in_the_folder_are_left_alone(self, storage: ForgetfulStorage) -> None:
        """Only names of segments are read."""
        storage.create("lost+found")
        fill(open_journal(storage), 1)
        assert open_journal(storage).last_index == 1
        assert "lost+found" in storage.files


class TestMemory:
    def test_old_entries_are_read_back_and_only_those_asked_for(self, storage: ForgetfulStorage) -> None:
        """A long log costs no more to read from than what is returned."""
        journal = open_journal(storage, segment_bytes=2000, cache_bytes=500)
        fill(journal, 200, b"y" * 100)
        storage.reads.clear()
        assert [entry.index for entry in journal.entries(10, max_bytes=350)] == [10, 11, 12]
        assert len(storage.reads) == 3
        assert journal.entry(200).payload == b"y" * 100
        assert len(storage.reads) == 3

    def test_what_is_not_durable_stays_in_memory(self, storage: ForgetfulStorage) -> None:
        """Beyond the size of the cache if need be, since it can be read nowhere else."""
        journal = open_journal(storage, cache_bytes=0)
        for index in range(1, 50):
            journal.append(b"z" * 100, index, 1)
        assert len(journal.entries(1)) == 49
        assert storage.reads == []
        flush(journal)
        assert len(journal.entries(1)) == 49
        assert len(storage.reads) == 49

    def test_what_is_appended_during_a_write_stays_in_memory(self, storage: ForgetfulStorage) -> None:
        """Finishing a write lets go of what it made durable, and of nothing else."""
        journal = open_journal(storage, cache_bytes=0)
        journal.append(b"written", 1, 1)
        write = journal.take()
        assert write is not None
        journal.append(b"not yet", 2, 1)
        journal.writer.write(write)
        journal.finish(write)
        assert [entry.payload for entry in journal.entries(1)] == [b"written", b"not yet"]
        assert len(storage.reads) == 1

    def test_replaced_entries_do_not_stay_in_memory(self, storage: ForgetfulStorage) -> None:
        """A log cut back below what is kept starts keeping from there again."""
        journal = open_journal(storage, cache_bytes=500)
        fill(journal, 20, b"y" * 100)
        journal.truncate_from(5)
        fill(journal, 30, b"z" * 100)
        storage.reads.clear()
        assert len(journal.entries(1)) == 34
        assert len(storage.reads) == 32

    def test_recovery_keeps_no_more_than_the_cache(self, storage: ForgetfulStorage) -> None:
        """Opening a long journal leaves its older payloads on the disk."""
        fill(open_journal(storage, segment_bytes=2000), 100, b"y" * 100)
        journal = open_journal(storage, cache_bytes=500)
        storage.reads.clear()
        assert len(journal.entries(1)) == 100
        assert len(storage.reads) == 98

    def test_a_long_journal_is_read_through_windows(self, storage: ForgetfulStorage) -> None:
        """Records lie across the edges of windows, some are larger than one; none is missed or changed."""
        choice = random.Random(1)
        journal = open_journal(storage, segment_bytes=5 << 20, cache_bytes=0)
        for number in range(1, 301):
            size = (3 << 20) + number if number % 100 == 0 else choice.randint(0, 40_000)
            journal.append(choice.randbytes(size), number, number // 7)
            if number % 10 == 0:
                journal.set_hard_state(number, None)
                flush(journal)
        assert sum(map(len, storage.image().values())) > 10 << 20
        for cache_bytes in (0, 2 << 20, 1 << 30):
            again = open_journal(storage, cache_bytes=cache_bytes)
            assert again.entries(1) == journal.entries(1)
            assert again.term == 300

    def test_an_old_entry_that_fails_its_check_stops_the_member(self, storage: ForgetfulStorage) -> None:
        """Damage found late is never handed out; neither is a read error."""
        journal = open_journal(storage, cache_bytes=0)
        fill(journal, 3, b"payload")
        content = storage.files[segment_name(1)].content
        content[content.index(b"payload")] ^= 1
        with pytest.raises(JournalFailed, match="entry 1 fails its check"):
            journal.entries(1)
        del storage.files[segment_name(1)]
        with pytest.raises(JournalFailed, match="cannot be read"):
            journal.entry(2)


class TestFailingDisks:
    @pytest.mark.parametrize("room", [0, 1, 150, 400, 700])
    def test_a_full_disk_is_waited_out(self, storage: ForgetfulStorage, room: int) -> None:
        """The same write again, from memory, at the same place; nothing counts before it succeeds."""
        journal = open_journal(storage, segment_bytes=500)
        fill(journal, 2)
        used_bytes = sum(len(content.rstrip(b"\0")) for content in storage.image().values())
        storage.capacity_bytes = used_bytes + room
        for _ in range(20):
            journal.append(b"q" * 50, journal.last_index + 1, 1)
        write = journal.take()
        assert write is not None
        for _ in range(3):
            with pytest.raises(DiskFull):
                journal.writer.write(write)
        assert journal.synced_index == 2
        storage.capacity_bytes = 1 << 40
        journal.writer.write(write)
        journal.finish(write)
        fill(journal, 5)
        assert open_journal(storage).entries(1) == journal.entries(1)

    def test_a_full_disk_at_the_start_of_a_segment_is_waited_out(self, storage: ForgetfulStorage) -> None:
        """A rotation that could not finish is finished later, and may be crashed in until then."""
        journal = open_journal(storage, segment_bytes=100)
        fill(journal, 1)
        storage.capacity_bytes = 0
        journal.append(b"q" * 50, 2, 1)
        write = journal.take()
        assert write is not None
        with pytest.raises(DiskFull):
            journal.writer.write(write)
        assert open_journal(from_image(storage.image())).last_index == 1
        storage.capacity_bytes = 1 << 40
        journal.writer.write(write)
        journal.finish(write)
        assert open_journal(storage).last_index == 2

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
    def test_a_failed_sync_is_final(self, storage: ForgetfulStorage, code: int) -> None:
        """Whatever its reason: the kernel may have dropped the pages, so a second try would lie."""
        journal = open_journal(storage)
        journal.append(b"a", 1, 1)
        write = journal.take()
        assert write is not None
        storage.sync_errno = code
        with pytest.raises(JournalFailed):
            journal.writer.write(write)
        storage.sync_errno = 0
        with pytest.raises(JournalFailed):
            journal.writer.write(write)
        assert journal.synced_index == 0

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="mounting needs root")
    def test_a_really_full_disk_is_waited_out(self, tmp_path: Path) -> None:
        """A file system of 128 KiB fills up in the middle of a write, and gets room again."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "raftos-test", tmp_path], check=True)
        storage = FileStorage(tmp_path / "journal")
        try:
            journal = open_journal(storage)
            fill(journal, 1, b"first")
            journal.append(b"q" * 200_000, 2, 1)
            write = journal.take()
            assert write is not None
            for _ in range(2):
                with pytest.raises(DiskFull):
                    journal.writer.write(write)
            subprocess.run(["mount", "-o", "remount,size=1m", tmp_path], check=True)
            journal.writer.write(write)
            journal.finish(write)
            assert open_journal(storage).entry(2).payload == b"q" * 200_000
        finally:
            storage.close()
            subprocess.run(["umount", tmp_path], check=True)


class TestRefusals:
    @pytest.mark.parametrize("other", [Identity("cluster-1", "member-2"), Identity("cluster-2", "member-1")])
    def test_a_journal_of_someone_else_is_refused(self, storage: ForgetfulStorage, other: Identity) -> None:
        """Another member's votes and another cluster's entries are not ours."""
        fill(open_journal(storage), 3)
        before = storage.image()
        with pytest.raises(WrongIdentity, match="correct `data_dir`"):
            Journal.open(storage, other)
        assert storage.image() == before

    def test_a_newer_format_is_refused(self, storage: ForgetfulStorage) -> None:
        """It is not damage, and says what to start instead."""
        preamble = b"raftoslg" + (3).to_bytes(4, "little")
        image = {segment_name(1): preamble + crc32(preamble).to_bytes(4, "little") + b"of the future"}
        storage = from_image(image)
        with pytest.raises(NewerFormat, match="start the newer version"):
            open_journal(storage)
        assert storage.image() == image

    def test_a_disk_that_does_not_answer_is_a_sentence(self, tmp_path: Path) -> None:
        """An operating system's error at the start is told as a StartupError."""
        storage = FileStorage(tmp_path / "journal")
        (tmp_path / "journal" / segment_name(1)).mkdir()
        with pytest.raises(StartupError, match="cannot be opened"):
            open_journal(storage)


def test_files_survive_a_restart(tmp_path: Path) -> None:
    """The real storage: write, close, open again in a new storage, over several segments."""
    first = FileStorage(tmp_path / "journal")
    journal = open_journal(first, segment_bytes=1000)
    fill(journal, 30)
    expected = journal.entries(1)
    journal.close()
    second = FileStorage(tmp_path / "journal")
    assert open_journal(second, cache_bytes=0).entries(1) == expected
    second.close()


def test_what_is_durable_of_the_hard_state_is_what_was_written_and_not_what_came_meanwhile() -> None:
    journal = open_journal(ForgetfulStorage())
    journal.set_hard_state(1, "a")
    write = journal.take()
    assert write is not None
    journal.set_hard_state(2, "b")
    journal.writer.write(write)
    journal.finish(write)
    assert (journal.synced_term, journal.synced_vote) == (1, "a")
