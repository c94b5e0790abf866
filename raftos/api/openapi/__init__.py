"""`/openapi.json`: the whole API as OpenAPI 3.1, derived from what serves it.

The paths come from the table of routes itself, the fields from the types of the domains, the errors from
`raftos/errors.py`; only what `fixed.py` says of the routes outside the domains is written by hand. It is
made at the first request, kept compressed (some 10 KiB), and needs no secret: it tells nothing of a cluster.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from raftos.api.answers import JSON, Answer, encode_json
from raftos.api.connection import Request
from raftos.api.domains import path_of
from raftos.api.openapi import fixed
from raftos.api.openapi.examples import example
from raftos.api.openapi.operations import (
    CONSISTENCY,
    GROWING_ERRORS,
    HEADERS,
    PARAMETERS,
    READ_ERRORS,
    REQUEST_ID,
    TIMEOUT,
    WRITE_ERRORS,
    answered,
    body,
    error_responses,
    operation,
)
from raftos.api.openapi.schemas import FOLDER, Catalogue, Schema, parameters, sentence, without
from raftos.api.ui import compressed_answer
from raftos.errors import BY_CODE, ErrorBody
from raftos.state.command import Command, Query
from raftos.state.domain import Domain
from raftos.state.domains import DOMAINS, tag_of

DESCRIPTION = """\
Any member answers any request. Every request but the health checks and this description carries the cluster's
secret, `raftos token show`: press **Authorize** and paste it.

**Bytes.** A field of type bytes, say `value`, is text under `value` where it is UTF-8, and base64 under
`value_base64` where it is not, both ways. In msgpack it is bytes.

**Request ids.** Sent again with the same `request_id` within 10 minutes, a command is not applied again and
returns its first result.

**Errors** have one shape: `{"error": {"code", "message", "retryable", "leader"}}`.
"""

Routes = Mapping[str, Mapping[str, Any]]
"""Path -> method -> handler; only the first two are read here."""


class OpenApi:
    """The handler of `/openapi.json`."""

    def __init__(self, routes: Routes, open_routes: Collection[str], version: str) -> None:
        self._given = (routes, open_routes, version)
        self._compressed = b""

    async def __call__(self, request: Request) -> Answer:
        if not self._compressed:
            self._compressed = self._compress()
        return compressed_answer(request, self._compressed, JSON)

    def _compress(self) -> bytes:
        return gzip.compress(encode_json(document(*self._given)), mtime=0)


def document(routes: Routes, open_routes: Collection[str], version: str) -> Schema:
    """The description of these routes. Raises KeyError for a route that nothing describes."""
    catalogue = _catalogue()
    known = {**fixed.operations(catalogue), **_operations(catalogue)}
    paths: dict[str, Schema] = {}
    for path, methods in routes.items():
        shown = "/docs/{file}" if path.startswith("/docs/") else path
        for method in methods:
            described = known[method, shown]
            if path in open_routes:
                described = {**described, "security": []}
            paths.setdefault(shown, {})[method.lower()] = described
    used = {described["tags"][0] for methods in paths.values() for described in methods.values()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "raftos",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The member that served this."}],
        "security": [{"secret": []}],
        "tags": [tag for tag in _tags() if tag["name"] in used],
        "paths": paths,
        "components": _components(catalogue),
    }


def _catalogue() -> Catalogue:
    catalogue = Catalogue()
    catalogue.add(fixed.KINDS)
    for domain in DOMAINS:
        kinds = [*domain.offered, *domain.queries, *domain.answers.values(), *domain.events]
        catalogue.add(kinds, f"{domain.name}.")
        for event in domain.events:
            _stamp(catalogue.schema(event))
    catalogue.schema(ErrorBody)["properties"]["code"]["enum"] = sorted(BY_CODE)
    return catalogue


def _stamp(event: Schema) -> None:
    """What the stream adds to every event."""
    event["properties"] |= {"revision": {"type": "integer"}, "time_ms": {"type": "integer"}}
    event["required"] += ["revision", "time_ms"]


def _components(catalogue: Catalogue) -> Schema:
    error = {"type": "object", "required": ["error"], "properties": {"error": catalogue[ErrorBody]}}
    events = {"oneOf": [catalogue[event] for domain in DOMAINS for event in domain.events]}
    secret = {"type": "http", "scheme": "bearer", "description": "The cluster's secret: `raftos token show`."}
    return {
        "schemas": {**catalogue.schemas, "Error": error, "Event": events},
        "responses": error_responses(),
        "parameters": PARAMETERS,
        "headers": HEADERS,
        "securitySchemes": {"secret": secret},
    }


def _tags() -> list[Schema]:
    """The domains first, with the sentence that opens their essay."""
    domains = [{"name": domain.name, "description": _opening(domain)} for domain in DOMAINS]
    # A tag has one description; where a domain and a fixed route share one, that of the routes is the wider.
    said_of = {tag["name"]: tag for tag in domains} | {
        name: {"name": name, "description": said} for name, said in fixed.TAGS.items()
    }
    return list(said_of.values())


def _opening(domain: Domain) -> str:
    essay = sys.modules[f"raftos.state.domains.{domain.name}"].__doc__ or ""
    return sentence(essay.partition("\n\n")[0])


def _operations(catalogue: Catalogue) -> dict[tuple[str, str], Schema]:
    """What the domains' commands and queries do, by method and path."""
    found: dict[tuple[str, str], Schema] = {}
    for domain in DOMAINS:
        found.update((("POST", path), described) for path, described in _commands(domain, catalogue))
        found.update((("GET", path), described) for path, described in _queries(domain, catalogue))
    return found


def _commands(domain: Domain, catalogue: Catalogue) -> Iterator[tuple[str, Schema]]:
    for kind in domain.offered:
        fields = without(catalogue.schema(kind), "type")
        shown = example(fields, catalogue.schemas)
        fields["properties"] |= {"request_id": REQUEST_ID}
        errors = (*WRITE_ERRORS, *(GROWING_ERRORS if kind in domain.grows else ()))
        described = operation(
            domain.name,
            _name(kind),
            sentence(kind.__doc__),
            _answer(domain, kind, catalogue),
            errors,
            parameters=[TIMEOUT],
            requestBody=body(fields, shown),
        )
        yield path_of(tag_of(kind)), described


def _queries(domain: Domain, catalogue: Catalogue) -> Iterator[tuple[str, Schema]]:
    for kind in domain.queries:
        fields = without(catalogue.schema(kind), "type")
        samples = example(fields, catalogue.schemas)
        described = operation(
            domain.name,
            _name(kind),
            sentence(kind.__doc__),
            _answer(domain, kind, catalogue, aged=True),
            READ_ERRORS,
            parameters=[*_with_examples(parameters(fields), samples), CONSISTENCY, TIMEOUT],
        )
        yield path_of(tag_of(kind)), described


def _with_examples(found: list[Schema], samples: Mapping[str, Any]) -> list[Schema]:
    return [
        parameter | {"example": samples[parameter["name"]]} if parameter["name"] in samples else parameter
        for parameter in found
    ]


def _answer(
    domain: Domain, kind: type[Command | Query], catalogue: Catalogue, *, aged: bool = False
) -> Schema:
    reference = catalogue[domain.answers[kind]]
    return answered(reference, example(reference, catalogue.schemas, whole=True), aged=aged)


def _name(kind: type[Command | Query]) -> str:
    return tag_of(kind).replace(".", "_")


__all__ = ["FOLDER", "OpenApi", "document"]
