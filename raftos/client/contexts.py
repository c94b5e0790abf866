"""Which cluster a user talks to, and with what credential.

A **context** is a name for one cluster: its endpoints and the secret that opens it. All of them
live in one file, `$RAFTOS_HOME/contexts.json`, readable by the user alone (mode 0600) and replaced
atomically, so that a reader never meets half a file. Changes are made under a lock beside it: two
`raftos dev start` at once both keep their context.

Where the endpoints come from, first match wins: those given, those of the context named, the
variable `RAFTOS_ENDPOINTS` (separated by commas), those of the current context. The secret always
comes from the context named, or else from the current one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from raftos.durable import write_json
from raftos.errors import InvalidInput

NO_CLUSTER = "no cluster is known here; start one with `raftos dev start`, or name a member with --endpoint"


class Context(msgspec.Struct, frozen=True):
    """One cluster: the base URLs of its members, the shared secret as hex, and its name."""

    endpoints: tuple[str, ...]
    token: str
    cluster: str


class Contexts(msgspec.Struct, frozen=True):
    """The whole file."""

    current: str | None = None
    contexts: dict[str, Context] = {}


class Target(msgspec.Struct, frozen=True):
    """What a client needs to know: where to connect, in order of preference, and the credential."""

    endpoints: tuple[str, ...]
    token: str


def home() -> Path:
    """Where everything a user keeps lives: `RAFTOS_HOME`, or the platform's state directory."""
    if chosen := os.environ.get("RAFTOS_HOME"):
        return Path(chosen)
    import platformdirs  # Slow to import, and not needed where the variable is set.

    return Path(platformdirs.user_state_dir("raftos"))


def contexts_file() -> Path:
    return home() / "contexts.json"


def load() -> Contexts:
    """All contexts; none where the file does not exist. Raises InvalidInput for a damaged file."""
    file = contexts_file()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise InvalidInput(f"cannot read the contexts in {file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InvalidInput(
            f"the contexts in {file} are damaged ({error}); correct or remove the file"
        ) from error


def put(name: str, context: Context) -> None:
    """Add or replace a context and make it the current one. Raises InvalidInput."""
    _check_token(context.token)
    checked = msgspec.structs.replace(context, endpoints=_normal(context.endpoints))
    _change(lambda known: Contexts(name, {**known.contexts, name: checked}))


def remove(name: str) -> None:
    """Forget a context; without it, or if it was the current one, none is current. Missing is fine."""

    def without(known: Contexts) -> Contexts:
        rest = {other: context for other, context in known.contexts.items() if other != name}
        return Contexts(known.current if known.current in rest else None, rest)

    _change(without)


def resolve(endpoints: Sequence[str] | None = None, context: str | None = None) -> Target:
    """Where to connect and with what, from arguments, environment and file. Raises InvalidInput."""
    known = load()
    chosen = _find(known, context)
    addresses = endpoints or (None if context else _from_environment()) or (chosen and chosen.endpoints)
    if not addresses:
        raise InvalidInput(NO_CLUSTER)
    token = chosen.token if chosen else ""
    _check_token(token)
    return Target(_normal(addresses), token)


def _find(known: Contexts, name: str | None) -> Context | None:
    if name is None:
        return known.contexts.get(known.current) if known.current else None
    if name not in known.contexts:
        names = ", ".join(sorted(known.contexts)) or "none; `raftos dev start` makes one"
        raise InvalidInput(f"no context is named {name!r}; known: {names}")
    return known.contexts[name]


def _from_environment() -> list[str]:
    listed = os.environ.get("RAFTOS_ENDPOINTS", "").split(",")
    return [endpoint.strip() for endpoint in listed if endpoint.strip()]


def _normal(endpoints: Sequence[str]) -> tuple[str, ...]:
    """Base URLs without a closing slash, each once, in the order given."""
    return tuple(dict.fromkeys(_normal_endpoint(endpoint) for endpoint in endpoints))


def _normal_endpoint(endpoint: str) -> str:
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        parts = urlsplit(url)
        complete = parts.scheme == "http" and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:
        complete = False
    if not complete or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInput(f"endpoint {endpoint!r} is not a member's address; write http://127.0.0.1:4001")
    return f"http://{parts.netloc}"


def _check_token(token: str) -> None:
    # It becomes part of a header: a line break in it would become a header of its own.
    if token and not (token.isascii() and token.isalnum()):
        raise InvalidInput("the token of this context is damaged: it has to be letters and digits only")


def _change(change: Callable[[Contexts], Contexts]) -> None:
    try:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked():
            write_json(contexts_file(), change(load()))
    except OSError as error:
        raise InvalidInput(f"cannot write the contexts in {contexts_file()}: {error.strerror}") from error


@contextmanager
def _locked() -> Iterator[None]:
    with (home() / "contexts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
