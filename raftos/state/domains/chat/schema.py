"""The tables of rooms, messages and markers, the index of words, and how a room is found by its name."""

from __future__ import annotations

from raftos.state.fulltext import FullText

SCHEMA = """
CREATE TABLE IF NOT EXISTS chat_rooms (
    number INTEGER PRIMARY KEY,
    room TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    oldest_ms INTEGER NOT NULL,
    posted_ms INTEGER,
    archived INTEGER NOT NULL,
    keep_messages INTEGER,
    keep_ms INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS chat_full ON chat_rooms (last - trimmed - keep_messages)
    WHERE last - trimmed - keep_messages > 0;
CREATE INDEX IF NOT EXISTS chat_aging ON chat_rooms (oldest_ms + keep_ms)
    WHERE keep_ms IS NOT NULL AND last > trimmed;
CREATE TABLE IF NOT EXISTS chat_messages (
    revision INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    sender TEXT NOT NULL,
    sent_ms INTEGER NOT NULL,
    reply_to INTEGER,
    edited_ms INTEGER,
    text TEXT NOT NULL,
    UNIQUE (room, sequence)
) STRICT;
CREATE TABLE IF NOT EXISTS chat_markers (
    room INTEGER NOT NULL,
    reader TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (room, reader)
) STRICT, WITHOUT ROWID;
"""

FULL_TEXT = FullText(
    name="chat_search",
    texts="SELECT revision AS id, room AS part, sequence AS place, text FROM chat_messages WHERE text <> ''",
    tally="chat.indexed",
)
ROOMS = "chat.rooms"
ROOM_BY_NAME = "SELECT number, last, trimmed, archived, keep_messages, keep_ms FROM chat_rooms WHERE room = ?"
