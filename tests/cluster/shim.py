"""Daemons that are lied to about their disk and their clock: `shim.c`, compiled here and preloaded.

    `shims.of(member)`      what that member meets from now on, until `heal`
    `cluster.spawn(...)`    starts a daemon with the library in front of its C library

The daemon itself is the shipped one. Needs gcc; continuous integration has it.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster

SOURCE = Path(__file__).with_name("shim.c")
NEEDED = "needs gcc to compile tests/cluster/shim.c: apt-get install gcc libc6-dev"
_FIELDS = ("clock_ahead_s", "sync_errno", "sync_delay_ms", "write_errno", "syncs", "writes", "clock_reads")
_FIELD = struct.Struct("q")
HOUR_S = 3600


@cache
def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])


def compiled(folder: Path) -> Path:
    """The library, made in a folder. Without a compiler the test is skipped, or fails where CI is set."""
    found = compiler()
    if found is None and "CI" not in os.environ:
        pytest.skip(NEEDED)
    assert found is not None, NEEDED
    library = folder / "shim.so"
    command = [found, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Shim:
    """What one member meets. Each number is in the file that its daemon has mapped."""

    def __init__(self, file: Path, folder: Path, library: Path) -> None:
        self._file = file
        file.write_bytes(bytes(_FIELD.size * len(_FIELDS)))
        self.environment = {
            "LD_PRELOAD": str(library),
            "RAFTOS_TEST_CONTROL": str(file),
            "RAFTOS_TEST_FOLDER": str(folder),
        }

    def heal(self) -> None:
        for name in _FIELDS[:4]:
            self._set(name, 0)

    def fail_syncs(self, number: int = errno.EIO) -> None:
        self._set("sync_errno", number)

    def delay_syncs(self, milliseconds: int) -> None:
        self._set("sync_delay_ms", milliseconds)

    def fail_writes(self, number: int) -> None:
        self._set("write_errno", number)

    def set_clock_ahead(self, seconds: int) -> None:
        """Of the wall clock alone; negative sets it back."""
        self._set("clock_ahead_s", seconds)

    def count(self, name: str) -> int:
        """How many `syncs` were seen, `writes` failed or `clock_reads` answered."""
        with self._file.open("rb") as file:
            file.seek(_FIELD.size * _FIELDS.index(name))
            (value,) = _FIELD.unpack(file.read(_FIELD.size))
        return int(value)

    def _set(self, name: str, value: int) -> None:
        with self._file.open("r+b", buffering=0) as file:
            file.seek(_FIELD.size * _FIELDS.index(name))
            file.write(_FIELD.pack(value))


class ShimmedCluster(Cluster):
    """A cluster of which every daemon is started with the shim."""

    def __init__(self, directory: Path, part: str = "") -> None:
        super().__init__(directory)
        library = compiled(directory)
        self.shims = {
            member.name: Shim(directory / f"{member.name}.control", self.dev.data_dir(member) / part, library)
            for member in self.members
        }

    def of(self, member: Member) -> Shim:
        return self.shims[member.name]

    def spawn(self, *members: Member) -> None:
        for member in members or self.members:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self.of(member).environment.items():
                    patch.setenv(name, value)
                self.dev.spawn(member)


@contextmanager
def shimmed_cluster(directory: Path, part: str = "") -> Iterator[ShimmedCluster]:
    """Three members that do not run yet; afterwards none is left running, and their logs have to be clean.

    The disk is that of their data directories, or that of a folder in each.
    """
    made = ShimmedCluster(directory, part)
    try:
        yield made
        made.check_logs()
    finally:
        made.close()
