"""A cluster of the tests whose members come and go by `raftos dev`, as a user would do it.

The command line runs as a process of its own, on the same folder; what it put on record is read again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from raftos.client import contexts
from raftos_cli.devcluster import DevCluster, Member
from tests.cluster.daemons import Cluster

COMMAND_TIMEOUT_S = 90


class Growing:
    """The cluster, for which it becomes the dev cluster and the current context of its RAFTOS_HOME."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.home = cluster.directory / "home"
        (self.home / "dev").mkdir(parents=True, exist_ok=True)
        (self.home / "dev" / "current").write_text(f"{cluster.dev.directory}\n")
        with cluster.environment():
            endpoints = tuple(cluster.dev.endpoints)
            contexts.put("dev", contexts.Context(endpoints, cluster.dev.secret(), "dev"))

    def run(self, *arguments: str | Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """One command line, in this home or another."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTOS_")}
        done = subprocess.run(
            [sys.executable, "-c", "from raftos_cli.main import main; main()", *map(str, arguments)],
            env={**clean, "RAFTOS_HOME": str(home or self.home)},
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        self._read_record()
        return done

    def ok(self, *arguments: str | Path, home: Path | None = None) -> str:
        """The stdout of a command that has to succeed."""
        done = self.run(*arguments, home=home)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self.ok(*arguments, "-o", "json"))

    def member(self, name: str) -> Member:
        return self.cluster.dev.named(name)

    def roles(self) -> dict[str, str]:
        """Name -> role, as status has it."""
        return {node["name"]: node["role"] for node in self.json("status")["nodes"]}

    def _read_record(self) -> None:
        self.cluster.dev.record = DevCluster.open(self.cluster.dev.directory).record
        self.cluster.members = self.cluster.dev.members
