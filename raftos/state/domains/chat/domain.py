"""All of it as one value: what the rest of raftos knows about the domain."""

from __future__ import annotations

from raftos.state.domain import Domain
from raftos.state.domains.chat.answers import (
    FoundPage,
    Indexed,
    Marked,
    MarkerMoved,
    MessageEdited,
    MessagePosted,
    MessageRedacted,
    Messages,
    Posted,
    Readers,
    RoomArchived,
    RoomChanged,
    RoomCreated,
    RoomPage,
    RoomTrimmed,
    Trimmed,
)
from raftos.state.domains.chat.apply import (
    apply_archive,
    apply_create,
    apply_edit,
    apply_index,
    apply_mark,
    apply_post,
    apply_redact,
    apply_trim,
)
from raftos.state.domains.chat.checks import check, kept_bytes
from raftos.state.domains.chat.commands import (
    Archive,
    Create,
    Edit,
    History,
    Index,
    Mark,
    Markers,
    Post,
    Redact,
    Rooms,
    Search,
    Trim,
)
from raftos.state.domains.chat.limits import MAX_ROOMS
from raftos.state.domains.chat.queries import due, history, list_rooms, markers, search
from raftos.state.domains.chat.schema import FULL_TEXT, ROOMS, SCHEMA
from raftos.state.domains.chat.validate import (
    validate_fields,
    validate_mark,
    validate_post,
    validate_search,
)
from raftos.state.tally import UNLIMITED

DOMAIN = Domain(
    name="chat",
    schema=SCHEMA + FULL_TEXT.schema,
    commands={
        Create: apply_create,
        Archive: apply_archive,
        Post: apply_post,
        Edit: apply_edit,
        Redact: apply_redact,
        Mark: apply_mark,
        Trim: apply_trim,
        Index: apply_index,
    },
    queries={Rooms: list_rooms, History: history, Markers: markers, Search: search},
    answers={
        Create: RoomChanged,
        Archive: RoomChanged,
        Post: Posted,
        Edit: Posted,
        Redact: Posted,
        Mark: Marked,
        Trim: Trimmed,
        Index: Indexed,
        Rooms: RoomPage,
        History: Messages,
        Markers: Readers,
        Search: FoundPage,
    },
    validate={
        **dict.fromkeys(
            (Create, Archive, Edit, Redact, Trim, Index, Rooms, History, Markers), validate_fields
        ),
        Post: validate_post,
        Mark: validate_mark,
        Search: validate_search,
    },
    events={
        RoomCreated: "room",
        RoomArchived: "room",
        RoomTrimmed: "room",
        MessagePosted: "room",
        MessageEdited: "room",
        MessageRedacted: "room",
        MarkerMoved: "room",
    },
    tallies={ROOMS: MAX_ROOMS, FULL_TEXT.tally: UNLIMITED},
    grows={Create: lambda _: True, Post: lambda _: True},
    due=due,
    kept_bytes=kept_bytes,
    check=check,
)
