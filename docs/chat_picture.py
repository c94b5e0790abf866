"""Renews the picture of the terminal chat from a real cluster: `python -m docs.chat_picture`.

The member that is followed dies before the picture is taken, so that it shows what comes of that. No font
is loaded: whoever looks at the picture uses a monospaced one of their own.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from docs import console
from docs.markdown import ROOT
from docs.screenshots import FOLDER, MOST_BYTES, said
from raftos.client import AsyncClient
from raftos_cli.tui.app import Chat

SIZE = (92, 27)
LIMIT_S = 20.0
FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


async def hold_conversation(client: AsyncClient) -> None:
    """Rooms with something to read in them."""
    chat = client.chat
    for room in ("general", "incidents", "kitchen", "release", "apollo"):
        await chat.create(room)
    for number in range(3):
        await chat.send("incidents", f"disk of m{number} at 81 %", sender="monitor")
    for number in range(12):
        await chat.send("release", f"commit {number} is in", sender="ci")
    await chat.send("apollo", "we came in peace", sender="margaret")
    await chat.archive("apollo")
    for room, last in (("kitchen", 0), ("apollo", 1)):
        await chat.mark_read(room, last, reader="ada")
    plan = await chat.send("general", "The new build runs on n3 since eight. One more?", sender="grace")
    await chat.send(
        "general",
        "I watched it for an hour: no election, no stall, and the disk is quiet. I would do n1 before "
        "lunch, and the last one once `raftos status` is all green again.",
        sender="barbara",
    )
    await chat.send("general", "Yes, go ahead with n1.", sender="ada", reply_to=plan.sequence)
    hurry = await chat.send("general", "I can do it nwo", sender="linus")
    await chat.edit("general", hurry.sequence, "I can do it now, if nobody else wants to", sender="linus")
    oops = await chat.send("general", "hunter2", sender="linus")
    await chat.redact("general", oops.sequence, sender="linus")


async def until(pilot: Pilot[Exception], what: str, holds: Callable[[Chat], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not (isinstance(pilot.app, Chat) and holds(pilot.app)):
            await pilot.pause(0.05)
    print(what, file=sys.stderr)


async def take(home: Path) -> str:
    """The picture, as SVG."""
    async with AsyncClient() as client, AsyncClient() as others:
        await hold_conversation(others)
        chat = Chat(client, "ada", "general")
        async with chat.run_test(size=SIZE) as pilot:
            await until(pilot, "the chat follows a member", lambda chat: chat.model.link.member is not None)
            victim = chat.model.link.member
            said(f"raftos dev kill {str(victim).removeprefix('n')}", home)
            await others.chat.send("general", f"{victim} is down on purpose. Still with me?", sender="grace")
            for name in ("barbara", "grace", "linus"):
                state = "typing" if name == "barbara" else "here"
                await others.beacons.announce("chat/general", name, state, ttl_s=60)
            await until(pilot, "it follows another one", lambda chat: chat.model.link.lost == victim)
            await until(pilot, "others are there", lambda chat: len(chat.model.people) == 4)
            await pilot.press(*"Not", "space", *"a", "space", *"line", "space", *"lost")
            await pilot.pause(0.5)
            return chat.export_screenshot(title="raftos chat tui")


def without_fonts(picture: str) -> str:
    """The same, loading nothing from elsewhere."""
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    return re.sub(r"Fira Code(, monospace)?", FONTS, picture)


def main() -> None:
    target = FOLDER / "chat-tui.svg"
    with console.temporary_home() as home:
        said("raftos dev start --detach", home)
        os.environ["RAFTOS_HOME"] = str(home)
        picture = without_fonts(asyncio.run(take(home)))
    assert "url(http" not in picture
    target.write_text(picture, encoding="utf-8")
    size_bytes = target.stat().st_size
    if size_bytes > MOST_BYTES:
        sys.exit(f"{target} has {size_bytes} bytes, more than {MOST_BYTES}")
    print(f"wrote {target.relative_to(ROOT)}, {size_bytes} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
