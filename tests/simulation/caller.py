"""How users ask: one request to any member, and the same request again elsewhere while there is no answer."""

from __future__ import annotations

from collections.abc import Callable

from raftos.errors import NoQuorum, RaftosError
from raftos.state.command import Command, decode_result, encode_request
from tests.simulation.history import Asked
from tests.simulation.lives import CLUSTER_EPOCH_MS
from tests.simulation.world import World

ATTEMPT_S = 1.0
PATIENCE_S = 6.0


class Caller:
    """One user: calls one after another, at a pace of its own, until it is stopped."""

    def __init__(self, world: World, name: str, *, pace_s: float, hasty: bool = False) -> None:
        """A hasty user often waits for a moment only, and may take a first no for an answer."""
        self.world = world
        self.name = name
        self.pace_s = pace_s
        self.hasty = hasty
        self.stopped = False

    def go(self) -> None:
        """Do the next thing."""
        raise NotImplementedError

    def _next(self) -> None:
        self.world.after(self.world.random.expovariate(1 / self.pace_s), self.go)

    def command(self, command: Command, then: Callable[[Asked], None]) -> None:
        """Ask for a command; `then` is told when it was answered, or given up (`result` is None)."""
        asked = Asked(id=self.request_id(), command=command, began=self.world.now)
        self.ask(asked, lambda: then(asked))

    def ask(self, asked: Asked, then: Callable[[], None], first: str | None = None) -> None:
        """Ask a member, the `first` or any; again with the same id until it is answered or given up."""
        self.world.history.began(asked)
        self._attempt(asked, first or self.world.random.choice(self.world.names), then)

    def request_id(self) -> bytes:
        random = self.world.random
        created = self._time_ms()
        tail = bytearray(random.getrandbits(80).to_bytes(10, "big"))
        tail[0], tail[2] = 0x70 | (tail[0] & 0x0F), 0x80 | (tail[2] & 0x3F)
        return created.to_bytes(6, "big") + bytes(tail)

    def _time_ms(self) -> int:
        """Cluster time, as those members tell it that know; before the first stamp their wall clocks do."""
        now, offset_ms = self.world.now, self.world.history.clock_offset_ms
        replicas = [node.replica for node in self.world.nodes.values() if node.up]
        times = [each.cluster_time_ms(now) for each in replicas if offset_ms is None or each._knows_time()]
        return max(times, default=int((offset_ms or CLUSTER_EPOCH_MS) + 1000 * now))

    def _attempt(self, asked: Asked, member: str, then: Callable[[], None]) -> None:
        world = self.world
        request_id = asked.id
        request = encode_request(request_id, asked.command)
        is_open = True
        asked.attempts += 1

        def again() -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            if asked.ended is None and world.now - asked.began < PATIENCE_S and not self.stopped:
                others = [name for name in world.names if name != member]
                if not world.care.same_request_id:
                    asked.id = self.request_id()
                self._attempt(asked, world.random.choice(others or world.names), then)
            else:
                then()

        def end() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                then()

        def answered(value: object) -> None:
            if request_id != asked.id:
                return
            if isinstance(value, RaftosError):
                asked.refused += isinstance(value, NoQuorum)
                gives_up = self.hasty and asked.attempts == asked.refused and world.random.random() < 0.5
                world.after(0.05, end if gives_up else again)
                return
            assert isinstance(value, list)
            world.history.answered(asked, world.now, decode_result(value[0]))
            end()

        world.after(ATTEMPT_S, again)
        patience_s = ATTEMPT_S * (world.random.choice((0.05, 0.3, 1.0)) if self.hasty else 1.0)
        call(
            world,
            member,
            lambda token: world.nodes[member].replica.propose(
                world.now, token, [request], world.now + patience_s
            ),
            answered,
        )


def confirm(world: World, member: str, answered: Callable[[object], None]) -> None:
    """Ask a member for a read barrier: its index, an error, or nothing if it is lost on the way."""
    node = world.nodes[member]
    call(
        world,
        member,
        lambda token: node.replica.read_barrier(world.now, token, world.now + ATTEMPT_S),
        answered,
    )


def call(
    world: World, member: str, request: Callable[[object], None], answered: Callable[[object], None]
) -> None:
    """Hand a request to a member a moment from now, if it is still in the same life."""
    node, token = world.nodes[member], object()
    world.turns.calls[token] = answered

    def deliver() -> None:
        request(token)
        node.kick()

    incarnation = node.incarnation
    world.after(world.random.expovariate(1 / 0.001), lambda: node.on(incarnation, deliver))
