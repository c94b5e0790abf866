"""Whoever does not belong: nothing a stranger sends makes a link, and little of it costs anything."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest
import structlog

from raftos.consensus.link import MAX_FRAME_BYTES, Settings, join_frames
from raftos.consensus.transport import MAX_GUESTS, MAX_HANDSHAKES
from tests.unit.consensus.peers import NOWHERE, PATIENT, SECRET, Member, Run, acceptor, started, stranger_at


@pytest.mark.parametrize(
    ("secret", "cluster_id", "member_id", "reason"),
    [
        (b"wrong" * 8, "cluster", "a", "its proof is wrong: the two cluster secrets differ"),
        (SECRET, "other", "a", "it belongs to another cluster"),
        (b"wrong" * 8, "cluster", "0", "its proof is wrong: the two cluster secrets differ"),
    ],
    ids=["wrong secret", "wrong cluster", "unknown id with a wrong secret"],
)
def test_who_does_not_belong_is_never_linked(
    run: Run, secret: bytes, cluster_id: str, member_id: str, reason: str
) -> None:
    """Neither side hears of a link; the reason is logged once, not at every redial, and no secret with it."""

    async def scenario() -> None:
        async with acceptor() as b:
            wrong = Member(
                member_id, {"b": b.transport.address}, secret=secret, cluster_id=cluster_id
            )  # fmt: skip
            async with started(wrong):
                await asyncio.sleep(0.2)
            assert wrong.links == b.links == []
            assert b.transport.connected == frozenset()

    with structlog.testing.capture_logs() as logs:
        run(scenario())
    assert [entry["reason"] for entry in logs].count(reason) == 1
    # Two for the refusal, one for each side; a third where stopping cuts a handshake short.
    assert len(logs) <= 3
    assert "wrong" not in str(logs).replace(reason, "")
    assert SECRET.decode() not in str(logs)


def test_strangers_who_claim_ids_are_all_unknown(run: Run) -> None:
    """A hundred ids nobody has proved make one line in the log, and nothing to remember."""

    async def scenario() -> None:
        async with acceptor() as b:
            for number in range(100):
                async with stranger_at(b) as stranger:
                    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                        await stranger.authenticate(f"claimed-{number}", b"guess" * 8)
            assert len(b.transport._links._complaints) == 1
            assert not b.transport._links.generations

    with structlog.testing.capture_logs() as logs:
        run(scenario())
    assert [entry["peer"] for entry in logs] == ["unknown"]


def test_guests_are_few(run: Run) -> None:
    """64 members nobody has heard of are linked, one more is refused with a reason; peers still get in."""

    async def scenario() -> None:
        async with acceptor() as b, AsyncExitStack() as guests:
            for number in range(MAX_GUESTS):
                await (await guests.enter_async_context(stranger_at(b))).authenticate(f"guest-{number}")
            async with stranger_at(b) as one_too_many:
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await one_too_many.authenticate("guest-64")
            async with stranger_at(b) as again, stranger_at(b) as peer:
                assert await again.authenticate("guest-0"), "one that is here may replace its link"
                assert await peer.authenticate("a")
                assert len(b.transport.connected) == MAX_GUESTS + 1
            await b.until(lambda: len(b.transport.connected) == MAX_GUESTS - 1)
            async with stranger_at(b) as another:
                assert await another.authenticate("guest-64")

    with structlog.testing.capture_logs() as logs:
        run(scenario())
    reasons = [entry["reason"] for entry in logs if entry["event"] == "no link with peer"]
    assert reasons == ["its id is not among the peers, and there is no room for more such links"]


def test_of_two_handshakes_for_the_last_room_one_is_refused(run: Run) -> None:
    """Room at the hello is not enough: it counts at the end."""

    async def scenario() -> None:
        async with acceptor() as b, AsyncExitStack() as guests:
            strangers = [await guests.enter_async_context(stranger_at(b)) for _ in range(MAX_GUESTS + 5)]
            answers = await asyncio.gather(
                *(each.authenticate(f"guest-{number}") for number, each in enumerate(strangers)),
                return_exceptions=True,
            )
            assert sum(isinstance(answer, int) for answer in answers) == MAX_GUESTS

    run(scenario())


def test_what_is_kept_of_guests_does_not_grow(run: Run) -> None:
    """Of those who left only the highest generation is known, and whoever comes rises above it."""

    async def scenario() -> None:
        async with acceptor() as b:
            last = 0
            for number in range(20):
                async with stranger_at(b) as guest:
                    generation = await guest.authenticate(f"guest-{number}")
                assert generation > last
                last = generation
                await b.until(lambda: not b.transport.connected)
            assert not b.transport._links.generations

    run(scenario())


def test_nobody_is_linked_under_this_members_own_id(run: Run) -> None:
    """Two members started with one id are told apart from a link: the second is refused."""

    async def scenario() -> None:
        async with acceptor() as b, stranger_at(b) as twin:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await twin.authenticate("b")
            assert b.links == []

    run(scenario())


def test_an_impostor_on_a_members_port_gets_nothing(run: Run) -> None:
    """A dialler that meets someone without the secret is not linked and sends no frame."""

    async def scenario() -> None:
        impostor = Member("b", {"a": NOWHERE}, secret=b"guess" * 8)
        async with started(impostor):
            a = Member("a", {"b": impostor.transport.address})
            async with started(a):
                await asyncio.sleep(0.1)
                assert a.links == []
                assert not a.transport.send("b", 1, [b"confidential"])

    run(scenario())


@pytest.mark.parametrize(
    "bytes_sent",
    [
        (1025).to_bytes(4, "big"),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        join_frames([b"\xc1"]),
        join_frames([b"\x80\x04\x95 pickle?"]),
        join_frames([b"\x97\xa5hello\x01\xa1\xff" + bytes(80)]),
        b"\xff" * 5000,
    ],
    ids=["oversize", "http", "not msgpack", "pickle", "bad utf-8", "noise"],
)
def test_garbage_is_cut_off_at_once(run: Run, bytes_sent: bytes) -> None:
    """The connection ends long before the handshake's time is up, and members still get in."""

    async def scenario() -> None:
        settings = Settings(handshake_s=60)
        async with acceptor(settings) as b:
            async with stranger_at(b) as stranger:
                stranger.writer.write(bytes_sent)
                assert await stranger.is_closed()
            async with stranger_at(b) as stranger:
                assert await stranger.authenticate()
                await b.until_told(1)

    run(scenario())


def test_a_recorded_session_replayed_is_refused(run: Run) -> None:
    """The very bytes that let a member in yesterday let nobody in today."""

    async def scenario() -> None:
        async with acceptor() as b:
            async with stranger_at(b) as member:
                await member.authenticate()
                recorded = member.sent
            await b.until_told(2)
            async with stranger_at(b) as thief:
                thief.say(recorded[0])
                await thief.hear()
                thief.say(recorded[1])
                assert await thief.is_closed()
            assert len(b.links) == 2

    run(scenario())


def test_a_slow_handshake_is_cut_off(run: Run) -> None:
    """Dripping bytes does not extend the handshake's time, nor does saying nothing."""

    async def scenario() -> None:
        settings = msgspec.structs.replace(PATIENT, handshake_s=0.3)
        async with acceptor(settings) as b, stranger_at(b) as dripping, stranger_at(b) as silent:
            started_s = asyncio.get_running_loop().time()
            for _ in range(8):
                dripping.writer.write(b"\0")
                await asyncio.sleep(0.02)
            assert await dripping.is_closed()
            assert await silent.is_closed()
            assert asyncio.get_running_loop().time() - started_s < settings.handshake_s + 2

    run(scenario())


def test_strangers_cannot_use_up_descriptors(run: Run) -> None:
    """Connections beyond the limit of unfinished handshakes are closed at once."""

    async def scenario() -> None:
        async with acceptor(Settings(handshake_s=60)) as b:
            port = int(b.transport.address.split(":")[1])
            strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_HANDSHAKES)]
            async with stranger_at(b) as one_too_many:
                assert await one_too_many.is_closed()
            for _, writer in strangers:
                writer.transport.abort()
            await asyncio.sleep(0.1)
            async with stranger_at(b) as member:
                assert await member.authenticate()

    run(scenario())


def test_an_oversize_frame_closes_an_authenticated_link(run: Run) -> None:
    """A member is trusted, but not with memory."""

    async def scenario() -> None:
        async with acceptor() as b, stranger_at(b) as member:
            await member.authenticate()
            member.writer.write((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
            assert await member.is_closed()
            await b.until_told(2)
            assert b.frames == []

    run(scenario())
