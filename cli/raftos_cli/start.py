"""`raftos start`: one member on this machine, in the foreground.

The first time it joins a running cluster through any of its members, with the credential of the context;
from then on its folder has all it needs, and starting it asks nobody.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftos.config import Config
from raftos.errors import InvalidInput
from raftos_cli.base import Command, Invocation, Text, WholeNumber, pass_invocation
from raftos_cli.joining import Home, Role, give_up

if TYPE_CHECKING:
    from raftos.client import Client


@click.command(
    "start",
    cls=Command,
    examples="""
        raftos start --join http://127.0.0.1:4001
        raftos start                       again, with its data
        raftos start --join http://127.0.0.1:4001 --learner --data-dir D
        raftos start --rejoin              its data is damaged: join anew
    """,
)
@click.option(
    "--join", "through", multiple=True, metavar="URL", help="Any member of the cluster; repeatable."
)
@click.option("--name", type=Text(), metavar="NAME", help="Its name.  [default: this host's]")
@click.option("--learner", is_flag=True, help="Join without a vote.")
@click.option(
    "--port",
    type=WholeNumber(1, 65535),
    metavar="P",
    help="Its API port.  [default: as before, or a free one]",
)
@click.option(
    "--data-dir",
    metavar="D",
    type=click.Path(path_type=Path),
    help="Where it keeps everything.  [default: member/ in RAFTOS_HOME]",
)
@click.option("--rejoin", is_flag=True, help="Leave the old data behind and join under a new id.")
@click.option("--purge", is_flag=True, help="With --rejoin: delete the old data.")
@click.option("--prepare", is_flag=True, help="Join, but leave starting the daemon to you.")
@pass_invocation
def start(
    run: Invocation,
    through: tuple[str, ...],
    name: str | None,
    learner: bool,
    port: int | None,
    data_dir: Path | None,
    rejoin: bool,
    purge: bool,
    prepare: bool,
) -> None:
    """Run a member here, which joins the cluster the first time.

    It stays in the foreground until Ctrl-C. Interrupted while it joins, the same command finishes it.
    This version runs members of one machine only: it listens on loopback.
    """
    home = Home(data_dir or _default_folder())
    if purge and not rejoin:
        raise InvalidInput("--purge deletes what --rejoin leaves behind; add --rejoin")
    if not (through or home.folder.exists()):
        raise _without_member(home)
    with home.exclusively():
        _refuse_other_name(home, name)
        role: Role = "learner" if learner else "voter"
        if rejoin:
            _begin_anew(run, through, home, role, port, purge=purge)
        elif home.plan() is None and home.config() is None:
            if not through:
                raise _without_member(home)
            home.begin(name or _host_name(), role, port=port)
        config = _finish(run, home, through) if home.plan() else home.config()
        assert config is not None
        before, config = config, home.brought_here(config)
        if config != before:
            run.output.say(f"{home.folder} was moved here from {Path(before.secret_file).parent}.")
        if port is not None:
            config = home.moved_to(port, config)
    _tell(run, home, config)
    if not prepare:
        _run(home)


def _without_member(home: Home) -> InvalidInput:
    return InvalidInput(
        f"{home.folder} holds no member; `raftos start --join URL` lets one join the cluster there"
    )


def _default_folder() -> Path:
    from raftos.client import contexts

    return contexts.home() / "member"


def _host_name() -> str:
    """The name of this host without its domain, of characters that a name may have."""
    return re.sub(r"[^!-~]", "", socket.gethostname().partition(".")[0]) or "member"


def _refuse_other_name(home: Home, name: str | None) -> None:
    known = home.plan() or home.config()
    if known is not None and name not in {None, known.name}:
        raise InvalidInput(f"{home.folder} holds the member {known.name}, not {name}; leave --name out")


def _begin_anew(
    run: Invocation, through: tuple[str, ...], home: Home, role: Role, port: int | None, *, purge: bool
) -> None:
    """Leave the present member behind; what was decided before is gone on with."""
    if home.plan() is not None:
        return
    config = home.config()
    if config is None:
        raise InvalidInput(f"{home.folder} holds no member that could join anew")
    home.refuse_in_use()
    with _client(run, through)[0] as client:
        give_up(client, config.member_id)
    home.begin(config.name, role, port=port, replaces=config.member_id, purge=purge)


def _client(run: Invocation, through: tuple[str, ...]) -> tuple[Client, str]:
    """A client of the cluster to join, and the credential it takes."""
    from raftos.client import Client, contexts

    endpoints = list(through or run.endpoints) or None
    token = contexts.resolve(endpoints, run.context).token
    if not token:
        raise InvalidInput("no credential is known for that cluster; name one with --context")
    return Client(endpoints, context=run.context, timeout_s=run.timeout_s), token


def _finish(run: Invocation, home: Home, through: tuple[str, ...]) -> Config:
    client, token = _client(run, through)
    with client:
        config = home.finish(client, token)
    home.settle()
    run.output.say(f"{config.name} belongs to the cluster {config.cluster!r} now.")
    return config


def _tell(run: Invocation, home: Home, config: Config) -> None:
    value = {
        "name": config.name,
        "id": config.member_id,
        "cluster": config.cluster,
        "endpoint": f"http://{config.api_address}",
        "config": str(home.config_file),
    }
    run.output.data(value, lambda: f"{config.name}  http://{config.api_address}  {home.config_file}")


def _run(home: Home) -> None:
    """Become the daemon: signals, stderr and the exit code are its own from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "raftos", "--config", str(home.config_file)])  # noqa: S606
