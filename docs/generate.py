"""Writes the reference parts of the documentation from the program itself: `python -m docs.generate`.

The PAGES each have an introduction written by hand, up to a line with MARKER. What follows it comes from the
commands of the command line, from the domains, and from the SDK's docstrings. `tests/docs` fails when a page
is not what this program would write.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from docs import sdk_reference
from raftos.state.domains import DOMAINS
from raftos_cli.base import Command, common_options
from raftos_cli.main import root

FOLDER = Path(__file__).parent
MARKER = "<!-- From here on: python -m docs.generate -->"

COMMON_OPTIONS = {name for option in common_options() for name in option.opts} | {"-h", "--help"}


def commands(group: click.Group, path: str = "raftos") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def endpoints() -> Iterator[tuple[str, type[msgspec.Struct], type[msgspec.Struct]]]:
    """`POST /v1/kv/put` with the types of its request and of its answer, for all domains."""
    for domain in DOMAINS:
        for method, kinds in (("POST", domain.offered), ("GET", domain.queries)):
            for kind in kinds:
                path = str(kind.__struct_config__.tag).replace(".", "/")
                yield f"{method} /v1/{path}", kind, domain.answers[kind]


def _table(header: str, rows: Iterable[str]) -> str:
    columns = header.count("|") - 1
    lines = list(rows)
    return "\n".join([header, "|" + "---|" * columns, *lines]) + "\n" if lines else ""


def _option_row(option: click.Option) -> str:
    value = "" if option.is_flag or option.count else f" {option.metavar or 'N'}"
    text = re.sub(r"\s+\[default: (.*)\]", r" Default: \1.", option.help or "")
    return f"| `{', '.join(option.opts)}{value}` | {text} |"


def _command_section(path: str, command: click.Command) -> str:
    usage = [word for word in command.collect_usage_pieces(click.Context(command)) if word != "[OPTIONS]"]
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and option.opts[0] not in COMMON_OPTIONS
    ]
    examples = command.examples if isinstance(command, Command) else []
    commented = [re.sub(r"\s{2,}(?=\S)", "  # ", example, count=1) for example in examples]
    parts = [
        f"### `{path}`\n",
        " ".join((command.help or "").split()) + "\n",
        f"Arguments: `{' '.join(usage)}`\n" if usage else "",
        _table("| option | |", map(_option_row, options)),
        "```sh\n" + "\n".join(commented) + "\n```\n",
    ]
    return "\n".join(part for part in parts if part)


def _kind_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema as words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind_of(part, definitions) for part in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _kind_of(definitions[name], definitions)
    if schema.get("contentEncoding") == "base64":
        return "bytes"
    if "const" in schema or "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind_of(schema.get('items', {}), definitions)}"
    if schema.get("type") == "object" and schema.get("properties"):
        return "{" + ", ".join(f"`{name}`" for name in schema["properties"]) + "}"
    return str(schema.get("type", "any"))


class Field(msgspec.Struct, frozen=True):
    """One field in words."""

    name: str
    kind: str
    presence: str
    text: str


def _fields(kind: type[msgspec.Struct]) -> Iterator[Field]:
    """The fields of a type; the tag that names the type within a batch is left out."""
    schema = msgspec.json.schema(kind)
    definitions = schema.get("$defs", {})
    top = definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    for name, field in top.get("properties", {}).items():
        if name != kind.__struct_config__.tag_field:
            presence = "required" if name in top.get("required", ()) else f"default {_default(field)}"
            yield Field(name, _kind_of(field, definitions), presence, field.get("description", ""))


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _endpoint_section(endpoint: str, kind: type[msgspec.Struct], answer: type[msgspec.Struct]) -> str:
    said = " ".join((kind.__doc__ or "").split())
    taken = [
        f"| `{field.name}` | {field.kind} | {field.presence} | {field.text} |" for field in _fields(kind)
    ]
    given = [f"| `{field.name}` | {field.kind} | {field.text} |" for field in _fields(answer)]
    fields = _table("| field | type | | |", taken) or "No fields.\n"
    answers = _table("| answer | type | |", given)
    return "\n".join(part for part in (f"### `{endpoint}`\n", f"{said}\n", fields, answers) if part.strip())


def command_reference() -> str:
    return "\n".join(_command_section(path, command) for path, command in commands(root))


def endpoint_reference() -> str:
    return "\n".join(_endpoint_section(*endpoint) for endpoint in endpoints())


PAGES = {"cli.md": command_reference, "api.md": endpoint_reference, "sdk.md": sdk_reference.reference}
"""Page -> what makes its generated part."""


def whole(page: str) -> str:
    """The page as it ought to be: its present introduction and the generated part."""
    introduction = (FOLDER / page).read_text(encoding="utf-8").partition(MARKER)[0]
    return f"{introduction}{MARKER}\n\n{PAGES[page]()}"


def main() -> None:
    for page in PAGES:
        text = whole(page)
        if text != (FOLDER / page).read_text(encoding="utf-8"):
            (FOLDER / page).write_text(text, encoding="utf-8")
            print(f"wrote docs/{page}", file=sys.stderr)


if __name__ == "__main__":
    main()
