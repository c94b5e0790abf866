"""JSON schemas of raftos' types, as `/openapi.json` shows them.

msgspec knows the schema of every type; this file says them in the words of the API:

* **Names.** Two domains may both have a `Get`; as components they are `kv.Get` and `members.Get`.
* **Bytes.** JSON has none: a bytes field `value` is text under `value`, or base64 under `value_base64`
  where it is not UTF-8. A required one is required under one of the two names.
* **Prose.** Docstrings become one paragraph, and a type that may be null says so in one word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from raftos.api.codec import SUFFIX

Schema = dict[str, Any]

FOLDER = "#/components/schemas/"


class Catalogue:
    """The schemas of types, by component name; `self[kind]` refers to one."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._references: dict[type, Schema] = {}

    def add(self, kinds: Iterable[type[msgspec.Struct]], prefix: str = "") -> None:
        """Take in these types and those they are made of, all named with this prefix."""
        wanted = list(dict.fromkeys(kinds))
        references, schemas = msgspec.json.schema_components(wanted, ref_template=f"{FOLDER}{prefix}{{name}}")
        self._references.update(zip(wanted, references, strict=True))
        self.schemas.update({f"{prefix}{name}": tidy(schema) for name, schema in schemas.items()})

    def __getitem__(self, kind: type[msgspec.Struct]) -> Schema:
        return self._references[kind]

    def schema(self, kind: type[msgspec.Struct]) -> Schema:
        """The schema itself of a type that was added."""
        return self.schemas[self[kind]["$ref"].removeprefix(FOLDER)]


def sentence(text: str | None) -> str:
    """A docstring as one paragraph."""
    return " ".join((text or "").split())


def tidy(schema: Any) -> Any:
    """The schema in the words of the API; see the top of this file."""
    if isinstance(schema, list | tuple):
        return [tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {word: tidy(part) for word, part in schema.items() if not _is_noise(word, part)}
    if isinstance(plain.get("description"), str):
        plain["description"] = sentence(plain["description"])
    return _with_bytes_as_text(_with_types_in_one_word(plain))


def _is_noise(word: str, part: Any) -> bool:
    """A title repeats the component's name; a default of null says no more than being optional."""
    return (word == "title" and isinstance(part, str)) or (word == "default" and part is None)


def _with_types_in_one_word(schema: Schema) -> Schema:
    """`anyOf: [{type: integer}, {type: null}]` as `type: [integer, null]`."""
    parts = schema.get("anyOf")
    if not isinstance(parts, list) or any(list(part) != ["type"] for part in parts):
        return schema
    rest = {word: part for word, part in schema.items() if word != "anyOf"}
    return {"type": [part["type"] for part in parts], **rest}


def _with_bytes_as_text(schema: Schema) -> Schema:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    binary = [name for name, field in properties.items() if _holds_bytes(field)]
    if not binary:
        return schema
    fields: Schema = {}
    for name, field in properties.items():
        fields.update(_both_names(name, field) if name in binary else {name: field})
    required = schema.get("required", [])
    either = [
        {"oneOf": [{"required": [name]}, {"required": [name + SUFFIX]}]}
        for name in binary
        if name in required
    ]
    return {
        **schema,
        "properties": fields,
        "required": [name for name in required if name not in binary],
        **({"allOf": either} if either else {}),
    }


def _holds_bytes(field: Any) -> bool:
    parts = field.get("anyOf", [field]) if isinstance(field, dict) else []
    return any(part.get("contentEncoding") == "base64" for part in parts)


def _both_names(name: str, field: Schema) -> Schema:
    said = sentence(f"{field.get('description', '')} As text, where it is UTF-8.")
    limits = {word: part for word, part in field.items() if word == "maxLength"}
    return {
        name: {"type": "string", "description": said, **limits},
        name + SUFFIX: {
            "type": "string",
            "contentEncoding": "base64",
            "description": f"Instead of `{name}`, where it is not UTF-8.",
        },
    }


def without(schema: Schema, name: str) -> Schema:
    """An object's schema less one field."""
    return {
        **schema,
        "properties": {field: part for field, part in schema["properties"].items() if field != name},
        "required": [field for field in schema.get("required", []) if field != name],
    }


def parameters(schema: Schema) -> list[Schema]:
    """The fields of an object as parameters of a URL, where nothing can be null."""
    required = schema.get("required", [])
    found: list[Schema] = []
    for name, field in schema["properties"].items():
        limits = {word: part for word, part in field.items() if word != "description"}
        if isinstance(limits.get("type"), list):
            limits["type"] = next(kind for kind in limits["type"] if kind != "null")
        parameter = {"name": name, "in": "query", "required": name in required, "schema": limits}
        if "description" in field:
            parameter["description"] = field["description"]
        found.append(parameter)
    return found
