"""The operations that follow from no domain: the cluster, batches, events, health and metrics.

A route of `api/app.py` that is written down there has its entry here; a test holds the two together.
"""

from __future__ import annotations

import msgspec

from raftos.api.answers import MSGPACK
from raftos.api.beacons import Announce, Announced, BeaconList
from raftos.api.cluster import Transfer
from raftos.api.metrics import TEXT_FORMAT
from raftos.api.openapi.operations import (
    CONSISTENCY,
    OPEN_ERRORS,
    REQUEST_ID,
    TIMEOUT,
    answered,
    body,
    operation,
)
from raftos.api.openapi.schemas import FOLDER, Catalogue, Schema
from raftos.api.snapshots import CONTENT_TYPE as SNAPSHOT
from raftos.beacons import MAX_TEXT_BYTES
from raftos.errors import ErrorBody
from raftos.membership import Changed, Join, Membership, PromoteMember, RemoveMember
from raftos.reports import LeaderView, StatusView
from raftos.state.domains import OFFERED, QUERIES

EVENT_STREAM = "text/event-stream"

TAGS = {
    "cluster": "The cluster itself: who is in it, and who leads.",
    "snapshot": "The whole state as one file.",
    "batch": "Many commands and queries in one request.",
    "events": "What changes, as it changes.",
    "beacons": "Soft state that lives as long as it is announced: presence, typing.",
    "health": "Whether a member lives, serves, and how it does. Health checks need no secret.",
    "documentation": "This description. It needs no secret.",
}

KINDS: tuple[type[msgspec.Struct], ...] = (
    StatusView,
    LeaderView,
    Transfer,
    Membership,
    Join,
    PromoteMember,
    RemoveMember,
    Changed,
    Announce,
    Announced,
    BeaconList,
    ErrorBody,
)


def operations(catalogue: Catalogue) -> dict[tuple[str, str], Schema]:
    """By method and path."""
    return {
        **_cluster(catalogue),
        **_membership(catalogue),
        **_snapshot(),
        **_batch(),
        **_events(),
        **_beacons(catalogue),
        **_health(),
        **_documentation(),
    }


def _cluster(catalogue: Catalogue) -> dict[tuple[str, str], Schema]:
    return {
        ("GET", "/v1/status"): operation(
            "cluster",
            "status",
            "The leader, and every member with its role, state and load. A member that cannot be reached is "
            "listed, with null for what it did not say.",
            answered(catalogue[StatusView]),
            (401, 403, 500),
        ),
        ("GET", "/v1/leader"): operation(
            "cluster",
            "leader",
            "The leader this member follows.",
            answered(catalogue[LeaderView]),
            (401, 403, 500, 503),
        ),
        ("POST", "/v1/leader/transfer"): operation(
            "cluster",
            "leader_transfer",
            "Hand leadership to a member. Without a `target` the best follower takes over. Writes wait "
            "during the transfer; none is lost.",
            answered(_object({"leader": {"type": "string"}}), {"leader": "n2"}),
            (400, 401, 403, 404, 413, 415, 500, 503, 504),
            parameters=[TIMEOUT],
            requestBody=body(catalogue[Transfer], {"target": None}),
        ),
    }


_CHANGE_ERRORS = (400, 401, 403, 404, 409, 413, 415, 429, 500, 503, 504)
"""What a change of the membership can meet."""


def _membership(catalogue: Catalogue) -> dict[tuple[str, str], Schema]:
    joining = {
        "id": "83d0c5f0a1b2c3d4",
        "name": "n4",
        "peer_address": "127.0.0.1:4104",
        "endpoint": "http://127.0.0.1:4004",
        "role": "voter",
    }
    changed = {"id": "83d0c5f0a1b2c3d4", "name": "n4", "role": "voter", "changed": True}
    return {
        ("GET", "/v1/cluster/members"): operation(
            "cluster",
            "cluster_members",
            "Who belongs to the cluster, who votes, and where to find them. As agreed; whether each answers "
            "now is `/v1/status`.",
            answered(catalogue[Membership]),
            (400, 401, 403, 500, 503),
            parameters=[TIMEOUT],
        ),
        ("POST", "/v1/cluster/join"): operation(
            "cluster",
            "cluster_join",
            "Let a new member in. It is sent the log once its daemon runs, and votes once it has caught up. "
            "The answer says where the others are. Asked again, it answers again.",
            answered(catalogue[Membership]),
            _CHANGE_ERRORS,
            parameters=[TIMEOUT],
            requestBody=body(catalogue[Join], joining),
        ),
        ("POST", "/v1/cluster/promote"): operation(
            "cluster",
            "cluster_promote",
            "Let a learner vote. Asked again, it changes nothing.",
            answered(catalogue[Changed], changed),
            _CHANGE_ERRORS,
            parameters=[TIMEOUT],
            requestBody=body(catalogue[PromoteMember], {"target": "n4"}),
        ),
        ("POST", "/v1/cluster/remove"): operation(
            "cluster",
            "cluster_remove",
            "Send a member away for good. The leader hands over first. Refused where it would leave no "
            "majority that can be reached. Asked again, it changes nothing.",
            answered(catalogue[Changed], {**changed, "role": "none"}),
            _CHANGE_ERRORS,
            parameters=[TIMEOUT],
            requestBody=body(catalogue[RemoveMember], {"target": "n4"}),
        ),
    }


def _snapshot() -> dict[tuple[str, str], Schema]:
    file = answered({"type": "string", "format": "binary"}, media=SNAPSHOT)
    return {
        ("GET", "/v1/snapshot"): operation(
            "snapshot",
            "snapshot",
            "The whole state of this member as one file. Up to 4 may be read from one member at once. "
            "`raftos snapshot save` writes and checks it.",
            file,
            (400, 401, 403, 429, 500, 503),
            parameters=[CONSISTENCY, TIMEOUT],
        )
    }


def _batch() -> dict[tuple[str, str], Schema]:
    example = {
        "items": [
            {"command": {"type": "kv.put", "key": "greeting", "value": "hello"}},
            {"query": {"type": "kv.get", "key": "greeting"}, "consistency": "stale"},
        ]
    }
    request = _object({"items": {"type": "array", "maxItems": 2000, "items": _item()}})
    request["properties"]["timeout_ms"] = {"type": ["integer", "null"], "minimum": 1, "maximum": 60_000}
    request["additionalProperties"] = False
    ok = {"type": "object", "required": ["ok"], "properties": {"ok": {}}}
    result = {"oneOf": [ok, {"$ref": f"{FOLDER}Error"}]}
    return {
        ("POST", "/v1/batch"): operation(
            "batch",
            "batch",
            "Up to 2000 commands and queries at once. Independent, in order, not atomic, one result each; "
            "the queries run after the commands have been answered. The answer has the content type of the "
            "request. Several keys all or nothing: `kv.txn`.",
            answered(_object({"results": {"type": "array", "items": result}})),
            (400, 401, 403, 413, 415, 500),
            parameters=[TIMEOUT],
            requestBody=body(request, example, MSGPACK),
        )
    }


def _item() -> Schema:
    consistency = {"enum": ["linearizable", "stale"], "default": "linearizable"}
    return {
        "type": "object",
        "description": "One `command` or one `query`: its fields, and its name as `type`.",
        "properties": {
            "request_id": REQUEST_ID,
            "command": _one_of(list(OFFERED.items())),
            "query": _one_of(list(QUERIES.items())),
            "consistency": consistency,
        },
        "oneOf": [{"required": ["command"]}, {"required": ["query"]}],
        "additionalProperties": False,
    }


def _one_of(kinds: list[tuple[str, type]]) -> Schema:
    references = {tag: f"{FOLDER}{tag.partition('.')[0]}.{kind.__name__}" for tag, kind in kinds}
    return {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }


def _events() -> dict[tuple[str, str], Schema]:
    stream = (
        'event: kv.written\nid: 17\ndata: {"type":"kv.written","revision":17,"time_ms":1795000000000,'
        '"key":"greeting","version":1}\n\n'
        'event: bookmark\nid: 17\ndata: {"revision":17,"member":"n1","age_ms":4}\n\n'
    )
    answer = answered(
        {"type": "string", "description": f"Server-sent events; `data` is one of `{FOLDER}Event`."},
        stream,
        media=EVENT_STREAM,
    )
    return {
        ("GET", "/v1/events"): operation(
            "events",
            "events",
            "Follow what changes. Each message is one event; `id` stands on the last event of a revision, "
            "so that resuming after it splits none. A `bookmark` says how far the stream is when nothing "
            "else is said, an `end` why it ends. It does not end by itself: use a client that can stream.",
            answer,
            (400, 401, 403, 410, 429, 500, 503),
            parameters=_event_parameters(),
        )
    }


def _event_parameters() -> list[Schema]:
    text = {"type": "string"}
    return [
        _query("since", "Events after this revision; -N: the last N. Absent: from now.", {"type": "integer"}),
        _query(
            "topic", "Only these, separated by commas: events (`chat.posted`) or whole domains (`kv`).", text
        ),
        _query("prefix", "Only those whose subject (a key, a room, a member) begins with this.", text),
        _query("subject", "Only those whose subject is this.", text),
        CONSISTENCY,
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The same as `since`, as browsers send it.",
            "schema": {"type": "integer"},
        },
    ]


def _beacons(catalogue: Catalogue) -> dict[tuple[str, str], Schema]:
    example = {"topic": "chat/general", "name": "ada", "state": "typing", "ttl_ms": 5_000}
    topic = _query("topic", "The topic.", {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_BYTES})
    return {
        ("GET", "/v1/beacons"): operation(
            "beacons",
            "beacons",
            "What is announced of a topic now, anywhere in the cluster. Soft state: never in the log.",
            answered(catalogue[BeaconList]),
            (400, 401, 403, 413, 500),
            parameters=[{**topic, "required": True}],
        ),
        ("POST", "/v1/beacons"): operation(
            "beacons",
            "beacons_announce",
            "Announce something for a while. Announced again under its name, it lives on in its new state.",
            answered(catalogue[Announced], {"topic": "chat/general", "name": "ada"}),
            (400, 401, 403, 413, 415, 429, 500),
            requestBody=body(catalogue[Announce], example),
        ),
    }


def _health() -> dict[tuple[str, str], Schema]:
    text = answered({"type": "string"}, media=TEXT_FORMAT)
    return {
        ("GET", "/livez"): operation(
            "health",
            "livez",
            "Whether the process answers.",
            answered(_object({"alive": {"const": True}}), {"alive": True}),
            OPEN_ERRORS,
        ),
        ("GET", "/readyz"): operation(
            "health",
            "readyz",
            "Whether a request sent here now would be served. A leader is known, this member has applied "
            "close to what is committed, and its disk takes writes.",
            answered(_object({"ready": {"const": True}}), {"ready": True}),
            (*OPEN_ERRORS, 503),
        ),
        ("GET", "/metrics"): operation(
            "health",
            "metrics",
            "Figures in Prometheus' text format.",
            text,
            (401, 403, 500),
        ),
    }


def _documentation() -> dict[tuple[str, str], Schema]:
    page = answered({"type": "string"}, media="text/html")
    file = {"description": "A file of the page.", "content": {"*/*": {"schema": {"type": "string"}}}}
    name = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        ("GET", "/openapi.json"): operation(
            "documentation",
            "openapi",
            "The API as OpenAPI 3.1.",
            answered({"type": "object"}),
            OPEN_ERRORS,
        ),
        ("GET", "/docs"): operation(
            "documentation", "docs", "The API as a page to try out.", page, OPEN_ERRORS
        ),
        ("GET", "/docs/{file}"): operation(
            "documentation",
            "docs_file",
            "What the page is made of.",
            file,
            (*OPEN_ERRORS, 404),
            parameters=[name],
        ),
    }


def _object(properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}
