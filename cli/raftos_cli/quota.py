"""`raftos quota`: how much there may be of what the cluster counts, and how much there is.

Sizes are bytes, or numbers with a unit of 1024: 512MiB, 8GiB. Other quotas are plain numbers, and a unit
with one of those is a mistake.
"""

from __future__ import annotations

import re

import click

from raftos.errors import InvalidInput
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


def amount_from(name: str, text: str) -> int:
    """The number that a person wrote for the quota `name`. Raises InvalidInput."""
    found = _SIZE.fullmatch(text)
    factor = _KNOWN_UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None or int(found[1]) * factor > MOST:
        known = ", ".join(unit for unit in UNITS if unit)
        raise InvalidInput(f"{text!r} is no amount; write a number, with a unit if it is a size: {known}")
    if found[2] and not _is_size(name):
        raise InvalidInput(f"{name} is no size: write a number without {found[2]}")
    return int(found[1]) * factor


def _is_size(name: str) -> bool:
    return name.endswith(".bytes")


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
    if not _is_size(name) or amount < UNITS["KiB"]:
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
@click.argument("amount", metavar="AMOUNT")
@pass_invocation
def set_quota(run: Invocation, name: str, amount: str) -> None:
    """Allow AMOUNT of what NAME counts; sizes may be like 512MiB.

    Below what there is nothing is deleted: writes that would add to it are refused until enough is.
    Exits 3 if nothing of this name is counted.
    """
    most = amount_from(name, amount)
    with run.client() as client:
        changed = client.quota.set(name, most)

    def told() -> str:
        allowed, now = (amount_text(name, number) for number in (changed.most, changed.value))
        return f"{name}: at most {allowed}, now {now}"

    run.output.data(changed, told)
    if changed.value >= changed.most:
        run.output.say("It is reached: delete something, or allow more.")
