"""What a member does without being asked, when it goes wrong."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from raftos.agent.probe import Probe
from raftos.errors import Conflict, Expired, NoQuorum
from raftos.node import background
from raftos.node.background import Background
from tests.unit.api.harness import Api, run


@pytest.mark.parametrize(
    "trouble", [NoQuorum("nobody"), Expired("too old"), Conflict("the name is taken"), ValueError("a bug")]
)
def test_registering_is_tried_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """Whatever it met: without the level of this member the cluster enables no other."""
    monkeypatch.setattr(background, "REFUSED_RETRY_S", 0.01)
    troubles = [trouble, trouble]

    async def scenario(api: Api) -> None:
        register, done = api.member.register, asyncio.Event()

        async def refused(*, patient: bool = False) -> bool:
            if troubles:
                raise troubles.pop()
            done.set()
            return await register(patient=patient)

        monkeypatch.setattr(api.member, "register", refused)
        working = Background(api.member, Probe())
        working.start()
        await asyncio.wait_for(done.wait(), 5)
        await working.stop()

    run(tmp_path, scenario)


def test_a_scan_under_way_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One table may take minutes. The interpreter waits for every thread that is not a daemon."""
    looking, enough = threading.Event(), threading.Event()

    async def scenario(api: Api) -> None:
        def slow(_table: str) -> None:
            looking.set()
            enough.wait(10)

        monkeypatch.setattr(api.machine, "damage", slow)
        monkeypatch.setattr(background, "SCAN_REST_S", 0.0)
        working = Background(api.member, Probe())
        scan = asyncio.create_task(working.scan())
        assert await asyncio.to_thread(looking.wait, 5)
        scan.cancel()
        await working.stop()
        left = [thread for thread in threading.enumerate() if thread.name.startswith("scan")]
        assert left
        assert all(thread.daemon for thread in left)
        enough.set()
        for thread in left:
            thread.join(5)

    run(tmp_path, scenario)
