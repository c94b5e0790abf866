"""What always holds of the tables, and the bytes they keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from raftos.state.domains.chat.schema import FULL_TEXT
from raftos.state.tally import ROW_BYTES

_KEPT_BYTES = f"""
    SELECT ifnull(sum({ROW_BYTES} + length(CAST(kept AS BLOB))), 0) FROM (
        SELECT room AS kept FROM chat_rooms UNION ALL SELECT sender || text FROM chat_messages
        UNION ALL SELECT reader FROM chat_markers
    )
"""  # noqa: S608 - Put together from what stands here.
_NONE = {
    "rooms do not hold what they say": """
        SELECT count(*) FROM (
            SELECT trimmed + 1 AS first, last, oldest_ms, count(sequence) AS held, min(sequence) AS least,
            max(sequence) AS most, min(sent_ms) AS sent_ms
            FROM chat_rooms LEFT JOIN chat_messages ON chat_messages.room = number GROUP BY number
        ) WHERE held <> last - first + 1 OR held AND (first, last, oldest_ms) <> (least, most, sent_ms)
    """,
    "messages are in no room": """
        SELECT count(*) FROM chat_messages WHERE room NOT IN (SELECT number FROM chat_rooms)
    """,
    "messages came before the one before them": """
        SELECT count(*) FROM chat_messages AS later JOIN chat_messages AS earlier
        ON earlier.room = later.room AND earlier.sequence = later.sequence - 1
        WHERE earlier.sent_ms > later.sent_ms OR earlier.revision >= later.revision
    """,
    "markers are beyond the last message": """
        SELECT count(*) FROM chat_markers LEFT JOIN chat_rooms ON number = chat_markers.room
        WHERE sequence NOT BETWEEN 1 AND ifnull(last, 0)
    """,
    "rooms are not counted, or counted twice": """
        SELECT abs(count(*) - (SELECT value FROM tallies WHERE name = 'chat.rooms')) FROM chat_rooms
    """,
}


def kept_bytes(db: sqlite3.Connection) -> int:
    (size_bytes,) = db.execute(_KEPT_BYTES).fetchone()
    return int(size_bytes)


def check(db: sqlite3.Connection) -> Iterator[str]:
    for sentence, count_of in _NONE.items():
        (count,) = db.execute(count_of).fetchone()
        if count:
            yield f"{count} {sentence}"
    yield from FULL_TEXT.check(db)
