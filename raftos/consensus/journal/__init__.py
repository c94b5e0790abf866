"""The durable Raft log and the hard state (term and vote), in one append-only stream.

One stream, so that one `fdatasync` covers both: whatever was mutated since the last sync becomes
durable together and in order.

    event loop                                disk thread
    append, truncate_from, set_hard_state
      (memory only, at once visible)
    write = journal.take()            ---->   journal.writer.write(write)     pwrite, fdatasync
    journal.finish(write)             <----
      (synced_index, synced_term ... move)

The two sides share nothing but the immutable `Write`, which already says where its bytes go. A full
disk (`DiskFull`) therefore is simply answered by writing the same `Write` again. A failed sync
(`JournalFailed`) is never tried again, because the kernel may have dropped the pages: the process
has to stop.

The journal is bounded by snapshots: `trim` forgets the head that one covers, `install` begins the log behind
one that was received. Trimmed files go by `take_removals` and `writer.remove`, on the disk thread too.

    errors.py     why opening is refused, and why writing fails
    storage.py    the narrow port to a folder of files, and the real one
    records.py    the format: records, segment headers, checksums, what a torn record looks like
    log.py        the log in memory: compact arrays for all of it, payloads of the recent part
    marks.py      the marked entries: consensus keeps its configuration in them
    held.py       the segments on the disk, and those let go of
    segment.py    reading one segment; decides between torn and corrupt
    recovery.py   reading the segments back; repairs only what is torn
    writer.py     what the disk thread does
    journal.py    the object that brings them together
"""

from raftos.consensus.journal.errors import (
    CorruptJournal,
    DiskFull,
    JournalFailed,
    NewerFormat,
    WrongIdentity,
)
from raftos.consensus.journal.journal import Journal
from raftos.consensus.journal.log import Entry
from raftos.consensus.journal.records import MARK, Identity, Mark
from raftos.consensus.journal.storage import FileStorage, Storage
from raftos.consensus.journal.writer import Write, Writer

__all__ = [
    "MARK",
    "CorruptJournal",
    "DiskFull",
    "Entry",
    "FileStorage",
    "Identity",
    "Journal",
    "JournalFailed",
    "Mark",
    "NewerFormat",
    "Storage",
    "Write",
    "Writer",
    "WrongIdentity",
]
