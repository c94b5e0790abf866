"""The service of one member: what is gathered, what is shared, what is said of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from raftos.consensus.configuration import Remove
from raftos.consensus.memory import MemoryConsensus
from raftos.errors import (
    Conflict,
    Fault,
    InvalidInput,
    NoQuorum,
    NotEnabled,
    NotFound,
    NotReady,
    OutcomeUnknown,
)
from raftos.gathering import Gathering
from raftos.levels import LEVEL
from raftos.member import Member
from raftos.reports import Verdict, decode_report, encode_report, encode_verdict, judge
from raftos.state.command import (
    Rejected,
    encode_entry,
    encode_request,
    encode_result,
    is_ok,
    new_request_id,
)
from raftos.state.domains import kv, members
from raftos.state.requests import REFUSED_AFTER_MS
from tests.unit.api.harness import Api, run


def soon() -> float:
    return time.monotonic() + 5


def test_writes_of_one_turn_become_two_proposals(tmp_path: Path) -> None:
    """Sixty-four clients with one write each: the first leaves at once, the others together."""

    async def scenario(api: Api) -> None:
        member = api.member
        api.consensus.cluster.delay_s = 0.01
        deadline = soon()  # One for all: those that are far apart are proposed apart.

        async def put(number: int) -> bytes:
            command = kv.Put(f"k{number}", b"v")
            [result] = await member.submit([(member.new_request_id(), command)], deadline)
            return result

        results = await asyncio.gather(*map(put, range(64)))
        assert all(map(is_ok, results))
        assert api.consensus.proposals == 2

    run(tmp_path, scenario)


def test_reads_of_one_turn_share_one_barrier_and_keep_their_answers_apart(tmp_path: Path) -> None:
    """Point reads and scans together; an error is one reader's only."""

    async def scenario(api: Api) -> None:
        member = api.member
        await member.submit([(member.new_request_id(), kv.Put("a", b"1"))], soon())
        deadline = soon()
        one, missing, page, stale = await asyncio.gather(
            member.query([kv.Get("a")], "linearizable", deadline),
            member.query([kv.Get("b")], "linearizable", deadline),
            member.query([kv.List(), kv.Get("a")], "linearizable", deadline),
            member.query([kv.Get("a")], "stale", deadline),
        )
        assert one == stale == [kv.Item("a", 1, 1, b"1")]
        assert isinstance(missing[0], NotFound)
        assert page == [kv.Page([kv.Item("a", 1, 1, b"1")], None), kv.Item("a", 1, 1, b"1")]
        assert api.consensus.barriers == 1

    run(tmp_path, scenario)


def test_calls_with_distant_deadlines_are_answered_apart(tmp_path: Path) -> None:
    """A patient caller does not wait less because an impatient one came along, nor the reverse."""
    seen: list[tuple[list[int], float]] = []

    async def answer(items: list[int], deadline: float) -> list[int]:
        seen.append((items, deadline))
        return items

    async def scenario() -> None:
        gathering = Gathering(answer)
        results = await asyncio.gather(
            gathering.call([1], 10.0), gathering.call([2, 3], 10.001), gathering.call([4], 20.0)
        )
        assert list(results) == [[1], [2, 3], [4]]

    asyncio.run(scenario())
    assert sorted(seen) == [([1, 2, 3], 10.0), ([4], 20.0)]


def test_every_caller_hears_of_a_failure_in_its_own_exception(tmp_path: Path) -> None:
    """A shared exception object would mix up the callers' tracebacks."""

    async def scenario(api: Api) -> None:
        api.cluster.outcome_unknown = True
        calls = [
            api.member.submit([(api.member.new_request_id(), kv.Put("a", b""))], soon()) for _ in range(3)
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [OutcomeUnknown] * 3
        assert len({id(error) for error in errors}) == 3

    run(tmp_path, scenario)


def test_a_bug_is_a_fault_for_every_caller() -> None:
    """Nobody is cancelled for it: that would look like the caller's own wish."""

    async def answer(_items: list[int], _deadline: float) -> list[int]:
        raise KeyError("a bug")

    async def scenario() -> None:
        gathering = Gathering(answer)
        calls = [gathering.call([number], 10.0) for number in range(2)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [Fault] * 2
        assert "KeyError" in str(errors[0])

    asyncio.run(scenario())


def test_a_caller_that_gave_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    """Its connection closed while the write was under way."""

    async def scenario(api: Api) -> None:
        api.cluster.delay_s = 0.02
        calls = [
            asyncio.ensure_future(
                api.member.submit([(api.member.new_request_id(), kv.Put(key, b""))], soon())
            )
            for key in "ab"
        ]
        await asyncio.sleep(0.01)
        calls[0].cancel()
        [result] = await calls[1]
        assert is_ok(result)

    run(tmp_path, scenario)


def test_a_member_registers_itself_once_and_again_when_something_changed(tmp_path: Path) -> None:
    """What the cluster knows already is not written again."""

    async def scenario(api: Api) -> None:
        await api.member.register()
        await api.member.register()
        assert api.machine.revision == 1
        api.member.version = "2"
        await api.member.register()
        assert api.machine.revision == 2
        [known] = await api.member.query([members.Get(id="id-n1")], "linearizable", soon())
        assert isinstance(known, members.Member)
        assert (known.name, known.version, known.state) == ("n1", "2", "alive")

    run(tmp_path, scenario)


def test_a_member_whose_name_is_taken_says_so(tmp_path: Path) -> None:
    """Two members with one name would be confused by everybody."""

    async def scenario(api: Api) -> None:
        other = members.Register("other", "n1", "", "", "")
        await api.member.submit([(api.member.new_request_id(), other)], soon())
        with pytest.raises(Conflict):
            await api.member.register()

    run(tmp_path, scenario, young=True)


def test_a_member_that_was_marked_down_is_shown_so_only_while_it_is_silent(tmp_path: Path) -> None:
    """What is heard now counts more than what was agreed a while ago."""

    async def scenario(api: Api) -> None:
        for member in api.members.values():
            await member.register()
        mark = members.Mark("id-n3", state="down", expect_state="alive")
        await api.member.submit([(api.member.new_request_id(), mark)], soon())
        assert [node.state for node in (await api.member.status()).nodes] == ["alive"] * 3
        api.cluster.cut("id-n3")
        assert [node.state for node in (await api.member.status()).nodes] == ["alive", "alive", "down"]

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_member_cut_off_still_answers_for_itself(tmp_path: Path) -> None:
    """Status works without a quorum, and names no leader that is not heard."""

    async def scenario(api: Api) -> None:
        api.cluster.cut("id-n1")
        status = await api.member.status()
        assert status.leader is None
        assert [node.state for node in status.nodes] == ["alive", "unreachable", "unreachable"]
        with pytest.raises(NoQuorum):
            api.member.leader()

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


@pytest.mark.parametrize("body", [b"", b"gossip", b"reports", b"beacons", b"beacons \xc1"])
def test_a_question_of_another_version_is_refused_and_harms_nothing(tmp_path: Path, body: bytes) -> None:
    """The peer hears a sentence; what both versions know is still answered."""

    async def scenario(api: Api) -> None:
        with pytest.raises(InvalidInput, match="this version"):
            await api.consensus.ask("id-n2", body, 1)
        assert [node.state for node in (await api.member.status()).nodes] == ["alive"] * 3

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_stale_reads_grow_older_while_the_member_is_cut_off(tmp_path: Path) -> None:
    """Age counts from the last moment this member knew itself up to date."""

    async def scenario(api: Api) -> None:
        assert api.member.age_ms() == 0
        api.cluster.cut("id-n1")
        await asyncio.sleep(0.05)
        assert 40 <= api.member.age_ms() < 5_000
        api.cluster.heal("id-n1")
        assert api.member.age_ms() == 0

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_member_that_is_gone_lags_no_more(tmp_path: Path) -> None:
    """It was far behind when it was removed; no status says so of it, however old the leader's memory."""

    async def scenario(api: Api) -> None:
        await api.member.overview.hear()
        api.member.overview.heard.lagging["id-n3"] = 1_000_000
        for member in api.members.values():
            assert [alarm.alarm for alarm in (await member.status()).alarms] == ["LAGGING"]
        assert [alarm.alarm for alarm in api.member.alarms()] == ["LAGGING"]
        await api.consensus.change(Remove("id-n3"), soon())
        assert not api.member.alarms()
        for name in ("n1", "n2"):
            assert not (await api.members[name].status()).alarms

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


# A state that is wrong.


def diverge(api: Api, name: str) -> None:
    """Give one member another entry than the others have at the same index."""
    api.cluster.cut(f"id-{name}")
    now_ms = api.consensus.cluster_time_ms()
    api.cluster.agree([encode_request(new_request_id(now_ms), kv.Put("a", b"right"))], now_ms)
    machine = api.machines[name]
    wrong = encode_entry(now_ms, [encode_request(new_request_id(now_ms), kv.Put("a", b"wrong"))])
    machine.apply([(machine.applied_index + 1, wrong)])
    api.cluster.heal(f"id-{name}")


async def refusals(member: Member) -> list[str]:
    """What a member says to a write, to reads and to a watcher; fails if it serves one of them."""
    calls: list[Awaitable[object]] = [
        member.submit([(member.new_request_id(), kv.Put("b", b""))], soon()),
        member.query([kv.Get("a")], "linearizable", soon()),
        member.query([kv.Get("a")], "stale", soon()),
        member.past_events(0, 1_000),
    ]
    said = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in said] == [NotReady] * len(calls)
    return [str(each) for each in said]


def test_a_member_whose_state_is_wrong_is_found_out_and_serves_no_more(tmp_path: Path) -> None:
    """The leader compares, and tells; the member says to everybody what to do."""

    async def scenario(api: Api) -> None:
        diverge(api, "n3")
        wrong = api.members["n3"]
        await api.member.overview.hear()
        assert "raftos dev rejoin" in (wrong.lost or "")
        assert wrong.not_ready() == wrong.lost
        assert set(await refusals(wrong)) == {wrong.lost}
        for member in api.members.values():
            status = await member.status()
            assert [(each.alarm, each.node) for each in status.alarms] == [("CORRUPT", "n3")]
        assert api.member.not_ready() is None

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_leader_whose_state_is_wrong_gives_way(tmp_path: Path) -> None:
    """It is the one that compares, and judges itself like any other."""

    async def scenario(api: Api) -> None:
        diverge(api, "n1")
        api.cluster.elect("id-n1")
        await api.member.overview.hear()
        assert api.member.lost is not None
        assert api.cluster.leader_id != "id-n1"
        await refusals(api.member)

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_two_members_that_differ_are_suspect_and_go_on(tmp_path: Path) -> None:
    """Nobody knows which is right, so neither is stopped; both say so."""

    async def scenario(api: Api) -> None:
        diverge(api, "n2")
        await api.member.overview.hear()
        for member in api.members.values():
            assert member.lost is None
            [alarm] = (await member.status()).alarms
            assert alarm.alarm == "CORRUPT"
            assert "n1 and n2" in alarm.message

    run(tmp_path, scenario, names=["n1", "n2"])


@pytest.mark.parametrize("asked", ["id-n1", "id-n2"])
def test_a_verdict_counts_from_the_leader_alone_and_if_it_is_true(tmp_path: Path, asked: str) -> None:
    """A wrong claim, or one of an index long gone, changes nothing."""

    async def scenario(api: Api) -> None:
        stamp = api.machine.state_hash
        teller = api.members[asked.removeprefix("id-")].consensus
        claims = [Verdict(0, stamp), Verdict(7, b"x" * 16)] if asked == "id-n1" else [Verdict(0, b"x" * 16)]
        for claim in claims:
            await teller.ask("id-n3", b"verdict " + encode_verdict(claim), 1)
        assert api.members["n3"].lost is None

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_states_are_compared_under_load_too(tmp_path: Path) -> None:
    """Members at different indexes are compared where both have been."""

    async def scenario(api: Api) -> None:
        diverge(api, "n3")
        for number in range(70):
            await api.member.submit([(api.member.new_request_id(), kv.Put(f"k{number}", b""))], soon())
        api.cluster.cut("id-n3")
        await api.member.submit([(api.member.new_request_id(), kv.Put("more", b""))], soon())
        reports = {name: member.report() for name, member in api.members.items()}
        assert len({report.applied_index for report in reports.values()}) == 2
        assert set(judge(reports, ("n1", "n2", "n3")).wrong) == {"n3"}

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


# A clock that stood still while the cluster had nothing to agree on.

BEHIND_MS = REFUSED_AFTER_MS + 60_000


def test_a_member_whose_clock_stood_still_registers_itself(tmp_path: Path) -> None:
    """Its first id is too old for the others; the entry that says so sets the clock."""

    async def scenario(api: Api) -> None:
        member = api.members["n2"]
        assert isinstance(member.consensus, MemoryConsensus)
        member.consensus.behind_ms = BEHIND_MS
        assert await member.register()
        [known] = await member.query([members.Get(id="id-n2")], "linearizable", soon())
        assert isinstance(known, members.Member)
        assert known.level == LEVEL

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


@pytest.mark.parametrize(
    ("old_ms", "asked_s", "behind"),
    [
        (REFUSED_AFTER_MS + 1_000, 0.0, True),
        (REFUSED_AFTER_MS - 1_000, 0.0, False),
        (REFUSED_AFTER_MS + 1_000, 2.0, False),
        (REFUSED_AFTER_MS + 3_000, 2.0, True),
        (-120_000, 0.0, False),
    ],
)
def test_an_id_that_may_have_been_taken_is_never_replaced(
    tmp_path: Path, old_ms: int, asked_s: float, behind: bool
) -> None:
    """It was not too old when it was sent first; then it may have been applied, and forgotten since."""

    async def scenario(api: Api) -> None:
        made = new_request_id(api.consensus.cluster_time_ms() - old_ms)
        refused = encode_result(Rejected("expired", "too late"))
        asked_at = time.monotonic() - asked_s
        assert await api.member.was_behind(made, refused, asked_at, soon()) == behind
        other = encode_result(Rejected("conflict", "it is there"))
        assert not await api.member.was_behind(made, other, asked_at, soon())

    run(tmp_path, scenario)


def test_a_refusal_that_comes_before_its_entry_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader answers at once; this member applies the entry, and knows the time, a moment later."""

    async def scenario(api: Api) -> None:
        barrier = api.consensus.read_barrier
        api.consensus.behind_ms = BEHIND_MS
        made, asked_at = api.member.new_request_id(), time.monotonic()

        async def applied(deadline: float) -> int:
            api.consensus.behind_ms = 0
            return await barrier(deadline)

        monkeypatch.setattr(api.consensus, "read_barrier", applied)
        refused = encode_result(Rejected("expired", "too late"))
        assert await api.member.was_behind(made, refused, asked_at, soon())

    run(tmp_path, scenario)


# Feature levels.


def test_a_member_tells_its_level_only_when_all_can_read_it(tmp_path: Path) -> None:
    """One that does not answer may run an older version: until it does, the entry looks as it always did."""

    async def scenario(api: Api) -> None:
        api.cluster.cut("id-n3")
        assert not await api.member.register()
        [known] = await api.member.query([members.Get(id="id-n1")], "linearizable", soon())
        assert isinstance(known, members.Member)
        assert known.level == 1
        api.cluster.heal("id-n3")
        assert await api.member.register()
        assert await api.member.register()
        [known] = await api.member.query([members.Get(id="id-n1")], "linearizable", soon())
        assert isinstance(known, members.Member)
        assert known.level == LEVEL
        assert api.machine.revision == 2

    run(tmp_path, scenario, names=["n1", "n2", "n3"], young=True)


def test_a_command_above_the_enabled_level_is_refused_at_the_edge(tmp_path: Path) -> None:
    """With the members that hold it up; nothing is proposed."""

    class Later(kv.Put, frozen=True, tag="kv.later"):
        since: ClassVar[int] = 2

    async def scenario(api: Api) -> None:
        old = members.Register("id-n2", "n2", "", "", "0.1")
        await api.member.submit([(api.member.new_request_id(), old)], soon())
        api.member.admit(kv.Put("a", b""))
        with pytest.raises(NotEnabled, match="do not yet: n2; upgrade"):
            api.member.admit(Later("a", b""))

    run(tmp_path, scenario, young=True)


# Clocks.


@pytest.mark.parametrize(
    ("ahead_ms", "delay_s"), [(0, 0.0), (0, 0.2), (5_000, 0.0), (5_000, 0.2), (-5_000, 0.2)]
)
def test_a_clock_is_judged_by_what_the_way_cannot_explain(
    tmp_path: Path, ahead_ms: int, delay_s: float
) -> None:
    """A slow answer is no wrong clock: the difference is known as well as half of the round trip."""

    async def scenario(api: Api) -> None:
        peer = api.members["n2"].consensus
        assert isinstance(peer, MemoryConsensus)
        answer = peer.handler
        assert answer is not None

        async def late(asker: str, body: bytes) -> bytes:
            await asyncio.sleep(delay_s)
            said = decode_report(await answer(asker, body))
            assert said.wall_ms is not None
            return encode_report(msgspec.structs.replace(said, wall_ms=said.wall_ms + ahead_ms))

        peer.handler = late
        reading = (await api.member.overview.readings())["id-n2"]
        assert abs(reading.ahead_ms - ahead_ms) <= reading.doubt_ms + 1
        assert reading.doubt_ms >= delay_s * 500
        raised = {alarm.alarm for alarm in (await api.member.status()).alarms}
        assert raised == ({"CLOCK_SKEW"} if ahead_ms else set())

    run(tmp_path, scenario, names=["n1", "n2"])
