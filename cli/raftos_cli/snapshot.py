"""`raftos snapshot`: the whole state as one file, to keep, to look at, and to begin a new cluster with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from raftos.errors import RaftosError
from raftos_cli.base import Group, Invocation, WholeNumber, pass_invocation
from raftos_cli.dev import MOST_MEMBERS
from raftos_cli.following import timestamp
from raftos_cli.output import cell

SAVE_TIMEOUT_S = 60.0
Progress = Callable[[int, int], None]

snapshot = Group(
    "snapshot",
    help="The whole state as one file: back up and restore.",
    examples="""
        raftos snapshot save backup.snapshot
        raftos snapshot inspect backup.snapshot
        raftos snapshot restore backup.snapshot --detach
    """,
)
file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@snapshot.command(
    "save",
    examples="""
        raftos snapshot save backup.snapshot
        raftos snapshot save backup.snapshot --stale
    """,
)
@file_argument
@click.option("--stale", is_flag=True, help="What one member has, also without a leader.")
@click.option("--no-verify", is_flag=True, help="Do not read the file again.")
@pass_invocation
def save(run: Invocation, file: Path, stale: bool, no_verify: bool) -> None:
    """Save all that was acknowledged so far in FILE.

    Until it is whole and on disk it is FILE.part; then that is read again, and its checksums compared, before
    it takes the place of FILE. If it is damaged, FILE is as it was. It holds everything the cluster keeps:
    only you can read it.
    """
    import msgspec

    began = time.monotonic()
    with run.client(run.chosen_timeout_s or SAVE_TIMEOUT_S) as client, _progress() as progress:
        check = None if no_verify else _verified_for(file)
        saved = client.snapshot.save(file, stale=stale, progress=progress, check=check)
    took_s = time.monotonic() - began
    run.output.data({"file": str(file), **msgspec.to_builtins(saved)}, lambda: None)
    checked = "" if no_verify else ", checked"
    run.output.say(f"{file}: {_size(saved.size_bytes)} in {took_s:.1f} s, index {saved.index}{checked}.")


@snapshot.command(
    "inspect",
    examples="""
        raftos snapshot inspect backup.snapshot
        raftos snapshot inspect backup.snapshot -o json
    """,
)
@file_argument
@pass_invocation
def inspect(run: Invocation, file: Path) -> None:
    """Show what is in FILE, and whether it is as it was written.

    A damaged file is shown as far as its header goes; the exit code is 1.
    """
    value = _inspected(file)
    run.output.data(value, lambda: _description(value))
    _refuse_damaged(value)


@snapshot.command(
    "restore",
    examples="""
        raftos snapshot restore backup.snapshot --detach
        raftos snapshot restore backup.snapshot --nodes 5 --data-dir D
        raftos snapshot restore backup.snapshot --config member.json
    """,
)
@file_argument
@click.option(
    "--nodes", type=WholeNumber(1, MOST_MEMBERS), metavar="N", help="How many members.  [default: 3]"
)
@click.option("--data-dir", metavar="D", type=click.Path(path_type=Path), help="Where it keeps everything.")
@click.option("--detach", is_flag=True, help="Return once the cluster takes writes.")
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Fill the data directory of this one member instead.",
)
@pass_invocation
def restore(
    run: Invocation, file: Path, nodes: int | None, data_dir: Path | None, detach: bool, config: Path | None
) -> None:
    """Begin a new cluster with the state in FILE.

    By itself that is a local cluster, as `raftos dev start` makes one. With --config it is one member of a
    cluster of your own: do it with the same FILE for each initial member before any of them runs. Only empty
    data directories are filled.
    """
    from raftos_cli.offline import run_offline

    if config is not None:
        if nodes or data_dir or detach:
            raise click.UsageError(
                "--config fills one data directory; leave --nodes, --data-dir, --detach out"
            )
        value = run_offline("snapshot", "restore", file, "--config", config)
        run.output.data(value, lambda: None)
        run.output.say(f"{value['member']} begins with the state at index {value['index']}.")
        return
    from raftos_cli.devrestore import restore_cluster

    restore_cluster(run, file, nodes or 3, data_dir, detach=detach)


def _inspected(file: Path) -> dict[str, Any]:
    from raftos_cli.offline import run_offline

    return run_offline("snapshot", "inspect", file)


def _verified_for(file: Path) -> Callable[[Path], None]:
    """A check of what is to take the place of `file`."""

    def verify(part: Path) -> None:
        try:
            value = _inspected(part)
        except RaftosError as error:
            raise type(error)(f"what came cannot be verified: {error.message}; {file} is as it was") from None
        if not value["ok"]:
            raise RaftosError(f"what came is damaged: {value['trouble']}; {file} is as it was, try again")

    return verify


def _refuse_damaged(value: dict[str, Any]) -> None:
    if not value["ok"]:
        raise RaftosError(f"{value['file']} is damaged: {value['trouble']}; save another one")


def _description(value: dict[str, Any]) -> str:
    facts = {
        "file": value["file"],
        "size": _size(value["size_bytes"]),
        "state": _size(value["state_bytes"]),
        "cluster": value["cluster_id"],
        "index": value["index"],
        "term": value["term"],
        "revision": value["revision"],
        "time": timestamp(value["time_ms"]),
        "made": f"{timestamp(value['created_ms'])} by raftos {value['version'] or '?'}",
        "state hash": value["state_hash"],
        "checksums": "as written" if value["ok"] else "DAMAGED",
        "members": "those the cluster began with",
    }
    for number, member in enumerate(value["members"]):
        said = f"{member['id']}  {member['standing']}  {member['address']}"
        facts["members" if number == 0 else " " * (number + 1)] = said
    return "\n".join(f"{name.strip():<12}{cell(fact)}" for name, fact in facts.items())


def _size(size_bytes: int) -> str:
    size, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on the terminal of whoever watches; nothing where nobody does."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda written, whole: bar.update(task, completed=written, total=whole)
