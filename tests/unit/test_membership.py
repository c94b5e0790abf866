"""Joining, promoting and removing, asked of one member of a cluster in memory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos import membership
from raftos.consensus.base import Status
from raftos.consensus.configuration import Remove, Standing
from raftos.errors import (
    Busy,
    Conflict,
    InvalidInput,
    LimitReached,
    NoQuorum,
    NotFound,
    NotReady,
    Unreachable,
)
from raftos.membership import Changed, Join, MembershipService
from raftos.state.command import is_ok
from raftos.state.domains import members
from raftos.state.machine import Machine
from tests.unit.api.harness import Api, run
from tests.unit.enabling import enabled

THREE = ["n1", "n2", "n3"]
N4 = Join("id-n4", "n4", "127.0.0.1:4104", "http://127.0.0.1:4004")


def soon() -> float:
    return time.monotonic() + 2


async def registered(api: Api) -> MembershipService:
    """The service of the first member, once every member has registered itself."""
    for member in api.members.values():
        await member.register()
    return MembershipService(api.member)


def roles(view: Any) -> dict[str, str]:
    return {item.name: item.role for item in view.items}


def test_a_newcomer_is_told_where_everybody_is(tmp_path: Path) -> None:
    """It is known by its name, is sent the log, and hears the addresses of the others."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        view = await service.join(N4, soon())
        assert (view.cluster, view.cluster_id) == ("test", "c")
        assert roles(view) == {"n1": "voter", "n2": "voter", "n3": "voter", "n4": "learner"}
        assert {item.state for item in view.items} == {"alive", "joining"}
        assert {item.peer_address for item in view.items} == {"127.0.0.1:1", "127.0.0.1:4104"}
        peer = api.cluster.configuration.peer("id-n4")
        assert peer is not None
        assert (peer.address, peer.standing) == ("127.0.0.1:4104", Standing.JOINING)

    run(tmp_path, scenario, names=THREE)


def test_joining_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    """The answer to the first may have been lost; the second is the same."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        first = await service.join(N4, soon())
        revision, configuration = api.machine.revision, api.cluster.configuration
        assert await service.join(N4, soon()) == first
        assert (api.machine.revision, api.cluster.configuration) == (revision, configuration)

    run(tmp_path, scenario, names=THREE)


def test_a_join_that_stopped_after_its_first_step_is_finished_by_the_next(tmp_path: Path) -> None:
    """The name is known, the configuration was not changed yet: shown as outside, then let in."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        api.cluster.changing = True
        with pytest.raises(Busy):
            await service.join(N4, time.monotonic() + 0.1)
        assert roles(await service.show(soon()))["n4"] == "none"
        [node] = [node for node in (await api.member.status()).nodes if node.name == "n4"]
        assert (node.role, node.state) == ("none", "joining")
        api.cluster.changing = False
        assert roles(await service.join(N4, soon()))["n4"] == "learner"

    run(tmp_path, scenario, names=THREE)


def test_a_change_waits_for_the_one_under_way(tmp_path: Path) -> None:
    """Two members that join at the same moment both get in."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        api.cluster.changing = True
        joining = asyncio.ensure_future(service.join(N4, soon()))
        await asyncio.sleep(0.12)
        assert not joining.done()
        api.cluster.changing = False
        assert roles(await joining)["n4"] == "learner"

    run(tmp_path, scenario, names=THREE)


@pytest.mark.parametrize(
    ("newcomer", "sentence"),
    [
        (Join("id-n4", "n4", "10.0.0.1:4104", "http://127.0.0.1:1"), "loopback"),
        (Join("id-n4", "n4", "nowhere", "http://127.0.0.1:1"), "host:port"),
        (Join("id-n4", "n4", "127.0.0.1:\u00b2", "http://127.0.0.1:1"), "host:port"),
        (Join("id-n4", "", "127.0.0.1:1", "http://127.0.0.1:1"), "name"),
        (Join("", "n4", "127.0.0.1:1", "http://127.0.0.1:1"), "id"),
        (Join("n" * 65, "n4", "127.0.0.1:1", "http://127.0.0.1:1"), "1 to 64 visible"),
        (Join("id-n4", "n4", "127.0.0.1:0", "http://127.0.0.1:1"), "port from 1"),
    ],
)
def test_a_newcomer_that_cannot_be_found_or_named_is_refused(
    tmp_path: Path, newcomer: Join, sentence: str
) -> None:
    """Before anything is written."""

    async def scenario(api: Api) -> None:
        with pytest.raises(InvalidInput, match=sentence):
            await MembershipService(api.member).join(newcomer, soon())
        assert api.machine.revision == 0

    run(tmp_path, scenario)


def test_a_name_that_is_taken_is_refused_before_the_configuration_changes(tmp_path: Path) -> None:
    """Two members of one name would be confused by everybody."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        with pytest.raises(Conflict, match="n2"):
            await service.join(Join("id-n4", "n2", "127.0.0.1:1", ""), soon())
        assert api.cluster.configuration.peer("id-n4") is None

    run(tmp_path, scenario, names=THREE)


def test_a_cluster_that_is_full_takes_no_name_for_a_newcomer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before it is announced, the name is free; who is in may ask again."""
    monkeypatch.setattr(membership, "MAX_PEERS", 4)

    async def scenario(api: Api) -> None:
        service = await registered(api)
        await service.join(N4, soon())
        revision = api.machine.revision
        with pytest.raises(LimitReached, match="4 members already"):
            await service.join(Join("id-n5", "n5", "127.0.0.1:4105", ""), soon())
        assert api.machine.revision == revision
        assert "n5" not in roles(await service.show(soon()))
        assert roles(await service.join(N4, soon()))["n4"] == "learner"

    run(tmp_path, scenario, names=THREE)


def test_a_member_that_joins_votes_once_its_machine_is_there(tmp_path: Path) -> None:
    """With everything that was written before; a learner stays one until it is promoted."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        await service.join(N4, soon())
        await service.join(Join("id-n5", "n5", "127.0.0.1:5", "", role="learner"), soon())
        machines = [enabled(Machine(tmp_path / name)) for name in ("n4", "n5")]
        ports = [
            api.cluster.join(f"id-{name}", each) for name, each in zip(("n4", "n5"), machines, strict=True)
        ]
        assert [each.state_hash for each in machines] == [api.machine.state_hash] * 2
        assert [port.role for port in ports] == ["follower", "learner"]
        [node] = [node for node in (await api.member.status()).nodes if node.name == "n5"]
        assert (node.role, node.state) == ("learner", "joining")
        assert await service.promote("n5", soon()) == Changed("id-n5", "n5", "voter", changed=True)
        assert await service.promote("id-n5", soon()) == Changed("id-n5", "n5", "voter", changed=False)
        for machine in machines:
            machine.close()

    run(tmp_path, scenario, names=THREE)


def test_a_removed_member_is_forgotten_and_its_name_is_free(tmp_path: Path) -> None:
    """Removed again, by name or by id, it says that nothing changed; its id never comes back."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        assert await service.remove("n3", soon()) == Changed("id-n3", "n3", "none", changed=True)
        for again in ("n3", "id-n3"):
            assert await service.remove(again, soon()) == Changed("id-n3", "n3", "none", changed=False)
        assert roles(await service.show(soon())) == {"n1": "voter", "n2": "voter"}
        assert [node.name for node in (await api.member.status()).nodes] == ["n1", "n2"]
        await service.join(Join("id-new", "n3", "127.0.0.1:3", ""), soon())
        with pytest.raises(Conflict, match="removed"):
            await service.join(Join("id-n3", "n9", "127.0.0.1:3", ""), soon())

    run(tmp_path, scenario, names=THREE)


def test_a_name_that_a_removal_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    """It stopped before its last step, and the next member of that name does not wait for the leader."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        await api.consensus.change(Remove("id-n3"), soon())
        [node] = [node for node in (await api.member.status()).nodes if node.name == "n3"]
        assert (node.role, node.state) == ("none", "removed")
        await service.join(Join("id-new", "n3", "127.0.0.1:3", ""), soon())
        assert roles(await service.show(soon())) == {"n1": "voter", "n2": "voter", "n3": "learner"}

    run(tmp_path, scenario, names=THREE)


def test_the_leader_hands_over_before_it_is_removed(tmp_path: Path) -> None:
    """Whoever is asked, the leader itself included."""

    async def scenario(api: Api) -> None:
        service = MembershipService(api.members["n2"])
        await registered(api)
        assert api.cluster.leader_id == "id-n1"
        assert (await service.remove("n1", soon())).changed
        assert api.cluster.leader_id == "id-n2"
        assert api.cluster.configuration.voters == ("id-n2", "id-n3")

    run(tmp_path, scenario, names=THREE)


def test_the_last_voter_stays(tmp_path: Path) -> None:
    """And leads on."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        with pytest.raises(Conflict, match="last voter"):
            await service.remove("n1", soon())
        assert api.cluster.leader_id == "id-n1"

    run(tmp_path, scenario)


def test_a_removal_that_leaves_no_majority_is_refused_with_names(tmp_path: Path) -> None:
    """Consensus knows ids alone; people read names."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        api.cluster.cut("id-n3")
        with pytest.raises(Conflict, match="majority"):
            await service.remove("n2", soon(), force=True)
        assert (await service.remove("n3", soon())).changed

    run(tmp_path, scenario, names=THREE)


def test_a_removal_that_leaves_no_member_to_spare_needs_force(tmp_path: Path) -> None:
    """Five with one silent: without another one nobody could fail. The silent one may go."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        api.cluster.cut("id-n5")
        with pytest.raises(Conflict, match="n5 cannot be reached"):
            await service.remove("n4", soon())
        assert (await service.remove("n4", soon(), force=True)).changed
        assert (await service.remove("n5", soon())).changed

    run(tmp_path, scenario, names=["n1", "n2", "n3", "n4", "n5"])


def test_a_name_without_a_place_is_removed_and_a_place_without_a_name_is_shown(tmp_path: Path) -> None:
    """What a join or a start left half done."""

    async def scenario(api: Api) -> None:
        member, service = api.member, MembershipService(api.member)
        lost = members.Announce("id-x", "x", "", "127.0.0.1:9")
        [result] = await member.submit([(member.new_request_id(), lost)], soon())
        assert is_ok(result)
        view = await service.show(soon())
        assert [(item.name, item.role, item.state) for item in view.items] == [
            ("n1", "voter", None), ("n2", "voter", None), ("n3", "voter", None), ("x", "none", "joining"),
        ]  # fmt: skip
        assert (await service.remove("x", soon())).changed
        assert not (await service.remove("x", soon())).changed
        with pytest.raises(Conflict, match="has to join"):
            await service.promote("x", soon())
        with pytest.raises(NotFound):
            await service.remove("nobody", soon())

    run(tmp_path, scenario, names=THREE)


def test_without_a_majority_nothing_changes(tmp_path: Path) -> None:
    """And it is known that nothing did."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        api.cluster.cut("id-n1")
        for asked in (service.join(N4, soon()), service.remove("n2", soon()), service.show(soon())):
            with pytest.raises(NoQuorum):
                await asked

    run(tmp_path, scenario, names=THREE)


def unreadable(api: Api, monkeypatch: pytest.MonkeyPatch, kinds: tuple[type, ...]) -> None:
    """The disk of the member that is asked gives these answers no more."""
    for reader in (api.member._loop_reader, api.member._thread_reader):
        honest = reader.query

        def query(asked: Any, honest: Any = honest) -> Any:
            if isinstance(asked, kinds):
                raise NotReady("this member cannot read its state: disk I/O error; ask another member")
            return honest(asked)

        monkeypatch.setattr(reader, "query", query)


def test_a_member_that_cannot_read_its_state_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no member less than there are, and calls none unknown; another one can be asked."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        revision, configuration = api.machine.revision, api.cluster.configuration
        unreadable(api, monkeypatch, (members.List, members.Get, members.ListRemoved))
        asked = (
            service.show(soon()), service.join(N4, soon()), service.promote("n2", soon()),
            service.remove("n3", soon()), api.member.transfer("n2", soon()), api.member.register(),
        )  # fmt: skip
        for each in asked:
            with pytest.raises(NotReady, match="ask another member"):
                await each
        assert (api.machine.revision, api.cluster.configuration) == (revision, configuration)
        assert len((await api.member.status()).nodes) == 3

    run(tmp_path, scenario, names=THREE)


def test_whether_a_member_was_removed_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of those that were removed cannot be read."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        unreadable(api, monkeypatch, (members.ListRemoved,))
        with pytest.raises(NotReady):
            await service.remove("gone", soon())

    run(tmp_path, scenario, names=THREE)


def test_a_member_that_hears_late_of_the_new_leader_removes_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the old one again, which leads no more and says so: no reason to give up."""

    async def scenario(api: Api) -> None:
        await registered(api)
        member = api.members["n2"]
        status, transfer = member.consensus.status, member.consensus.transfer
        refused: list[str] = []

        async def asked(target: str | None, deadline: float) -> str:
            if api.cluster.leader_id == "id-n1":
                return await transfer(target, deadline)
            refused.append("id-n1")
            raise Unreachable("this member does not lead (any more); try again")

        def late() -> Status:
            return status() if refused else msgspec.structs.replace(status(), leader_id="id-n1")

        monkeypatch.setattr(member.consensus, "transfer", asked)
        monkeypatch.setattr(member.consensus, "status", late)
        assert (await MembershipService(member).remove("n1", soon())).changed
        assert refused

    run(tmp_path, scenario, names=THREE)


def test_a_leader_that_cannot_hand_over_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consensus says why by ids, the answer by names; out of reach, the deadline ends it."""

    async def scenario(api: Api) -> None:
        service = await registered(api)
        troubles = [Conflict("id-n2 did not take over in time; the leader is unchanged")]

        async def asked(_target: str | None, _deadline: float) -> str:
            raise troubles.pop() if troubles else Unreachable("nobody answers")

        monkeypatch.setattr(api.consensus, "transfer", asked)
        with pytest.raises(Conflict, match=r"^n2 did not take over"):
            await service.remove("n1", soon())
        with pytest.raises(Unreachable):
            await service.remove("n1", time.monotonic() + 0.2)
        assert api.cluster.leader_id == "id-n1"

    run(tmp_path, scenario, names=THREE)
