"""Files that survive a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from raftos.durable import DRAFT, write_file
from tests.unit.filling import hardly_any_room


def test_content_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut would otherwise leave an empty file, or none although its content was relied on."""
    file, fsync = tmp_path / "file.json", os.fsync
    synced: list[tuple[bool, bool]] = []

    def watched(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_file(file, b"content")
    assert file.read_bytes() == b"content"
    assert synced == [(False, False), (True, True)]


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    write_file(file, b"before")
    with hardly_any_room(), pytest.raises(OSError, match="too large"):
        write_file(file, b"after")
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (b"before", [file])


def test_nobody_else_can_read_it_whatever_lay_in_its_way(tmp_path: Path) -> None:
    """One that was struck down, or a link that somebody put there to have another file written."""
    file, elsewhere = tmp_path / "file.json", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not ours")
    (tmp_path / f"file.json{DRAFT}").symlink_to(elsewhere)
    write_file(file, b"content")
    assert file.stat().st_mode & 0o777 == 0o600
    assert (file.read_bytes(), elsewhere.read_bytes()) == (b"content", b"not ours")
