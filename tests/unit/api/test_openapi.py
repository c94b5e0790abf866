"""`/openapi.json` says what the API does: every route, valid by the standard, true to real answers."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from raftos.api import codec
from raftos.api.domains import path_of
from raftos.api.openapi import document
from raftos.api.openapi.operations import SAID
from raftos.errors import BY_CODE
from raftos.state.command import Command, Query
from raftos.state.domains import OFFERED, QUERIES, chat, kv, members, quota, validate
from tests.unit.api.harness import Api, run

OPEN = {"/livez"}
ROUTES = {
    "/livez": {"GET": None},
    "/v1/batch": {"POST": None},
    **{path_of(tag): {"POST": None} for tag in OFFERED},
    **{path_of(tag): {"GET": None} for tag in QUERIES},
}
DOCUMENT = document(ROUTES, OPEN, "1")


def described(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what a schema of the document says."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return bool(OAS31Validator(whole).is_valid(value))


def body_of(path: str) -> dict[str, Any]:
    found: dict[str, Any] = described("post", path)["requestBody"]["content"]["application/json"]
    return found


def answer_of(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = described(method, path)["responses"]["200"]["content"]["application/json"]
    return found["schema"]  # type: ignore[no-any-return] # from a dictionary of anything


async def the_whole_document(api: Api) -> dict[str, Any]:
    whole: dict[str, Any] = (await api.get("/openapi.json", authorization=None)).json
    return whole


def test_the_document_is_valid_openapi(tmp_path: Path) -> None:
    """By the official schema of OpenAPI 3.1, references and examples included."""

    async def scenario(api: Api) -> None:
        OpenAPIV31SpecValidator(await the_whole_document(api)).validate()

    run(tmp_path, scenario)


def test_every_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    """Path by path, method by method; a page's files share one entry."""

    async def scenario(api: Api) -> None:
        paths = (await the_whole_document(api))["paths"]
        told = {(method.upper(), path) for path, methods in paths.items() for method in methods}
        served = {
            (method, re.sub(r"^/docs/.*", "/docs/{file}", path))
            for path, methods in api.app.routes.items()
            for method in methods
        }
        assert told == served

    run(tmp_path, scenario)


def test_only_what_needs_no_secret_says_so(tmp_path: Path) -> None:
    """An operation is open in the document exactly if the API answers it to a stranger."""

    async def scenario(api: Api) -> None:
        whole = await the_whole_document(api)
        assert whole["security"] == [{"secret": []}]
        for path, methods in whole["paths"].items():
            target = path.replace("{file}", "docs.js")
            for method, operation in methods.items():
                response = await api.request(method.upper(), target, headers={"authorization": None})
                assert (response.status == 401) == ("security" not in operation), path

    run(tmp_path, scenario)


def test_operations_have_names_of_their_own() -> None:
    """Generated clients name their functions after them."""
    names = [
        operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("tag", OFFERED)
def test_the_example_of_a_command_can_be_sent(tag: str) -> None:
    """It is what the schema says, and the domain accepts it."""
    content = body_of(path_of(tag))
    assert is_valid(content["example"], content["schema"])
    command: Command = codec.typed(dict(content["example"]), OFFERED[tag])
    validate(command)


@pytest.mark.parametrize("tag", OFFERED)
def test_a_command_takes_a_request_id_and_no_unknown_field(tag: str) -> None:
    """As the API does; the type is in the path."""
    schema = body_of(path_of(tag))["schema"]
    assert {"request_id"} <= schema["properties"].keys()
    assert "type" not in schema["properties"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("tag", QUERIES)
def test_the_parameters_of_a_query_can_be_sent(tag: str) -> None:
    """All its fields and `consistency`; with the examples of what is required it is accepted."""
    found = [part for part in described("get", path_of(tag))["parameters"] if "name" in part]
    assert {"$ref": "#/components/parameters/consistency"} in described("get", path_of(tag))["parameters"]
    names = {part["name"] for part in found if part["in"] == "query"}
    assert names == set(QUERIES[tag].__struct_fields__)
    examples = {part["name"]: str(part["example"]) for part in found if "example" in part}
    if tag == "members.get":
        examples["name"] = "n1"  # It takes one of two, and requires neither alone.
    query: Query = codec.typed(examples, QUERIES[tag], from_text=True)
    validate(query)


@pytest.mark.parametrize("tag", [*OFFERED, *QUERIES])
def test_the_example_of_an_answer_is_one(tag: str) -> None:
    """Whoever writes a client from it is not misled."""
    method = "post" if tag in OFFERED else "get"
    content = described(method, path_of(tag))["responses"]["200"]["content"]["application/json"]
    assert is_valid(content["example"], content["schema"])


@pytest.mark.parametrize("domain", [chat, kv, members, quota])
def test_a_domain_is_introduced_by_the_sentence_that_opens_its_essay(domain: ModuleType) -> None:
    """Whether it is a file or a folder."""
    [said] = [tag["description"] for tag in DOCUMENT["tags"] if tag["name"] == domain.DOMAIN.name]
    assert (domain.__doc__ or "").startswith(f"{said}\n\n")


def test_every_status_of_an_error_is_described() -> None:
    """With its codes, and in the one shape."""
    assert {kind.http_status for kind in BY_CODE.values()} <= SAID.keys()
    told = DOCUMENT["components"]["responses"]
    for code, kind in BY_CODE.items():
        assert f"`{code}`" in told[f"error_{kind.http_status}"]["description"]


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"key": "a", "value": "1"}, True),
        ({"key": "a", "value_base64": "/w=="}, True),
        ({"key": "a", "value": "1", "value_base64": "/w=="}, False),
        ({"key": "a"}, False),
        ({"key": "a", "value": "1", "ttl_ms": None}, True),
        ({"key": "a", "value": "1", "ttl_ms": 0}, False),
        ({"key": "a", "value": "1", "colour": "red"}, False),
        ({"key": "a", "value": 1}, False),
        ({"key": "", "value": "1"}, False),
    ],
)
def test_the_document_and_the_api_accept_the_same(tmp_path: Path, body: dict[str, Any], valid: bool) -> None:
    """Bytes under one of their two names, limits, and no unknown field."""

    async def scenario(api: Api) -> None:
        assert is_valid(body, body_of("/v1/kv/put")["schema"]) is valid
        assert ((await api.post("/v1/kv/put", body)).status == 200) is valid

    run(tmp_path, scenario)


def test_real_answers_are_what_the_document_says(tmp_path: Path) -> None:
    """Values, bytes that are no text, lists, refusals and batches."""

    async def scenario(api: Api) -> None:
        for body in ({"key": "a", "value": "1", "ttl_ms": 60_000}, {"key": "b", "value_base64": "/w=="}):
            assert is_valid((await api.post("/v1/kv/put", body)).json, answer_of("post", "/v1/kv/put"))
        for target in ("/v1/kv/get?key=a", "/v1/kv/get?key=b", "/v1/kv/list", "/v1/kv/list?keys_only=true"):
            answer = (await api.get(target)).json
            assert is_valid(answer, answer_of("get", target.partition("?")[0])), answer
        refused = (await api.get("/v1/kv/get?key=missing")).json
        assert is_valid(refused, {"$ref": "#/components/schemas/Error"})
        assert not is_valid(refused, answer_of("get", "/v1/kv/get"))
        batch = body_of("/v1/batch")
        assert is_valid(batch["example"], batch["schema"])
        results = (await api.post("/v1/batch", batch["example"])).json
        assert is_valid(results, answer_of("post", "/v1/batch")), results
        assert not is_valid({"items": [{}]}, batch["schema"])

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "target", ["/v1/status", "/v1/leader", "/v1/beacons?topic=typing", "/livez", "/readyz"]
)
def test_what_follows_from_no_domain_is_described_as_it_is(tmp_path: Path, target: str) -> None:
    """The entries written by hand are held against real answers as well."""

    async def scenario(api: Api) -> None:
        whole = await the_whole_document(api)
        announce = whole["paths"]["/v1/beacons"]["post"]["requestBody"]["content"]["application/json"]
        assert (await api.post("/v1/beacons", announce["example"])).status == 200
        operation = whole["paths"][target.partition("?")[0]]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        answer = (await api.get(target)).json
        assert OAS31Validator({**schema, "components": whole["components"]}).is_valid(answer), answer

    run(tmp_path, scenario)


def test_a_route_that_nothing_describes_is_noticed() -> None:
    """A new route of api/app.py cannot be forgotten."""
    with pytest.raises(KeyError):
        document({"/v1/new": {"GET": None}}, OPEN, "1")
