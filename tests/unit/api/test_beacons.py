"""The routes of beacons: what is announced over HTTP is listed over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.harness import Api, run

ADA = {"topic": "chat/general", "name": "ada", "state": "typing", "ttl_ms": 5_000}


def test_what_was_announced_is_listed(tmp_path: Path) -> None:
    """By name, with the name of the member and how old it is; other topics are left out."""

    async def scenario(api: Api) -> None:
        announced = await api.post("/v1/beacons", ADA)
        assert (announced.status, announced.json) == (200, {"topic": "chat/general", "name": "ada"})
        await api.post("/v1/beacons", {**ADA, "name": "Ümit", "state": ""})
        await api.post("/v1/beacons", {**ADA, "topic": "elsewhere"})
        items = (await api.get("/v1/beacons?topic=chat/general")).json["items"]
        assert [item["name"] for item in items] == ["ada", "Ümit"]
        assert 0 <= items[0].pop("age_ms") < 5_000
        assert items[0] == {**ADA, "member": "n1"}
        assert (await api.get("/v1/beacons?topic=nothing")).json == {"items": []}

    run(tmp_path, scenario)


def test_beacons_need_no_leader(tmp_path: Path) -> None:
    """A member that is cut off keeps what its own clients say, and shows it."""

    async def scenario(api: Api) -> None:
        api.cluster.cut("id-n1")
        assert (await api.post("/v1/beacons", ADA)).status == 200
        assert len((await api.get("/v1/beacons?topic=chat/general")).json["items"]) == 1

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_the_members_of_a_cluster_tell_each_other(tmp_path: Path) -> None:
    """Over the same way as their reports."""

    async def scenario(api: Api) -> None:
        await api.post("/v1/beacons", ADA)
        await api.member.beacons.beat()
        for name in ("n2", "n3"):
            [listed] = api.members[name].beacons.listed("chat/general")
            assert (listed.name, listed.state, listed.member) == ("ada", "typing", "id-n1")
        assert b"raftos_beacons 1.0" in (await api.get("/metrics")).body

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"topic": ""}, 400, "topic"),
    ({"name": "a\nb"}, 400, "name"),
    ({"state": "\x07"}, 400, "state"),
    ({"topic": "t" * 257}, 413, "topic"),
    ({"name": "ü" * 129}, 413, "name"),
    ({"state": "s" * 257}, 413, "state"),
    ({"ttl_ms": 0}, 400, "ttl_ms"),
    ({"ttl_ms": 60_001}, 400, "60000"),
    ({"ttl_ms": 1.5}, 400, "ttl_ms"),
    ({"ttl_ms": None}, 400, "ttl_ms"),
    ({"member": "n2"}, 400, "member"),
]


@pytest.mark.parametrize(("change", "status", "word"), WRONG)
def test_an_announcement_that_is_wrong(
    tmp_path: Path, change: dict[str, Any], status: int, word: str
) -> None:
    """400 or 413, with the name of what is wrong."""

    async def scenario(api: Api) -> None:
        refused = await api.post("/v1/beacons", {**ADA, **change})
        assert (refused.status, refused.code) == (status, "invalid" if status == 400 else "too_large")
        assert word in refused.sentence

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/beacons", 400),
        ("/v1/beacons?topic=", 400),
        ("/v1/beacons?topic=%0a", 400),
        ("/v1/beacons?topic=a&name=b", 400),
        (f"/v1/beacons?topic={'t' * 257}", 413),
    ],
)
def test_a_listing_that_is_wrong(tmp_path: Path, target: str, status: int) -> None:
    """A topic is required, and has the same limits as where it is announced."""

    async def scenario(api: Api) -> None:
        assert (await api.get(target)).status == status

    run(tmp_path, scenario)


def test_too_many_names_are_refused(tmp_path: Path) -> None:
    """429: the request is right, but there is no room."""

    async def scenario(api: Api) -> None:
        for number in range(1_000):
            api.member.beacons.announce("chat/general", f"n{number}", "", 60_000)
        refused = await api.post("/v1/beacons", ADA)
        assert (refused.status, refused.code) == (429, "limit_reached")
        assert len((await api.get("/v1/beacons?topic=chat/general")).json["items"]) == 1_000

    run(tmp_path, scenario)
