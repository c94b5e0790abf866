"""`/docs` is served from this member alone: known files, tight headers, small in memory."""

from __future__ import annotations

import gzip
import hashlib
import re
import tracemalloc
from pathlib import Path

import pytest

from raftos.api import ui
from tests.unit.api.harness import Api, run

LARGE = "/docs/swagger-ui-bundle.js"


@pytest.mark.parametrize("path", ui.FILES)
def test_every_file_of_the_page_is_served_without_a_secret(tmp_path: Path, path: str) -> None:
    """With its type, and under a policy that lets nothing in from elsewhere."""

    async def scenario(api: Api) -> None:
        response = await api.get(path, authorization=None)
        assert response.status == 200
        assert response.body
        assert response.headers["content-type"] == ui.FILES[path][1]
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"

    run(tmp_path, scenario)


def test_the_page_asks_for_nothing_that_is_not_served() -> None:
    """Its links and scripts are this member's own."""
    page = (ui.FOLDER / "docs.html").read_text(encoding="utf-8")
    wanted = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert wanted == {*ui.FILES, "/openapi.json"} - {"/docs"}


@pytest.mark.parametrize("path", [LARGE, "/openapi.json"])
def test_compressed_and_plain_are_the_same_content(tmp_path: Path, path: str) -> None:
    """Whoever takes gzip gets it; the length is right either way."""

    async def scenario(api: Api) -> None:
        packed = await api.get(path, **{"accept-encoding": "gzip, br"})
        plain = await api.get(path)
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) / 3

    run(tmp_path, scenario)


def test_pages_of_other_origins_and_hosts_get_nothing(tmp_path: Path) -> None:
    """Open means without a secret, not to every web page."""

    async def scenario(api: Api) -> None:
        for path in ("/docs", "/openapi.json"):
            assert (await api.get(path, host="evil.example")).code == "denied"
            assert (await api.get(path, origin="http://evil.example")).code == "denied"

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/README.md",
        "/docs/../docs.html",
        "/docs/%2e%2e/ui.py",
        "/docs/..%2fui.py",
        "/docs//etc/passwd",
        "/docs/swagger-ui.css.gz",
    ],
)
def test_no_other_name_leads_to_a_file(tmp_path: Path, path: str) -> None:
    """There is a table of names, and nothing beside it."""

    async def scenario(api: Api) -> None:
        assert (await api.get(path)).code == "not_found"

    run(tmp_path, scenario)


def test_files_are_read_on_demand_and_not_kept(tmp_path: Path) -> None:
    """After the page was loaded the member holds less than 100 KiB more than before."""

    async def scenario(api: Api) -> None:
        await api.get("/livez")
        tracemalloc.start()
        for path in (*ui.FILES, "/openapi.json"):
            await api.get(path, **{"accept-encoding": "gzip"})
        await api.get("/livez")
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak > 400 * 1024
        assert kept < 100 * 1024

    run(tmp_path, scenario)


def test_the_files_of_swagger_ui_are_unchanged() -> None:
    """static/README.md names their checksums; `python -m docs.swagger_ui` wrote both."""
    rows = re.findall(
        r"\| `(.*)` \| `([0-9a-f]{64})` \|", (ui.FOLDER / "README.md").read_text(encoding="utf-8")
    )
    assert len(rows) == 2
    for name, checksum in rows:
        data = gzip.decompress((ui.FOLDER / f"{name}.gz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == checksum
