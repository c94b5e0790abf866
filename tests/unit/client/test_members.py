"""`client.members` and `client.snapshot` against the real API of three members."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from raftos.client import AsyncClient
from raftos.consensus.memory import MemoryCluster
from raftos.errors import Conflict, InvalidInput, NoQuorum, NotFound, RaftosError

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]


async def test_members_are_added_promoted_and_removed() -> None:
    """Each verb may be repeated, and says whether it changed anything."""
    async with AsyncClient() as client:
        where = {"peer_address": "127.0.0.1:4104", "endpoint": "http://127.0.0.1:4004"}
        for _ in range(2):
            membership = await client.members.add("id4", "n4", role="learner", **where)
        assert membership == await client.members.show()
        assert [(item.name, item.role) for item in membership.items][-1] == ("n4", "learner")
        assert [(await client.members.promote("n4")).changed for _ in range(2)] == [True, False]
        assert [(await client.members.remove("n4")).changed for _ in range(2)] == [True, False]
        assert [member.name for member in await client.members.list()] == ["n1", "n2", "n3"]
        with pytest.raises(NotFound):
            await client.members.promote("nobody")
        with pytest.raises(Conflict, match="removed"):
            await client.members.add("id4", "n4", **where)  # type: ignore[arg-type]


async def test_a_snapshot_replaces_its_file_in_one_step(tmp_path: Path) -> None:
    """Readable by its owner alone; progress ends with the whole of it."""
    file = tmp_path / "backup"
    file.write_text("the one before")
    seen: list[tuple[int, int]] = []
    async with AsyncClient() as client:
        await client.kv.put("a", "x" * 300_000)
        saved = await client.snapshot.save(file, progress=lambda *progress: seen.append(progress))
    assert file.stat().st_size == saved.size_bytes > 300_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (seen[0], seen[-1]) == ((0, saved.size_bytes), (saved.size_bytes, saved.size_bytes))
    assert not file.with_name("backup.part").exists()


async def test_a_snapshot_that_cannot_be_had_leaves_the_old_file(
    tmp_path: Path, agreement: MemoryCluster
) -> None:
    """Nobody agrees, so nobody knows what was acknowledged; stale, there is one."""
    file = tmp_path / "backup"
    file.write_text("the one before")
    for name in ("n2", "n3"):
        agreement.cut(name)
    async with AsyncClient(timeout_s=0.5) as client:
        with pytest.raises(NoQuorum):
            await client.snapshot.save(file)
        assert file.read_text() == "the one before"
        assert not file.with_name("backup.part").exists()
        memory = io.BytesIO()
        saved = await client.snapshot.save(memory, stale=True)
        assert len(memory.getvalue()) == saved.size_bytes


async def test_a_snapshot_is_checked_before_it_replaces_the_old_one(tmp_path: Path) -> None:
    """The check sees the whole file under its other name; what it raises leaves everything as it was."""
    file = tmp_path / "backup"
    file.write_text("the one before")
    seen: list[tuple[str, int, str]] = []

    def look(part: Path) -> None:
        seen.append((part.name, part.stat().st_size, file.read_text()))

    def refuse(part: Path) -> None:
        look(part)
        raise RaftosError("it is damaged")

    async with AsyncClient() as client:
        with pytest.raises(RaftosError, match="it is damaged"):
            await client.snapshot.save(file, check=refuse)
        assert not file.with_name("backup.part").exists()
        assert file.read_text() == "the one before"
        saved = await client.snapshot.save(file, check=look)
        with pytest.raises(InvalidInput, match="path"):
            await client.snapshot.save(io.BytesIO(), check=look)
    assert seen == [("backup.part", saved.size_bytes, "the one before")] * 2
    assert file.stat().st_size == saved.size_bytes


async def test_whoever_opened_an_older_part_reads_nothing_of_a_snapshot(tmp_path: Path) -> None:
    """It was left behind by another program, which let everybody read it."""
    left = tmp_path / "backup.part"
    left.write_text("left")
    left.chmod(0o644)
    with left.open("rb") as opened:
        async with AsyncClient() as client:
            await client.snapshot.save(tmp_path / "backup")
        assert opened.read() == b"left"
