"""The page `/docs`: the API to read and to try out, served from this member alone.

It is Swagger UI over `/openapi.json`. Nothing comes from anywhere else, and the page's policy forbids it;
it needs no secret to look, but what is sent from it does ("Authorize"). Only the files named here exist, so
there is no path to climb out of, and none is kept in memory: each is read when it is asked for. The largest
takes the event loop about a millisecond, or ten where a client takes no gzip, which every browser does.

Swagger UI's own files are kept compressed, as most browsers ask for them; `static/README.md` says where
they are from.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from raftos.api.answers import Answer
from raftos.api.connection import Request

FOLDER = Path(__file__).parent / "static"

FILES = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs/docs.css": ("docs.css", "text/css; charset=utf-8"),
    "/docs/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs/swagger-ui.css": ("swagger-ui.css.gz", "text/css; charset=utf-8"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", "text/javascript; charset=utf-8"),
}
"""Path -> file and content type."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = f"Content-Security-Policy: {POLICY}\r\nReferrer-Policy: no-referrer\r\n"


def routes() -> dict[str, dict[str, Callable[[Request], Awaitable[Answer]]]]:
    """Path -> method -> handler."""
    return {path: {"GET": partial(_answer, *named)} for path, named in FILES.items()}


async def _answer(name: str, content_type: str, request: Request) -> Answer:
    content = (FOLDER / name).read_bytes()
    if not name.endswith(".gz"):
        return Answer(200, content, content_type, HEADERS)
    answer = compressed_answer(request, content, content_type)
    answer.headers += HEADERS
    return answer


def compressed_answer(request: Request, compressed: bytes, content_type: str) -> Answer:
    """An answer whose body is kept compressed, for whoever takes it so, and for whoever does not."""
    vary = "Vary: Accept-Encoding\r\n"
    if "gzip" in (request.header(b"accept-encoding") or ""):
        return Answer(200, compressed, content_type, f"Content-Encoding: gzip\r\n{vary}")
    return Answer(200, gzip.decompress(compressed), content_type, vary)
