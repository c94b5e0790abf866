"""The one-process twin of consensus: agreement by decree, for tests of everything above the port.

A `MemoryCluster` holds one `MemoryConsensus` for each member, every one with a real machine of its
own. A proposal becomes one entry, stamped with the wall clock, and is applied at once to every
member that is not cut off. Nothing is durable beyond what the machines keep.

What can go wrong can be ordered: `cut(member)` takes a member away, `outcome_unknown` applies and
then pretends that the answer was lost, `delay_s` makes agreement slow, `trouble` is a full disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from raftos.consensus.base import Handler, Role, Status
from raftos.errors import Conflict, InvalidInput, NoQuorum, NotReady, OutcomeUnknown, Unreachable
from raftos.state.command import encode_entry
from raftos.state.machine import Machine


class MemoryCluster:
    """Members that agree because one of them says so. The first is the leader."""

    def __init__(self) -> None:
        self.members: dict[str, MemoryConsensus] = {}
        self.leader_id: str | None = None
        self.term = 1
        self.delay_s = 0.0
        self.outcome_unknown = False
        self.entries: list[bytes] = []
        self._cut: set[str] = set()

    def join(self, member_id: str, machine: Machine) -> MemoryConsensus:
        """A new voter over its own, empty or equally far, machine."""
        member = MemoryConsensus(machine, member_id, cluster=self)
        self.leader_id = self.leader_id or member_id
        return member

    def cut(self, member_id: str) -> None:
        """Nobody hears this member any more; if it led, the next one that is heard leads."""
        self._cut.add(member_id)
        if member_id == self.leader_id:
            self.elect(next(iter(self.heard()), None))

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
        return [name for name in self.members if name not in self._cut]

    def has_quorum(self, member_id: str) -> bool:
        heard = self.heard()
        return member_id in heard and 2 * len(heard) > len(self.members)

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
        self.barriers = 0
        self.proposals = 0
        self.cluster = cluster or MemoryCluster()
        self.cluster.leader_id = self.cluster.leader_id or member_id
        self.cluster.members[member_id] = self
        self._first_index = machine.applied_index
        self.handler: Handler | None = None
        self._role_listeners: list[Callable[[Role, int], None]] = []
        self._applied_listeners: list[Callable[[int], None]] = []

    async def propose(self, requests: Sequence[bytes], deadline: float) -> list[bytes]:
        self.proposals += 1
        self._require_quorum()
        if self.trouble:
            raise NotReady(self.trouble)
        await self._delay(deadline)
        results = self.cluster.agree(requests, self.cluster_time_ms())
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
        others = [name for name in self.cluster.heard() if name != self.cluster.leader_id]
        target = target_id or next(iter(others), self.member_id)
        if target not in self.cluster.members:
            raise InvalidInput(f"{target!r} is not a voter; `raftos node ls` lists the members")
        if target not in self.cluster.heard():
            raise Conflict(f"{target} is not connected; the leader is unchanged")
        self.cluster.elect(target)
        return target

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
        return max(self.machine.time_ms, time.time_ns() // 1_000_000)

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
            voters=tuple(self.cluster.members),
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
        return Role.LEADER if self.cluster.leader_id == self.member_id else Role.FOLLOWER

    def announce_role(self) -> None:
        for listener in self._role_listeners:
            listener(self.role, self.cluster.term)

    def apply(self, entries: Sequence[bytes]) -> list[bytes]:
        """Apply what this machine lacks of all entries; the results of the last one."""
        done = self.machine.applied_index - self._first_index
        missing = [(self._first_index + at + 1, entries[at]) for at in range(done, len(entries))]
        results = self.machine.apply(missing) if missing else [[]]
        for listener in self._applied_listeners:
            listener(self.machine.applied_index)
        return results[-1]

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
