"""Claims about the file of contexts and about where a client's endpoints come from."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from raftos.client import contexts
from raftos.client.contexts import Context, Target
from raftos.errors import InvalidInput

ONE = Context(("http://127.0.0.1:4001",), "aa11", "one")
TWO = Context(("http://127.0.0.1:4002", "http://127.0.0.1:4003"), "bb22", "two")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAFTOS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAFTOS_ENDPOINTS", raising=False)
    return tmp_path / "home"


def test_a_context_is_kept_and_becomes_current() -> None:
    """What `put` wrote is what `load` and `resolve` give."""
    contexts.put("one", ONE)
    contexts.put("two", TWO)
    assert contexts.load() == contexts.Contexts("two", {"one": ONE, "two": TWO})
    assert contexts.resolve() == Target(TWO.endpoints, "bb22")
    assert contexts.resolve(context="one") == Target(ONE.endpoints, "aa11")


def test_the_file_is_for_its_owner_alone_and_replaced_whole(home: Path) -> None:
    """Mode 0600 whatever the umask, no temporary file left, and a new inode with each change."""
    before = os.umask(0)
    try:
        contexts.put("one", ONE)
        file = home / "contexts.json"
        first = file.stat()
        contexts.put("two", TWO)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert file.stat().st_ino != first.st_ino
    assert sorted(path.name for path in home.iterdir()) == ["contexts.json", "contexts.lock"]


def test_without_any_context_the_error_names_the_next_command() -> None:
    """A new user is told what to type."""
    with pytest.raises(InvalidInput, match="raftos dev start"):
        contexts.resolve()


def test_an_unknown_context_is_refused_with_the_known_names() -> None:
    """A typing error in --context is easy to see."""
    contexts.put("one", ONE)
    with pytest.raises(InvalidInput, match=r"'oen'.*known: one"):
        contexts.resolve(context="oen")


@pytest.mark.parametrize(
    ("given", "context", "environment", "expected"),
    [
        (["127.0.0.1:1"], None, "http://e:2", "http://127.0.0.1:1"),
        (["127.0.0.1:1"], "one", "http://e:2", "http://127.0.0.1:1"),
        (None, "one", "http://e:2", "http://127.0.0.1:4001"),
        (None, None, " http://e:2/ , ", "http://e:2"),
        (None, None, "", "http://127.0.0.1:4002"),
        ([], None, "", "http://127.0.0.1:4002"),
    ],
)
def test_endpoints_come_from_the_first_source_that_has_any(
    given: list[str] | None,
    context: str | None,
    environment: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arguments, then a named context, then the environment, then the current context."""
    contexts.put("one", ONE)
    contexts.put("two", TWO)
    monkeypatch.setenv("RAFTOS_ENDPOINTS", environment)
    target = contexts.resolve(given, context)
    assert target.endpoints[0] == expected
    assert target.token == ("aa11" if context == "one" else "bb22")


def test_endpoints_need_no_context() -> None:
    """A cluster may be asked without a credential; its answer says if it wants one."""
    assert contexts.resolve(["127.0.0.1:1"]) == Target(("http://127.0.0.1:1",), "")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1",
        "http://127.0.0.1",
        "https://a:1",
        "http://a:1/x",
        "http://a:x",
        "a:1\r\nX: y",
        "a b:1",
        "ä:1",
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    """Nothing odd gets into a request's head."""
    with pytest.raises(InvalidInput, match="not a member's address"):
        contexts.resolve([endpoint])


def test_a_token_that_could_break_a_header_is_refused() -> None:
    """A line break in a credential would become a header of its own."""
    with pytest.raises(InvalidInput, match="token"):
        contexts.put("one", Context(ONE.endpoints, "aa\r\nX: y", "one"))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"contexts": {"a": 1}}', b"\xff"])
def test_a_damaged_file_is_reported_and_not_overwritten(content: bytes, home: Path) -> None:
    """The user's only copy of a credential is never replaced by a guess."""
    home.mkdir()
    file = home / "contexts.json"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"contexts\.json.*damaged"):
        contexts.put("one", ONE)
    assert file.read_bytes() == content


def test_forgetting_a_context() -> None:
    """Without the current context none is current; others stay."""
    contexts.put("one", ONE)
    contexts.put("two", TWO)
    contexts.remove("two")
    contexts.remove("two")
    assert contexts.load() == contexts.Contexts(None, {"one": ONE})


def _put_many(home: str, name: str) -> None:
    os.environ["RAFTOS_HOME"] = home
    for number in range(20):
        contexts.put(f"{name}{number}", ONE)


def test_concurrent_changes_lose_nothing(home: Path) -> None:
    """Two processes that add contexts at once both find all of theirs."""
    spawning = multiprocessing.get_context("spawn")
    workers = [spawning.Process(target=_put_many, args=(str(home), name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(contexts.load().contexts) == 40
