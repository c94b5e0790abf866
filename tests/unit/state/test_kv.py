"""What the kv domain answers, table by table."""

from __future__ import annotations

import pytest

from raftos.errors import InvalidInput, NotFound, RaftosError, TooLarge
from raftos.state.command import Command, Failed, Ok, Query, Rejected
from raftos.state.domains import kv, validate
from tests.unit.state.feeder import START_MS, Feeder

LONGEST_KEY = "k" * 1024
LARGEST_VALUE = b"v" * 1024 * 1024


def put(key: str, value: bytes = b"1", **settings: int) -> kv.Put:
    return kv.Put(key=key, value=value, **settings)


def code_of(result: object) -> str:
    assert isinstance(result, Rejected), result
    return result.code


def test_a_put_counts_versions_per_key_and_revisions_over_all(feeder: Feeder) -> None:
    """The version belongs to the key, the revision to the cluster."""
    answers = [feeder.ok(put(key)) for key in ("a", "b", "a")]
    assert answers == [
        {"key": "a", "version": 1, "revision": 1},
        {"key": "b", "version": 1, "revision": 2},
        {"key": "a", "version": 2, "revision": 3},
    ]
    assert feeder.ask(kv.Get("a")) == kv.Item("a", 2, 3, b"1", None)


def test_a_deleted_key_starts_again_at_version_1(feeder: Feeder) -> None:
    """Versions tell writes of one life apart; revisions tell lives apart."""
    feeder.do(put("a"), put("a"), kv.Delete("a"))
    assert feeder.ok(put("a")) == {"key": "a", "version": 1, "revision": 4}


@pytest.mark.parametrize(
    ("writes", "expect_version", "code"),
    [
        (0, None, None),
        (0, 0, None),
        (0, 1, "conflict"),
        (1, 0, "conflict"),
        (1, 1, None),
        (2, 1, "conflict"),
        (2, 2, None),
        (2, 3, "conflict"),
        (1, 2**53 - 1, "conflict"),
        (1, -1, "invalid"),
        (1, 2**53, "invalid"),
    ],
)
def test_a_put_needs_the_version_it_expects(
    feeder: Feeder, writes: int, expect_version: int | None, code: str | None
) -> None:
    """0 means that the key must not exist; a refusal changes nothing."""
    feeder.do(*[put("a")] * writes)
    before = feeder.rows()["kv"]
    [result] = feeder.do(kv.Put("a", b"new", expect_version=expect_version))
    if code is None:
        assert isinstance(result, Ok)
        assert result.value["version"] == writes + 1
    else:
        assert code_of(result) == code
        assert feeder.rows()["kv"] == before
        assert feeder.machine.revision == writes


@pytest.mark.parametrize(
    ("writes", "expect_version", "code"),
    [
        (0, None, "not_found"),
        (0, 0, "not_found"),
        (1, None, None),
        (1, 1, None),
        (1, 2, "conflict"),
        (1, 0, "conflict"),
    ],
)
def test_a_delete_needs_the_key_and_the_version_it_expects(
    feeder: Feeder, writes: int, expect_version: int | None, code: str | None
) -> None:
    """A missing key is `not_found`, another version a conflict."""
    feeder.do(*[put("a")] * writes)
    [result] = feeder.do(kv.Delete("a", expect_version=expect_version))
    if code is None:
        assert result == Ok({"key": "a", "revision": writes + 1})
        with pytest.raises(NotFound):
            feeder.ask(kv.Get("a"))
    else:
        assert code_of(result) == code


@pytest.mark.parametrize("key", ["a", "ä", "ключ", "🗝", "a b", "a/b", LONGEST_KEY, "é" * 512, "🗝" * 256])
def test_a_key_of_up_to_1024_bytes_is_kept(feeder: Feeder, key: str) -> None:
    """Bytes of UTF-8 count, not characters."""
    validate(put(key))
    feeder.ok(put(key))
    assert feeder.ask(kv.Get(key)).key == key
    assert [item.key for item in feeder.ask(kv.List()).items] == [key]


BAD_COMMANDS: list[tuple[Command, type[RaftosError]]] = [
    (put(""), InvalidInput),
    (put("a\0b"), InvalidInput),
    (put("a\nb"), InvalidInput),
    (put("\x7f"), InvalidInput),
    (put("\x85"), InvalidInput),
    (put(LONGEST_KEY + "k"), TooLarge),
    (put("é" * 512 + "k"), TooLarge),
    (put("🗝" * 256 + "k"), TooLarge),
    (put("a", LARGEST_VALUE + b"v"), TooLarge),
    (put("a", ttl_ms=0), InvalidInput),
    (put("a", ttl_ms=-1), InvalidInput),
    (put("a", ttl_ms=2**62), InvalidInput),
    (put("a", expect_version=2**63), InvalidInput),
    (kv.Delete(""), InvalidInput),
    (kv.Delete("a", expect_version=-1), InvalidInput),
    (kv.DeletePrefix("a\n"), InvalidInput),
    (kv.DeletePrefix("k" * 1025), TooLarge),
    (kv.DeletePrefix("a", limit=0), InvalidInput),
    (kv.DeletePrefix("a", limit=1001), InvalidInput),
    (kv.Txn(writes=()), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("", b""),)), InvalidInput),
    (kv.Txn(writes=(kv.TxnDelete("\t"),)), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("a", b""), kv.TxnDelete("a"))), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("a", b""),), compare=(kv.Compare("", 1),)), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("a", b""),), compare=(kv.Compare("a", -1),)), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("a", b""),), compare=(kv.Compare("a", 1),) * 129), InvalidInput),
    (kv.Txn(writes=tuple(kv.TxnDelete(str(at)) for at in range(129))), InvalidInput),
    (kv.Txn(writes=(kv.TxnPut("a", LARGEST_VALUE), kv.TxnPut("b", b"1"))), TooLarge),
    (kv.Expire(keys=()), InvalidInput),
    (kv.Expire(keys=(kv.Seen("a", 0),)), InvalidInput),
    (kv.Expire(keys=(kv.Seen("a", 1),) * 251), InvalidInput),
]


@pytest.mark.parametrize("at", range(len(BAD_COMMANDS)))
def test_a_command_outside_its_limits_is_refused_at_the_edge_and_by_the_machine(
    feeder: Feeder, at: int
) -> None:
    """Both say the same, and the machine is as it was."""
    command, error = BAD_COMMANDS[at]
    with pytest.raises(error) as caught:
        validate(command)
    assert feeder.do(command) == [Rejected(caught.value.code, caught.value.message)]
    assert feeder.rows()["kv"] == []


def test_text_that_is_no_unicode_is_refused_at_the_edge() -> None:
    """A lone surrogate cannot be encoded, so it never becomes a log entry."""
    with pytest.raises(InvalidInput):
        validate(put("\ud800"))


def test_a_value_of_one_mebibyte_is_kept(feeder: Feeder) -> None:
    """The limit itself is allowed, and so is nothing at all."""
    feeder.do(put("large", LARGEST_VALUE), put("empty", b""))
    assert feeder.ask(kv.Get("large")).value == LARGEST_VALUE
    assert feeder.ask(kv.Get("empty")).value == b""


def test_a_prefix_is_deleted_in_bounded_steps(feeder: Feeder) -> None:
    """Each step takes the first keys in order and says whether some are left."""
    feeder.do(*(put(f"a/{number}") for number in range(7)), put("a"), put("b"))
    steps = [feeder.ok(kv.DeletePrefix("a/", limit=3)) for _ in range(4)]
    assert [(step["deleted"], step["more"]) for step in steps] == [
        (3, True),
        (3, True),
        (1, False),
        (0, False),
    ]
    assert [item.key for item in feeder.ask(kv.List()).items] == ["a", "b"]


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        ("a", ["a", "a\u00ff", "a\U0010ffff", "ab"], ["b", "A", "`"]),
        ("a\U0010ffff", ["a\U0010ffff", "a\U0010ffff\U0010ffff"], ["a", "b", "a\U0010fffe"]),
        ("\U0010ffff", ["\U0010ffff", "\U0010ffffa"], ["a", "\U0010fffe"]),
        ("\ud7ff", ["\ud7ff", "\ud7ffa"], ["\ue000", "\ud7fe"]),
        ("%", ["%", "%a"], ["a", "_"]),
        ("", ["a", "é", "\U0010ffff"], []),
    ],
)
def test_a_prefix_means_the_first_characters_and_nothing_else(
    feeder: Feeder, prefix: str, inside: list[str], outside: list[str]
) -> None:
    """Also at the ends of Unicode, and with what SQL would take for a pattern."""
    feeder.do(*(put(key) for key in inside + outside))
    assert {item.key for item in feeder.ask(kv.List(prefix=prefix)).items} == set(inside)
    assert feeder.ok(kv.DeletePrefix(prefix)) == {"deleted": len(inside), "more": False}
    assert {item.key for item in feeder.ask(kv.List()).items} == set(outside)


def test_a_transaction_writes_everything_or_nothing(feeder: Feeder) -> None:
    """All comparisons hold, or no write happens; the results are in the order of the writes."""
    feeder.do(put("a"), put("a"), put("b"))
    writes = (kv.TxnPut("a", b"x"), kv.TxnDelete("b"), kv.TxnDelete("missing"), kv.TxnPut("c", b"y"))
    before = feeder.rows()["kv"]
    refused = kv.Txn(writes=writes, compare=(kv.Compare("a", 2), kv.Compare("c", 1)))
    assert [code_of(result) for result in feeder.do(refused)] == ["conflict"]
    assert feeder.rows()["kv"] == before
    done = feeder.ok(kv.Txn(writes=writes, compare=(kv.Compare("a", 2), kv.Compare("c", 0))))
    assert done == {
        "revision": 4,
        "results": [
            {"op": "put", "key": "a", "version": 3},
            {"op": "delete", "key": "b", "deleted": True},
            {"op": "delete", "key": "missing", "deleted": False},
            {"op": "put", "key": "c", "version": 1},
        ],
    }
    assert [(item.key, item.value) for item in feeder.ask(kv.List()).items] == [("a", b"x"), ("c", b"y")]


def test_a_transaction_of_128_comparisons_and_writes_is_taken(feeder: Feeder) -> None:
    """The limits themselves are allowed."""
    compare = tuple(kv.Compare(f"key{at}", 0) for at in range(128))
    writes = tuple(kv.TxnPut(f"key{at}", b"") for at in range(128))
    assert len(feeder.ok(kv.Txn(writes=writes, compare=compare))["results"]) == 128


def test_pages_follow_each_other_without_gap_or_overlap(feeder: Feeder) -> None:
    """Every key once, in the order of its bytes."""
    keys = sorted((f"k{number}" for number in range(23)), key=str.encode)
    feeder.do(*(put(key, key.encode()) for key in reversed(keys)), put("other"))
    found: list[str] = []
    cursor = None
    for _ in range(5):
        page = feeder.ask(kv.List(prefix="k", limit=5, cursor=cursor))
        found += [item.key for item in page.items]
        cursor = page.cursor
    assert found == keys
    assert cursor is None


def test_a_listing_of_keys_only_leaves_the_values_out(feeder: Feeder) -> None:
    """Versions and revisions are there."""
    feeder.do(put("a", b"large"))
    [item] = feeder.ask(kv.List(keys_only=True)).items
    assert (item.key, item.version, item.revision) == ("a", 1, 1)
    assert not item.value


def test_a_page_ends_early_where_its_values_are_large(feeder: Feeder) -> None:
    """Six values of 1 MiB do not come at once; the cursor leads on."""
    for number in range(6):
        feeder.ok(put(f"k{number}", LARGEST_VALUE))
    page = feeder.ask(kv.List())
    rest = feeder.ask(kv.List(cursor=page.cursor))
    assert [len(page.items), len(rest.items)] == [4, 2]
    assert rest.cursor is None


BAD_QUERIES: list[Query] = [
    kv.Get(""),
    kv.Get("a\0"),
    kv.Get("k" * 1025),
    kv.List(limit=0),
    kv.List(limit=1001),
    kv.List(prefix="\n"),
    kv.List(cursor="%%%"),
    kv.List(cursor="é"),
    kv.List(cursor="YQ"),
    kv.List(cursor="YR=="),
    kv.List(cursor="_w=="),
    kv.List(cursor="YQ==YQ=="),
    kv.List(prefix="b", cursor="YQ=="),
]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_query_outside_its_limits_is_refused(feeder: Feeder, query: Query) -> None:
    """A cursor that this listing did not give is as wrong as a limit of 0."""
    with pytest.raises(InvalidInput):
        feeder.ask(query)


def test_time_to_live_ends_by_command_and_only_for_the_revision_that_was_seen(feeder: Feeder) -> None:
    """A key stays readable until it is expired; one written again in between stays altogether."""
    feeder.do(put("old", ttl_ms=1_000), put("renewed", ttl_ms=1_000), put("later", ttl_ms=5_000), put("kept"))
    assert feeder.ask(kv.Get("old")).expires_ms == START_MS + 1_000
    feeder.now_ms += 1_000
    [expire] = feeder.due()
    assert isinstance(expire, kv.Expire)
    assert [seen.key for seen in expire.keys] == ["old", "renewed"]
    feeder.do(put("renewed", ttl_ms=1_000))
    assert feeder.ok(kv.Expire(keys=(*expire.keys, kv.Seen("later", 3), kv.Seen("kept", 4)))) == {
        "expired": 1
    }
    assert [item.key for item in feeder.ask(kv.List()).items] == ["kept", "later", "renewed"]


def test_a_put_without_time_to_live_takes_an_earlier_one_away(feeder: Feeder) -> None:
    """What is written without an end has none."""
    feeder.do(put("a", ttl_ms=1), put("a"))
    assert feeder.ask(kv.Get("a")).expires_ms is None
    assert feeder.due(START_MS * 2) == []


def test_expiry_is_proposed_in_commands_of_bounded_size(feeder: Feeder) -> None:
    """The earliest first, each command one that the machine takes, none of them large."""
    for first in range(0, 600, 100):
        feeder.do(*(put(f"{number:01024}", ttl_ms=1 + number) for number in range(first, first + 100)))
    commands = feeder.due(feeder.now_ms + 1_000)
    for command in commands:
        validate(command)
    planned = [command.keys for command in commands if isinstance(command, kv.Expire)]
    assert [len(part) for part in planned] == [250, 250, 100]
    assert [seen.revision for part in planned for seen in part] == list(range(1, 601))


def test_no_command_meets_a_fault(feeder: Feeder) -> None:
    """Refusals above were refusals, not bugs."""
    results = feeder.do(*(command for command, _ in BAD_COMMANDS))
    assert not [result for result in results if isinstance(result, Failed)]
    assert feeder.machine.faults == 0
