"""`raftos lock`: locks that expire, for scripts.

A lock is either held by a command (`acquire NAME -- CMD...`), for as long as that runs, or taken for a
time and looked after by the script itself: `acquire` prints a token, by which `renew` and `release` know
the tenure again. The token also fences writes: `raftos kv txn --if lock/NAME@TOKEN ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from raftos.errors import Conflict
from raftos_cli.base import Command, Group, Invocation, Seconds, Text, WholeNumber, pass_invocation
from raftos_cli.names import from_cluster
from raftos_cli.output import Column, print_table

if TYPE_CHECKING:
    from raftos.client import Client
    from raftos.client.lock import Holding, Renewed

TTL_S = 15.0

lock = Group(
    "lock",
    help="Locks that expire, with fencing tokens.",
    examples="""
        raftos lock acquire backup -- ./backup.sh
        raftos lock show
    """,
)


@from_cluster
def lock_names(client: Client, _typed: str) -> list[str]:
    return [held.name for held in client.lock.list()]


class Acquire(Command):
    """A command that takes everything after `--` as another command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, separator, words = _divided(args)
        if separator and not words and not ctx.resilient_parsing:
            raise click.UsageError("No command follows the --.", ctx)
        ctx.meta[_WORDS] = words
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


_WORDS = f"{__name__}.words"


def _divided(args: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in args:
        return list(args), False, []
    at = args.index("--")
    return list(args[:at]), True, list(args[at + 1 :])


name_argument = click.argument("name", type=Text(), shell_complete=lock_names)
token_option = click.option(
    "--token", type=WholeNumber(1), required=True, metavar="T", help="What acquire printed."
)
ttl_option = click.option(
    "--ttl",
    type=Seconds(),
    default=TTL_S,
    metavar="S",
    help="How long it lasts unless it is renewed, 1 to 86400.  [default: 15]",
)


@lock.command(
    "acquire",
    cls=Acquire,
    examples="""
        raftos lock acquire backup -- ./backup.sh
        raftos lock acquire backup --wait 0 || echo someone else is at it
        raftos lock acquire deploy --ttl 600 --owner ci -o json
    """,
)
@name_argument
@ttl_option
@click.option(
    "--wait",
    type=Seconds(or_none=True),
    metavar="S",
    help="How long to wait for another holder; 0: try once.  [default: until it is free]",
)
@click.option("--owner", type=Text(), metavar="O", help="Who holds it.  [default: USER@HOST]")
@pass_invocation
@click.pass_context
def acquire(
    ctx: click.Context, run: Invocation, name: str, ttl: float, wait: float | None, owner: str | None
) -> int:
    """Take the lock NAME. Exits 4 if somebody else has it.

    Alone, it prints the token and leaves the lock to run out, to be renewed or released by that token.
    With CMD it holds the lock while CMD runs, with RAFTOS_LOCK_NAME and RAFTOS_LOCK_TOKEN in its
    environment, and exits as CMD did: 126 if it cannot be run, 127 if it is not found, 125 if the lock
    could not be had or was lost; CMD is ended then.
    """
    if words := ctx.meta[_WORDS]:
        from raftos_cli.holding import hold

        return hold(run, words, name, ttl_s=ttl, wait_s=wait, owner=owner)
    with run.client() as client:
        holding = _taken(run, client, name, ttl, wait, owner)
    run.output.data(holding, lambda: _told(holding))
    return 0


@lock.command(
    "renew",
    examples="""
        raftos lock renew deploy --token 57
        raftos lock renew deploy --token 57 --ttl 600
    """,
)
@name_argument
@token_option
@ttl_option
@pass_invocation
def renew(run: Invocation, name: str, token: int, ttl: float) -> None:
    """Let the lock NAME last longer, from now.

    Exits 3 if nobody holds it any more, 4 if it is held with another token.
    """
    with run.client() as client:
        renewed = client.lock.renew(name, token, ttl_s=ttl)
    run.output.data(renewed, lambda: _told(renewed))


@lock.command("release", examples="raftos lock release deploy --token 57")
@name_argument
@token_option
@pass_invocation
def release(run: Invocation, name: str, token: int) -> None:
    """Give the lock NAME back.

    Exits 3 if nobody holds it any more, 4 if it is held with another token; it stays held then.
    """
    with run.client() as client:
        client.lock.release(name, token)
    run.output.data({"name": name, "token": token}, lambda: f"{name}: released")


@lock.command(
    "show",
    examples="""
        raftos lock show
        raftos lock show backup
        raftos lock show backup -o json | jq .token
    """,
)
@click.argument("name", type=Text(), required=False, shell_complete=lock_names)
@pass_invocation
def show(run: Invocation, name: str | None) -> None:
    """Show who holds the lock NAME, or all locks that are held.

    Exits 3 if nobody holds NAME.
    """
    with run.client() as client:
        held = client.lock.list() if name is None else [client.lock.show(name)]
    value: Any = {"items": held} if name is None else held[0]
    run.output.data(value, lambda: _table(held))


def _taken(
    run: Invocation, client: Client, name: str, ttl_s: float, wait_s: float | None, owner: str | None
) -> Holding:
    """The lock; whom it has to wait for is said first."""
    try:
        return client.lock.acquire(name, ttl_s=ttl_s, wait_s=0, owner=owner)
    except Conflict as taken:
        if wait_s == 0:
            raise
        run.output.say(f"waiting: {taken.message.partition(';')[0]}")
    return client.lock.acquire(name, ttl_s=ttl_s, wait_s=wait_s, owner=owner)


def _told(lease: Holding | Renewed) -> str:
    return f"{lease.name}: token {lease.token}, expires in {lease.expires_in_s:.1f} s"


def _table(held: Sequence[Holding]) -> None:
    columns = [Column("NAME", wraps=True), Column("OWNER"), Column("TOKEN", number=True)]
    rows = [[each.name, each.owner, each.token, _time_left(each.expires_in_s)] for each in held]
    print_table([*columns, Column("TIME LEFT", number=True)], rows)


def _time_left(expires_in_s: float | None) -> str | None:
    return None if expires_in_s is None else f"{expires_in_s:.1f} s"
