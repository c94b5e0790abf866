"""Files that survive a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from raftos.durable import write_file


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
