"""Small journals for tests, filled and flushed in one thread; one of them as version 0.1.0 wrote it."""

from __future__ import annotations

import base64
import zlib

from raftos.consensus.journal import Entry, Identity, Journal, Storage, Write
from raftos.consensus.journal.records import segment_name
from tests.unit.consensus.forgetful import ForgetfulStorage

IDENTITY = Identity("cluster-1", "member-1")
TWO_ENTRIES_BYTES = 250
"""Of segments that are full with two entries of 50 bytes."""


def open_journal(storage: Storage, segment_bytes: int = 1 << 20, cache_bytes: int = 1 << 20) -> Journal:
    return Journal.open(storage, IDENTITY, segment_bytes=segment_bytes, cache_bytes=cache_bytes)


def flush(journal: Journal) -> Write:
    """Make durable what is buffered, and say what was written."""
    write = journal.take()
    assert write is not None
    journal.writer.write(write)
    journal.finish(write)
    return write


def fill(journal: Journal, count: int, payload: bytes = b"x" * 50, term: int = 1) -> None:
    """Append entries, each in a write of its own."""
    for _ in range(count):
        journal.append(payload, journal.last_index + 1, term)
        flush(journal)


def remove(journal: Journal) -> list[str]:
    """Do the removals that are due, and say which they were."""
    names = journal.take_removals()
    journal.writer.remove(names)
    return names


def segments(storage: ForgetfulStorage) -> list[int]:
    """The numbers of the segments on the disk."""
    return sorted(int(name.removesuffix(".log")) for name in storage.files)


_OLD = (
    "c-kvUOe@JR&PiuvU|?9qJ3CtnNQ2nu;8or4O*2*|=ad$gq!#HKuE<TzO#(5%Y7dBg<da_N>gU1%<S--Yf|+z`_jw_h4v`<4J"
    "3(sMfZ|L@YGCx|`VYGq(lU#ROT-peIDu5MLsc@NsZ?7hE6h-wnw+1Pa&Cv%d5}^Ys4`|WrD@u?w=qxv7F*hfg3RaA)#WNe3o"
    ";cPLFPQMED&3eF`Z@9XJ%xC^G|$zX9hBx0WI)g-ksjy>j%OhHH=Vk7Bn@5lkDmkl^0Yt!D0a<!HTA+GODhbA*Cq4pdd9xe6q"
    "|<n58Ue7K1?d)F($k7^H>=El^=}%v$GChLViTq7;S1^u)}(AjudGT!AEmBan9K9Am;3NX%y$6`7ft4k%XJoWPc{VC?OCUIjq"
    ")7@h5DSPoLlixx;QwR{HiIT_OOON&Y}APzo}5giY6FaQDnl7s"
)


def old_image() -> dict[str, bytes]:
    """A journal of format 1, in three segments, the last one not full."""
    contents = zlib.decompress(base64.b85decode(_OLD)).split(b"\n--\n")[:-1]
    return {segment_name(number): content for number, content in enumerate(contents, start=1)}


OLD_ENTRIES = [
    Entry(b"\0first", 1, 1),
    Entry(b"\0second", 2, 1),
    Entry(b"\0third again", 3, 3),
    Entry(b"\0fourth again", 4, 3),
]
OLD_HARD_STATE = (3, "member-2")
