"""The command line as scripts see it: arguments in, two streams and an exit code out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raftos.client import contexts
from raftos_cli.main import root
from tests.unit.client.conftest import agreement as agreement  # noqa: PLC0414 - fixtures are found by name
from tests.unit.client.conftest import cluster as cluster  # noqa: PLC0414

Raftos = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A RAFTOS_HOME of this test alone, and no endpoints from outside."""
    monkeypatch.setenv("RAFTOS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAFTOS_ENDPOINTS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def raftos(home: Path) -> Raftos:
    """`raftos("kv", "get", "a")` runs that command line in this process."""
    runner = CliRunner()

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return runner.invoke(root, list(arguments), input=stdin)

    return run


@pytest.fixture
def dead_context(home: Path) -> str:
    """A current context whose only member does not listen; returns its endpoint."""
    endpoint = "http://127.0.0.1:9"
    contexts.put("gone", contexts.Context((endpoint,), "ab" * 32, "lost"))
    return endpoint
