"""Every command of the command line through every member, and with a dead member listed first.

It is one cluster: which member is asked must not be seen in any answer.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.daemons import Cluster

Run = Callable[..., str]


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """An endpoint at which nobody listens, and nobody can: its port is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(params=["n1", "n2", "n3", "nobody, n1", "nobody, n2", "nobody, n3"])
def run(request: pytest.FixtureRequest, shared: Cluster, nobody: str) -> Run:
    """Runs a command line that has to succeed through the endpoints of one case; returns its stdout."""
    known = {member.name: member.endpoint for member in shared.members} | {"nobody": nobody}
    options = [word for name in request.param.split(", ") for word in ("--endpoint", known[name])]

    def run(*arguments: str, stdin: bytes | None = None) -> str:
        done = shared.cli(*arguments, *options, stdin=stdin)
        assert done.exit_code == 0, (arguments, options, done.stderr)
        return done.stdout

    return run


def as_json(output: str) -> Any:
    return json.loads(output)


def test_keys_are_written_read_listed_and_deleted(run: Run) -> None:
    """put, get, ls, txn and both kinds of del."""
    first = as_json(run("kv", "put", "test/a", "1", "-o", "json"))
    assert first["version"] == 1
    assert run("kv", "get", "test/a") == "1\n"
    assert run("kv", "get", "test/a", "--stale") == "1\n", "what was read once is there"
    run("kv", "txn", "--if", "test/a=1", "--put", "test/b=2", "--put", "test/c=3")
    assert run("kv", "ls", "test/", "--keys-only") == "test/a\ntest/b\ntest/c\n"
    document = {"compare": [{"key": "test/b", "version": 1}], "writes": [{"op": "delete", "key": "test/b"}]}
    run("kv", "txn", "-", stdin=json.dumps(document).encode())
    run("kv", "del", "test/a")
    assert as_json(run("kv", "del", "--prefix", "test/", "-o", "json")) == {"deleted": 1}
    assert run("kv", "ls", "test/", "--keys-only") == ""


def test_the_cluster_is_described(run: Run, shared: Cluster) -> None:
    """status, node ls and node show list all members alive, under the leader they agree on."""
    leader = shared.leader()
    status = as_json(run("status", "-o", "json"))
    assert status["leader"] == leader.name
    assert [node["name"] for node in status["nodes"]] == ["n1", "n2", "n3"]
    assert {node["state"] for node in status["nodes"]} == {"alive"}
    assert [node["role"] for node in status["nodes"]].count("leader") == 1
    assert "n1" in run("status")
    listed = as_json(run("node", "ls", "-o", "json"))["nodes"]
    assert [node["id"] for node in listed] == [node["id"] for node in status["nodes"]]
    for member in shared.members:
        shown = as_json(run("node", "show", member.name, "-o", "json"))
        assert (shown["id"], shown["endpoint"]) == (member.id, member.endpoint)


def test_leadership_is_shown_and_handed_over(run: Run, shared: Cluster) -> None:
    """To the member that was named, to the best one, and back."""
    leader = shared.leader()
    assert as_json(run("leader", "show", "-o", "json"))["endpoint"] == leader.endpoint
    heir = next(member for member in shared.members if member is not leader)
    assert run("leader", "transfer", heir.name) == f"{heir.name}\n"
    assert shared.leader() is heir
    assert run("leader", "show") == f"{heir.name}\n"
    assert run("leader", "transfer") != f"{heir.name}\n"
    assert run("leader", "transfer", heir.name) == f"{heir.name}\n"


def test_what_needs_no_member_works_too(run: Run, shared: Cluster) -> None:
    """Neither asks anybody, but both take the same options."""
    assert run("token", "show") == f"{shared.dev.secret()}\n"
    assert as_json(run("version", "-o", "json"))["version"]
