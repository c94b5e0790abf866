"""`client.snapshot` and the file it saves to: what else may be going on there, or may be there already."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raftos import Client
from raftos.client import AsyncClient
from raftos.client.replacing import begun, put_in_place
from raftos.errors import Conflict, InvalidInput

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is there before anything is saved to it."""
    backup = tmp_path / "backup"
    backup.write_text("the one before")
    return backup


def part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


async def save_too(file: Path) -> None:
    async with AsyncClient() as client:
        await client.snapshot.save(file)


def test_a_second_save_to_the_same_file_is_refused(file: Path) -> None:
    """By either client, while the first is under way; that one is not disturbed by it."""
    refused: list[str] = []

    def another(part: Path) -> None:
        whole = part.read_bytes()
        with pytest.raises(Conflict) as caught:
            asyncio.run(save_too(file))
        refused.append(caught.value.message)
        with Client() as other, pytest.raises(Conflict) as caught:
            other.snapshot.save(file)
        refused.append(caught.value.message)
        assert part.read_bytes() == whole

    with Client() as client:
        saved = client.snapshot.save(file, check=another)
        assert (
            refused
            == [f"another save to {file} is under way; wait until it has ended, or save to another file"] * 2
        )
        assert file.stat().st_size == saved.size_bytes
        assert not part_of(file).exists()
        assert client.snapshot.save(file).size_bytes == saved.size_bytes


def test_what_another_process_holds_is_left_to_it(file: Path) -> None:
    """Until that process ends, in whatever way: what it leaves behind is replaced."""
    with Client() as client:
        with part_of(file).open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.write(b"half")
            held.flush()
            with pytest.raises(Conflict, match="another save"):
                client.snapshot.save(file)
            assert (part_of(file).read_bytes(), file.read_text()) == (b"half", "the one before")
        assert client.snapshot.save(file).size_bytes == file.stat().st_size
    assert not part_of(file).exists()


def test_what_was_put_in_the_place_of_a_part_does_not_become_the_file(file: Path) -> None:
    """It is somebody else's, whole or not; and it stays."""

    def replaced(part: Path) -> None:
        part.unlink()
        part.write_text("somebody else's")

    with Client() as client, pytest.raises(Conflict, match="removed or replaced meanwhile"):
        client.snapshot.save(file, check=replaced)
    assert (part_of(file).read_text(), file.read_text()) == ("somebody else's", "the one before")


def test_many_who_begin_at_once_never_hold_the_same_part(file: Path) -> None:
    """Each has it alone, and what is in place in the end was put there whole."""
    holders = 0
    counting = threading.Lock()
    begin = threading.Barrier(8)

    def often(_: int) -> int:
        nonlocal holders
        done = 0
        begin.wait()
        for _ in range(100):
            try:
                with begun(file) as opened:
                    with counting:
                        holders += 1
                        assert holders == 1
                    opened.write(b"whole")
                    opened.flush()
                    with counting:
                        holders -= 1
                    put_in_place(opened, file)
                done += 1
            except Conflict:
                pass
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(often, range(8))) > 0
    assert file.read_bytes() == b"whole"
    assert not part_of(file).exists()


def test_a_symbolic_link_is_followed(file: Path, tmp_path: Path) -> None:
    """To the file, also to one that is not there yet; the part is beside that, and the link stays."""
    folder = tmp_path / "links"
    folder.mkdir()
    link, twice, dangling = folder / "link", folder / "twice", folder / "dangling"
    link.symlink_to("../backup")
    twice.symlink_to(link)
    dangling.symlink_to(tmp_path / "new")
    parts: list[Path] = []
    with Client() as client:
        for name, target in ((link, file), (twice, file), (dangling, tmp_path / "new")):
            saved = client.snapshot.save(name, check=parts.append)
            assert name.is_symlink()
            assert target.stat().st_size == saved.size_bytes
            assert parts[-1] == part_of(target)
    assert {each.name for each in folder.iterdir()} == {"link", "twice", "dangling"}


@pytest.mark.parametrize("at", ["backup", "backup.part", "link"])
@pytest.mark.parametrize("kind", ["a directory", "a FIFO", "a socket"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, kind: str, at: str) -> None:
    """Neither by the file nor by its part, nor through a link; it is refused before anything is asked for."""
    special = tmp_path / ("special" if at == "link" else at)
    if kind == "a directory":
        special.mkdir()
    else:
        os.mknod(special, 0o600 | {"a FIFO": stat.S_IFIFO, "a socket": stat.S_IFSOCK}[kind])
    (tmp_path / "link").symlink_to(special)
    before = special.stat()
    there = {each.name for each in tmp_path.iterdir()}
    with Client() as client, pytest.raises(InvalidInput, match=f"is {kind} and no regular file"):
        client.snapshot.save(tmp_path / ("link" if at == "link" else "backup"))
    assert os.path.samestat(before, special.stat())
    assert {each.name for each in tmp_path.iterdir()} == there
