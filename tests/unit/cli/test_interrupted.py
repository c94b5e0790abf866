"""Ctrl-C in the first moments of `raftos` and of the daemon, while they are still being loaded."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
MODULE, FUNCTION = PROJECT["project"]["scripts"]["raftos"].split(":")
PROGRAMS = {
    "raftos": f"from {MODULE} import {FUNCTION}; sys.exit({FUNCTION}())",
    "daemon": "import runpy; runpy.run_module('raftos', run_name='__main__', alter_sys=True)",
}
# Ctrl-C comes when a certain module is about to be loaded.
STRIKE = """
import signal, sys
class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Strike())
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        *(("raftos", module) for module in ("click", "raftos", "raftos_cli.base", "raftos_cli.main")),
        *(("daemon", module) for module in ("raftos.node", "raftos.node.main", "uvloop", "raftos.api.app")),
    ],
)
def test_an_interrupt_while_it_is_loaded_is_no_error(program: str, module: str) -> None:
    """Nothing is printed, and the exit code is the one that shells expect."""
    done = subprocess.run(
        [sys.executable, "-c", STRIKE + PROGRAMS[program], module],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
