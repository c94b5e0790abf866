"""How much there may be: of a name, of a text, at once, and altogether; and what counts as blank."""

from __future__ import annotations

from raftos.state.domain import MAX_ROWS

MAX_NAME_BYTES = 128
MAX_TEXT_BYTES = 64 * 1024
_BLANK_RANGES = (
    *((0x09, 0x0A), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200F)),
    *((0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
BLANKS = "".join(chr(each) for first, last in _BLANK_RANGES for each in range(first, last + 1))
"""Spaces and characters that only direct others: a text of nothing else is refused.

They stand here because what Python takes for a space follows the Unicode of its version.
"""
MAX_KEEP_MESSAGES = 1_000_000_000
MAX_KEEP_MS = 10 * 365 * 24 * 3_600_000
MAX_ROOMS = 10_000
MAX_READERS = MAX_ROWS
MAX_FOUND = 100
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early once its texts reach this."""
MAX_TRIM = 500
"""The most messages that one `chat.trim` forgets; it ends early once their texts reach `STEP_BYTES`."""
MAX_TRIMS = 50
