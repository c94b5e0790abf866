"""Soft questions between members, each with its answer or an error: status, load, and calls for the leader.

They travel as frames among the others, with ids of their own. Nothing is promised: a question whose link
closes, or whose answer takes too long, ends as Unreachable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from raftos.consensus import messages
from raftos.consensus.messages import Answered, Asked, Malformed
from raftos.errors import UNDECODABLE, RaftosError, Unreachable, error_for

Answer = Callable[[str, int, bytes], Awaitable[bytes]]
"""`answer(peer, channel, body)` raises RaftosError for a refusal."""

log = structlog.get_logger("raftos.consensus")


class Questions:
    """The questions that one member has asked, and those that it is answering."""

    def __init__(self, send: Callable[[str, int, list[bytes]], bool], answer: Answer) -> None:
        """`send(peer, generation, frames)` is the transport's."""
        self._send = send
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._last_id = 0
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def ask(
        self, peer: str, generation: int | None, channel: int, body: bytes, timeout_s: float
    ) -> bytes:
        """Raises Unreachable, or the error that the peer answered with."""
        self._last_id += 1
        question: asyncio.Future[bytes] = self._loop.create_future()
        self._open[self._last_id] = question
        number, frame = self._last_id, messages.encode(Asked(self._last_id, channel, body))
        try:
            if generation is None or not self._send(peer, generation, [frame]):
                raise Unreachable(f"member {peer} is not connected")
            return await asyncio.wait_for(question, timeout_s)
        except TimeoutError:
            raise Unreachable(f"member {peer} did not answer within {timeout_s:.1f} s") from None
        finally:
            del self._open[number]

    def answered(self, message: Answered) -> None:
        """Raises Malformed."""
        question: asyncio.Future[Any] | None = self._open.get(message.id)
        if question is None or question.done():
            return
        if message.error:
            question.set_exception(_refusal(message.body))
        else:
            question.set_result(message.body)

    def asked(self, peer: str, generation: int, message: Asked) -> None:
        task = self._loop.create_task(self._reply(peer, generation, message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _reply(self, peer: str, generation: int, message: Asked) -> None:
        try:
            body = await self._answer(peer, message.channel, message.body)
            self._send(peer, generation, [messages.encode(Answered(message.id, False, body))])
        except RaftosError as error:
            self._refuse(peer, generation, message.id, error)
        except Exception:
            # Whatever it is: without a word the asker would wait in vain.
            log.exception("a question cannot be answered", peer=peer, channel=message.channel)
            sentence = "the member that was asked could not answer; its log says why"
            self._refuse(peer, generation, message.id, Unreachable(sentence))

    def _refuse(self, peer: str, generation: int, question: int, error: RaftosError) -> None:
        body = msgspec.msgpack.encode((error.code, error.message))
        self._send(peer, generation, [messages.encode(Answered(question, True, body))])

    def stop(self) -> None:
        for task in self._answering:
            task.cancel()


def _refusal(body: bytes) -> RaftosError:
    """The error in an answer. Raises Malformed."""
    try:
        return error_for(*msgspec.msgpack.decode(body, type=tuple[str, str]))
    except UNDECODABLE as error:
        raise Malformed(f"an answer whose error is none: {error}") from error
