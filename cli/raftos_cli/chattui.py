"""`raftos chat tui`: the chat in a terminal of its own. It needs textual, which is an extra."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from typing import TYPE_CHECKING

import click

from raftos.errors import InvalidInput, RaftosError
from raftos_cli.base import Command, Invocation, Text, pass_invocation
from raftos_cli.chat import as_option, room_names

if TYPE_CHECKING:
    from raftos_cli.tui.app import Chat

EXTRA = 'pip install "raftos-cluster[tui]"'


@click.command(
    "tui",
    cls=Command,
    examples="""
        raftos chat tui
        raftos chat tui general --as ada
    """,
)
@click.argument("room", type=Text(), required=False, shell_complete=room_names)
@as_option
@pass_invocation
def tui(run: Invocation, room: str | None, name: str | None) -> int:
    """Chat in the terminal, beginning in ROOM.

    It stays open whatever becomes of a member: the last line says whom it follows. F1 shows the keys.
    """
    if importlib.util.find_spec("textual") is None:
        raise RaftosError(f"the terminal chat needs textual, an extra of raftos; install it: {EXTRA}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("the terminal chat needs a terminal; for scripts there is `raftos chat follow`")
    return asyncio.run(_chat(run, room, name))


async def _chat(run: Invocation, room: str | None, name: str | None) -> int:
    """Until the user quits; the exit code. Raises the error that ended the chat."""
    from raftos.client import AsyncClient
    from raftos.client.chat import user
    from raftos.state.domains import validate
    from raftos.state.domains.chat import Mark
    from raftos_cli.tui.app import Chat

    name = user(name)
    validate(Mark(room or "any", name, 0))
    async with AsyncClient(list(run.endpoints) or None, run.context, timeout_s=run.timeout_s) as client:
        chat = Chat(client, name, room)
        _leaves_the_terminal_tidy(chat)
        # Without the mouse, the terminal's own selecting and copying go on working.
        error = await chat.run_async(mouse=False)
    if error is not None:
        raise error
    return chat.return_code or 0


def _leaves_the_terminal_tidy(chat: Chat) -> None:
    """Whoever ends this process from outside gets a usable terminal back."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, chat.exit, None, 128 + number)
