"""Text in, typed values out, and back: bytes survive JSON under one rule."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftos.api import codec
from raftos.errors import InvalidInput


class Put(msgspec.Struct, frozen=True, tag="put", tag_field="op", forbid_unknown_fields=True):
    key: str
    value: bytes
    old: Annotated[bytes | None, msgspec.Meta(description="What was there.")] = None
    count: int = 0


class Drop(msgspec.Struct, frozen=True, tag="drop", tag_field="op", forbid_unknown_fields=True):
    key: str


class Many(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    writes: Annotated[tuple[Put | Drop, ...], msgspec.Meta(description="In order.")]
    first: Put | None = None


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner.filter(lambda value: not isinstance(value, bytes)))
        | st.dictionaries(st.text().filter(lambda name: not name.endswith(codec.SUFFIX)), inner)
    ),
)


@given(key=st.text(), value=st.binary(), old=st.none() | st.binary())
def test_bytes_come_back_as_they_were_sent(key: str, value: bytes, old: bytes | None) -> None:
    """UTF-8 or not, a value that was answered can be sent again and means the same."""
    put = Put(key, value, old)
    text = msgspec.json.encode(codec.readable(codec.plain(put)))
    assert codec.typed(codec.decode_object(text), Put) == put


@given(PLAIN)
def test_every_plain_value_becomes_json(value: Any) -> None:
    """Whatever a domain answers, there is a JSON text for it."""
    msgspec.json.encode(codec.readable(value))


def test_text_stays_readable_and_the_rest_is_named() -> None:
    """UTF-8 stays under its name, other bytes move to `_base64`."""
    assert codec.readable({"value": b"hi", "items": [{"value": b"\xff"}]}) == {
        "value": "hi",
        "items": [{"value_base64": "/w=="}],
    }


def test_bytes_inside_lists_and_unions_are_found() -> None:
    """A transaction's writes carry values too."""
    many = codec.typed(
        {"writes": [{"op": "put", "key": "a", "value_base64": "/w=="}, {"op": "drop", "key": "b"}],
         "first": {"op": "put", "key": "c", "value": "ü"}},
        Many,
    )  # fmt: skip
    assert many == Many((Put("a", b"\xff"), Drop("b")), Put("c", "ü".encode()))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"value": "v"}, "`key`"),
        ({"key": "k", "value": "v", "colour": 1}, "`colour`"),
        ({"key": 1, "value": "v"}, "`key`"),
        ({"key": "k", "value": 1}, "`value`"),
        ({"key": "k", "value": None}, "`value`"),
        ({"key": "k", "value": "v", "count": "many"}, "`count`"),
        ({"key": "k", "value_base64": "%"}, "`value_base64`"),
        ({"key": "k", "value_base64": 7}, "`value_base64`"),
        ({"key": "k", "value": "v", "value_base64": "dg=="}, "`value_base64`"),
        ({"key": "k", "value": {"value": "v"}}, "`value`"),
    ],
)
def test_a_wrong_field_is_named(value: dict[str, Any], named: str) -> None:
    """Missing, unknown, of a wrong type or not base64: the sentence says which."""
    with pytest.raises(InvalidInput) as caught:
        codec.typed(value, Put)
    assert named in caught.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"text"', b"\xff\xfe", b'{"a": "\xff"}', b"null"])
def test_a_body_that_is_no_object_is_invalid(body: bytes) -> None:
    """Not JSON, or JSON of another shape."""
    with pytest.raises(InvalidInput):
        codec.decode_object(body)


def test_numbers_and_flags_are_read_from_parameters() -> None:
    """A URL has only text; the query's type says what it stands for."""

    class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        prefix: str = ""
        limit: int = 100
        keys_only: bool = False
        cursor: str | None = None

    fields = codec.parameters("prefix=a%2Fb+c&limit=7&keys_only=true")
    assert codec.typed(fields, Listing, from_text=True) == Listing("a/b c", 7, True, None)
    with pytest.raises(InvalidInput, match="`limit`"):
        codec.typed(codec.parameters("limit=many"), Listing, from_text=True)


@pytest.mark.parametrize("query", ["a=1&a=2", "a=%ff", "&".join(f"a{n}=1" for n in range(40))])
def test_parameters_that_cannot_be_meant_are_invalid(query: str) -> None:
    """Given twice, not UTF-8, or far too many."""
    with pytest.raises(InvalidInput):
        codec.parameters(query)


@pytest.mark.parametrize("text", ["", "x", 7, None, "a3bb189e-8bf9-4c3b-9a5d-1d2f3c4b5a69", ["a"]])
def test_a_request_id_is_a_version_7_uuid(text: Any) -> None:
    """Any other UUID carries no creation time."""
    with pytest.raises(InvalidInput, match="request_id"):
        codec.request_id(text)
