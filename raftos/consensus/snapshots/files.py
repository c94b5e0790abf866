"""Snapshot files outside a store: what `raftos snapshot` and the API do with a path or a stream.

Reading takes whatever has `read(size)`: a file opened in binary, a socket's file, standard input. A header
alone is read without looking at the rest, so it may belong to a damaged file; `verify` reads everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from raftos.consensus.snapshots.errors import SnapshotFailed
from raftos.consensus.snapshots.format import MAX_CHUNK_BYTES, Decoder, Header, Source, Summary, encoded


class Sink(Protocol):
    """Whatever takes all the bytes it is given."""

    def write(self, data: bytes, /) -> object: ...


def read_header(source: Path | Source) -> Header:
    """What a snapshot says of itself. Raises CorruptSnapshot; SnapshotFailed for an unreadable path."""
    if not isinstance(source, Path):
        return Decoder(source).header
    try:
        with source.open("rb") as file:
            return Decoder(file).header
    except OSError as error:
        raise SnapshotFailed(f"cannot read {source}: {error.strerror}") from error


def verify(source: Source) -> Summary:
    """Read a snapshot to its end; what was found in it. Raises CorruptSnapshot."""
    decoder = Decoder(source)
    for _ in decoder.chunks():
        pass
    assert decoder.summary is not None
    return decoder.summary


def write_to(sink: Sink, header: Header, pieces: Iterable[bytes]) -> int:
    """Write a snapshot of the state in `pieces`; its size in bytes. Raises SnapshotFailed."""
    size_bytes = 0
    for data in encoded(header, pieces):
        sink.write(data)
        size_bytes += len(data)
    return size_bytes


def pieces_of(path: Path) -> Iterator[bytes]:
    """The bytes of any file, 1 MiB at a time: what a snapshot is made of. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        while piece := file.read(MAX_CHUNK_BYTES):
            yield piece
