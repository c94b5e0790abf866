"""What the leader's control loop does here: propose what the domains say is due, twice a second."""

from __future__ import annotations

from raftos.state.command import encode_request
from tests.simulation.caller import ATTEMPT_S, Caller
from tests.simulation.lives import CLUSTER_EPOCH_MS
from tests.simulation.node import Node
from tests.simulation.world import World

INTERVAL_S = 0.5
LONG_AFTER_MS = CLUSTER_EPOCH_MS + 24 * 3_600_000


class Upkeep(Caller):
    """The control loops of all members: each acts while its member leads."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "upkeep", pace_s=INTERVAL_S)
        self.is_done = False
        """Whether nothing is due on any member, nor will be while nobody asks for anything."""

    def go(self) -> None:
        if self.stopped or not self.world.care.proposes_due:
            return
        for node in self.world.nodes.values():
            node.on(node.incarnation, lambda node=node: self._round(node))  # type: ignore[misc]
        up = [node for node in self.world.nodes.values() if node.up]
        self.is_done = not any(node.reader.due(LONG_AFTER_MS) for node in up)
        self.world.after(INTERVAL_S, self.go)

    def _round(self, node: Node) -> None:
        world, replica = self.world, node.replica
        if replica.core.is_leader:
            due = node.reader.due(replica.cluster_time_ms(world.now))
            for command in due:
                world.note("due", node.name, type(command).__name__)
                request = encode_request(self.request_id(), command)
                replica.propose(world.now, object(), [request], world.now + ATTEMPT_S)
            if due:
                node.kick()
