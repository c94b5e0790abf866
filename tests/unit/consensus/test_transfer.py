"""Handing leadership over, on the simulated network: the shipped replicas, virtual time."""

from __future__ import annotations

from pathlib import Path

from raftos.errors import RaftosError
from tests.simulation.world import World

ELECTED_S = 5.0
TRANSFER_S = 3.0


def transfer(world: World, source: str, target: str) -> object:
    """Ask `source` to hand over to `target`; what it said in the end."""
    told: list[object] = []
    token = object()
    world.turns.calls[token] = told.append
    node = world.nodes[source]
    node.replica.transfer(world.now, token, target, world.now + TRANSFER_S)
    node.kick()
    world.run_until(lambda: bool(told), ELECTED_S, "the end of the transfer")
    return told[0]


def test_a_heartbeat_between_the_order_and_the_votes_does_not_undo_a_transfer(tmp_path: Path) -> None:
    """The order to campaign and the leader's next heartbeat often travel together."""
    world = World(1, tmp_path)
    try:
        world.run_until(lambda: world.leader() is not None, ELECTED_S, "an election")
        world.run(1.0)
        for _ in range(40):
            source = world.leader()
            assert source is not None
            target = next(name for name in world.names if name != source)
            said = transfer(world, source, target)
            assert not isinstance(said, RaftosError), said
            assert said == target
            world.run(world.random.random())
    finally:
        world.stop()


def test_the_leader_may_be_asked_to_lead(tmp_path: Path) -> None:
    """A transfer to the member that leads already is done before it begins."""
    world = World(1, tmp_path)
    try:
        world.run_until(lambda: world.leader() is not None, ELECTED_S, "an election")
        leader = world.leader()
        assert leader is not None
        assert transfer(world, leader, leader) == leader
        assert world.leader() == leader
    finally:
        world.stop()


def test_a_deposed_leader_does_not_call_itself_the_new_one(tmp_path: Path) -> None:
    """Between stepping down and hearing of the successor it does not know yet who leads."""
    world = World(1, tmp_path)
    try:
        world.run_until(lambda: world.leader() is not None, ELECTED_S, "an election")
        source = world.leader()
        assert source is not None
        told: list[object] = []
        token = object()
        world.turns.calls[token] = told.append
        node = world.nodes[source]
        node.replica.transfer(world.now, token, None, world.now + TRANSFER_S)
        node.replica.core.engine.observe_term(world.now, node.replica.core.term + 1)
        node.replica.tick(world.now)
        world.turns.take(node)
        assert source not in told
        world.run_until(lambda: bool(told), ELECTED_S, "the end of the transfer")
    finally:
        world.stop()
