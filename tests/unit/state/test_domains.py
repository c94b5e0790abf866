"""What is derived from the domains can be: every command says what it is, takes and answers."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from raftos.state.domains import COMMANDS, DOMAINS, QUERIES, command_decoder, kv, query_decoder, tag_of

KINDS: dict[str, Any] = {**COMMANDS, **QUERIES}
PARTS = (kv.Compare, kv.TxnPut, kv.TxnDelete, kv.Seen)


@pytest.mark.parametrize("tag", KINDS)
def test_every_command_and_query_is_documented(tag: str) -> None:
    """Its summary is one sentence, and each field has a description."""
    summary = (inspect.getdoc(KINDS[tag]) or "").partition("\n")[0]
    assert summary.endswith(".")
    properties = msgspec.json.schema(KINDS[tag])["$defs"][KINDS[tag].__name__]["properties"]
    assert not [name for name, schema in properties.items() if name != "type" and "description" not in schema]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_a_command_is_documented(part: Any) -> None:
    """What stands in lists is documented like what stands outside."""
    properties = msgspec.json.schema(part)["$defs"][part.__name__]["properties"]
    assert not [name for name, schema in properties.items() if name != "op" and "description" not in schema]


@pytest.mark.parametrize("tag", KINDS)
def test_every_command_and_query_says_what_it_answers(tag: str) -> None:
    """The type is a Struct with a documented schema."""
    [domain] = [domain for domain in DOMAINS if domain.name == tag.partition(".")[0]]
    assert msgspec.json.schema(domain.answers[KINDS[tag]])


def test_tags_name_their_domain() -> None:
    """`kv.put` belongs to kv, so routes follow from tags."""
    for domain in DOMAINS:
        for kind in (*domain.commands, *domain.queries):
            assert tag_of(kind).startswith(f"{domain.name}.")


def test_commands_and_queries_are_told_apart_by_their_tag() -> None:
    """One decoder for all of them."""
    put = kv.Put("a", b"1", ttl_ms=5)
    assert command_decoder.decode(msgspec.msgpack.encode(put)) == put
    assert query_decoder.decode(msgspec.msgpack.encode(kv.Get("a"))) == kv.Get("a")


def test_limits_are_shown_but_not_enforced_by_the_decoder() -> None:
    """A log entry of a member with other limits stays readable."""
    too_long = kv.Put("k" * 5000, b"")
    assert command_decoder.decode(msgspec.msgpack.encode(too_long)) == too_long
    schema = msgspec.json.schema(kv.Put)["$defs"]["Put"]["properties"]["key"]
    assert schema["maxLength"] == 1024
