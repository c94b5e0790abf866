"""Renews the files of Swagger UI in raftos/api/static: `python -m docs.swagger_ui VERSION`. Needs npm.

npm checks what it fetched against its registry's checksum. What is kept is compressed without a time
stamp, so the same version always gives the same bytes; `tests/unit/api/test_docs_page.py` holds them to the
checksums that this program writes down.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from docs.markdown import ROOT

FOLDER = ROOT / "raftos" / "api" / "static"
KEPT = ("swagger-ui.css", "swagger-ui-bundle.js")
LICENCES = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")
LICENCE = "swagger-ui.LICENSE.txt"


def fetch(version: str, folder: Path) -> tarfile.TarFile:
    """The package as npm has it."""
    done = subprocess.run(
        ["npm", "pack", "--silent", f"swagger-ui-dist@{version}"],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return tarfile.open(folder / done.stdout.strip())


def content(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/{name}")
    if file is None:
        raise FileNotFoundError(name)
    return file.read()


def readme(version: str, files: dict[str, bytes]) -> str:
    rows = "\n".join(f"| `{name}` | `{hashlib.sha256(data).hexdigest()}` |" for name, data in files.items())
    return f"""\
# Files of the page `/docs`

`docs.html`, `docs.js`, `docs.css` and `icon.svg` are raftos' own. The others are
[Swagger UI](https://swagger.io/tools/swagger-ui/) {version}, taken unchanged from the npm package
`swagger-ui-dist` and compressed; its licence and those of what it contains are in `{LICENCE}`. Do not edit
them: `python -m docs.swagger_ui VERSION` renews them and this page.

| file, not compressed | SHA-256 |
|---|---|
{rows}
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.swagger_ui VERSION")
    version = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder, fetch(version, Path(folder)) as package:
        files = {name: content(package, name) for name in KEPT}
        licences = [content(package, name) for name in LICENCES]
    for name, data in files.items():
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
    (FOLDER / LICENCE).write_bytes(b"\n\n----\n\n".join(licences))
    (FOLDER / "README.md").write_text(readme(version, files), encoding="utf-8")
    print(f"wrote Swagger UI {version} to {FOLDER.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
