"""The table of keys, what is counted of it, and where a prefix ends in it."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    key TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    expires_ms INTEGER,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS kv_expiry ON kv (expires_ms) WHERE expires_ms IS NOT NULL;
"""

KEYS = "kv.keys"

_LAST_CHARACTER = "\U0010ffff"


def after(prefix: str) -> str | bytes:
    """The least text greater than all that begin with `prefix`; for SQLite any blob is, if there is none."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return b""
    following = ord(stem[-1]) + 1
    # Surrogates are no characters, so UTF-8 skips them.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
