"""`/v1/cluster`: membership over HTTP, and `/v1/snapshot`: the state as one file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from raftos.api.snapshots import MAX_READERS
from raftos.consensus.snapshots import SnapshotFailed
from tests.unit.api.harness import SECRET, Api, run

NAMES = ["n1", "n2", "n3"]
N4 = {"id": "id-n4", "name": "n4", "peer_address": "127.0.0.1:4104", "endpoint": "http://127.0.0.1:4004"}


def test_a_member_joins_is_promoted_and_removed(tmp_path: Path) -> None:
    """Each answer says what is so now; asked again it changes nothing."""

    async def scenario(api: Api) -> None:
        joined = await api.post("/v1/cluster/join", {**N4, "role": "learner"})
        assert joined.status == 200
        listed = (await api.get("/v1/cluster/members")).json
        assert joined.json == listed
        assert [(each["name"], each["role"]) for each in listed["items"]][-1] == ("n4", "learner")
        promoted = await api.post("/v1/cluster/promote", {"target": "n4"})
        assert promoted.json == {"id": "id-n4", "name": "n4", "role": "voter", "changed": True}
        for changed in (True, False):
            removed = await api.post("/v1/cluster/remove", {"target": "n4"})
            assert removed.json == {"id": "id-n4", "name": "n4", "role": "none", "changed": changed}

    run(tmp_path, scenario, names=NAMES)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("join", {**N4, "role": "king"}, 400, "invalid"),
        ("join", {**N4, "colour": "red"}, 400, "invalid"),
        ("join", {"name": "n4"}, 400, "invalid"),
        ("join", {**N4, "name": "n" * 300}, 413, "too_large"),
        ("promote", {}, 400, "invalid"),
        ("promote", {"target": "nobody"}, 404, "not_found"),
        ("remove", {"target": "n1", "force": 1}, 400, "invalid"),
        ("remove", {"target": "nobody"}, 404, "not_found"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, path: str, body: dict[str, object], status: int, code: str
) -> None:
    """With the one error shape."""

    async def scenario(api: Api) -> None:
        answer = await api.post(f"/v1/cluster/{path}", body)
        assert (answer.status, answer.code) == (status, code)

    run(tmp_path, scenario, names=NAMES)


def test_a_change_under_way_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """Then it is a conflict of its own kind."""

    async def scenario(api: Api) -> None:
        api.cluster.changing = True
        answer = await api.post("/v1/cluster/join", N4, **{"raftos-timeout-ms": "200"})
        assert (answer.status, answer.code) == (409, "busy")

    run(tmp_path, scenario, names=NAMES)


async def fill(api: Api, megabytes: int) -> None:
    for number in range(megabytes):
        stored = await api.post("/v1/kv/put", {"key": f"k{number}", "value": "x" * 1_000_000})
        assert stored.status == 200


def test_a_snapshot_is_one_body_of_known_length(tmp_path: Path) -> None:
    """Behind a barrier unless it may be stale; nothing is held once it was read."""

    async def scenario(api: Api) -> None:
        await fill(api, 3)
        answer = await api.get("/v1/snapshot")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["raftos-snapshot-index"] == str(api.machine.applied_index)
        assert len(answer.body) > 2_000_000
        assert (api.consensus.barriers, api.consensus.held_snapshots) == (1, 0)
        assert (await api.get("/v1/snapshot?consistency=stale")).body == answer.body
        assert api.consensus.barriers == 1
        assert (await api.get("/v1/snapshot?format=xml")).code == "invalid"

    run(tmp_path, scenario)


def test_without_a_majority_there_is_a_stale_snapshot_only(tmp_path: Path) -> None:
    """A full disk has none at all."""

    async def scenario(api: Api) -> None:
        api.cluster.cut("id-n1")
        assert (await api.get("/v1/snapshot")).code == "no_quorum"
        assert (await api.get("/v1/snapshot?consistency=stale")).status == 200
        api.consensus.trouble = "the disk is full"
        assert (await api.get("/v1/snapshot?consistency=stale")).code == "not_ready"

    run(tmp_path, scenario, names=NAMES)


def test_readers_of_snapshots_are_counted_and_let_go(tmp_path: Path) -> None:
    """One too many is refused; a reader that leaves in the middle makes room and holds nothing."""

    async def scenario(api: Api) -> None:
        await fill(api, 10)  # More than the sockets hold, so that nobody has all of it yet.
        head = (
            f"GET /v1/snapshot HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\n"
            f"Authorization: Bearer {SECRET.hex()}\r\n\r\n"
        )
        readers = [await api.connect() for _ in range(MAX_READERS)]
        for reader in readers:
            reader.send(head.encode())
            await reader.reader.readuntil(b"\r\n\r\n")
        assert api.consensus.held_snapshots == MAX_READERS
        assert (await api.get("/v1/snapshot")).code == "limit_reached"
        for reader in readers:
            reader.writer.transport.abort()
        for _ in range(200):
            if not api.consensus.held_snapshots:
                break
            await asyncio.sleep(0.02)
        assert (await api.get("/v1/snapshot")).status == 200
        assert api.consensus.held_snapshots == 0

    run(tmp_path, scenario)


def test_a_snapshot_that_breaks_off_is_never_taken_for_whole(tmp_path: Path) -> None:
    """The connection ends before the length that was said."""

    async def scenario(api: Api) -> None:
        await fill(api, 1)
        honest = api.consensus.snapshot

        async def shrinking(deadline: float) -> object:
            snapshot = await honest(deadline)
            snapshot.size_bytes += 1
            return snapshot

        api.consensus.snapshot = shrinking  # type: ignore[method-assign,assignment]
        with pytest.raises(asyncio.IncompleteReadError):
            await api.get("/v1/snapshot")
        assert api.consensus.held_snapshots == 0

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("trouble", "logged"),
    [
        (SnapshotFailed("an error of the disk"), "a snapshot was not sent to its end"),
        (RuntimeError("a bug"), "a connection ended in a bug"),
    ],
)
def test_a_snapshot_that_cannot_be_read_ends_the_connection(
    tmp_path: Path, trouble: Exception, logged: str
) -> None:
    """In the middle, after the head; nobody waits for the rest, the file is let go, and the log says why."""

    async def scenario(api: Api) -> None:
        await fill(api, 1)
        honest = api.consensus.snapshot

        async def failing(deadline: float) -> object:
            snapshot = await honest(deadline)
            read = snapshot.read

            def read_once(offset: int, size: int) -> bytes:
                if offset:
                    raise trouble
                return read(offset, size)

            snapshot.read = read_once  # type: ignore[method-assign]
            return snapshot

        api.consensus.snapshot = failing  # type: ignore[method-assign,assignment]
        with capture_logs() as log, pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(api.get("/v1/snapshot"), 5)
        assert [entry["event"] for entry in log] == [logged]
        assert api.consensus.held_snapshots == 0

    run(tmp_path, scenario)
