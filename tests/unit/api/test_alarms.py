"""Alarms as operators meet them: in the status, in `/readyz`, as gauges, and on a member's own state."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftos.agent.probe import Probe
from raftos.alarms import NAMES
from raftos.node import background
from raftos.node.background import Background
from raftos.state import storage
from raftos.state.domains import kv
from tests.unit.api.harness import Api, run


async def gauges(api: Api) -> dict[str, float]:
    """The alarms of one member, as a scrape finds them."""
    lines = (await api.get("/metrics")).body.decode().splitlines()
    rows = [line.split() for line in lines if line.startswith("raftos_alarm{")]
    return {name.split('"')[1]: float(value) for name, value in rows}


def test_every_known_alarm_is_a_gauge_raised_or_not(tmp_path: Path) -> None:
    """A dashboard finds it before it is needed. The leader knows of others once it has heard of them."""

    async def scenario(api: Api) -> None:
        assert await gauges(api) == dict.fromkeys(NAMES, 0.0)
        api.cluster.cut("id-n3")
        await api.member.overview.hear()
        assert await gauges(api) == {name: float(name == "NO_SPARE") for name in NAMES}

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_member_that_is_not_trusted_says_so_everywhere(tmp_path: Path) -> None:
    """In /readyz, in the status of any member, in its metrics; and no request is served."""

    async def scenario(api: Api) -> None:
        await api.post("/v1/kv/put", {"key": "a", "value": "1"})
        api.member.distrust("the test says so")
        ready = await api.get("/readyz")
        assert (ready.status, ready.code) == (503, "not_ready")
        assert "raftos dev rejoin" in ready.sentence
        for target in ("/v1/kv/get?key=a", "/v1/kv/get?key=a&consistency=stale"):
            refused = await api.get(target)
            assert (refused.status, refused.code) == (503, "not_ready")
        refused = await api.post("/v1/kv/put", {"key": "a", "value": "2"})
        assert (refused.status, refused.code) == (503, "not_ready")
        assert (await gauges(api))["CORRUPT"] == 1.0
        [alarm] = (await api.get("/v1/status")).json["alarms"]
        assert (alarm["alarm"], alarm["node"]) == ("CORRUPT", "n1")

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_scan_finds_damage_and_leaves_a_sound_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the file is overwritten, as a bad disk does; the member stops serving by itself."""
    monkeypatch.setattr(background, "SCAN_REST_S", 0.0)

    async def scenario(api: Api) -> None:
        for number in range(200):
            await api.member.submit(
                [(api.member.new_request_id(), kv.Put(f"k{number}", bytes(500)))], 2.0**40
            )
        scanning = Background(api.member, Probe())
        await scanning.scan()
        assert api.member.not_ready() is None
        api.machine.checkpoint()
        api.sound = False
        _spoil(tmp_path / "n1" / storage.FILE_NAME)
        await scanning.scan()
        assert "is damaged" in (api.member.lost or "")
        assert (await api.get("/readyz")).status == 503

    run(tmp_path, scenario)


def _spoil(file: Path) -> None:
    """Write nonsense over every second page but the first ones, which say what is in the file."""
    with file.open("r+b") as opened:
        size = file.stat().st_size
        for start in range(4096 * 8, size, 8192):
            opened.seek(start)
            opened.write(b"\xa5" * 4096)
