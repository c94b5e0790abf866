"""The pieces every operation of `/openapi.json` is made of: answers, errors, parameters.

Errors have one shape, so each status is one component that operations refer to. `SAID` names what every
status means; a status that some error has and that stands not here fails a test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from raftos.api.answers import JSON
from raftos.api.openapi.schemas import FOLDER, Schema
from raftos.api.requests import MAX_TIMEOUT_MS
from raftos.errors import BY_CODE

SAID = {
    400: "The request is wrong and stays wrong.",
    401: "No credential, or a wrong one.",
    403: "The Host, the Origin or the credential is not allowed.",
    404: "What is named does not exist.",
    409: "Version, existence or request id does not match.",
    410: "The events asked for are no longer kept.",
    413: "A stated limit is exceeded.",
    415: "The content type of the body is another one.",
    429: "There are as many of these as there may be.",
    500: "A bug in raftos, rolled back and reported.",
    503: "The cluster or this member cannot answer now: try again, here or elsewhere.",
    504: "May be applied: send it again with the same request id.",
    507: "The state is full: reads and deletes go on.",
}

OPEN_ERRORS = (403, 500)
"""What even a request without a secret can meet."""
READ_ERRORS = (400, 401, 403, 404, 500, 503)
WRITE_ERRORS = (400, 401, 403, 404, 409, 413, 415, 500, 503, 504)
GROWING_ERRORS = (429, 507)
"""What only a command that stores something can meet."""

TIMEOUT = {"$ref": "#/components/parameters/timeout"}
CONSISTENCY = {"$ref": "#/components/parameters/consistency"}

PARAMETERS: Schema = {
    "timeout": {
        "name": "Raftos-Timeout-Ms",
        "in": "header",
        "description": "How long to wait for agreement; without it the member's `request_timeout_ms`.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
    "consistency": {
        "name": "consistency",
        "in": "query",
        "description": "`linearizable` sees every write acknowledged before the request began; `stale` is "
        "this member's own state, also without a quorum, and says in `Raftos-Age-Ms` how old it may be.",
        "schema": {"enum": ["linearizable", "stale"], "default": "linearizable"},
    },
}

HEADERS: Schema = {
    "time": {
        "description": "Cluster time in milliseconds, from which clients mint request ids.",
        "schema": {"type": "integer"},
    },
    "age": {
        "description": "On a stale read: how old the answer may be, in milliseconds.",
        "schema": {"type": "integer"},
    },
}

REQUEST_ID: Schema = {
    "type": ["string", "null"],
    "format": "uuid",
    "description": "A version 7 UUID whose time is cluster time. Sent again with the same id within 10 "
    "minutes, a command is not applied again and returns its first result. Without one the member mints "
    "an id.",
}

_TIME = {"Raftos-Time": {"$ref": "#/components/headers/time"}}
_AGE = {"Raftos-Age-Ms": {"$ref": "#/components/headers/age"}}


def operation(tag: str, name: str, text: str, answer: Schema, errors: Sequence[int], **more: Any) -> Schema:
    """One operation. The first sentence of `text` is its summary; `answer` is the response of status 200."""
    summary, _, rest = text.partition(". ")
    described = {"description": rest} if rest else {}
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary.removesuffix("."),
        **described,
        **more,
        "responses": {"200": answer, **{str(status): error_reference(status) for status in sorted(errors)}},
    }


def answered(schema: Schema, example: Any = None, *, media: str = JSON, aged: bool = False) -> Schema:
    """A response of status 200 with a body."""
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    headers = {**_TIME, **_AGE} if aged else _TIME
    return {"description": "Done.", "headers": headers, "content": {media: content}}


def body(schema: Schema, example: Any, *others: str) -> Schema:
    """What a request has to carry, as JSON or in one of the other media types."""
    shown = {"schema": schema, "example": example}
    content = {JSON: shown, **{media: {"schema": schema} for media in others}}
    return {"required": True, "content": content}


def error_reference(status: int) -> Schema:
    return {"$ref": f"#/components/responses/error_{status}"}


def error_responses() -> Schema:
    """One response for each status, with the codes it may have and an example."""
    codes: dict[int, list[str]] = defaultdict(list)
    for code, kind in BY_CODE.items():
        codes[kind.http_status].append(code)
    codes[415].append("invalid")
    return {f"error_{status}": _error_response(status, codes[status]) for status in sorted(codes)}


def _error_response(status: int, codes: Iterable[str]) -> Schema:
    named = list(codes)
    kind = BY_CODE[named[0]]
    example = {
        "error": {"code": named[0], "message": SAID[status], "retryable": kind.retryable, "leader": None}
    }
    return {
        "description": f"{SAID[status]} `code` is {' or '.join(f'`{code}`' for code in named)}.",
        "content": {JSON: {"schema": {"$ref": f"{FOLDER}Error"}, "example": example}},
    }
