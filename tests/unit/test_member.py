"""The service of one member: what is gathered, what is shared, what is said of others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from raftos.errors import Conflict, InvalidInput, NoQuorum, NotFound, OutcomeUnknown
from raftos.member import Gathering, StateHash, diverged
from raftos.state.command import is_ok
from raftos.state.domains import kv, members
from tests.unit.api.harness import Api, run


def soon() -> float:
    return time.monotonic() + 5


def test_writes_of_one_turn_become_two_proposals(tmp_path: Path) -> None:
    """Sixty-four clients with one write each: the first leaves at once, the others together."""

    async def scenario(api: Api) -> None:
        member = api.member
        api.consensus.cluster.delay_s = 0.01

        async def put(number: int) -> bytes:
            command = kv.Put(f"k{number}", b"v")
            [result] = await member.submit([(member.new_request_id(), command)], soon())
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
        one, missing, page, stale = await asyncio.gather(
            member.query([kv.Get("a")], "linearizable", soon()),
            member.query([kv.Get("b")], "linearizable", soon()),
            member.query([kv.List(), kv.Get("a")], "linearizable", soon()),
            member.query([kv.Get("a")], "stale", soon()),
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

    run(tmp_path, scenario)


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


def test_different_states_at_one_index_are_found(tmp_path: Path) -> None:
    """Members that are merely at different indexes have not diverged."""

    async def scenario(api: Api) -> None:
        report = api.member.report()
        behind = msgspec.structs.replace(report, state_hash=StateHash(report.state_hash.index - 1, "00"))
        wrong = msgspec.structs.replace(report, state_hash=StateHash(report.state_hash.index, "00"))
        assert diverged({"a": report, "b": report, "c": behind}) is None
        assert diverged({"a": report, "b": behind, "c": wrong}) == report.state_hash.index

    run(tmp_path, scenario)
