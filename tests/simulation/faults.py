"""What is done to a cluster: to its wires, its members and its disks. Each fault ends by itself.

A fault says whether it found anything to strike: a member that is up, a link, a leader to ask. Only those are
counted. `nemesis.py` chooses among them. Transfers of leadership and doubled frames are no faults, but find
some.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftos.consensus.configuration import Add, Promote, Remove, Standing
from tests.simulation.lives import CLUSTER_EPOCH_MS
from tests.simulation.world import World

Fault = Callable[[], bool]
WALLS_DIFFER_MS = 10 * 3_600_000


class Faults:
    """What all kinds of faults need."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random

    def _later(self, longest: float, event: Callable[[], object]) -> None:
        self.world.after(self.random.random() * longest, event)

    def _member(self) -> str:
        """Any member that is not gone for good; often the leader."""
        leader = self.world.leader()
        return leader if leader and self.random.random() < 0.5 else self.random.choice(self.world.names)

    def _others(self, name: str) -> list[str]:
        return [other for other in self.world.names if other != name]

    def _is_up(self, name: str) -> bool:
        return self.world.nodes[name].up


class WireFaults(Faults):
    """Links that are cut, stall, bounce, or deliver twice. A cluster of one has none."""

    def all(self) -> dict[str, Fault]:
        return {
            "cut": self._cut,
            "isolate": self._isolate,
            "halves": self._halves,
            "bridge": self._bridge,
            "flap": self._flap,
            "stall": lambda: self._stall_pair(2.0),
            "long stall": lambda: self._stall_pair(9.0),
            "deaf": lambda: self._stall_member(hears=False),
            "mute": lambda: self._stall_member(hears=True),
            "bounce": self._bounce,
            "duplicate": self._duplicate,
        }

    def _pair(self) -> tuple[str, str] | None:
        names = self.world.names
        if len(names) < 2:
            return None
        one, other = self.random.sample(names, 2)
        return one, other

    def _is_linked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.world.wires.links

    def _cut_for(self, longest: float, a: str, b: str) -> bool:
        """No link from now on; whether there was one."""
        linked = self._is_linked(a, b)
        self.world.wires.cut_pair(a, b)
        self._later(longest, lambda: self.world.wires.heal_pair(a, b))
        return linked

    def _cut(self) -> bool:
        pair = self._pair()
        return pair is not None and self._cut_for(2.0, *pair)

    def _isolate(self) -> bool:
        name = self._member()
        linked = [self._cut_for(2.0, name, other) for other in self._others(name)]
        return any(linked)

    def _halves(self) -> bool:
        """Two groups that do not see each other; at times neither is a majority of those who are up."""
        return self._split(seen_by_both=0)

    def _bridge(self) -> bool:
        """The same, but one member sees everybody: both groups may have a majority with it."""
        return self._split(seen_by_both=1)

    def _split(self, *, seen_by_both: int) -> bool:
        names = self.random.sample(self.world.names, len(self.world.names))[seen_by_both:]
        half = len(names) // 2
        longest = self.random.choice((1.0, 4.0))
        pairs = itertools.product(names[:half], names[half:])
        linked = [self._cut_for(longest, one, other) for one, other in pairs]
        return any(linked)

    def _flap(self) -> bool:
        """One link is cut and heals, many times in a row."""
        pair = self._pair()
        if pair is None:
            return False
        linked = self._is_linked(*pair)
        period_s = self.random.choice((0.01, 0.05, 0.2))
        for number in range(self.random.randint(5, 30)):
            at = number * period_s
            self.world.after(at, lambda: self.world.wires.cut_pair(*pair))
            self.world.after(at + 0.5 * period_s, lambda: self.world.wires.heal_pair(*pair))
        return linked

    def _stall_for(self, longest: float, sender: str, receiver: str) -> bool:
        """Whether there is a link."""
        self.world.wires.stall(sender, receiver)
        self._later(longest, lambda: self.world.wires.unstall(sender, receiver))
        return self._is_linked(sender, receiver)

    def _stall_pair(self, longest: float) -> bool:
        pair = self._pair()
        return pair is not None and self._stall_for(longest, *pair)

    def _stall_member(self, *, hears: bool) -> bool:
        """A member hears everybody and is heard by nobody, or the other way round."""
        name = self._member()
        ways = [(name, other) if hears else (other, name) for other in self._others(name)]
        linked = [self._stall_for(5.0, *way) for way in ways]
        return any(linked)

    def _bounce(self) -> bool:
        pair = self._pair()
        if pair is None:
            return False
        linked = self._is_linked(*pair)
        self.world.wires.close_link(*pair)
        self._later(0.02, lambda: self.world.wires.connect(*pair))
        return linked

    def _duplicate(self) -> bool:
        self.world.wires.duplicating = True
        self._later(2.0, self._duplicate_no_more)
        return bool(self.world.wires.links)

    def _duplicate_no_more(self) -> None:
        self.world.wires.duplicating = False


class MemberFaults(Faults):
    """Members that lose their power or their process, stand still, hand over, or look at a wrong clock."""

    def all(self) -> dict[str, Fault]:
        return {
            "crash": self._crash,
            "kill": self._kill,
            "crash all": self._crash_all,
            "pause": self._pause,
            "wall clock": self._wall_clock,
            "transfer": self._transfer,
        }

    def _crash(self) -> bool:
        name = self._member()
        was_up = self._is_up(name)
        self.world.lives.crash(name)
        self._later(1.5, lambda: self.world.lives.start(name))
        return was_up

    def _kill(self) -> bool:
        name = self._member()
        was_up = self._is_up(name)
        self.world.lives.kill(name)
        self._later(0.5, lambda: self.world.lives.start(name))
        return was_up

    def _crash_all(self) -> bool:
        was_up = any(self._is_up(name) for name in self.world.names)
        for name in self.world.names:
            self.world.lives.crash(name)
            self._later(0.5, lambda name=name: self.world.lives.start(name))  # type: ignore[misc]
        return was_up

    def _pause(self) -> bool:
        name = self._member()
        node = self.world.nodes[name]
        if node.paused:
            return False
        self.world.lives.pause(name)
        self._later(2.0, lambda: self.world.lives.resume(name))
        return node.up

    def _wall_clock(self) -> bool:
        """It jumps by hours, forwards or backwards; and is looked at when the member starts again."""
        name = self._member()
        jump_ms = self.random.randint(-WALLS_DIFFER_MS, WALLS_DIFFER_MS)
        self.world.lives.walls_ms[name] = CLUSTER_EPOCH_MS + jump_ms
        if self.random.random() < 0.3:
            self._kill()
        return True

    def _transfer(self) -> bool:
        leader = self.world.leader()
        if leader is None or self.world.nodes[leader].paused:
            return False
        node, target = self.world.nodes[leader], self.random.choice([None, *self.world.names])
        self.world.note("transfer", leader, target)
        node.replica.transfer(self.world.now, object(), target, self.world.now + 2.0)
        node.kick()
        return True


class MembershipFaults(Faults):
    """Members that come, are promoted and go, while all the rest happens to them."""

    MOST = 7
    """Machines in all, those that were removed among them."""

    def all(self) -> dict[str, Fault]:
        return {"add": self._add, "promote": self._promote, "remove": self._remove}

    def _add(self) -> bool:
        """A new machine asks to be let in, until it is; a leader's change may fail with it."""
        world = self.world
        if len(world.nodes) >= self.MOST or world.leader() is None:
            return False
        name = world.new_machine()
        standing = self.random.choice((Standing.JOINING, Standing.JOINING, Standing.LEARNER))
        self._ask_to_join(Add(name, "", standing))
        return True

    def _ask_to_join(self, add: Add) -> None:
        known = self.world.configuration()
        if known is not None and known.peer(add.id) is not None:
            return
        self.world.change(add)
        if self.world.healed_at is None:
            self._later(1.0, lambda: self._ask_to_join(add))

    def _promote(self) -> bool:
        known = self.world.configuration()
        learners = known.learners if known else ()
        return bool(learners) and self.world.change(Promote(self.random.choice(learners)))

    def _remove(self) -> bool:
        """Anybody may go, but the leader; what that would break is refused."""
        known, leader = self.world.configuration(), self.world.leader()
        others = [peer.id for peer in known.peers if peer.id != leader] if known else []
        return len(others) > 1 and self.world.change(Remove(self.random.choice(others)))


class DiskFaults(Faults):
    """Disks that are slow, hang, fill up, fail to sync, or forget a bit."""

    def all(self) -> dict[str, Fault]:
        return {
            "slow disk": self._slow,
            "full journal": lambda: self._full(self.world.disks.full_journal),
            "full state": lambda: self._full(self.world.disks.full_state),
            "failed sync": self._failed_sync,
            "bit flip": self._bit_flip,
            "spoilt snapshot": self._spoil,
        }

    def _slow(self) -> bool:
        name, slow = self._member(), self.world.disks.slow
        slow[name] = self.random.choice((0.05, 0.3, 0.9, 2.5))
        self._later(1.5, lambda: slow.pop(name, None))
        return self._is_up(name)

    def _full(self, full: set[str]) -> bool:
        name = self._member()
        full.add(name)
        self._later(2.0, lambda: full.discard(name))
        return self._is_up(name)

    def _failed_sync(self) -> bool:
        """The next sync of a disk fails: its member has to stop, and starts again from what is durable."""
        node = self.world.nodes[self._member()]
        if node.up:
            node.storage.fail_next_sync(self.random)
        return node.up

    def _spoil(self) -> bool:
        """For a while every piece of a snapshot that travels is damaged; counted in the end, if one was."""
        before = self._spoilt
        self.world.wires.spoiling = True
        self._later(2.0, lambda: self._spoil_no_more(before))
        return False

    def _spoil_no_more(self, before: int) -> None:
        self.world.wires.spoiling = False
        if self._spoilt > before:
            self.world.faults["spoilt snapshot"] += 1

    @property
    def _spoilt(self) -> int:
        return self.world.happened["pieces spoilt"]

    def _bit_flip(self) -> bool:
        """One bit of a journal changes while its member is down; never of more than a minority."""
        world, name = self.world, self._member()
        known = world.configuration()
        if known is None or len(known.voters) < 3:
            return False
        damaged = sum(node.lost or node.intact is not None for node in world.nodes.values())
        node = world.nodes[name]
        if damaged >= (len(known.voters) - 1) // 2 or node.intact is not None:
            return False
        world.lives.crash(name)
        self._later(1.0, lambda: world.lives.start(name))
        return world.disks.flip_bit(node)
