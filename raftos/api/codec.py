"""From text to typed values and back.

JSON has no bytes. One rule, both ways and for every domain: a bytes field `f` is text under `f` where
it is UTF-8, and base64 under `f_base64` where it is not. msgpack has bytes and needs no rule.

What a type's bytes fields are is read from the type once (`_bytes_in`), so decoding a request visits
only those; answers are walked, because a result in the log has no type any more.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import inspect

from raftos.errors import InvalidInput
from raftos.state.command import parse_request_id

T = TypeVar("T")

SUFFIX = "_base64"
MAX_PARAMETERS = 32

Inward = Callable[[Any], Any]
"""Makes bytes of what stands for bytes in a decoded JSON value, in place, and returns it."""


def decode_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body has to be a JSON object")
    return value


def parameters(query: str) -> dict[str, Any]:
    """The parameters of a URL. Raises InvalidInput."""
    if not query:
        return {}
    pairs = query.split("&", MAX_PARAMETERS)
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        found[_unquoted(name)] = _unquoted(text)
    if len(found) != len(pairs) or len(pairs) > MAX_PARAMETERS:
        raise InvalidInput(f"a parameter is given twice, or more than {MAX_PARAMETERS} are")
    return found


def _unquoted(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise InvalidInput("a parameter is not UTF-8") from None


def typed(value: dict[str, Any], kind: type[T], *, from_text: bool = False) -> T:
    """The value as `kind`; `from_text` reads numbers and flags from strings. Raises InvalidInput."""
    inward = _bytes_in(kind)  # type: ignore[arg-type] # mypy: a type is hashable
    try:
        plain = inward(value) if inward else value
        return msgspec.convert(plain, kind, strict=not from_text)
    except msgspec.ValidationError as error:
        raise InvalidInput(_sentence(error)) from None


def request_id(text: Any) -> bytes:
    """The 16 bytes of a request id as JSON has it. Raises InvalidInput."""
    try:
        return parse_request_id(text)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput("`request_id` has to be a version 7 UUID, as text") from None


def _sentence(error: msgspec.ValidationError) -> str:
    """The message of msgspec, with `$.field` and `Object` in words of the API."""
    text = re.sub(r" - at `\$\.?(.+?)`$", r" in `\1`", str(error))
    text = text.replace("Object missing required", "missing").replace("Object contains unknown", "unknown")
    return text[0].lower() + text[1:]


# Inward: text to bytes.


@cache
def _bytes_in(kind: type) -> Inward | None:
    return _inward(inspect.type_info(kind))


def _inward(info: inspect.Type) -> Inward | None:
    """What turns a decoded JSON value of this type inward, or None when it holds no bytes."""
    match info:
        case inspect.Metadata(type=described):
            return _inward(described)
        case inspect.StructType(fields=fields):
            return _of_fields({field.encode_name: field.type for field in fields})
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return _of_items(_inward(item))
        case inspect.UnionType(types=types):
            return _of_union([found for found in map(_inward, types) if found])
        case _:
            return None


def _holds_bytes(info: inspect.Type) -> bool:
    match info:
        case inspect.Metadata(type=described):
            return _holds_bytes(described)
        case inspect.UnionType(types=types):
            return any(map(_holds_bytes, types))
        case _:
            return isinstance(info, inspect.BytesType)


def _of_fields(fields: dict[str, inspect.Type]) -> Inward | None:
    direct = [(name, name + SUFFIX) for name, info in fields.items() if _holds_bytes(info)]
    nested = {name: found for name, info in fields.items() if (found := _inward(info))}
    if not direct and not nested:
        return None

    def inward(value: Any) -> Any:
        if isinstance(value, dict):
            for name, encoded_name in direct:
                _field_to_bytes(value, name, encoded_name)
            for name, found in nested.items():
                if name in value:
                    value[name] = found(value[name])
        return value

    return inward


def _of_items(found: Inward | None) -> Inward | None:
    if found is None:
        return None
    return lambda value: [found(item) for item in value] if isinstance(value, list) else value


def _of_union(found: list[Inward]) -> Inward | None:
    """Members of a union do not use one name for text and for bytes, so all of them may have a look."""
    if not found:
        return None

    def inward(value: Any) -> Any:
        for member in found:
            value = member(value)
        return value

    return inward


def _field_to_bytes(value: dict[str, Any], name: str, encoded_name: str) -> None:
    text = value.get(name)
    if encoded_name in value:
        if text is not None:
            raise InvalidInput(f"give `{name}` or `{encoded_name}`, not both")
        value[name] = _from_base64(value.pop(encoded_name), encoded_name)
    elif isinstance(text, str):
        value[name] = text.encode()


def _from_base64(encoded: Any, name: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidInput(f"`{name}` is not base64") from None


# Outward: bytes to text.


_CONTAINERS = frozenset({dict, list, tuple})
_UNREADABLE = _CONTAINERS | {bytes}


def readable(value: Any) -> Any:
    """A plain value, dictionaries and lists, with its bytes under names that JSON can carry."""
    kind = type(value)
    if kind is dict:
        # Most answers are flat and have no bytes: they pass as they are.
        if _UNREADABLE.isdisjoint(map(type, value.values())):
            return value
        return dict([_readable_field(name, item) for name, item in value.items()])
    return [readable(item) for item in value] if kind in _CONTAINERS else value


def _readable_field(name: str, value: Any) -> tuple[str, Any]:
    kind = type(value)
    if kind is bytes:
        try:
            return name, value.decode()
        except UnicodeDecodeError:
            return name + SUFFIX, base64.b64encode(value).decode()
    return name, readable(value) if kind in _CONTAINERS else value


def plain(value: Any) -> Any:
    """A typed value as dictionaries and lists, bytes left as they are."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))
