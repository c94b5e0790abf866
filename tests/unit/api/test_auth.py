"""Who gets in: a table of Host, Origin and Authorization."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from raftos.api.auth import Gate
from raftos.api.connection import Request
from raftos.errors import Denied, RaftosError, Unauthorized

SECRET = bytes(range(32))
BEARER = f"Bearer {SECRET.hex()}"


def request(**headers: str) -> Request:
    made = Request()
    made.headers = {name.encode(): value.encode() for name, value in headers.items()}
    return made


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({"host": "127.0.0.1:4001", "authorization": BEARER}, None),
        ({"host": "localhost:4001", "authorization": BEARER}, None),
        ({"host": "LOCALHOST:4001", "authorization": BEARER}, None),
        ({"host": "[::1]:4001", "authorization": BEARER}, None),
        ({"host": "127.0.0.1:4001", "origin": "http://127.0.0.1:4001", "authorization": BEARER}, None),
        ({"host": "127.0.0.1:4001", "origin": "http://127.0.0.1:4002", "authorization": BEARER}, Denied),
        ({"host": "127.0.0.1:4001", "origin": "null", "authorization": BEARER}, Denied),
        ({"host": "evil.example:4001", "authorization": BEARER}, Denied),
        ({"host": "127.0.0.1", "authorization": BEARER}, Denied),
        ({"authorization": BEARER}, Denied),
        ({"host": "127.0.0.1:4001"}, Unauthorized),
        ({"host": "127.0.0.1:4001", "authorization": "Bearer"}, Unauthorized),
        ({"host": "127.0.0.1:4001", "authorization": SECRET.hex()}, Unauthorized),
        ({"host": "127.0.0.1:4001", "authorization": BEARER[:-1] + "0"}, Unauthorized),
        ({"host": "127.0.0.1:4001", "authorization": BEARER + "0"}, Unauthorized),
    ],
)
def test_the_gate_lets_in_only_who_belongs_here(
    headers: dict[str, str], refusal: type[RaftosError] | None
) -> None:
    """Wrong names and foreign pages are denied, a missing or wrong secret is unauthorized."""
    with nullcontext() if refusal is None else pytest.raises(refusal):
        Gate(SECRET, "127.0.0.1", 4001).admit(request(**headers), needs_secret=True)


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({"host": "127.0.0.1"}, None),
        ({"host": "127.0.0.1:80"}, None),
        ({"host": "Localhost"}, None),
        ({"host": "[::1]"}, None),
        ({"host": "127.0.0.1", "origin": "http://127.0.0.1"}, None),
        ({"host": "127.0.0.1", "origin": "http://127.0.0.1:8080"}, Denied),
        ({"host": "127.0.0.1:8080"}, Denied),
        ({"host": "evil.example"}, Denied),
        ({"host": ""}, Denied),
        ({}, Denied),
    ],
)
def test_a_host_without_a_port_means_port_80(
    headers: dict[str, str], refusal: type[RaftosError] | None
) -> None:
    """Clients leave that port out, of Host and Origin; another port, or another name, is denied as ever."""
    with nullcontext() if refusal is None else pytest.raises(refusal):
        Gate(SECRET, "127.0.0.1", 80).admit(request(**headers), needs_secret=False)


def test_a_health_check_needs_no_secret_but_the_right_host() -> None:
    """An orchestrator has no secret; a page of another origin still gets nothing."""
    gate = Gate(SECRET, "127.0.0.1", 4001)
    gate.admit(request(host="127.0.0.1:4001"), needs_secret=False)
    with pytest.raises(Denied):
        gate.admit(request(host="evil.example"), needs_secret=False)
