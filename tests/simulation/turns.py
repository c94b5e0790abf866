"""The turns of a member: what the shipped driver does between the replica and the world.

Inputs gather into a turn, which steps; then frames are sent, the disk gets its next write, what is
committed is applied, and calls end, always in this order. Some writes are synced in place, and what they
promise is sent at once. Who answers that no step is needed gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raftos.consensus.core import Output
from raftos.consensus.replication import NOTICE_S
from raftos.state.events import Told
from tests.simulation.disks import RETRY_S, Disks
from tests.simulation.history import History
from tests.simulation.ledger import Ledger
from tests.simulation.node import Node
from tests.simulation.timeline import Timeline
from tests.simulation.wires import Wires

LONG_TURN = 0.05
"""So probably, each time something is applied, the turn has taken so long that others have theirs first."""
REMEMBERED = 0.02
"""So probably, each time something is applied, a power cut may bring back this state."""


class Turns:
    """Takes the turns of all members, and notes what comes of them."""

    def __init__(self, time: Timeline, wires: Wires, disks: Disks, history: History, ledger: Ledger) -> None:
        self.calls: dict[object, Callable[[object], None]] = {}
        """Whom to tell how a call ended, by its token."""
        self._time = time
        self._wires = wires
        self._disks = disks
        self._history = history
        self._ledger = ledger

    def take(self, node: Node) -> None:
        node.kicked = False
        if node.failed:
            return
        node.running = True
        self._step(node)
        while output := node.replica.take():
            self._conclude(node, output)
            if output.committed and self._time.random.random() < LONG_TURN:
                node.kick()
                break
        self._write_and_promise(node)
        node.running = False
        if node.replica.core.is_leader:
            self._history.leads(node.name, node.replica.core.term)
        if node.replica.replication.has_news and not node.waking:
            node.waking = True
            node.later(NOTICE_S, lambda: self._wake(node))
        node.miss_no_step()

    def _step(self, node: Node) -> None:
        node.stepped_at = self._time.now
        node.replica.step(self._time.now)

    def _wake(self, node: Node) -> None:
        node.waking = False
        node.kick()

    def _conclude(self, node: Node, output: Output) -> None:
        self._wires.send(node.name, output.frames)
        self._write_and_promise(node)
        for token, value in output.done:
            ended = self.calls.pop(token, None)
            if ended is not None:
                ended(value)
        if output.offers:
            node.shelf.offered(output.offers)
        if output.committed:
            self._apply(node, output.committed)

    def _write_and_promise(self, node: Node) -> None:
        """Before anything is applied: peers wait for what became durable in place."""
        self._disks.write(node)
        self._wires.send(node.name, node.replica.take_frames())

    def _apply(self, node: Node, entries: list[tuple[int, bytes]]) -> None:
        for index, payload in entries:
            self._history.handed_over(node.name, index, payload)
        node.stuck += entries
        self._apply_stuck(node)

    def _apply_stuck(self, node: Node) -> None:
        if not node.stuck:
            return  # A snapshot was installed, which has it.
        full = node.name in self._disks.full_state
        self._disks.trouble(node, "state", full=full)
        if full:
            node.later(RETRY_S, lambda: self._apply_again(node))
            return
        entries, node.stuck = node.stuck, []
        machine, now = node.machine, self._time.now
        results = machine.apply(entries)
        self._history.applied(node.name, machine, now)
        self._time.note("apply", node.name, machine.applied_index, machine.state_hash.hex()[:8])
        indexes = [index for index, _ in entries]
        node.replica.applied(now, list(zip(indexes, results, strict=True)), machine.time_ms)
        self._step(node)
        if self._time.random.random() < REMEMBERED:
            self._disks.remember_state(node)

    def _apply_again(self, node: Node) -> None:
        self._apply_stuck(node)
        node.kick()

    def told(self, node: Node, told: Sequence[Told]) -> None:
        """The machine of a member tells of what it has applied."""
        self._ledger.told(node.name, told)
        for stream in node.streams:
            stream.tell(told)
