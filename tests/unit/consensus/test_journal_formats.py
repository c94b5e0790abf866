"""Journals that version 0.1.0 wrote: read, gone on with in the present format, and trimmed."""

from __future__ import annotations

import random
from zlib import crc32

import pytest

from raftos.consensus.journal import MARK, CorruptJournal, Journal, Mark, NewerFormat
from raftos.consensus.journal.records import (
    BASE,
    ENTRY,
    PREAMBLE_BYTES,
    decode_preamble,
    encode,
    segment_name,
)
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut, from_image
from tests.unit.consensus.journals import (
    OLD_ENTRIES,
    OLD_HARD_STATE,
    TWO_ENTRIES_BYTES,
    fill,
    flush,
    old_image,
    open_journal,
    remove,
    segments,
)


def formats(storage: ForgetfulStorage) -> list[int | None]:
    return [decode_preamble(content[:PREAMBLE_BYTES]) for _, content in sorted(storage.image().items())]


def went_on() -> tuple[ForgetfulStorage, Journal]:
    """Three segments of format 1, then four of format 2 with a truncation that reaches into the old ones."""
    storage = from_image(old_image())
    journal = open_journal(storage, segment_bytes=TWO_ENTRIES_BYTES)
    journal.truncate_from(4)
    fill(journal, 8, bytes([MARK]) + b"x" * 50, term=4)
    return storage, journal


def test_a_journal_of_format_1_is_read() -> None:
    """Entries, truncations and hard state of all its segments; opening rewrites nothing."""
    storage = from_image(old_image())
    journal = open_journal(storage)
    assert formats(storage) == [1, 1, 1]
    assert journal.entries(1) == OLD_ENTRIES
    assert (journal.term, journal.vote, journal.mark) == (*OLD_HARD_STATE, None)
    assert storage.image() == old_image()


def test_what_follows_is_written_in_format_2() -> None:
    """In a segment of its own, although the last old one is not full; an older version then says so."""
    storage, journal = went_on()
    assert formats(storage) == [1, 1, 1, 2, 2, 2, 2]
    again = open_journal(storage)
    assert again.entries(1) == journal.entries(1)
    assert again.entries(1)[:3] == OLD_ENTRIES[:3]
    assert (again.term, again.vote) == OLD_HARD_STATE
    assert again.mark == Mark(11, bytes([MARK]) + b"x" * 50)


def test_old_segments_are_trimmed_together() -> None:
    """A journal can begin only with a segment of format 2; until it can, all of it stays."""
    storage, journal = went_on()
    assert journal.trim(2) == 1
    assert journal.trim(4) == 4
    assert remove(journal) == [segment_name(number) for number in (1, 2, 3)]
    assert open_journal(storage).entries(1) == journal.entries(1)


def test_a_removal_that_was_cut_short_is_finished() -> None:
    """At any point among the old segments, and again if the power fails meanwhile."""
    storage, journal = went_on()
    journal.trim(6)
    names = journal.take_removals()
    assert len(names) == 4
    for count in range(len(names) + 1):
        left = {name: content for name, content in storage.image().items() if name not in names[:count]}
        for cut_after in range(8):
            disk = from_image(left)
            disk.cut_after = cut_after
            try:
                open_journal(disk)
            except PowerCut:
                disk = disk.power_cut(random.Random(cut_after))
            disk.cut_after = None
            again = open_journal(disk)
            assert segments(disk)[0] == (1 if count == 0 else 4 if count < 4 else 5)
            assert again.entries(6) == journal.entries(6)
            assert again.first_index <= 7
            assert again.mark == journal.mark


@pytest.mark.parametrize("lost", [1, 2])
def test_a_segment_of_format_1_that_is_missing_is_damage(lost: int) -> None:
    """Nothing trimmed such a journal; it is named, and nothing is modified."""
    image = old_image()
    del image[segment_name(lost)]
    storage = from_image(image)
    with pytest.raises(CorruptJournal, match=segment_name(lost)):
        open_journal(storage)
    assert storage.image() == image


def test_an_old_segment_behind_a_new_one_is_damage() -> None:
    """No version writes that."""
    storage, _ = went_on()
    image = storage.image()
    image[segment_name(5)] = image[segment_name(3)]
    with pytest.raises(CorruptJournal, match="does not continue"):
        open_journal(from_image(image))


def test_a_record_of_format_2_in_an_old_segment_is_damage() -> None:
    """Format 1 had no BASE."""
    image = old_image()
    image[segment_name(3)] += b"".join(encode(BASE, 9, 9, b""))
    with pytest.raises(CorruptJournal, match="does not follow"):
        open_journal(from_image(image))
    image = old_image()
    image[segment_name(3)] += b"".join(encode(ENTRY, 5, 9, b"\0fifth"))
    assert open_journal(from_image(image)).last_index == 5


def test_a_format_that_is_newer_or_none_is_refused() -> None:
    """Only formats 1 and 2 are known."""
    for version in (0, 3):
        preamble = b"raftoslg" + version.to_bytes(4, "little")
        checksum = crc32(preamble).to_bytes(4, "little")
        with pytest.raises(NewerFormat, match=f"has format {version}"):
            open_journal(from_image({segment_name(1): preamble + checksum}))


def test_a_new_journal_has_format_2() -> None:
    """From its first write on."""
    storage = ForgetfulStorage()
    journal = open_journal(storage)
    journal.append(b"a", 1, 1)
    flush(journal)
    assert formats(storage) == [2]
