"""Examples of requests and answers, so that "Try it out" has something to send.

One sample for each field name, used wherever the field occurs; what has none gets the plainest value its
schema allows. An example shows what is required and no more: a request id would make the second try a
repetition of the first, an expected version a conflict.
"""

from __future__ import annotations

from typing import Any

from raftos.api.openapi.schemas import FOLDER, Schema

SAMPLES: dict[str, Any] = {
    "commit_index": 42,
    "endpoint": "http://127.0.0.1:4001",
    "expect_state": "down",
    "expires_ms": 1_795_000_060_000,
    "id": "m-1",
    "key": "greeting",
    "leader": "n1",
    "name": "n1",
    "owner": "worker-7",
    "peer_address": "127.0.0.1:4101",
    "prefix": "gree",
    "reader": "ada",
    "revision": 17,
    "room": "general",
    "sender": "ada",
    "sequence": 1,
    "since_ms": 1_795_000_000_000,
    "state": "alive",
    "text": "hello",
    "time_ms": 1_795_000_000_000,
    "topic": "presence",
    "ttl_ms": 60_000,
    "value": "hello",
    "version": 1,
}

_PLAINEST = {"string": "text", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


def example(schema: Schema, schemas: dict[str, Schema], name: str = "", *, whole: bool = False) -> Any:
    """A value this schema allows. `whole` shows the optional fields of an object too."""
    if "$ref" in schema:
        return example(schemas[schema["$ref"].removeprefix(FOLDER)], schemas, name, whole=whole)
    for choice in ("anyOf", "oneOf"):
        if choice in schema and "properties" not in schema:
            return example(schema[choice][0], schemas, name, whole=whole)
    if "properties" in schema:
        return _object(schema, schemas, whole=whole)
    if "enum" in schema:
        return SAMPLES[name] if SAMPLES.get(name) in schema["enum"] else schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "array" and (whole or schema.get("minItems")):
        return [example(schema["items"], schemas, name, whole=whole)]
    sample = SAMPLES.get(name)
    if sample is not None and _is(sample, kind):
        return sample
    return schema.get("default", schema.get("minimum", _PLAINEST[kind]))


def _object(schema: Schema, schemas: dict[str, Schema], *, whole: bool) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    # Bytes are required under one of two names; the first of them is the text.
    required.update(either["oneOf"][0]["required"][0] for either in schema.get("allOf", ()))
    left_out = {name for name in schema["properties"] if name.endswith("_base64")}
    return {
        name: example(field, schemas, name, whole=whole)
        for name, field in schema["properties"].items()
        if name not in left_out and (whole or name in required)
    }


def _is(sample: Any, kind: str) -> bool:
    return isinstance(sample, {"string": str, "integer": int, "number": int | float}.get(kind, object))
