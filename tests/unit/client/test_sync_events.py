"""Claims about following events without an event loop: from threads, interrupted, closed and forgotten."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from raftos import Client
from raftos.client.events import AsyncEvents, Bookmark
from raftos.client.sync import Events
from raftos.errors import InvalidInput, Unreachable

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]


@contextmanager
def later(delay_s: float, action: object) -> Iterator[None]:
    assert callable(action)
    timer = threading.Timer(delay_s, action)
    timer.start()
    yield
    timer.join()


def test_events_are_a_plain_iterator() -> None:
    """Connected when the block begins: what is written in it is seen."""
    with Client() as client, client.events(["kv"]) as events, client.kv.watch("k", prefix=True) as changes:
        begun = events.revision
        assert begun is not None
        written = [client.kv.put(f"k{number}", "1").revision for number in range(3)]
        assert [next(events).revision for _ in range(3)] == written
        assert [next(changes).key for _ in range(3)] == ["k0", "k1", "k2"]
        assert (events.revision, events.connected) == (written[-1], True)
        assert events.member in {"n1", "n2", "n3"}
        assert events.age_ms is not None


def test_nothing_of_the_follower_is_missing_here() -> None:
    """Every public name of the asynchronous one, and each says what it is."""
    names = {name for name in vars(AsyncEvents) if not name.startswith("_")} - {"aclose"}
    assert names < {name for name in vars(Events) if not name.startswith("_")}
    assert all(inspect.getdoc(getattr(Events, name)) for name in names - {"connected"})


def test_news_show_how_far_the_stream_is() -> None:
    """Bookmarks arrive while nothing happens."""
    with Client() as client, client.events(since=0) as events:
        while not isinstance(last := events.news()[-1], Bookmark):
            pass
        assert events.revision == last.revision > 0


def test_another_thread_may_close() -> None:
    """The loop that waits simply ends; so does one begun later."""
    with Client() as client:
        events = client.events()
        with later(0.2, events.close):
            assert list(events) == []
        assert list(events) == []


def test_closing_the_client_ends_the_loop() -> None:
    """Nobody hangs on a closed client; who comes later is told."""
    client = Client()
    events = client.events()
    with later(0.2, client.close):
        assert list(events) == []
    events.close()
    with pytest.raises(InvalidInput, match="closed"):
        next(client.events())


def test_an_interrupted_wait_loses_nothing() -> None:
    """After Ctrl-C the same follower goes on where it was."""
    with Client() as client, client.events(["kv"]) as events:
        for number in range(3):
            with later(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
                next(events)
            written = client.kv.put(f"{number}", "1")
            assert next(events).revision == written.revision


def test_threads_share_a_follower() -> None:
    """Each event goes to one of them."""
    with Client() as client, client.events(["kv"]) as events, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(lambda: [next(events).revision for _ in range(25)]) for _ in range(4)]
        written = [client.kv.put(f"{number}", "1").revision for number in range(100)]
        assert sorted(revision for each in taken for revision in each.result(10)) == written


def test_errors_arrive_in_the_thread_that_iterates() -> None:
    """Of the member, and when there is none."""
    with Client() as client, pytest.raises(InvalidInput, match="topics are"):
        next(client.events(["nonsense"]))
    with Client(["127.0.0.1:9"], timeout_s=0.2) as client:
        with pytest.raises(Unreachable), client.events():
            pass
        with pytest.raises(Unreachable):
            next(client.events(give_up_s=0.2))


def test_a_follower_keeps_its_client_open_and_is_forgotten_with_it() -> None:
    """As the namespaces do; afterwards no thread is left."""
    events = Client().events(since=0)
    gc.collect()
    assert next(events).revision == 1
    del events
    patience = time.monotonic() + 5
    while any(thread.name == "raftos-client" for thread in threading.enumerate()):
        assert time.monotonic() < patience
        time.sleep(0.05)
        gc.collect()
