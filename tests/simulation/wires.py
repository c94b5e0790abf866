"""The wires between members: links that come, close and stall, and the frames on them.

A link keeps the order of its frames, as TCP does, but may stall in one direction or close. Each end notices
the closing a little later, and frames of a closed link may still turn up, late, under the old generation.
While `duplicating`, frames arrive twice.
"""

from __future__ import annotations

import itertools

from raftos.consensus.core import Frame
from raftos.consensus.messages import Acknowledged, Append, Message, SnapshotPiece, SnapshotWanted
from tests.simulation.care import Care
from tests.simulation.node import Node
from tests.simulation.timeline import Timeline

SILENT_LINK_S = 3.0
RECONNECT_S = 0.1


class Link:
    """One connection between two members: ordered, until it stalls or closes."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.last_arrival: dict[str, float] = {}
        self.stalled: dict[str, list[tuple[str, Message]]] = {}


class Wires:
    """All links of one run, by the pair of members at their ends."""

    def __init__(self, time: Timeline, nodes: dict[str, Node], care: Care) -> None:
        self.links: dict[frozenset[str], Link] = {}
        self.cut: set[frozenset[str]] = set()
        self.stalling: set[tuple[str, str]] = set()
        """From whom to whom no frames get through, though links may come up."""
        self.duplicating = self.spoiling = False
        self.sent_twice = 0
        """How many entries travelled twice over one link."""
        self._time = time
        self._nodes = nodes
        self._care = care
        self._sent: dict[tuple[str, str, int, int], int] = {}
        self._generation = itertools.count(1)

    # Links.

    def keep_connecting(self) -> None:
        """Members look for each other all the time."""
        self._time.after(RECONNECT_S, self.keep_connecting)
        for a, b in itertools.combinations(list(self._nodes), 2):
            self.connect(a, b)

    def connect(self, a: str, b: str) -> None:
        pair = frozenset((a, b))
        if pair in self.links or pair in self.cut or not (self._reachable(a) and self._reachable(b)):
            return
        link = self.links[pair] = Link(next(self._generation))
        self._time.note("link", a, b, link.generation)
        for sender, receiver in self.stalling & {(a, b), (b, a)}:
            self._stall_link(link, sender, receiver)
        for one, other in ((a, b), (b, a)):
            node = self._nodes[one]
            node.replica.linked(self._time.now, other, link.generation)
            node.kick()

    def _reachable(self, name: str) -> bool:
        return self._nodes[name].up and not self._nodes[name].paused

    def close_link(self, a: str, b: str) -> None:
        """The link closes; each end notices a little later, and its frames may still arrive."""
        link = self.links.pop(frozenset((a, b)), None)
        if link is None:
            return
        self._time.note("close", a, b, link.generation)
        self._notice_closed(a, b, link.generation)
        self._notice_closed(b, a, link.generation)

    def close_links(self, name: str) -> None:
        """All links of a member close."""
        for other in self._nodes:
            if other != name:
                self.close_link(name, other)

    def _notice_closed(self, name: str, other: str, generation: int) -> None:
        node = self._nodes[name]

        def notice() -> None:
            node.replica.unlinked(self._time.now, other, generation)
            node.kick()

        node.later(0.002 * self._time.random.random(), notice)

    # Faults.

    def cut_pair(self, a: str, b: str) -> None:
        self.cut.add(frozenset((a, b)))
        self.close_link(a, b)

    def heal_pair(self, a: str, b: str) -> None:
        self.cut.discard(frozenset((a, b)))
        self.connect(a, b)

    def stall(self, sender: str, receiver: str) -> None:
        """One direction stops, of links to come as well; the frames wait, and a silent link is closed."""
        self.stalling.add((sender, receiver))
        link = self.links.get(frozenset((sender, receiver)))
        if link is not None and receiver not in link.stalled:
            self._stall_link(link, sender, receiver)

    def _stall_link(self, link: Link, sender: str, receiver: str) -> None:
        self._time.note("stall", sender, receiver)
        waiting: list[tuple[str, Message]] = []
        link.stalled[receiver] = waiting

        def close_if_silent() -> None:
            present = self.links.get(frozenset((sender, receiver)))
            if present is link and link.stalled.get(receiver) is waiting:
                self.close_link(sender, receiver)

        self._time.after(SILENT_LINK_S, close_if_silent)

    def unstall(self, sender: str, receiver: str) -> None:
        self.stalling.discard((sender, receiver))
        link = self.links.get(frozenset((sender, receiver)))
        if link is not None:
            for source, message in link.stalled.pop(receiver, []):
                self._travel(link, source, receiver, message)

    def heal(self) -> None:
        """Nothing is cut, stalled or doubled from now on."""
        self.cut.clear()
        self.stalling.clear()
        self.duplicating = self.spoiling = False
        for link in self.links.values():
            for receiver in list(link.stalled):
                for source, message in link.stalled.pop(receiver):
                    self._travel(link, source, receiver, message)

    # Frames.

    def send(self, sender: str, frames: list[Frame]) -> None:
        for receiver, generation, message in frames:
            link = self.links.get(frozenset((sender, receiver)))
            if link is None or link.generation != generation:
                continue
            self._count_resent(sender, receiver, generation, message)
            if receiver in link.stalled:
                link.stalled[receiver].append((sender, message))
            else:
                self._travel(link, sender, receiver, message)

    def _count_resent(self, sender: str, receiver: str, generation: int, message: Message) -> None:
        if isinstance(message, Append):
            for _, index, term in message.entries:
                key = (sender, receiver, generation, index)
                self.sent_twice += self._sent.get(key) == term
                self._sent[key] = term

    def _travel(self, link: Link, sender: str, receiver: str, message: Message) -> None:
        node, time = self._nodes[receiver], self._time
        arrival = max(link.last_arrival.get(receiver, 0.0), time.now + time.random.expovariate(1 / 0.002))
        link.last_arrival[receiver] = arrival
        generation = link.generation

        def arrive() -> None:
            time.note("frame", sender, receiver, type(message).__name__)
            if isinstance(message, SnapshotWanted | SnapshotPiece):
                node.shelf.received(sender, generation, self._maybe_spoilt(message))
            elif node.replica.received(time.now, sender, generation, message) and self._is_heard(message):
                node.kick()
            else:
                node.miss_no_step()

        node.later(arrival - time.now, arrive)
        if self.duplicating and time.random.random() < 0.3:
            node.later(arrival - time.now + time.random.expovariate(1 / 0.05), arrive)

    def _maybe_spoilt(self, message: SnapshotWanted | SnapshotPiece) -> SnapshotWanted | SnapshotPiece:
        """While `spoiling`, a bit of each piece of a snapshot flips, as by a bad disk or memory."""
        if not self.spoiling or isinstance(message, SnapshotWanted) or not message.data:
            return message
        data = bytearray(message.data)
        data[self._time.random.randrange(len(data))] ^= 1 << self._time.random.randrange(8)
        self._time.happened["pieces spoilt"] += 1
        return SnapshotPiece(message.index, message.index_term, message.offset, bytes(data))

    def _is_heard(self, message: Message) -> bool:
        return self._care.answers_ask or not isinstance(message, Acknowledged)
