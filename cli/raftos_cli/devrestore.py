"""A new local cluster out of a snapshot: every member begins with the same state."""

from __future__ import annotations

import time
from pathlib import Path

from raftos.durable import write_file
from raftos.errors import InvalidInput, NotFound
from raftos_cli import dev, devstart
from raftos_cli.base import Invocation
from raftos_cli.devcluster import DevCluster, is_unused
from raftos_cli.offline import run_offline


def restore_cluster(run: Invocation, file: Path, size: int, data_dir: Path | None, *, detach: bool) -> None:
    """Make it, and start it as `dev start` does. Raises RaftosError; half filled it is not used."""
    directory = (data_dir or dev.dev_home() / "data").resolve()
    began = time.monotonic()
    dev.end_with_terminal()
    with dev.exclusively():
        dev.refuse_while_running()
        _clear(directory)
        cluster = _filled(DevCluster.create(directory, size, restoring=True), file)
        write_file(dev.pointer(), f"{cluster.directory}\n".encode())
        late = devstart.bring_up(cluster, None, run.chosen_timeout_s or dev.START_TIMEOUT_S)
    dev.stay(run, cluster, late, time.monotonic() - began, detach=detach)


def _clear(directory: Path) -> None:
    """Delete what an interrupted restore left there. Raises InvalidInput where there is anything else."""
    if not directory.exists() or is_unused(directory):
        return
    try:
        found = DevCluster.open(directory, half_made=True)
    except NotFound:
        found = None
    if found is None or not found.record.restoring:
        present = (
            " `raftos dev stop --purge` deletes the cluster that is there." if _is_current(directory) else ""
        )
        raise InvalidInput(
            f"{directory} is not empty; a snapshot is restored into an empty folder: name another with "
            f"--data-dir.{present}"
        )
    found.purge()


def _is_current(directory: Path) -> bool:
    try:
        return dev.current(half_made=True).directory == directory
    except NotFound:
        return False


def _filled(cluster: DevCluster, file: Path) -> DevCluster:
    """The cluster with the state in every data directory: until then it is no cluster to be started."""
    try:
        cluster.assign_ports(None)
        for member in cluster.members:
            run_offline("snapshot", "restore", file.resolve(), "--config", cluster.config_file(member))
    except BaseException:  # Also Ctrl-C: nothing half made is to stay.
        cluster.purge()
        raise
    cluster.record.restoring = False
    cluster.save()
    return cluster
