"""A new local cluster out of a snapshot: every member begins with the same state."""

from __future__ import annotations

import time
from pathlib import Path

from raftos.errors import InvalidInput
from raftos_cli import dev, devstart
from raftos_cli.base import Invocation
from raftos_cli.devcluster import DevCluster
from raftos_cli.offline import run_offline


def restore_cluster(run: Invocation, file: Path, size: int, data_dir: Path | None, *, detach: bool) -> None:
    """Make it, and start it as `dev start` does. Raises RaftosError, and then leaves nothing of it."""
    directory = (data_dir or dev.dev_home() / "data").resolve()
    if directory.exists() and any(directory.iterdir()):
        raise InvalidInput(
            f"{directory} is not empty; a snapshot is restored into an empty folder: name another with "
            "--data-dir, or `raftos dev stop --purge` deletes the cluster that is there"
        )
    began = time.monotonic()
    dev.end_with_terminal()
    with dev.exclusively():
        dev.refuse_while_running()
        cluster = _filled(DevCluster.create(directory, size), file)
        dev.pointer().write_text(f"{cluster.directory}\n")
        late = devstart.bring_up(cluster, None, run.chosen_timeout_s or dev.START_TIMEOUT_S)
    dev.stay(run, cluster, late, time.monotonic() - began, detach=detach)


def _filled(cluster: DevCluster, file: Path) -> DevCluster:
    """The cluster with the state in every data directory."""
    try:
        cluster.assign_ports(None)
        for member in cluster.members:
            run_offline("snapshot", "restore", file.resolve(), "--config", cluster.config_file(member))
    except BaseException:
        cluster.purge()
        raise
    return cluster
