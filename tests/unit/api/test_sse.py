"""Events as text: filters, ids at the end of a revision, blocks of gzip that anyone can join."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftos.api import sse
from raftos.errors import Conflict, InvalidInput
from raftos.state.events import Told

WRITTEN_A: dict[str, Any] = {"type": "kv.written", "key": "a", "version": 1}
WRITTEN_B = {"type": "kv.written", "key": "b/1", "version": 2}
DELETED_A = {"type": "kv.deleted", "key": "a", "expired": False}
MARKED = {"type": "members.marked", "id": "a", "state": "down"}


def told(*stamped: tuple[int, dict[str, Any]], time_ms: int = 5) -> Told:
    return Told(stamped[-1][0], time_ms, msgspec.msgpack.encode(stamped))


def test_an_event_carries_its_type_revision_time_and_fields() -> None:
    """And its revision once more as the id to resume from."""
    assert sse.render([told((7, WRITTEN_A))], sse.Filter()) == (
        b"event: kv.written\nid: 7\n"
        b'data: {"revision":7,"time_ms":5,"type":"kv.written","key":"a","version":1}\n\n'
    )


def test_only_the_last_event_of_a_revision_has_an_id() -> None:
    """So nobody resumes in the middle of a transaction; what a filter leaves out does not count."""
    entry = told((7, WRITTEN_A), (7, DELETED_A), (7, WRITTEN_B), (8, WRITTEN_A))
    ids = [b"\nid: " in block for block in sse.render([entry], sse.Filter()).split(b"\n\n")[:-1]]
    assert ids == [False, False, True, True]
    only_a = sse.Filter(subject="a")
    ids = [b"\nid: " in block for block in sse.render([entry], only_a).split(b"\n\n")[:-1]]
    assert ids == [False, True, True]


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        (sse.Filter(), ["kv.written", "kv.written", "kv.deleted", "members.marked"]),
        (sse.Filter(sse.topics_of("kv")), ["kv.written", "kv.written", "kv.deleted"]),
        (sse.Filter(sse.topics_of("kv.deleted,members")), ["kv.deleted", "members.marked"]),
        (sse.Filter(prefix="b/"), ["kv.written"]),
        (sse.Filter(subject="a"), ["kv.written", "kv.deleted", "members.marked"]),
        (sse.Filter(subject="b"), []),
        (sse.Filter(sse.topics_of("kv"), "a", "a"), ["kv.written", "kv.deleted"]),
    ],
)
def test_a_filter_names_topics_and_subjects(wanted: sse.Filter, kinds: list[str]) -> None:
    """A topic is a type or a whole domain; a subject is a key, a room, a member's id."""
    events: list[dict[str, Any]] = [WRITTEN_A, WRITTEN_B, DELETED_A, MARKED]
    assert [event["type"] for event in events if wanted.accepts(event)] == kinds


@pytest.mark.parametrize("topics", ["", "zz", "kv,zz", "kv.", "kv.writ", "KV"])
def test_an_unknown_topic_is_refused(topics: str) -> None:
    """A watcher of nothing would wait for ever."""
    with pytest.raises(InvalidInput, match="there are no events"):
        sse.topics_of(topics)


def test_an_end_has_the_shape_of_every_error() -> None:
    """Under `error`, as in an answer."""
    data = sse.ending(Conflict("it is so"), None).partition(b"data: ")[2]
    assert msgspec.json.decode(data) == {
        "error": {"code": "conflict", "message": "it is so", "retryable": False, "leader": None}
    }


@given(
    st.lists(st.binary(max_size=200).flatmap(lambda unit: st.integers(0, 40).map(lambda n: unit * n))),
    st.integers(0),
)
def test_a_watcher_may_join_a_gzip_stream_at_any_block(blocks: list[bytes], first: int) -> None:
    """A header and the blocks from there on decompress to what they hold, whatever came before."""
    deflated = [sse.deflated(block) for block in blocks]
    first %= len(blocks) + 1
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    read = stream.decompress(sse.GZIP_HEADER + b"".join(deflated[first:]))
    assert read == b"".join(blocks[first:])


def test_a_block_is_readable_as_soon_as_it_came() -> None:
    """No byte of it waits in the decompressor for the next one."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    stream.decompress(sse.GZIP_HEADER)
    for block in (b"small", b"large " * 1000, b"x"):
        assert stream.decompress(sse.deflated(block)) == block
