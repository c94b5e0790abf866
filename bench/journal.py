"""What a durable write costs here, and whether growing a file ahead of its records makes it cheaper.

    python -m bench.journal [FOLDER]

For writes of 400 bytes (one command in flight) and 80 KB (256 in flight): pwrite and fdatasync on a file
that every write extends, on one whose size is grown ahead in steps of 1 MiB (sparse), and on one filled
with zeros ahead; then the journal itself, encoding included. At last what a start costs: reading a journal of
100 MB in 300 000 entries, in processor time. FOLDER has to be on the disk of interest.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from raftos.consensus.journal import FileStorage, Identity, Journal

STEP_BYTES = 1 << 20

Operation = Callable[[], None]


def bare_file(folder: Path, how: str, size_bytes: int) -> Operation:
    """One pwrite and fdatasync after the last one."""
    descriptor = os.open(folder / f"{how}-{size_bytes}", os.O_RDWR | os.O_CREAT)
    data = os.urandom(size_bytes)
    offset = ahead = 0

    def write() -> None:
        nonlocal offset, ahead
        if how != "extended" and offset + size_bytes > ahead:
            if how == "grown":
                os.ftruncate(descriptor, ahead + STEP_BYTES)
            else:
                os.pwrite(descriptor, bytes(STEP_BYTES), ahead)
            ahead += STEP_BYTES
        os.pwrite(descriptor, data, offset)
        os.fdatasync(descriptor)
        offset += size_bytes

    return write


def whole_journal(folder: Path, size_bytes: int) -> Operation:
    """One entry appended, taken, written and finished."""
    journal = Journal.open(FileStorage(folder / f"journal-{size_bytes}"), Identity("bench", "bench"))
    data = os.urandom(size_bytes)

    def write() -> None:
        journal.append(data, journal.last_index + 1, 1)
        taken = journal.take()
        assert taken
        journal.writer.write(taken)
        journal.finish(taken)

    return write


def measure(name: str, size_bytes: int, operation: Operation, count: int) -> None:
    times_us = []
    for _ in range(count):
        start = time.perf_counter()
        operation()
        times_us.append((time.perf_counter() - start) * 1e6)
    times_us.sort()
    rate = count / sum(times_us) * 1e6
    print(f"{size_bytes:6} bytes  {name:9} {rate:7.0f} syncs/s   p50 {times_us[count // 2]:5.0f} us"
          f"   p99 {times_us[count * 99 // 100]:5.0f} us")  # fmt: skip


def encoding(folder: Path, size_bytes: int, count: int) -> None:
    """Appending and taking alone, in microseconds an entry."""
    journal = Journal.open(FileStorage(folder / f"encoding-{size_bytes}"), Identity("bench", "bench"))
    data = os.urandom(size_bytes)
    start = time.perf_counter()
    for index in range(1, count + 1):
        journal.append(data, index, 1)
    journal.take()
    each_us = (time.perf_counter() - start) / count * 1e6
    print(f"{size_bytes:6} bytes  append and take: {each_us:.1f} us an entry")


def reading(folder: Path, size_bytes: int, count: int) -> None:
    """Opening a journal of many entries, in microseconds of processor time an entry."""
    identity = Identity("bench", "bench")
    journal = Journal.open(FileStorage(folder / "reading"), identity)
    data = os.urandom(size_bytes)
    for index in range(1, count + 1):
        journal.append(data, index, 1)
        if index % 1000 == 0 and (taken := journal.take()):
            journal.writer.write(taken)
            journal.finish(taken)
    journal.close()
    start = time.process_time()
    Journal.open(FileStorage(folder / "reading"), identity).close()
    took_s = time.process_time() - start
    each_us = took_s / count * 1e6
    print(f"{size_bytes:6} bytes  open {count} entries: {took_s:.2f} s, {each_us:.1f} us an entry")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as name:
        folder = Path(name)
        for size_bytes, count in ((400, 2000), (80_000, 400)):
            for how in ("extended", "grown", "zeroed"):
                measure(how, size_bytes, bare_file(folder, how, size_bytes), count)
            measure("journal", size_bytes, whole_journal(folder, size_bytes), count)
            encoding(folder, size_bytes, count)
        reading(folder, 300, 300_000)


if __name__ == "__main__":
    main()
