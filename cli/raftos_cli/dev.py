"""`raftos dev`: a local cluster of real processes, to try things on and to break.

One dev cluster belongs to one RAFTOS_HOME. `start` makes it the current context, so the next command
in any terminal just works. Members are named n1, n2, ... and spoken of by number, from 1. Commands that
start or end processes take a lock, so two of them never work on one cluster at the same time.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftos.client import contexts
from raftos.durable import write_file
from raftos.errors import Conflict, InvalidInput, NotFound, RaftosError, StartupError
from raftos_cli.base import Group, Invocation, WholeNumber, pass_invocation
from raftos_cli.output import Column, print_table

if TYPE_CHECKING:
    from raftos_cli.devcluster import DevCluster, Member

START_TIMEOUT_S = 30.0
MOST_MEMBERS = 9

dev = Group(
    "dev",
    help="A local cluster of real processes, to try and to break.",
    files=dict.fromkeys(("add", "remove", "rejoin", "recover"), "raftos_cli.devmembers"),
    examples="""
        raftos dev start --detach      three members on this machine
        raftos dev kill 1              the others carry on
        raftos dev restart 1           it catches up
        raftos dev add                 a fourth member
        raftos dev stop                end them all, keep their data
    """,
)


class Number(click.ParamType[int]):
    """The 1-based number of a member; its name, n2, will do as well."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits = str(value).removeprefix("n")
        if not (digits.isascii() and digits.isdigit()):
            self.fail(f"{value!r} is not the number of a member; they are numbered from 1", param, ctx)
        return int(digits)


def _numbers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The numbers there are, for the shell."""
    try:
        members = current().members
    except RaftosError:
        return []
    return [number for each in members if (number := each.name[1:]).startswith(incomplete)]


number_argument = click.argument("number", metavar="N", type=Number(), shell_complete=_numbers)


@dev.command(
    "start",
    examples="""
        raftos dev start                  stay in the foreground, Ctrl-C ends it
        raftos dev start --detach         return once it takes writes
        raftos dev start --nodes 5 --fresh --detach
        raftos dev start --port 4001      APIs at 4001, 4002, 4003
    """,
)
@click.option(
    "--nodes", type=WholeNumber(1, MOST_MEMBERS), metavar="N", help="How many members.  [default: 3]"
)
@click.option("--detach", is_flag=True, help="Return once the cluster takes writes.")
@click.option("--data-dir", metavar="D", type=click.Path(path_type=Path), help="Where it keeps everything.")
@click.option(
    "--port", metavar="P", type=WholeNumber(1, 65535), help="The first API port.  [default: free ones]"
)
@click.option("--fresh", is_flag=True, help="Delete what an earlier dev cluster left there.")
@pass_invocation
def start(
    run: Invocation, nodes: int | None, detach: bool, data_dir: Path | None, port: int | None, fresh: bool
) -> None:
    """Start a local cluster and make it the current context.

    It starts with the data of the last time, unless --fresh is given.
    """
    from raftos_cli import devstart

    began = time.monotonic()
    end_with_terminal()
    with exclusively():
        refuse_while_running()
        cluster = prepare((data_dir or dev_home() / "data").resolve(), nodes, fresh=fresh)
        write_file(pointer(), f"{cluster.directory}\n".encode())
        late = devstart.bring_up(cluster, port, run.chosen_timeout_s or START_TIMEOUT_S)
    stay(run, cluster, late, time.monotonic() - began, detach=detach)


def end_with_terminal() -> None:
    """From now on a closed terminal is a Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def stay(run: Invocation, cluster: DevCluster, late: list[Member], took_s: float, *, detach: bool) -> None:
    """Show a cluster that was brought up, and stay with it until Ctrl-C unless it is to be left alone.

    Raises StartupError for members that have ended, if it is; the others run on.
    """
    from raftos_cli import devstart

    try:
        show(run, cluster)
        for member in late:
            if cluster.process(member) is not None:
                run.output.say(f"{member.name} is not ready yet.")
        try:
            devstart.refuse_ended(cluster, *late)
        except StartupError as error:
            if detach:
                raise
            run.output.say(f"{error.message}.")
        greet(run, cluster, took_s, detach=detach)
        if not detach:
            report(run, cluster)
    except KeyboardInterrupt:
        if detach:
            raise
        run.output.say("\nStopping ...")
        with exclusively():
            end(run, current())
        run.output.say("Stopped.")


@dev.command(
    "status",
    examples="""
        raftos dev status
        raftos dev status -o json
    """,
)
@pass_invocation
def status(run: Invocation) -> None:
    """Show each member's process, and who leads."""
    cluster = current()
    show(run, cluster)
    if cluster.is_stopped:
        run.output.say("This cluster is stopped; `raftos dev start` starts it again with its data.")


@dev.command(
    "kill",
    examples="""
        raftos dev kill 1      SIGKILL: as sudden as a power cut
    """,
)
@number_argument
@pass_invocation
def kill(run: Invocation, number: int) -> None:
    """Kill member N at once (SIGKILL)."""
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        was_alive = cluster.process(member) is not None
        cluster.kill([member])
    said = "is dead" if was_alive else "was dead already"
    tell(run, cluster, member, f"{member.name} {said}; `raftos dev restart {number}` starts it again.")


@dev.command(
    "pause",
    examples="""
        raftos dev pause 2      SIGSTOP: alive, but silent
        raftos dev resume 2
    """,
)
@number_argument
@pass_invocation
def pause(run: Invocation, number: int) -> None:
    """Freeze member N (SIGSTOP)."""
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        cluster.pause(member)
    tell(run, cluster, member, f"{member.name} is paused; `raftos dev resume {number}` wakes it.")


@dev.command(
    "resume",
    examples="""
        raftos dev resume 2
    """,
)
@number_argument
@pass_invocation
def resume(run: Invocation, number: int) -> None:
    """Let a paused member N run on (SIGCONT)."""
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        cluster.resume(member)
    tell(run, cluster, member, f"{member.name} is running.")


@dev.command(
    "restart",
    examples="""
        raftos dev restart 1
    """,
)
@number_argument
@pass_invocation
def restart(run: Invocation, number: int) -> None:
    """Start member N with its data; stop it first if it runs."""
    from raftos_cli import devstart

    with exclusively():
        cluster = current()
        member = cluster.member(number)
        cluster.refuse_to_start(member)
        cluster.stop([member])
        cluster.spawn(member)
        caught_up = devstart.wait_until_back(cluster, member, run.timeout_s)
    said = "is back" if caught_up else "runs, but has not caught up yet"
    tell(run, cluster, member, f"{member.name} {said}.")


@dev.command(
    "logs",
    examples="""
        raftos dev logs 1
        raftos dev logs 1 -f --lines 0
        raftos dev logs 1 -o json | jq .event
    """,
)
@number_argument
@click.option("-f", "--follow", is_flag=True, help="Keep printing what is added, until Ctrl-C.")
@click.option(
    "--lines", type=WholeNumber(0), metavar="N", default=50, help="How many of the last lines.  [default: 50]"
)
@pass_invocation
def logs(run: Invocation, number: int, follow: bool, lines: int) -> None:
    """Print the log of member N; with -o json as it was written."""
    from raftos_cli import devlogs

    cluster = current()
    file = cluster.log_file(cluster.member(number))
    follower = devlogs.Follower(file)
    printed = (lambda line: line) if run.format == "json" else devlogs.readable
    for line in devlogs.last_lines(file, lines):
        click.echo(printed(line))
    for line in devlogs.follow(follower) if follow else ():
        click.echo(printed(line))


@dev.command(
    "stop",
    examples="""
        raftos dev stop
        raftos dev stop --purge
    """,
)
@click.option("--purge", is_flag=True, help="Delete its data and its context as well.")
@pass_invocation
def stop(run: Invocation, purge: bool) -> None:
    """Stop all members; their data stays for the next start."""
    with exclusively():
        cluster = current(half_made=True)
        stopped = [member.name for member in cluster.living()]
        if purge:  # First of all what may have filled the disk; nothing is written before.
            cluster.stop(cluster.members)
            cluster.purge()
            pointer().unlink()
            contexts.remove(_context_name())
        else:
            end(run, cluster)
    run.output.data({"stopped": stopped, "purged": purge}, lambda: None)
    run.output.say(_stopped_sentence(stopped, purge=purge))


def _stopped_sentence(stopped: list[str], *, purge: bool) -> str:
    said = f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running."
    return f"{said} The data is {'deleted' if purge else 'kept; `raftos dev start` goes on with it'}."


# --- what the commands share -----------------------------------------------------------------


def _context_name() -> str:
    from raftos_cli.devstart import CONTEXT

    return CONTEXT


def dev_home() -> Path:
    return contexts.home() / "dev"


def pointer() -> Path:
    """The file that names the directory of the present dev cluster."""
    return dev_home() / "current"


@contextmanager
def exclusively() -> Iterator[None]:
    """Hold the lock on the dev cluster; another command that holds it is waited for, and people are told."""
    from raftos_cli.devcluster import make_private_directory

    for directory in (contexts.home(), dev_home()):
        make_private_directory(directory)
    with (dev_home() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (ctx := click.get_current_context(silent=True)) is not None:
                ctx.ensure_object(Invocation).output.say(
                    "Waiting for another `raftos dev` command to end ..."
                )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def current(*, half_made: bool = False) -> DevCluster:
    """The dev cluster of this RAFTOS_HOME; only `half_made` also one that is still being restored.

    Raises NotFound, Conflict.
    """
    from raftos_cli.devcluster import DevCluster

    try:
        return DevCluster.open(Path(pointer().read_text().strip()), half_made=half_made)
    except (FileNotFoundError, NotFound):
        raise NotFound("there is no dev cluster; `raftos dev start` starts one") from None


def refuse_while_running() -> None:
    try:
        cluster = current(half_made=True)
    except NotFound:
        return
    _refuse_living(cluster)


def _refuse_living(cluster: DevCluster) -> None:
    if living := cluster.living():
        raise Conflict(
            f"a dev cluster is running already ({len(living)} of {len(cluster.members)} members); "
            "`raftos dev restart N` starts a dead member again, `raftos dev stop` ends them all"
        )


def prepare(directory: Path, size: int | None, *, fresh: bool) -> DevCluster:
    """The cluster of a directory: the one that is there, or a new one. Raises InvalidInput, Conflict."""
    from raftos_cli.devcluster import DevCluster

    try:
        cluster = DevCluster.open(directory, half_made=fresh)
    except NotFound:
        return DevCluster.create(directory, size or 3)
    _refuse_living(cluster)
    if fresh:
        cluster.purge()
        return DevCluster.create(directory, size or 3)
    if size not in {None, len(cluster.members)}:
        raise InvalidInput(
            f"{directory} holds a cluster of {len(cluster.members)} members, not {size}; "
            "leave --nodes out to go on with it, or add --fresh to delete it and start anew"
        )
    return cluster


def end(run: Invocation, cluster: DevCluster) -> None:
    """Stop all, and record it where the disk has room for that: what has ended is never taken to run."""
    cluster.stop(cluster.members)
    try:
        cluster.forget_processes()
    except OSError as error:
        run.output.say(
            f"All members have ended, but {cluster.directory} could not record it ({error.strerror}); "
            "`raftos dev status` calls them dead."
        )


def node_value(cluster: DevCluster, member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "pid": member.pid,
        "endpoint": member.endpoint,
        "state": cluster.state(member),
        "data_dir": str(cluster.data_dir(member)),
    }


def show(run: Invocation, cluster: DevCluster) -> None:
    """Print all members and the leader, as `dev status` does."""
    from raftos_cli.devstart import leader_of, learners_of

    nodes = [node_value(cluster, member) for member in cluster.members]
    leader = leader_of(cluster)

    def table() -> None:
        learners = learners_of(cluster)
        columns = [
            Column("NODE"),
            Column("STATE"),
            Column("ROLE"),
            Column("PID", number=True),
            Column("ENDPOINT"),
        ]
        rows = [
            [node["name"], node["state"], _role(node, leader, learners), node["pid"], node["endpoint"]]
            for node in nodes
        ]
        print_table(columns, rows)

    run.output.data({"nodes": nodes, "leader": leader}, table)


def _role(node: dict[str, Any], leader: str | None, learners: set[str]) -> str | None:
    if node["state"] != "running" or leader is None:
        return None
    if node["name"] == leader:
        return "leader"
    return "learner" if node["name"] in learners else "follower"


def tell(run: Invocation, cluster: DevCluster, member: Member, message: str) -> None:
    """Report on one member: its row as JSON, a sentence for people."""
    run.output.data(node_value(cluster, member), lambda: None)
    run.output.say(message)


def greet(run: Invocation, cluster: DevCluster, took_s: float, *, detach: bool) -> None:
    lines = [
        "",
        f"Up and taking writes after {took_s:.1f} s. Data in {cluster.directory}",
        "",
        "  raftos kv put greeting hello",
        "  raftos status",
        "  raftos dev kill 1               the others carry on",
    ]
    if detach:
        lines += ["  raftos dev stop                 end it; the data stays"]
    else:
        lines += ["", "Ctrl-C ends it; the data stays.", ""]
    run.output.say("\n".join(lines))


def report(run: Invocation, cluster: DevCluster) -> None:
    """Say what happens to the cluster until it is stopped elsewhere."""
    from raftos_cli.devstart import Watch

    sys.stdout.flush()
    for line in Watch(cluster):
        run.output.say(f"{time.strftime('%H:%M:%S')} {line}")
    run.output.say("Stopped.")
