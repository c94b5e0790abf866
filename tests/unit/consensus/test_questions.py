"""Questions between two members: each ends with an answer or an error, and never in silence."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from raftos.consensus import messages
from raftos.consensus.link import MAX_FRAME_BYTES, join_frames
from raftos.consensus.messages import Answered, Asked
from raftos.consensus.questions import Answer, Questions
from raftos.errors import NotFound, RaftosError, Unreachable


class Pair:
    """A asks b, which answers with what the test gives."""

    def __init__(self, answer: Answer) -> None:
        self.b = Questions(self._to_a, answer)
        self.a = Questions(self._to_b, _nobody)

    def _to_a(self, _peer: str, _generation: int, frames: list[bytes]) -> bool:
        join_frames(frames)
        for frame in frames:
            message = messages.decode(frame)
            assert isinstance(message, Answered)
            self.a.answered(message)
        return True

    def _to_b(self, _peer: str, generation: int, frames: list[bytes]) -> bool:
        for frame in frames:
            message = messages.decode(frame)
            assert isinstance(message, Asked)
            self.b.asked("a", generation, message)
        return True

    async def ask(self, body: bytes = b"how are you") -> bytes:
        """Ends long before the time is over that there is for the answer."""
        async with asyncio.timeout(5):
            return await self.a.ask("b", 1, 0, body, 600)


async def _nobody(*_: object) -> bytes:
    raise AssertionError("nobody asks a")


async def _echo(_peer: str, _channel: int, body: bytes) -> bytes:
    return body


def _fails(error: Exception) -> Answer:
    async def answer(*_: object) -> bytes:
        raise error

    return answer


async def _too_much(*_: object) -> bytes:
    return bytes(MAX_FRAME_BYTES)


def test_a_question_is_answered() -> None:
    async def scenario() -> None:
        assert await Pair(_echo).ask(b"hello") == b"hello"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (_fails(NotFound("no such room")), NotFound, "no such room"),
        (_fails(msgspec.ValidationError("a call of a later version")), Unreachable, "its log says why"),
        (_fails(KeyError("bug")), Unreachable, "its log says why"),
        (_too_much, Unreachable, "its log says why"),
    ],
    ids=["refused", "unreadable", "a bug", "too large"],
)
def test_a_question_that_cannot_be_answered_ends_at_once(
    answer: Answer, error: type[RaftosError], sentence: str
) -> None:
    """Whoever asked would wait until its time is over, and then know nothing."""

    async def scenario() -> None:
        with pytest.raises(error, match=sentence):
            await Pair(answer).ask()

    asyncio.run(scenario())
