"""The reference part of `sdk.md`, from the signatures and docstrings of `raftos.client`.

A namespace is a class whose docstring is `client.NAME`; what its verbs return is described after them, as are
the objects they hand out. `Client` has the same verbs without `await`, so each is written once.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

import raftos.client
from raftos.client import AsyncClient

Kinds = dict[type, None]
"""Types in the order in which they were met."""


def reference() -> str:
    """Every verb, then every object and every answer that a verb returns."""
    met: Kinds = {}
    made = f"```py\nclient = AsyncClient{_signature(AsyncClient.__init__).removesuffix(' -> None')}\n```\n"
    parts = ["### `AsyncClient`\n", made, *_class_part("client", AsyncClient, AsyncClient.__doc__ or "", met)]
    for name, kind, module in _namespaces():
        essay = (module.__doc__ or "").partition("\n\n")[0]
        parts += _class_part(f"client.{name}", kind, essay, met)
    for kind in list(met):
        if not issubclass(kind, msgspec.Struct):
            parts += _class_part(kind.__name__, kind, kind.__doc__ or "", met)
    answers = sorted(
        (kind for kind in met if issubclass(kind, msgspec.Struct)), key=lambda kind: kind.__name__
    )
    parts += ["### What the verbs return\n", *map(_answer_part, answers)]
    return "\n".join(parts)


def _namespaces() -> Iterator[tuple[str, type, ModuleType]]:
    """`kv`, its class and its module, for each attribute of a client that has verbs."""
    for found in pkgutil.iter_modules(raftos.client.__path__):
        module = importlib.import_module(f"raftos.client.{found.name}")
        for kind in vars(module).values():
            named = re.match(r"`client\.(\w+)`", getattr(kind, "__doc__", None) or "")
            is_own = inspect.isclass(kind) and kind.__module__ == module.__name__
            if named and is_own and kind.__name__.startswith("Async"):
                yield named[1], kind, module


def _class_part(title: str, kind: type, text: str, met: Kinds) -> Iterator[str]:
    yield f"### `{title}`\n"
    yield inspect.cleandoc(text) + "\n"
    properties = [
        _property_line(name, member) for name, member in vars(kind).items() if _is_public(name, member)
    ]
    if properties:
        yield "\n".join(properties) + "\n"
    for name, member in vars(kind).items():
        is_verb = inspect.isfunction(member) and not name.startswith("_")
        if is_verb or (name == "__call__" and title.startswith("client.")):
            called = title if name == "__call__" else f"{title}.{name}"
            yield from _verb_part(called, member, met)


def _is_public(name: str, member: object) -> bool:
    return isinstance(member, property) and not name.startswith("_")


def _property_line(name: str, member: property) -> str:
    return f"- `{name}`: `{_shown(_hints(member.fget)['return'])}`. {_line(member.__doc__)}".rstrip()


def _verb_part(called: str, verb: Any, met: Kinds) -> Iterator[str]:
    _meet(_hints(verb).get("return"), met)
    waits = "await " if inspect.iscoroutinefunction(verb) else ""
    yield f"#### `{called}{'()' if verb.__name__ == '__call__' else ''}`\n"
    yield f"```py\n{waits}{called}{_signature(verb)}\n```\n"
    if verb.__doc__:
        yield inspect.cleandoc(verb.__doc__) + "\n"


def _signature(verb: Any) -> str:
    given = inspect.signature(verb)
    parameters = [part for name, part in given.parameters.items() if name != "self"]
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(given.replace(parameters=parameters)))


def _hints(verb: Any) -> dict[str, Any]:
    """The annotations as types; those that only a type checker knows are left out."""
    try:
        return typing.get_type_hints(verb)
    except NameError:
        return dict(inspect.get_annotations(verb))


def _meet(hint: Any, met: Kinds) -> None:
    """Note the types of ours that a return annotation names."""
    for part in (typing.get_origin(hint) or hint, *typing.get_args(hint)):
        is_ours = inspect.isclass(part) and part.__module__.startswith("raftos.")
        if is_ours and part is not AsyncClient and part not in met:
            met[part] = None
            if issubclass(part, msgspec.Struct):
                for inner in typing.get_type_hints(part).values():
                    _meet(inner, met)
        elif part is not hint and typing.get_args(part):
            _meet(part, met)


def _answer_part(kind: type) -> str:
    fields = _hints(kind)
    names = ", ".join(
        f"`{name}`: `{_shown(fields[name])}`"
        for name in kind.__struct_fields__  # type: ignore[attr-defined]
    )
    return f"**`{kind.__name__}`** ({names}). {_line(kind.__doc__)}\n"


def _shown(hint: Any) -> str:
    if typing.get_args(hint):
        return re.sub(r"(?:\w+\.)+(\w+)", r"\1", str(hint))
    return getattr(hint, "__name__", str(hint))


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
