"""How much there may be: of a key, of a value, at once, and altogether."""

from __future__ import annotations

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_TTL_MS = 10 * 365 * 24 * 3_600_000
MAX_TXN_ITEMS = 128
MAX_TXN_BYTES = MAX_VALUE_BYTES
MAX_EXPIRING = 250
"""The keys of one `kv.expire`: even the longest make no large log entry."""
MAX_EXPIRING_AT_ONCE = 10_000
MAX_KEYS = 10_000_000
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page of `kv.list` ends early once its values reach this; its cursor goes on from there."""
