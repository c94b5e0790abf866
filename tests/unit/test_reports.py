"""Comparing states: who is wrong, who is suspect, and who is merely elsewhere in the log."""

from __future__ import annotations

import msgspec
import pytest

from raftos.consensus.base import Role
from raftos.levels import FIRST_LEVEL
from raftos.reports import Report, StateHash, Verdict, decode_report, encode_report, judge

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
VOTERS = ("m1", "m2", "m3")
Stamps = dict[int, bytes]


def report(stamps: Stamps, *, lost: str | None = None, **said: object) -> Report:
    """A member that noted these hashes; the last is where it stands."""
    index = max(stamps)
    values: dict[str, object] = {
        "role": Role.FOLLOWER,
        "leader_id": "m1",
        "term": 1,
        "commit_index": index,
        "applied_index": index,
        "synced_index": index,
        "version": "1",
        "load": {},
        "trouble": None,
        "state_hash": StateHash(index, stamps[index].hex()),
        "stamps": list(stamps.items())[:-1],
        "lost": lost,
        **said,
    }
    return msgspec.convert(values, Report)


@pytest.mark.parametrize(
    ("noted", "wrong", "suspects"),
    [
        ([{64: A}, {64: A}, {64: A}], {}, {}),
        ([{64: A}, {65: B}, {66: C}], {}, {}),
        ([{64: A}, {64: A}, {64: B}], {"m3": Verdict(64, A)}, {}),
        ([{64: B}, {64: A}, {64: A}], {"m1": Verdict(64, A)}, {}),
        ([{64: A, 90: C}, {64: A, 70: B}, {64: B, 99: C}], {"m3": Verdict(64, A)}, {}),
        ([{64: A, 128: A}, {64: A, 128: A}, {64: A, 128: B}], {"m3": Verdict(128, A)}, {}),
        ([{64: A, 128: A}, {64: A, 128: A}, {64: B, 128: B}], {"m3": Verdict(64, A)}, {}),
        ([{64: A}, {64: B}], {}, {"m1": 64, "m2": 64}),
        ([{64: A}, {64: B}, {64: C}], {}, {"m1": 64, "m2": 64, "m3": 64}),
        ([{64: A}, {64: B}, {99: C}], {}, {"m1": 64, "m2": 64}),
        ([{64: A, 128: A}, {64: B, 128: B}, {128: A}], {"m2": Verdict(128, A)}, {}),
        ([{64: A}, {64: A}, {64: A}, {64: B}], {"m4": Verdict(64, A)}, {}),
        ([{64: A}], {}, {}),
    ],
)
def test_states_are_compared_at_every_index_that_two_members_have(
    noted: list[Stamps], wrong: dict[str, Verdict], suspects: dict[str, int]
) -> None:
    """A majority of the voters is right; without one nobody is. The fourth member learns, and is judged."""
    reports = {f"m{number}": report(stamps) for number, stamps in enumerate(noted, 1)}
    judged = judge(reports, VOTERS)
    assert (judged.wrong, judged.suspects) == (wrong, suspects)


def test_learners_make_no_majority() -> None:
    """Two voters that differ stay suspect, whatever those say who have no vote."""
    reports = {"m1": report({64: A}), "m2": report({64: B}), "m4": report({64: A}), "m5": report({64: A})}
    judged = judge(reports, VOTERS)
    assert not judged.wrong
    assert set(judged.suspects) == {"m1", "m2", "m4", "m5"}


def test_who_is_known_to_be_wrong_accuses_nobody() -> None:
    """Its hashes count no more."""
    reports = {"m1": report({64: A}), "m2": report({64: A}), "m3": report({64: B}, lost="it differs")}
    judged = judge(reports, VOTERS)
    assert (judged.wrong, judged.suspects) == ({}, {})


def test_a_report_of_a_version_before_levels_is_read() -> None:
    """What it does not say has a default that claims nothing."""
    full = msgspec.to_builtins(report({64: A}, level=2, wall_ms=5))
    later = ("level", "lost", "wall_ms", "stamps", "lagging")
    old = decode_report(msgspec.msgpack.encode({key: full[key] for key in full if key not in later}))
    assert (old.level, old.lost, old.wall_ms, old.stamps, old.lagging) == (FIRST_LEVEL, None, None, [], {})
    assert judge({"m1": old, "m2": report({64: A})}, VOTERS).wrong == {}


def test_a_full_report_is_small() -> None:
    """It travels to every member several times a second."""
    stamps = {64 * at: A for at in range(1, 66)}
    assert len(encode_report(report(stamps))) < 2_500


@pytest.mark.parametrize(
    ("hashes", "wrong"),
    [((A, A, B), set()), ((A, A, A, B), {"m4"}), ((A, B, B, B, C), {"m1", "m5"}), ((A, A, B, B), set())],
)
def test_a_majority_is_one_of_all_voters_not_of_those_heard(
    hashes: tuple[bytes, ...], wrong: set[str]
) -> None:
    """Of five, two against one decide nothing."""
    reports = {f"m{number}": report({64: state_hash}) for number, state_hash in enumerate(hashes, 1)}
    judged = judge(reports, ("m1", "m2", "m3", "m4", "m5"))
    assert set(judged.wrong) == wrong
    assert bool(judged.suspects) == (not wrong)
