"""What only the daemon's own program can do with its files, run as a process: `python -m raftos ...`.

The command line knows nothing of journals and snapshots, and stays quick to load for that.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from raftos.errors import BY_CODE, Fault, RaftosError, StartupError

_FOR_CODE = {kind.exit_code: kind for kind in reversed(BY_CODE.values()) if kind is not RaftosError}
_FOR_CODE[1] = StartupError


def run_offline(*arguments: str | Path, asks: bool = False) -> dict[str, Any]:
    """What it printed, also where that says that something is wrong. Raises RaftosError with its sentence.

    `asks`: it may ask the person at the terminal something.
    """
    done = subprocess.run(
        [sys.executable, "-m", "raftos", *map(str, arguments)],
        check=False,
        stdin=None if asks else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if asks else subprocess.PIPE,
    )
    if done.stdout:
        value: dict[str, Any] = msgspec.json.decode(done.stdout)
        return value
    if asks:
        raise click.exceptions.Exit(done.returncode)  # It has told the person why.
    raise _failure(done.returncode, (done.stderr or b"").decode(errors="replace").strip())


def _failure(code: int, said: str) -> RaftosError:
    lines = said.splitlines()
    if lines and lines[-1].startswith("raftos: "):
        return _FOR_CODE.get(code, StartupError)(lines[-1].removeprefix("raftos: "))
    return Fault(f"python -m raftos ended with {code}: {lines[-1] if lines else 'it said nothing'}")
