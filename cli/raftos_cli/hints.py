"""What to do next: the line under an error.

One table, from the stable code of an error and the command that met it to a sentence that names a
command. What is known for `raftos kv` comes before what holds everywhere, and what is known for an error
before what holds for its kind (`not_ready` is `unavailable`). A message that names a command by itself
needs no hint.
"""

from __future__ import annotations

from raftos.errors import RaftosError

# What takes --stale, and so goes on without a leader.
STALE_READERS = (
    *("raftos kv get", "raftos kv ls"),
    *("raftos chat rooms", "raftos chat history", "raftos chat search"),
)
# Error code -> a command, a group, or `raftos` for all -> hint. {command} is the whole command.
HINTS: dict[str, dict[str, str]] = {
    "not_found": {
        "raftos kv": "`raftos kv ls` lists the keys there are",
        "raftos lock": "`raftos lock show` lists the locks that are held",
        "raftos chat": "`raftos chat create ROOM` opens a room, `raftos chat rooms` lists those there are",
        "raftos quota": "`raftos quota ls` lists what is counted",
        "raftos node": "`raftos node ls` lists the members",
        "raftos leader": "`raftos node ls` lists the members",
        "raftos context": "`raftos context ls` lists the contexts you know",
    },
    "conflict": {
        "raftos kv": "read the key again with `raftos kv get KEY -o json`, then decide anew",
        "raftos lock": "`raftos lock show` tells who holds it",
        "raftos chat": "`raftos chat rooms` shows which rooms there are and which are archived",
        "raftos dev": "`raftos dev status` shows what runs",
        "raftos node": "`raftos status` shows how the members are",
        "raftos start": "`raftos node ls` lists the members",
    },
    "busy": {"raftos": "`raftos status` shows who is joining; try again in a moment"},
    "invalid": {"raftos": "`{command} --help` shows what it takes"},
    "unauthorized": {
        "raftos": "`raftos context ls` shows whose token is sent; choose another with --context NAME"
    },
    "denied": {
        "raftos": "`raftos context ls` shows whose token is sent; choose another with --context NAME",
        "raftos chat": "a message is changed by its sender alone; `{command} --as NAME` says who you are",
    },
    "no_quorum": {
        "raftos": "`raftos status` shows which members are missing",
        **dict.fromkeys(
            STALE_READERS,
            "`{command} --stale` reads what one member has; `raftos status` shows which members are missing",
        ),
    },
    "unavailable": {"raftos": "`raftos status` shows how the members are"},
    "unreachable": {
        "raftos": "`raftos context show` shows where it looked, `raftos dev status` if a dev cluster runs"
    },
    "outcome_unknown": {
        "raftos": "`raftos status` shows how the members are",
        "raftos kv": "`raftos kv get KEY` shows whether it was written; `raftos status` how the members are",
        "raftos lock": "`raftos lock show` tells who holds it; `raftos status` how the members are",
        "raftos chat": "`raftos chat history ROOM --last 5` shows whether it was sent",
    },
    "no_space": {"raftos": "delete with `raftos kv del`, or allow more with `raftos quota set`"},
    "limit_reached": {
        "raftos kv": "`raftos quota ls` shows how much there may be",
        "raftos chat create": "`raftos quota ls` shows how many rooms there may be",
    },
    "compacted": {"raftos": "`raftos events` shows the newest events that are kept"},
    "startup": {"raftos dev": "`raftos dev logs N` shows what member N said"},
}


def hint_for(error: RaftosError, command: str) -> str | None:
    """The hint for an error that `command` ("raftos kv get") met; None where there is nothing to add."""
    if "`raftos " in error.message:
        return None
    words = command.split()
    places = [" ".join(words[:length]) for length in range(len(words), 0, -1)]
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, RaftosError)]
    found = (HINTS.get(kind.code, {}).get(place) for kind in kinds for place in places)
    hints = [hint for hint in found if hint is not None]
    return hints[0].format(command=command) if hints else None


def hint_for_usage(command: str) -> str:
    """The hint for a command line that could not be understood."""
    return HINTS["invalid"]["raftos"].format(command=command)
