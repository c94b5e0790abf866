"""What every route reads from a request besides its fields: content type and deadline."""

from __future__ import annotations

import time

from raftos.api.answers import UnsupportedMediaType
from raftos.api.connection import Request
from raftos.errors import InvalidInput

MAX_TIMEOUT_MS = 60_000


def content_type(request: Request, *allowed: str) -> str:
    """The media type of the body, one of `allowed`. Raises UnsupportedMediaType."""
    found = request.header(b"content-type") or ""
    if found not in allowed:
        found = found.partition(";")[0].strip().lower()
    if found not in allowed:
        raise UnsupportedMediaType(f"the body's Content-Type has to be {' or '.join(allowed)}")
    return found


def deadline(request: Request, default_ms: int) -> float:
    """When to give up, in `time.monotonic()` seconds: `Raftos-Timeout-Ms`, or the default."""
    text = request.header(b"raftos-timeout-ms")
    if text is None:
        return time.monotonic() + default_ms / 1000
    if not text.isdecimal():
        raise InvalidInput("Raftos-Timeout-Ms has to be a whole number of milliseconds")
    return deadline_in(int(text))


def deadline_in(timeout_ms: int) -> float:
    """`timeout_ms` from now. Raises InvalidInput when it is out of range."""
    if not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise InvalidInput(f"a timeout is between 1 and {MAX_TIMEOUT_MS} milliseconds")
    return time.monotonic() + timeout_ms / 1000
