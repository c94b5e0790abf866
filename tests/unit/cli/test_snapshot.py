"""`raftos snapshot save` where it is refused.

What it does is tested with real daemons: tests/cluster/test_snapshot_cli.py.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
