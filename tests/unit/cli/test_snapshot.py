"""`raftos snapshot save` where it is refused.

What it does is tested with real daemons: tests/cluster/test_snapshot_cli.py.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.cli.conftest import Raftos


def test_what_is_no_regular_file_is_bad_input(raftos: Raftos, dead_context: str, tmp_path: Path) -> None:
    """Before any member is asked; what is there stays."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path):
        refused = raftos("snapshot", "save", str(file))
        assert refused.exit_code == 2
        assert "directory" in refused.stderr or f"{pipe} is a FIFO" in refused.stderr
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not (tmp_path / "pipe.part").exists()


def test_a_full_place_is_named_with_what_to_do(
    raftos: Raftos, cluster: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says only that it is full; the file that was there stays."""

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "backup"
    file.write_text("the one before")
    monkeypatch.setattr(os, "fsync", full)
    refused = raftos("snapshot", "save", "--no-verify", str(file))
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"Error: No space left on device: {file}.part; free some space, or choose another place\n"
    )
    assert file.read_text() == "the one before"
    assert not (tmp_path / "backup.part").exists()


def test_a_file_that_cannot_be_written_is_named(cluster: list[str], tmp_path: Path) -> None:
    """However the system refuses it: here no file may have more than 100 bytes."""
    file = tmp_path / "backup"
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from raftos_cli.main import main; main()"
    )
    command = [sys.executable, "-B", "-c", program, "snapshot", "save", "--no-verify", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"Error: File too large: {file}.part\n")
    assert not list(tmp_path.glob("backup*"))
