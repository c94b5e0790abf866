"""The journal forgets its head and begins behind snapshots, and a crash on the way loses nothing else."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from raftos.consensus.journal import MARK, DiskFull, Entry, FileStorage, Journal, JournalFailed, Mark
from raftos.consensus.journal.journal import SEGMENT_BYTES
from raftos.consensus.journal.records import record_bytes, segment_name
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut, from_image
from tests.unit.consensus.journals import TWO_ENTRIES_BYTES, fill, flush, open_journal, remove, segments

MARKED = bytes([MARK])


@pytest.fixture
def storage() -> ForgetfulStorage:
    return ForgetfulStorage()


def filled(storage: ForgetfulStorage, count: int = 12) -> Journal:
    """Two entries in each segment."""
    journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
    fill(journal, count)
    return journal


class TestTrim:
    def test_whole_segments_are_forgotten(self, storage: ForgetfulStorage) -> None:
        """As many as hold nothing behind the index; the last one, being written, stays in any case."""
        journal = filled(storage)
        assert segments(storage) == [1, 2, 3, 4, 5, 6]
        assert journal.trim(0) == 1
        assert journal.trim(1) == 1
        assert remove(journal) == []
        assert journal.trim(7) == 7
        assert remove(journal) == [segment_name(number) for number in (1, 2, 3)]
        assert journal.trim(12) == 11
        remove(journal)
        assert segments(storage) == [6]
        assert open_journal(storage).first_index == 11

    def test_what_is_trimmed_is_gone_and_the_term_before_it_known(self, storage: ForgetfulStorage) -> None:
        """In memory at once, and in the same way after a restart."""
        journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
        for index in range(1, 10):
            fill(journal, 1, term=index)
        journal.set_hard_state(9, "member-2")
        flush(journal)
        journal.trim(6)
        remove(journal)
        for each in (journal, open_journal(storage)):
            assert [each.term_at(index) for index in (5, 6, 7, 10)] == [None, 6, 7, None]
            assert (each.first_index, each.previous_term, each.last_index) == (7, 6, 9)
            assert [entry.index for entry in each.entries(1)] == [7, 8, 9]
            assert (each.term, each.vote) == (9, "member-2")
            with pytest.raises(IndexError):
                each.entry(6)
            with pytest.raises(ValueError, match="already trimmed"):
                each.truncate_from(6)

    def test_a_trimmed_journal_goes_on(self, storage: ForgetfulStorage) -> None:
        """Entries, truncations, rotations and further trims follow as ever; old entries are read back."""
        journal = filled(storage)
        journal.trim(8)
        remove(journal)
        journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES, cache_bytes=0)
        fill(journal, 9, term=2)
        journal.truncate_from(11)
        fill(journal, 5, term=3)
        assert open_journal(storage).entries(1) == journal.entries(1)
        assert journal.trim(9) == 9
        assert journal.trim(15) > 11
        remove(journal)
        assert open_journal(storage).entries(1) == journal.entries(1)

    def test_what_is_not_durable_cannot_be_trimmed(self, storage: ForgetfulStorage) -> None:
        """It would be a bug of the caller; nothing is forgotten."""
        journal = filled(storage)
        journal.append(b"not durable", 13, 1)
        with pytest.raises(ValueError, match="entry 13 is not durable yet"):
            journal.trim(13)
        assert journal.first_index == 1

    def test_the_segment_that_begins_the_journal_is_durable(self, storage: ForgetfulStorage) -> None:
        """The next one has been chosen already, but its header is only in memory: it may never arrive."""
        journal = filled(storage)
        journal.trim(12)
        remove(journal)
        assert open_journal(from_image(storage.image())).last_index == 12

    def test_nothing_is_trimmed_while_a_truncation_can_be_undone(self, storage: ForgetfulStorage) -> None:
        """A crash would bring entries back that are cut off from the snapshot by those removed."""
        journal = filled(storage)
        journal.truncate_from(4)
        assert journal.trim(3) == 1
        flush(journal)
        assert journal.trim(3) == 4
        remove(journal)
        assert open_journal(storage).entries(1) == []
        assert (open_journal(storage).last_index, open_journal(storage).last_term) == (3, 1)

    def test_a_truncation_below_the_first_segment_left_is_replayed(self, storage: ForgetfulStorage) -> None:
        """At each step of the removal, although no trim would stop at the segments in between."""
        journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
        fill(journal, 4)
        journal.append(MARKED + b"kept", 5, 1)
        fill(journal, 6)
        journal.append(MARKED + b"dropped", 12, 1)
        flush(journal)
        journal.truncate_from(8)
        fill(journal, 8, term=2)
        journal.trim(13)
        for name in [None, *journal.take_removals()]:
            if name:
                journal.writer.remove([name])
            again = open_journal(storage)
            assert (again.last_index, again.mark) == (15, Mark(5, MARKED + b"kept"))
            assert again.first_index <= 14
            assert again.entries(14) == journal.entries(14)
            assert again.term_at(again.first_index - 1) in {0, 1, 2}
        assert again.first_index == journal.first_index

    def test_a_missing_head_is_for_the_caller_to_notice(self, storage: ForgetfulStorage) -> None:
        """`first_index` says it: a snapshot has to reach up to it."""
        filled(storage)
        del storage.files[segment_name(1)]
        assert open_journal(storage).first_index == 3

    def test_trimming_gives_memory_back(self, storage: ForgetfulStorage) -> None:
        """Payloads, terms, places and sizes of trimmed entries are let go of."""
        journal = filled(storage, 100)
        before = journal.bytes_since(0)
        journal.trim(96)
        log = journal._log
        assert len(log._kept) == len(log._terms) == len(log._places) == len(log._totals) == 4
        assert (before, journal.bytes_since(0)) == (100 * record_bytes(50), 4 * record_bytes(50))


class TestRemovals:
    def test_a_power_cut_leaves_one_run_of_segments(self, storage: ForgetfulStorage) -> None:
        """Before and after each removal and each sync of the folder, with names synced or not."""
        journal = filled(storage)
        expected = journal.entries(1)
        journal.trim(10)
        names = journal.take_removals()
        seen = set()
        for cut_after in range(2 * len(names) + 1):
            for seed in range(6):
                disk = from_image(storage.image())
                again = open_journal(disk, segment_bytes=TWO_ENTRIES_BYTES)
                again.trim(10)
                disk.cut_after = cut_after
                try:
                    again.writer.remove(again.take_removals())
                except PowerCut:
                    disk = disk.power_cut(random.Random(seed))
                disk.cut_after = None
                left = segments(disk)
                assert left == list(range(left[0], 7))
                recovered = open_journal(disk)
                assert recovered.entries(1) == expected[recovered.first_index - 1 :]
                assert recovered.last_index == 12
                seen.add(left[0])
        assert seen == {1, 2, 3, 4, 5, 6}

    def test_removing_again_does_no_harm(self, storage: ForgetfulStorage) -> None:
        """A disk without space to remove a file is answered with the same names later."""
        journal = filled(storage)
        journal.trim(8)
        names = journal.take_removals()
        assert journal.take_removals() == []
        journal.writer.remove(names[:2])
        journal.writer.remove(names)
        assert segments(storage) == [5, 6]

    @pytest.mark.parametrize(
        ("code", "expected"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, JournalFailed)]
    )
    def test_a_file_that_cannot_be_removed(
        self, storage: ForgetfulStorage, code: int, expected: type[Exception]
    ) -> None:
        """No space is waited out, and writing goes on; another failure is one of the disk, and final."""
        journal = filled(storage)
        journal.trim(8)
        names = journal.take_removals()
        storage.remove_errno = code
        with pytest.raises(expected, match="cannot be"):
            journal.writer.remove(names)
        storage.remove_errno = 0
        if expected is DiskFull:
            fill(journal, 3)
            journal.writer.remove(names)
            assert segments(storage)[0] == 5
        else:
            with pytest.raises(JournalFailed):
                journal.writer.remove(names)

    def test_a_folder_that_fails_to_sync_is_final(self, storage: ForgetfulStorage) -> None:
        """What is left is unknown, and no further file is removed."""
        journal = filled(storage)
        journal.trim(8)
        storage.sync_errno = errno.EIO
        with pytest.raises(JournalFailed):
            remove(journal)
        assert segments(storage) == [2, 3, 4, 5, 6]

    def test_real_files_are_removed(self, tmp_path: Path) -> None:
        """Their space comes back, and the journal opens without them."""
        files = FileStorage(tmp_path / "journal")
        journal = open_journal(files, segment_bytes=1000, cache_bytes=0)
        fill(journal, 40)
        journal.trim(30)
        names = remove(journal)
        assert names
        assert not {path.name for path in (tmp_path / "journal").iterdir()} & set(names)
        expected = journal.entries(1)
        journal.close()
        again = FileStorage(tmp_path / "journal")
        assert open_journal(again).entries(1) == expected
        again.close()


class TestInstall:
    @pytest.mark.parametrize("index", [9, 12, 20], ids=["beside the log", "at its end", "beyond it"])
    def test_the_log_begins_behind_the_snapshot(self, storage: ForgetfulStorage, index: int) -> None:
        """Empty, with the snapshot's term and mark; the vote stays."""
        journal = filled(storage)
        journal.set_hard_state(5, "member-3")
        journal.install(index, 4, MARKED + b"them")
        flush(journal)
        for each in (journal, open_journal(storage)):
            assert (each.first_index, each.last_index, each.synced_index) == (index + 1, index, index)
            assert (each.previous_term, each.last_term, each.term_at(index)) == (4, 4, 4)
            assert (each.mark, each.mark_at(index)) == (Mark(index, MARKED + b"them"),) * 2
            assert (each.entries(1), each.term_at(index - 1)) == ([], None)
            assert (each.term, each.vote) == (5, "member-3")

    def test_a_log_that_has_the_entry_is_kept(self, storage: ForgetfulStorage) -> None:
        """Its tail agrees with the snapshot: nothing to write."""
        journal = filled(storage)
        journal.install(7, 1, None)
        journal.install(12, 1, None)
        assert journal.take() is None
        assert len(journal.entries(1)) == 12

    def test_a_new_journal_begins_behind_a_snapshot(self, storage: ForgetfulStorage) -> None:
        """The first thing that a new member hears of its cluster."""
        journal = open_journal(storage)
        journal.install(1000, 7, None)
        journal.append(b"next", 1001, 7)
        flush(journal)
        assert open_journal(storage).entries(1) == [Entry(b"next", 1001, 7)]
        assert open_journal(storage).mark is None

    def test_what_came_before_is_trimmed_once_the_record_is_durable(self, storage: ForgetfulStorage) -> None:
        """Not before: after a crash the old log is there again, and has to be whole."""
        journal = filled(storage)
        journal.install(100, 3, None)
        assert journal.synced_index == 12
        assert journal.trim(12) == 101
        assert remove(journal) == []
        assert open_journal(from_image(storage.image())).entries(1)[-1].index == 12
        flush(journal)
        assert journal.synced_index == 100
        journal.trim(100)
        assert len(remove(journal)) == 6
        assert segments(storage) == [7]
        assert open_journal(storage).last_index == 100

    def test_a_log_beside_the_snapshot_is_not_durable_below_it(self, storage: ForgetfulStorage) -> None:
        """What is on the disk is another log, also when it is being written at that moment."""
        journal = filled(storage)
        journal.append(b"of the other log", 13, 1)
        write = journal.take()
        assert write is not None
        journal.install(10, 2, None)
        assert journal.synced_index == 9
        journal.writer.write(write)
        journal.finish(write)
        assert journal.synced_index == 9
        flush(journal)
        assert journal.synced_index == 10

    def test_the_log_grows_and_is_cut_behind_the_snapshot(self, storage: ForgetfulStorage) -> None:
        """Down to the snapshot itself, whose mark is in force again then, and not below."""
        journal = filled(storage)
        journal.install(20, 3, MARKED)
        journal.append(MARKED + b"new", 21, 3)
        fill(journal, 4, term=4)
        journal.truncate_from(21)
        flush(journal)
        for each in (journal, open_journal(storage)):
            assert (each.first_index, each.last_index, each.last_term) == (21, 20, 3)
            assert each.mark == Mark(20, MARKED)
        with pytest.raises(ValueError, match="already trimmed"):
            journal.truncate_from(20)
        fill(journal, 8, term=5)
        journal.trim(27)
        remove(journal)
        assert open_journal(storage).mark == Mark(20, MARKED)

    def test_a_snapshot_from_before_the_log_is_refused(self, storage: ForgetfulStorage) -> None:
        """The log would lose entries that are committed; an empty mark could not be told from none."""
        journal = filled(storage)
        journal.trim(8)
        with pytest.raises(ValueError, match="ends at entry 7, and the log begins at 9"):
            journal.install(7, 1, None)
        with pytest.raises(ValueError, match="not empty"):
            journal.install(30, 1, b"")
        assert journal.take() is None

    @pytest.mark.parametrize("index", [9, 20])
    def test_a_crash_before_the_sync_leaves_the_old_log_or_the_new(
        self, storage: ForgetfulStorage, index: int
    ) -> None:
        """At every byte of the record, cut or followed by zeros."""
        journal = filled(storage)
        old = journal.entries(1)
        journal.install(index, 4, MARKED + b"them")
        write = journal.take()
        assert write is not None
        before = storage.image()
        name = segment_name(write.segment)
        for size in range(len(write.data) + 1):
            for zeros in (0, 100):
                content = before.get(name, b"")[: write.offset] + write.data[:size] + bytes(zeros)
                again = open_journal(from_image(before | {name: content}))
                if size < len(write.data) - 4:  # The end mark alone is written anew.
                    assert (again.first_index, again.entries(1), again.mark) == (1, old, None)
                else:
                    assert (again.first_index, again.entries(1)) == (index + 1, [])
                    assert again.mark == Mark(index, MARKED + b"them")


class TestMarks:
    def test_the_newest_mark_is_known_at_any_index(self, storage: ForgetfulStorage) -> None:
        """Also before it is durable, and after the truncation of a newer one."""
        journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
        assert journal.mark_at(0) is None
        fill(journal, 2)
        journal.append(MARKED + b"a", 3, 1)
        fill(journal, 2)
        journal.append(MARKED + b"b", 6, 1)
        first, second = Mark(3, MARKED + b"a"), Mark(6, MARKED + b"b")
        assert journal.mark == second
        assert [journal.mark_at(index) for index in (0, 2, 3, 5, 6, 9)] == [
            None,
            None,
            first,
            first,
            second,
            second,
        ]
        flush(journal)
        assert open_journal(storage).mark == second
        journal.truncate_from(6)
        assert journal.mark == first
        flush(journal)
        assert open_journal(storage).mark == first
        journal.truncate_from(1)
        flush(journal)
        assert [each.mark for each in (journal, open_journal(storage))] == [None, None]

    def test_trimming_keeps_the_mark_in_force(self, storage: ForgetfulStorage) -> None:
        """Its entry is gone; what is asked about an index before the log is refused."""
        journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
        for name in (b"a", b"b", b"c"):
            journal.append(MARKED + name, journal.last_index + 1, 1)
            fill(journal, 4)
        journal.trim(8)
        remove(journal)
        for each in (journal, open_journal(storage)):
            assert each.first_index > 6
            assert each.mark_at(each.first_index - 1) == Mark(6, MARKED + b"b")
            assert each.mark == Mark(11, MARKED + b"c")
            with pytest.raises(ValueError, match="already trimmed"):
                each.mark_at(each.first_index - 2)


class TestSizes:
    def test_bytes_are_counted_between_entries(self, storage: ForgetfulStorage) -> None:
        """As records, so that many small entries count too; outside the log the nearest end counts."""
        journal = open_journal(storage)
        sizes = [0, 10, 300, 10]
        for size in sizes:
            fill(journal, 1, b"x" * size)
        expected = [sum(map(record_bytes, sizes[index:])) for index in range(5)]
        assert [journal.bytes_since(index) for index in range(5)] == expected
        assert (journal.bytes_since(-1), journal.bytes_since(9)) == (expected[0], 0)

    @pytest.mark.parametrize(
        ("tail_bytes", "index"), [(0, 12), (1, 11), (86, 11), (87, 10), (500, 6), (9999, 4)]
    )
    def test_a_tail_of_so_many_bytes_is_kept(
        self, storage: ForgetfulStorage, tail_bytes: int, index: int
    ) -> None:
        """The largest index behind which there is at least as much, or the log's beginning."""
        journal = filled(storage)
        journal.trim(4)
        assert record_bytes(50) == 86
        assert journal.index_before_bytes(tail_bytes) == index

    def test_the_size_is_that_of_the_segments_held(self, storage: ForgetfulStorage) -> None:
        """Without the zeros ahead; less after a trim, the same after a restart."""
        journal = filled(storage)

        def written_bytes() -> int:
            return sum(len(content.rstrip(b"\0")) for content in storage.image().values())

        assert open_journal(ForgetfulStorage()).size_bytes == 0
        assert journal.size_bytes == open_journal(storage).size_bytes == written_bytes()
        before = journal.size_bytes
        journal.trim(8)
        remove(journal)
        assert journal.size_bytes == open_journal(storage).size_bytes == written_bytes() < before

    def test_segments_are_small_enough_to_trim_by(self) -> None:
        """A snapshot of a few dozen MiB can bound the journal to about as much."""
        assert SEGMENT_BYTES == 16 << 20
