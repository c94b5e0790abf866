"""`raftos quota`: how much there may be of what the cluster counts, and how much there is.

Sizes are bytes, or numbers with a unit of 1024: 512MiB, 8GiB. Other quotas are plain numbers.
"""

from __future__ import annotations

import re
from typing import Any

import click

from raftos_cli.base import Group, Invocation, Text, pass_invocation
from raftos_cli.names import quotas
from raftos_cli.output import Column, print_table

UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MOST = 2**53 - 1
_SIZE = re.compile("([0-9]{1,16}) ?([A-Za-z]*)")
_KNOWN_UNITS = {unit.lower(): factor for unit, factor in UNITS.items()}

quota = Group(
    "quota",
    help="How much the cluster may keep.",
    examples="""
        raftos quota ls
        raftos quota set state.bytes 512MiB
        raftos quota set kv.keys 1000000
    """,
)


class Amount(click.ParamType[int]):
    """A number, or a size such as 512MiB."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SIZE.fullmatch(str(value))
        factor = _KNOWN_UNITS.get(found[2].lower()) if found else None
        if found is None or factor is None or int(found[1]) * factor > MOST:
            known = ", ".join(unit for unit in UNITS if unit)
            self.fail(
                f"{value!r} is no amount; write a number, with a unit if it is a size: {known}", param, ctx
            )
        return int(found[1]) * factor


@quota.command(
    "ls",
    examples="""
        raftos quota ls
        raftos quota ls -o json
    """,
)
@pass_invocation
def ls(run: Invocation) -> None:
    """List how much there is and may be of what is counted."""
    import msgspec

    with run.client() as client:
        items = msgspec.to_builtins(client.quota.list())

    def table() -> None:
        columns = [Column("NAME"), *(Column(title, number=True) for title in ("VALUE", "MOST", "USED"))]
        print_table(columns, [_row(**item) for item in items])

    run.output.data({"items": items}, table)


def _row(name: str, value: int, most: int) -> list[str]:
    used = f"{value * 100 // most}%" if most else "-"
    return [name, amount_text(name, value), amount_text(name, most), used]


def amount_text(name: str, amount: int) -> str:
    """`512.0 MiB` where bytes are counted, else the number."""
    if not name.endswith(".bytes") or amount < UNITS["KiB"]:
        return str(amount)
    unit = next(unit for unit in reversed(UNITS) if amount >= UNITS[unit])
    return f"{amount / UNITS[unit]:.1f} {unit}"


@quota.command(
    "set",
    examples="""
        raftos quota set state.bytes 8GiB
        raftos quota set kv.keys 1000000
    """,
)
@click.argument("name", type=Text(), shell_complete=quotas)
@click.argument("amount", metavar="AMOUNT", type=Amount())
@pass_invocation
def set_quota(run: Invocation, name: str, amount: int) -> None:
    """Allow AMOUNT of what NAME counts; sizes may be like 512MiB.

    Below what there is nothing is deleted: writes that would add to it are refused until enough is.
    Exits 3 if nothing of this name is counted.
    """
    with run.client() as client:
        changed = client.quota.set(name, amount)

    def told() -> str:
        value, most = (amount_text(name, number) for number in (changed.value, changed.most))
        return f"{name}: at most {most}, now {value}"

    run.output.data(changed, told)
    if changed.value >= changed.most:
        run.output.say("It is reached: delete something, or allow more.")
