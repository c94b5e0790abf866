"""Every byte of small journals cut, zeroed and changed: torn ends recover, damage is refused untouched."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from zlib import crc32

import pytest

from raftos.consensus.journal import MARK, CorruptJournal, Entry, Journal, Mark
from raftos.consensus.journal.records import (
    BASE,
    END,
    ENTRY,
    SEGMENT,
    TRUNCATE,
    decode_head,
    encode,
    record_bytes,
    segment_name,
)
from tests.unit.consensus.forgetful import ForgetfulStorage, from_image
from tests.unit.consensus.journals import IDENTITY, fill, flush, old_image, remove

MARKED = bytes([MARK])
MARK_BYTES = len(END)

View = tuple[tuple[Entry, ...], int, str | None, int, int, Mark | None]


def view(journal: Journal) -> View:
    log = journal.first_index, journal.previous_term, journal.mark
    return tuple(journal.entries(1)), journal.term, journal.vote, *log


def open_journal(storage: ForgetfulStorage, segment_bytes: int = 4096) -> Journal:
    return Journal.open(storage, IDENTITY, segment_bytes=segment_bytes)


@dataclass
class Sample:
    """A journal's files, and the view after each record with the place where that record ends."""

    image: dict[str, bytes] = field(default_factory=dict)
    ends: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    views: list[View] = field(default_factory=lambda: [((), 0, None, 1, 0, None)])

    def last(self) -> str:
        return max(self.image)


def payload_with_zero_checksum(index: int, term: int) -> bytes:
    """One whose record's checksum ends in a zero byte: where a tear and damage are easily confused."""
    for number in count():
        payload = b"%d" % number
        if encode(ENTRY, index, term, payload)[2][3] == 0:
            return payload
    raise AssertionError


def mutations(journal: Journal) -> list[Callable[[], None]]:
    return [
        lambda: journal.set_hard_state(1, "member-1"),
        lambda: journal.append(b"first", 1, 1),
        lambda: journal.append(b"", 2, 1),
        lambda: journal.append(bytes(40), 3, 1),
        lambda: journal.set_hard_state(2, None),
        lambda: journal.truncate_from(2),
        lambda: journal.append(MARKED + b"second again", 2, 2),
        lambda: journal.append(b"third again", 3, 2),
        lambda: journal.truncate_from(3),
        lambda: journal.install(7, 3, MARKED),
        lambda: journal.append(payload_with_zero_checksum(8, 3), 8, 3),
    ]


def sample(segment_bytes: int) -> Sample:
    """Each kind of record, each in a write of its own."""
    storage = ForgetfulStorage()
    journal = open_journal(storage, segment_bytes)
    made = Sample()
    for mutate in mutations(journal):
        mutate()
        write = flush(journal)
        made.ends.append((write.segment, write.offset + len(write.data)))
        made.views.append(view(journal))
    made.image = storage.image()
    return made


SAMPLES = {"one segment": sample(1000), "several segments": sample(150)}


@pytest.fixture(params=list(SAMPLES))
def made(request: pytest.FixtureRequest) -> Sample:
    return SAMPLES[request.param]


def surviving(made: Sample, size: int) -> int:
    """How many records are whole when the last segment is cut to `size`; the end mark may be missing."""
    segment = made.ends[-1][0]
    return bisect_right(made.ends, (segment, size + MARK_BYTES)) - 1


def open_and_go_on(storage: ForgetfulStorage, expected: View) -> None:
    """What was recovered is as expected, is durable at once, and can be built on."""
    assert view(open_journal(storage)) == expected
    durable = from_image({name: file.durable for name, file in storage.files.items()})
    journal = open_journal(durable)
    assert view(journal) == expected
    journal.append(b"after", journal.last_index + 1, 9)
    flush(journal)
    assert view(open_journal(durable)) == view(journal)


def test_a_cut_end_recovers_what_was_whole(made: Sample) -> None:
    """At every byte of the last segment: the records before the cut, all of them and no more."""
    content = made.image[made.last()]
    for size in range(len(content)):
        storage = from_image(made.image | {made.last(): content[:size]})
        open_and_go_on(storage, made.views[surviving(made, size)])


def test_a_zeroed_end_recovers_what_was_whole(made: Sample) -> None:
    """The same where the file had been grown ahead, so that a torn write leaves zeros."""
    content = made.image[made.last()]
    for size in range(len(content)):
        zeroed = content[:size].ljust(len(content), b"\0")
        # Zeros that were there before are no loss.
        unharmed = next((at for at in range(len(content)) if content[at] != zeroed[at]), len(content))
        storage = from_image(made.image | {made.last(): zeroed})
        assert view(open_journal(storage)) == made.views[surviving(made, unharmed)]


def test_a_cut_in_an_older_segment_is_damage() -> None:
    """Only the last segment may be torn; cutting the zeros after the records takes nothing away."""
    made = SAMPLES["several segments"]
    for name in sorted(made.image)[:-1]:
        content = made.image[name]
        for size in range(len(content.rstrip(b"\0"))):
            damaged = made.image | {name: content[:size]}
            storage = from_image(damaged)
            with pytest.raises(CorruptJournal):
                open_journal(storage)
            assert storage.image() == damaged
        storage = from_image(made.image | {name: content.rstrip(b"\0")})
        assert view(open_journal(storage)) == made.views[-1]


@pytest.mark.parametrize(
    "change", [0x01, 0x80, 0xFF, None], ids=["low bit", "high bit", "all bits", "zeroed"]
)
def test_a_changed_byte_never_changes_the_journal(made: Sample, change: int | None) -> None:
    """At every byte, the zeros included: it is refused with nothing modified, or nothing was lost."""
    refused = 0
    for name, content in made.image.items():
        for offset, byte in enumerate(content):
            changed = bytearray(content)
            changed[offset] = 0 if change is None else byte ^ change
            damaged = made.image | {name: bytes(changed)}
            storage = from_image(damaged)
            try:
                found = view(open_journal(storage))
            except CorruptJournal:
                found = made.views[-1]
                refused += 1
                assert storage.image() == damaged
            assert found == made.views[-1]
    assert refused > 0


def test_a_changed_byte_in_a_record_is_always_refused(made: Sample) -> None:
    """Damage inside a record is never read over; only the zeros beyond may be taken for a torn end."""
    for name, content in made.image.items():
        for offset in range(len(content.rstrip(b"\0"))):
            changed = bytearray(content)
            changed[offset] ^= 0xFF
            with pytest.raises(CorruptJournal, match="join again under a new id"):
                open_journal(from_image(made.image | {name: bytes(changed)}))


def test_a_checksum_that_ends_in_zeros_hides_no_damage() -> None:
    """Without the end mark such a record, damaged, would be taken for torn and dropped."""
    payload = payload_with_zero_checksum(1, 1)
    journal = open_journal(storage := ForgetfulStorage())
    journal.append(payload, 1, 1)
    write = flush(journal)
    content = storage.files[segment_name(1)].content
    assert content.rstrip(b"\0").endswith(b"\0" + END)
    content[len(write.data) - MARK_BYTES - 5] ^= 1
    with pytest.raises(CorruptJournal):
        open_journal(storage)


def test_an_interrupted_rotation_recovers() -> None:
    """The new segment exists, with any part of its header; the one before it is the last."""
    journal = open_journal(storage := ForgetfulStorage(), segment_bytes=150)
    for index, payload in enumerate((b"a" * 100, b"b"), start=1):
        before = view(journal)
        journal.append(payload, index, 1)
        write = flush(journal)
    assert write.segment == 2
    header_bytes = len(write.data) - record_bytes(len(b"b"))
    for size in range(header_bytes - MARK_BYTES):
        for zeros in (0, 50):
            torn = write.data[:size] + bytes(zeros)
            found = from_image(storage.image() | {segment_name(2): torn})
            open_and_go_on(found, before)
            assert found.names() == [segment_name(1)]


def test_a_record_out_of_order_is_damage() -> None:
    """Records that pass their checks still have to follow from those before them."""
    journal = open_journal(storage := ForgetfulStorage())
    journal.append(b"a", 1, 1)
    write = flush(journal)
    for record in (
        encode(ENTRY, 3, 1, b""),
        encode(TRUNCATE, 2, 1, b"\xc0"),
        encode(TRUNCATE, 0, 0, b"\xc0"),
        encode(TRUNCATE, 1, 1, b"\xc0"),
        encode(TRUNCATE, 1, 0, b""),
        encode(TRUNCATE, 1, 0, b"\x92\x01\xc4\x01\x10"),
        encode(BASE, 1, 1, b""),
        encode(SEGMENT, 0, 0, b""),
        encode(9, 0, 0, b""),
    ):
        storage = ForgetfulStorage()
        storage.create(segment_name(1))
        storage.write(segment_name(1), 0, write.data + b"".join(record))
        with pytest.raises(CorruptJournal, match="does not follow"):
            open_journal(storage)


def test_checksums_are_those_of_zlib() -> None:
    """The format is what it says: anyone can check a journal with a few lines."""
    head, payload, tail = encode(ENTRY, 1, 2, b"payload")
    assert int.from_bytes(head[-4:], "little") == crc32(head[:-4])
    assert int.from_bytes(tail[:4], "little") == crc32(payload, crc32(head[:-4]))


def trimmed_journal() -> ForgetfulStorage:
    """It begins in the middle, and its first segments drop marks and entries from before it."""
    journal = open_journal(storage := ForgetfulStorage(), 250)
    journal.append(MARKED + b"in force", 1, 1)
    journal.set_hard_state(4, "member-2")
    fill(journal, 6)
    journal.append(MARKED + b"dropped", 8, 1)
    fill(journal, 2)
    journal.truncate_from(6)
    fill(journal, 4, term=2)
    journal.trim(8)
    journal.writer.remove(journal.take_removals()[:4])
    return storage


def journal_behind_a_snapshot() -> ForgetfulStorage:
    """One segment: its header is all that says who was voted for."""
    journal = open_journal(storage := ForgetfulStorage(), 250)
    journal.set_hard_state(4, "member-2")
    fill(journal, 4)
    flush_all(journal, lambda: journal.install(20, 3, MARKED + b"of the snapshot"))
    journal.trim(20)
    remove(journal)
    return storage


def journal_of_both_formats() -> ForgetfulStorage:
    journal = open_journal(storage := from_image(old_image()), 250)
    flush_all(journal, lambda: journal.truncate_from(4), lambda: journal.append(MARKED, 4, 4))
    return storage


def flush_all(journal: Journal, *mutations: Callable[[], None]) -> None:
    for mutate in mutations:
        mutate()
        flush(journal)


JOURNALS = [trimmed_journal, journal_behind_a_snapshot, journal_of_both_formats]


@pytest.mark.parametrize("make", JOURNALS)
def test_a_flipped_bit_is_always_found(make: Callable[[], ForgetfulStorage]) -> None:
    """Any bit of any record, the first header that is left included; nothing is modified."""
    image = make().image()
    assert open_journal(from_image(image)).last_index >= 4
    for name, content in image.items():
        written = len(content.rstrip(b"\0"))
        for position in range(8 * written):
            changed = bytearray(content)
            changed[position // 8] ^= 1 << position % 8
            damaged = image | {name: bytes(changed)}
            storage = from_image(damaged)
            with pytest.raises(CorruptJournal):
                open_journal(storage)
            assert storage.image() == damaged


def test_a_torn_first_segment_is_no_new_journal() -> None:
    """Where earlier segments were trimmed, a header that is cut or zeroed was durable: votes are in it."""
    storage = journal_behind_a_snapshot()
    [(name, content)] = storage.image().items()
    head = decode_head(content[16:])
    assert head is not None
    header_bytes = 16 + record_bytes(head.length)
    assert view(open_journal(storage))[1:3] == (4, "member-2")
    for size in range(header_bytes - MARK_BYTES):
        for zeros in (0, 200):
            damaged = {name: content[:size] + bytes(zeros)}
            torn = from_image(damaged)
            with pytest.raises(CorruptJournal, match="header is missing"):
                open_journal(torn)
            assert torn.image() == damaged


def test_a_segment_under_another_name_is_damage() -> None:
    """Also the first one, whose header is believed otherwise."""
    [content] = journal_behind_a_snapshot().image().values()
    for number in (1, 2, 9):
        with pytest.raises(CorruptJournal, match="does not continue"):
            open_journal(from_image({segment_name(number): content}))
