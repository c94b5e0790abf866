"""The same log gives the same state: however it is cut into calls, and wherever the process restarted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.state import requests
from raftos.state.command import Command, encode_entry, encode_request
from raftos.state.domains import chat, kv, members
from tests.unit.state.feeder import START_MS, Feeder, request_id

NO_OP = b""


def some_command(random: Random) -> Command:
    key = f"k{random.randrange(12)}"
    kinds: list[Command] = [
        kv.Put(key, random.randbytes(random.randrange(40)), ttl_ms=random.choice([None, 500])),
        kv.Put(key, b"conditional", expect_version=random.randrange(3)),
        kv.Delete(key),
        kv.Delete(key, expect_revision=random.randrange(1, 60)),
        kv.Touch(key, 500, random.choice([None, random.randrange(1, 60)])),
        kv.DeletePrefix("k1", limit=2),
        kv.Txn(
            writes=(kv.TxnPut(key, b"t"), kv.TxnDelete("k0")),
            compare=(kv.Compare("k3", random.randrange(3)),),
        ),
        kv.Expire(keys=(kv.Seen(key, random.randrange(1, 60)),)),
        kv.Put("", b"refused"),
        members.Register(id=key, name=f"n{random.randrange(6)}", endpoint="", peer_address="", version="1"),
        members.Mark(key, state="down", expect_state="alive"),
    ]
    return random.choice(kinds + some_chat(random))


def some_chat(random: Random) -> list[Command]:
    room, sequence, sender = random.choice("rst"), random.randrange(1, 9), random.choice("ab")
    return [
        chat.Create(room, keep_messages=random.choice([None, 2]), keep_ms=random.choice([None, 400_000])),
        *[chat.Post(room, sender, random.choice(["hello", "hello again", "bye"]))] * 3,
        chat.Post(room, sender, "no hello", reply_to=sequence),
        chat.Edit(room, sequence, "edited", sender),
        chat.Redact(room, sequence, sender),
        chat.Mark(room, sender, random.randrange(9)),
        chat.Trim(room, sequence),
    ]


def some_indexing(now_ms: int, number: int) -> bytes:
    """An entry that takes one step of indexing, wherever the index is."""
    steps = [chat.Index(after, 2**40) for after in range(150)]
    requests = [(request_id(now_ms, 1_000 * number + at), step) for at, step in enumerate(steps)]
    return encode_entry(now_ms, [encode_request(*request) for request in requests])


def some_log(seed: int, entries: int = 60) -> list[bytes]:
    """Entries with fresh, repeated, reused, early and late ids, empty ones, and a clock that jumps."""
    random = Random(seed)
    log: list[bytes] = []
    sent: list[tuple[bytes, Command]] = []
    now_ms = START_MS
    for _ in range(entries):
        now_ms += random.choice([-50, 0, 1, 40, 300_000])
        batch: list[tuple[bytes, Command]] = []
        for _ in range(random.choice([0, 1, 2, 9])):
            created_ms = now_ms + random.choice([0, 0, 0, 0, -700_000, 59_000, 61_000])
            request = (request_id(created_ms, len(sent)), some_command(random))
            if sent and random.random() < 0.2:
                request = random.choice(sent)
                if random.random() < 0.3:
                    request = (request[0], some_command(random))
            sent.append(request)
            batch.append(request)
        if random.random() < 0.1:
            log.append(some_indexing(now_ms, len(log) + 1))
        log.append(
            NO_OP if random.random() < 0.1 else encode_entry(now_ms, [encode_request(*r) for r in batch])
        )
    return log


def feed(feeder: Feeder, log: list[bytes], cuts: list[int], *, reopen: bool = False) -> list[list[bytes]]:
    """Apply the log cut into calls at these places; all results."""
    results: list[list[bytes]] = []
    edges = [0, *sorted(cuts), len(log)]
    for start, end in pairwise(edges):
        results += feeder.apply(*log[start:end])
        if reopen:
            feeder.reopen()
    return results


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_two_machines_agree_however_the_log_is_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int]
) -> None:
    """One entry a call, many a call, and with restarts in between: results, rows and hashes are equal."""
    folder: Path = tmp_path_factory.mktemp("agree")
    log = some_log(seed)
    singly, cut, restarted = (
        Feeder(folder / name, max_requests=25) for name in ("singly", "cut", "restarted")
    )
    expected = feed(singly, log, list(range(1, len(log))))
    assert feed(cut, log, cuts) == expected
    assert feed(restarted, log, cuts, reopen=True) == expected
    assert singly.rows() == cut.rows() == restarted.rows()
    assert singly.machine.state_hash == cut.machine.state_hash == restarted.machine.state_hash
    for feeder in (singly, cut, restarted):
        feeder.close()


def test_the_hash_tells_any_two_logs_apart(tmp_path: Path) -> None:
    """Another value, another id, another time, an entry more: another hash."""

    def hash_of(name: str, *payloads: bytes) -> bytes:
        feeder = Feeder(tmp_path / name)
        feeder.apply(*payloads)
        feeder.close()
        return feeder.machine.state_hash

    def entry(value: bytes, number: int = 1, now_ms: int = START_MS) -> bytes:
        return encode_entry(now_ms, [encode_request(request_id(START_MS, number), kv.Put("a", value))])

    logs = {
        "base": [entry(b"1")],
        "value": [entry(b"2")],
        "id": [entry(b"1", number=2)],
        "time": [entry(b"1", now_ms=START_MS + 1)],
        "more": [entry(b"1"), NO_OP],
        "none": [],
    }
    hashes = {hash_of(name, *log) for name, log in logs.items()}
    assert len(hashes) == len(logs)


def test_time_never_goes_back(feeder: Feeder) -> None:
    """A new leader's clock may be behind; the entry then happens at the time before."""
    feeder.do(kv.Put("a", b"1"))
    early = encode_entry(START_MS - 5_000, [encode_request(feeder.new_id(), kv.Put("b", b"1", ttl_ms=10))])
    feeder.apply(early)
    assert feeder.machine.time_ms == START_MS
    assert feeder.ask(kv.Get("b")).expires_ms == START_MS + 10


def test_entries_out_of_order_are_a_mistake_of_the_caller(feeder: Feeder) -> None:
    """An index twice or left out is refused before anything happens."""
    payload = feeder.entry((feeder.new_id(), kv.Put("a", b"1")))
    for indexes in ((0,), (2,), (1, 3), (1, 1)):
        with pytest.raises(ValueError, match="was due"):
            feeder.machine.apply([(index, payload) for index in indexes])
    assert feeder.machine.applied_index == 0
    assert feeder.machine.apply([]) == []


def test_what_is_kept_of_old_requests_is_swept_by_index(feeder: Feeder) -> None:
    """The sweep's rhythm is the log's, so machines that restarted at other times sweep alike."""
    feeder.do(kv.Put("a", b"1"))
    feeder.now_ms += requests.FORGOTTEN_AFTER_MS + 1
    feeder.apply(*[feeder.entry((feeder.new_id(), kv.Put("a", b"1")))] * (requests.SWEEP_INDEXES - 2))
    assert [row[0] for row in feeder.rows()["requests"]][:1] == [1]
    feeder.do(kv.Put("a", b"1"))
    assert 1 not in [row[0] for row in feeder.rows()["requests"]]
