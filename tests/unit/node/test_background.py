"""What a member does without being asked, when it goes wrong."""

from __future__ import annotations

import asyncio
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
