"""Every request is applied once: repetitions, other bodies, late and early ids, and what is forgotten."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from raftos.state import requests
from raftos.state.command import Ok, Rejected, Result, encode_entry, encode_request
from raftos.state.domains import kv
from tests.unit.state.feeder import START_MS, Feeder, request_id

PUT = kv.Put("a", b"1")
MINUTE_MS = 60_000


def refused(result: Result, code: str, words: str = "") -> bool:
    return isinstance(result, Rejected) and result.code == code and words in result.message


def counted(feeder: Feeder) -> int:
    """How often the key was really written."""
    return int(feeder.ask(kv.Get("a")).version)


def test_the_same_request_later_gets_its_first_answer(feeder: Feeder) -> None:
    """No new version, no revision, no event."""
    request = (feeder.new_id(), PUT)
    first = feeder.send(request)
    feeder.do(kv.Put("b", b"1"))
    events = feeder.rows()["events"]
    assert feeder.send(request) == first
    assert (counted(feeder), feeder.machine.revision) == (1, 2)
    assert feeder.rows()["events"] == events


def test_the_same_request_within_one_entry_gets_its_first_answer(feeder: Feeder) -> None:
    """Also when others stand between, and when it comes a third time."""
    request = (feeder.new_id(), PUT)
    results = feeder.send(request, (feeder.new_id(), kv.Put("b", b"1")), request, request)
    assert results[0] == results[2] == results[3] != results[1]
    assert counted(feeder) == 1


def test_a_refusal_is_remembered_as_well(feeder: Feeder) -> None:
    """What was refused once stays refused, even if it would succeed by now."""
    request = (feeder.new_id(), kv.Put("a", b"1", expect_version=1))
    [first] = feeder.send(request)
    feeder.do(PUT)
    assert refused(first, "conflict")
    assert feeder.send(request) == [first]


def test_a_remembered_answer_survives_a_restart(feeder: Feeder) -> None:
    """The memory is rebuilt from the rows."""
    batch = [(feeder.new_id(), kv.Put("a", bytes([number]))) for number in range(20)]
    first = feeder.send(*batch)
    feeder.reopen()
    assert [feeder.send(request)[0] for request in reversed(batch)] == list(reversed(first))
    assert counted(feeder) == 20


@pytest.mark.parametrize("same_entry", [True, False])
def test_the_same_id_with_another_body_is_a_conflict(feeder: Feeder, same_entry: bool) -> None:
    """An id names one request for good; the other one changes nothing."""
    request = feeder.new_id()
    if same_entry:
        results = feeder.send((request, PUT), (request, kv.Put("a", b"2")))
    else:
        results = feeder.send((request, PUT)) + feeder.send((request, kv.Put("a", b"2")))
    assert isinstance(results[0], Ok)
    assert refused(results[1], "conflict", "another command")
    assert feeder.ask(kv.Get("a")).value == b"1"


@pytest.mark.parametrize(
    ("created_after_ms", "words"),
    [
        (-10 * MINUTE_MS - 1, "before results are remembered"),
        (-10 * MINUTE_MS, None),
        (0, None),
        (MINUTE_MS, None),
        (MINUTE_MS + 1, "ahead of cluster time"),
    ],
)
def test_an_id_counts_from_ten_minutes_back_to_one_minute_ahead(
    feeder: Feeder, created_after_ms: int, words: str | None
) -> None:
    """Older ids may have been forgotten, younger ones would never be."""
    [result] = feeder.send((feeder.new_id(START_MS + created_after_ms), PUT))
    assert refused(result, "expired", words) if words else isinstance(result, Ok)


def test_an_id_ahead_of_the_clock_is_taken_once_the_clock_is_there(feeder: Feeder) -> None:
    """Its refusal is not remembered: nothing was applied under it."""
    request = (feeder.new_id(START_MS + 2 * MINUTE_MS), PUT)
    assert refused(feeder.send(request)[0], "expired", "ahead")
    feeder.now_ms += 2 * MINUTE_MS
    assert isinstance(feeder.send(request)[0], Ok)


@pytest.mark.parametrize("request_id", [b"", b"short", b"\xff" * 15, START_MS.to_bytes(6, "big") + b"x" * 11])
def test_an_id_of_another_length_is_refused(feeder: Feeder, request_id: bytes) -> None:
    """It would not fit its place in the row."""
    assert refused(feeder.send((request_id, PUT))[0], "invalid", "16 bytes")


def test_a_repetition_after_its_answer_may_be_forgotten_is_refused(feeder: Feeder) -> None:
    """It is never taken for a new request: not when refused by age, not when its row is gone."""
    request = (feeder.new_id(), PUT)
    feeder.send(request)
    for _ in range(30):
        feeder.now_ms += MINUTE_MS
        feeder.apply(*[b""] * 63, feeder.entry((feeder.new_id(), kv.Put("b", b"1"))))
        [result] = feeder.send(request)
        late = feeder.now_ms - START_MS > requests.REFUSED_AFTER_MS
        assert refused(result, "expired") if late else isinstance(result, Ok)
    assert counted(feeder) == 1
    assert min(row[0] for row in feeder.rows()["requests"]) > 1


def test_too_many_requests_move_the_horizon(feeders: Callable[..., Feeder]) -> None:
    """Count evicts the oldest, and nothing as old as what was evicted is taken from then on."""
    feeder = feeders(max_requests=50)
    sent = []
    for _ in range(100):
        feeder.now_ms += 1
        sent.append((feeder.new_id(), kv.Put("b", b"1")))
        feeder.send(sent[-1])
    kept = sum(len(requests.split_ids(row[2])) for row in feeder.rows()["requests"])
    assert kept <= 50
    results = [feeder.send(request)[0] for request in sent]
    assert all(refused(result, "expired") for result in results[: 100 - kept])
    assert all(isinstance(result, Ok) for result in results[100 - kept :])
    unsent = (feeder.new_id(START_MS + 100 - kept), PUT)
    assert refused(feeder.send(unsent)[0], "expired")
    feeder.reopen()
    assert refused(feeder.send(unsent)[0], "expired")
    assert feeder.machine.revision == 100


def test_an_entry_larger_than_the_memory_is_applied(feeders: Callable[..., Feeder]) -> None:
    """The next entry's requests have to be younger than it."""
    feeder = feeders(max_requests=10)
    batch = [(feeder.new_id(), PUT) for _ in range(40)]
    assert all(isinstance(result, Ok) for result in feeder.send(*batch))
    feeder.now_ms += 1
    assert isinstance(feeder.do(PUT)[0], Ok)
    assert refused(feeder.send(batch[0])[0], "expired")


def test_one_client_ahead_of_time_does_not_shut_the_others_out(feeders: Callable[..., Feeder]) -> None:
    """Its ids are kept until their time has come, so the horizon does not jump past the present."""
    feeder = feeders(max_requests=50)
    feeder.send((feeder.new_id(START_MS + 5_000), PUT))
    for _ in range(80):
        feeder.now_ms += 1
        assert isinstance(feeder.do(PUT)[0], Ok)
    feeder.now_ms += 5_000
    feeder.do(PUT)
    assert len(feeder.rows()["requests"]) <= 50


def test_memory_stays_bounded_whatever_clocks_clients_have(feeders: Callable[..., Feeder]) -> None:
    """At twice the size even ids ahead of time are forgotten; then the horizon does jump."""
    feeder = feeders(max_requests=50)
    for _ in range(300):
        feeder.send((feeder.new_id(feeder.now_ms + 5_000), PUT))
    assert len(feeder.rows()["requests"]) <= 101
    assert refused(feeder.do(PUT)[0], "expired")


def test_an_id_is_found_only_where_ids_stand(feeder: Feeder) -> None:
    """Sixteen bytes across the border of two ids are no id."""
    first, second = feeder.new_id(), feeder.new_id()
    row = first + second + bytes(8)
    assert requests.split_ids(row) == [first, second]
    across = (first + second)[8:24]
    feeder.send((first, PUT), (second, PUT))
    assert requests._position(row, second) == 1
    assert requests._position(row, across) is None
    assert requests._position(row, row[24:40]) is None


@pytest.mark.slow
def test_a_quarter_million_ids_take_at_most_40_mb(feeder: Feeder) -> None:
    """One request an entry, the dearest way, is measured on what the memory itself allocates."""
    ids = (request_id(START_MS, number) for number in range(requests.MAX_REQUESTS))
    payloads = [encode_entry(START_MS, [encode_request(request, PUT)]) for request in ids]
    for at in range(0, len(payloads), 500):
        feeder.apply(*payloads[at : at + 500])
    del payloads
    assert len(feeder.machine._memory) == requests.MAX_REQUESTS
    feeder.machine.close()
    tracemalloc.start()
    feeder.machine = type(feeder.machine)(feeder.folder)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 40_000_000, f"{used} bytes"
