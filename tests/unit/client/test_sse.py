"""Claims about reading server-sent events: the standard's own examples, and any way to cut them up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftos.client.sse import MAX_BLOCK_BYTES, Message, MessageParser

# The examples of WHATWG HTML, 9.2.6, and its rules one by one.
CASES: dict[str, tuple[bytes, list[Message]]] = {
    "several data lines are one message": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [Message("message", b"YHOO\n+2\n10")],
    ),
    "comments say nothing, a field without a value is empty": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [
            Message("message", b"first event", "1"),
            Message("message", b"second event", ""),
            Message("message", b" third event"),
        ],
    ),
    "data may be empty, but not absent": (
        b"data\n\ndata\ndata\n\ndata:",
        [Message("message", b""), Message("message", b"\n")],
    ),
    "a block without data is no message, and leaves nothing behind": (
        b"event: gone\nid: 7\n\ndata: here\n\n",
        [Message("message", b"here")],
    ),
    "the last name and the last id of a block count": (
        b"event: a\nevent: b\nid: 1\nid: 2\ndata: x\n\n",
        [Message("b", b"x", "2")],
    ),
    "an id with NUL is no id": (b"id: 1\0\ndata: x\n\n", [Message("message", b"x")]),
    "lines end in CR, LF or both": (
        b"data: a\rdata: b\r\ndata: c\n\r\n",
        [Message("message", b"a\nb\nc")],
    ),
    "no other character ends a line": (
        b"data: a\x0bb\x0cc\x85d\xe2\x80\xa8e\n\n",
        [Message("message", b"a\x0bb\x0cc\x85d\xe2\x80\xa8e")],
    ),
    "a byte order mark in front is not data": (
        b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n",
        [Message("message", b"x")],
    ),
    "colons after the first are data": (b'data: {"a": 1}\n\n', [Message("message", b'{"a": 1}')]),
    "names of fields are exact": (b"Data: x\n data: x\ndata : x\nretry: 5\n\n", []),
    "an unfinished block is no message": (b"data: x\n\ndata: y\n", [Message("message", b"x")]),
    "nothing is nothing": (b"", []),
}


def parsed(*pieces: bytes) -> list[Message]:
    parser = MessageParser()
    return [message for piece in pieces for message in parser.feed(piece)]


@pytest.mark.parametrize("case", CASES)
def test_messages_are_read_as_the_standard_says(case: str) -> None:
    """Each rule, and each example of the standard."""
    stream, messages = CASES[case]
    assert parsed(stream) == messages


@pytest.mark.parametrize("case", CASES)
def test_single_bytes_make_the_same_messages(case: str) -> None:
    """The smallest pieces there are."""
    stream, messages = CASES[case]
    assert parsed(*(stream[at : at + 1] for at in range(len(stream)))) == messages


FIELDS = [b"data", b"event", b"id", b"data: ", b":"]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n"]
WORDS = st.sampled_from([*FIELDS, *ENDS, b" ", b"x", b"\0", b"\xef\xbb\xbf", b"\xc3\xa4"])
STREAMS = st.one_of(st.lists(WORDS, max_size=60).map(b"".join), st.binary(max_size=60))


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=20))
def test_any_pieces_make_the_same_messages(stream: bytes, cuts: list[int]) -> None:
    """However a stream is cut up, empty pieces included, it says the same."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert parsed(*pieces) == parsed(stream)


def reference(stream: bytes) -> list[tuple[str, str]]:
    """The standard's algorithm, written down as it stands there: over decoded lines, one at a time."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    found: list[tuple[str, str]] = []
    name = data = ""
    for line in lines:
        field, colon, value = line.partition(":")
        if line == "":
            if data:
                found.append((name or "message", data[:-1]))
            name = data = ""
        elif colon and field == "":
            continue
        elif field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data += value.removeprefix(" ") + "\n"
    return found


@given(stream=STREAMS)
def test_messages_are_those_of_the_standards_algorithm(stream: bytes) -> None:
    """For any bytes whatsoever."""
    found = [(message.event, message.data.decode("utf-8", "replace")) for message in parsed(stream)]
    assert found == reference(stream)


@pytest.mark.parametrize("endless", [b"x" * 65536, b"data: x\n" * 8192])
def test_a_message_without_an_end_is_refused(endless: bytes) -> None:
    """It would fill the memory: one endless line, or endless lines."""
    with pytest.raises(ValueError, match="more than"):
        parsed(*[endless] * (MAX_BLOCK_BYTES // len(endless) * 2))
