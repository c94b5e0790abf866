"""The one-process twin of consensus: agreement by decree, for tests of everything above the port.

A `MemoryCluster` holds one `MemoryConsensus` for each member, every one with a real machine of its
own. A proposal becomes one entry, stamped with the wall clock, and is applied at once to every
member that is not cut off. Nothing is durable beyond what the machines keep.

Membership changes as under the driver, by the rules of `configuration.py`; a member that was let in has a
part in it from the moment its machine joins (`join`), and one that is to vote does so at once. A snapshot is
all entries, as bytes.

What can go wrong can be ordered: `cut(member)` takes a member away, `outcome_unknown` applies and
then pretends that the answer was lost, `delay_s` makes agreement slow, `trouble` is a full disk,
`changing` is another change of the membership under way, `behind_ms` a clock that stood still until the next
entry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from raftos.consensus.base import Handler, Role, Status
from raftos.consensus.configuration import Add, Change, Configuration, Peer, Remove, Standing, changed
from raftos.errors import Busy, Conflict, InvalidInput, NoQuorum, NotReady, OutcomeUnknown, Unreachable
from raftos.state.command import encode_entry
from raftos.state.machine import Machine


class MemoryCluster:
    """Members that agree because one of them says so. The first is the leader."""

    def __init__(self) -> None:
        self.members: dict[str, MemoryConsensus] = {}
        self.configuration = Configuration(())
        self.configuration_index = 0
        self.changing = False
        self.leader_id: str | None = None
        self.term = 1
        self.delay_s = 0.0
        self.outcome_unknown = False
        self.entries: list[bytes] = []
        self._cut: set[str] = set()

    def join(self, member_id: str, machine: Machine) -> MemoryConsensus:
        """A member over its own, empty or equally far, machine: a voter, unless let in as a learner."""
        return MemoryConsensus(machine, member_id, cluster=self)

    def admit(self, member: MemoryConsensus) -> None:
        """A port of this cluster is there: it leads if nobody does, and catches up if it was let in."""
        self.members[member.member_id] = member
        if (peer := self.configuration.peer(member.member_id)) is None:
            self._put(Peer(member.member_id, ""))
        else:
            member.apply(self.entries)
            if peer.standing == Standing.JOINING:
                self._put(Peer(peer.id, peer.address))
        self.leader_id = self.leader_id or member.member_id

    def change(self, change: Change, index: int) -> int:
        """Change the configuration; the index from which it is in force. Raises as `Consensus.change`."""
        after = changed(self.configuration, change)
        if after == self.configuration:
            return self.configuration_index
        if self.changing:
            raise Busy("another change of the membership is under way; try again in a moment")
        if isinstance(change, Remove) and change.id == self.leader_id:
            raise Conflict("the leader cannot be removed; hand leadership over first")
        if not isinstance(change, Add) and not self._is_majority(after.voters):
            raise Conflict("it would leave no majority of voters that can be reached")
        self.configuration, self.configuration_index = after, index
        return index

    def _put(self, peer: Peer) -> None:
        others = [other for other in self.configuration.peers if other.id != peer.id]
        peers = tuple(sorted([*others, peer], key=lambda each: each.id))
        self.configuration = Configuration(peers, self.configuration.removed)

    def _is_majority(self, voters: Sequence[str]) -> bool:
        return 2 * sum(voter in voters for voter in self.heard()) > len(voters)

    def cut(self, member_id: str) -> None:
        """Nobody hears this member any more; if it led, the next one that is heard leads."""
        self._cut.add(member_id)
        if member_id == self.leader_id:
            self.elect(next(iter(self.electable()), None))

    def heal(self, member_id: str) -> None:
        """The member is heard again and catches up."""
        self._cut.discard(member_id)
        self.members[member_id].apply(self.entries)
        if self.leader_id is None:
            self.elect(member_id)

    def elect(self, member_id: str | None) -> None:
        self.leader_id = member_id
        self.term += 1
        for member in self.members.values():
            member.announce_role()

    def heard(self) -> list[str]:
        """Members that take part: neither cut off nor removed."""
        gone = {*self._cut, *self.configuration.removed}
        return [name for name in self.members if name not in gone]

    def electable(self) -> list[str]:
        return [name for name in self.heard() if name in self.configuration.voters]

    def has_quorum(self, member_id: str) -> bool:
        return member_id in self.heard() and self._is_majority(self.configuration.voters)

    def agree(self, requests: Sequence[bytes], time_ms: int) -> list[bytes]:
        """Append one entry and apply it wherever it is heard; its results."""
        self.entries.append(encode_entry(time_ms, requests))
        results = [self.members[name].apply(self.entries) for name in self.heard()]
        return results[0]


class MemoryConsensus:
    """One member's port. On its own it is a cluster of one."""

    def __init__(
        self, machine: Machine, member_id: str = "m1", *, cluster: MemoryCluster | None = None
    ) -> None:
        self.machine = machine
        self.member_id = member_id
        self.trouble: str | None = None
        self.behind_ms = 0
        self.barriers = 0
        self.proposals = 0
        self.held_snapshots = 0
        self.cluster = cluster or MemoryCluster()
        self._first_index = machine.applied_index
        self.handler: Handler | None = None
        self._role_listeners: list[Callable[[Role, int], None]] = []
        self._applied_listeners: list[Callable[[int], None]] = []
        self.cluster.admit(self)

    async def propose(self, requests: Sequence[bytes], deadline: float) -> list[bytes]:
        self.proposals += 1
        self._require_quorum()
        if self.trouble:
            raise NotReady(self.trouble)
        await self._delay(deadline)
        results = self.cluster.agree(requests, self._stamp_ms())
        if self.cluster.outcome_unknown:
            raise OutcomeUnknown("the answer was lost; send the request again with the same request_id")
        return results

    async def read_barrier(self, deadline: float) -> int:
        self.barriers += 1
        self._require_quorum()
        await self._delay(deadline)
        return self.machine.applied_index

    async def transfer(self, target_id: str | None, deadline: float) -> str:
        self._require_quorum()
        await self._delay(deadline)
        others = [name for name in self.cluster.electable() if name != self.cluster.leader_id]
        target = target_id or next(iter(others), self.member_id)
        if target not in self.cluster.configuration.voters:
            raise InvalidInput(f"{target!r} is not a voter; `raftos node ls` lists the members")
        if target not in self.cluster.heard():
            raise Conflict(f"{target} is not connected; the leader is unchanged")
        self.cluster.elect(target)
        return target

    async def change(self, change: Change, deadline: float) -> int:
        self._require_quorum()
        if isinstance(change, Add) and not change.address:
            raise InvalidInput("a new member needs an address, host:port, at which it is to be found")
        await self._delay(deadline)
        return self.cluster.change(change, self.machine.applied_index)

    async def snapshot(self, deadline: float) -> MemorySnapshot:
        if self.trouble:
            raise NotReady(self.trouble)
        await self._delay(deadline)
        return MemorySnapshot(self)

    async def ask(self, member_id: str, body: bytes, timeout_s: float) -> bytes:
        peer = self.cluster.members.get(member_id)
        heard = self.cluster.heard()
        if peer is None or peer.handler is None or not {member_id, self.member_id} <= set(heard):
            await asyncio.sleep(0)
            raise Unreachable(f"member {member_id} does not answer")
        return await asyncio.wait_for(peer.handler(self.member_id, body), timeout_s)

    def on_ask(self, handler: Handler) -> None:
        self.handler = handler

    def on_role(self, listener: Callable[[Role, int], None]) -> None:
        self._role_listeners.append(listener)

    def on_applied(self, listener: Callable[[int], None]) -> None:
        self._applied_listeners.append(listener)

    def distrust(self, sentence: str) -> None:
        """A trouble that stays; a leader gives way to the next that is heard."""
        self.trouble = sentence
        if self.role == Role.LEADER:
            others = [name for name in self.cluster.heard() if name != self.member_id]
            self.cluster.elect(next(iter(others), self.member_id))

    def watching(self, watching: bool) -> None:
        """Nothing to do: everybody hears of everything at once."""

    def cluster_time_ms(self) -> int:
        return self._stamp_ms() - self.behind_ms

    def status(self) -> Status:
        applied = self.machine.applied_index
        heard = self.cluster.heard()
        committed = self._first_index + len(self.cluster.entries)
        return Status(
            member_id=self.member_id,
            role=self.role,
            leader_id=self.cluster.leader_id if self.member_id in heard else None,
            term=self.cluster.term,
            commit_index=committed if self.member_id in heard else applied,
            applied_index=applied,
            last_index=applied,
            synced_index=applied,
            voters=self.cluster.configuration.voters,
            learners=self.cluster.configuration.learners,
            removed=self.cluster.configuration.removed,
            connected=tuple(name for name in heard if name != self.member_id),
            has_quorum=self.cluster.has_quorum(self.member_id),
            trouble=self.trouble,
        )

    async def start(self) -> None:
        self.announce_role()

    async def stop(self) -> None:
        self.cluster.cut(self.member_id)

    @property
    def role(self) -> Role:
        if self.member_id in self.cluster.configuration.learners:
            return Role.LEARNER
        return Role.LEADER if self.cluster.leader_id == self.member_id else Role.FOLLOWER

    def announce_role(self) -> None:
        for listener in self._role_listeners:
            listener(self.role, self.cluster.term)

    def apply(self, entries: Sequence[bytes]) -> list[bytes]:
        """Apply what this machine lacks of all entries; the results of the last one."""
        done = self.machine.applied_index - self._first_index
        missing = [(self._first_index + at + 1, entries[at]) for at in range(done, len(entries))]
        results = self.machine.apply(missing) if missing else [[]]
        if missing:
            self.behind_ms = 0
        for listener in self._applied_listeners:
            listener(self.machine.applied_index)
        return results[-1]

    def _stamp_ms(self) -> int:
        return max(self.machine.time_ms, time.time_ns() // 1_000_000)

    def _require_quorum(self) -> None:
        if not self.cluster.has_quorum(self.member_id):
            raise NoQuorum("a majority of the members cannot be reached; nothing was proposed")

    async def _delay(self, deadline: float) -> None:
        if not self.cluster.delay_s:
            return
        left_s = deadline - time.monotonic()
        if self.cluster.delay_s > left_s:
            await asyncio.sleep(max(left_s, 0))
            raise NoQuorum("no agreement before the deadline; nothing was proposed")
        await asyncio.sleep(self.cluster.delay_s)


class MemorySnapshot:
    """All entries as bytes, counted by its member while it is held."""

    def __init__(self, member: MemoryConsensus) -> None:
        self._member = member
        self.index = member.machine.applied_index
        self._content = msgspec.msgpack.encode(member.cluster.entries)
        self.size_bytes = len(self._content)
        member.held_snapshots += 1

    def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._member.held_snapshots -= 1
