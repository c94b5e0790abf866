"""Changing who belongs to the cluster, as a user asks one member for it.

What consensus agrees on (ids, addresses, who votes) and what the domain `members` keeps (names, endpoints)
are brought together here. Each request may be made again after any failure, at any member, and then
finishes what was begun:

| asked   | steps, in this order                                                                         |
|---------|----------------------------------------------------------------------------------------------|
| join    | announce name and addresses -> add it to the configuration -> tell it where everybody is      |
| promote | let it vote                                                                                  |
| remove  | hand leadership over if it leads -> take it out of the configuration -> forget its name       |

A removal that stops before its last step is finished by the leader's control loop
(`control/membership.py`), so no name stays taken by a member that is gone.

One change at a time: where another one is under way (`Busy`), the next waits for it until its deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from raftos.config import is_loopback
from raftos.consensus.base import Status
from raftos.consensus.configuration import MAX_PEERS, Add, Change, Promote, Remove, Standing, check
from raftos.consensus.handshake import MAX_ID_LENGTH
from raftos.errors import (
    Busy,
    Conflict,
    InvalidInput,
    LimitReached,
    NotEnabled,
    NotFound,
    RaftosError,
    StartupError,
    Unavailable,
)
from raftos.levels import MEMBERSHIP_SINCE
from raftos.member import Member
from raftos.state.command import Query
from raftos.state.domain import described
from raftos.state.domains import members, validate

RETRY_S = 0.05
"""How long a change waits before it asks again whether another one has ended."""

Role = Literal["voter", "learner", "none"]
Target = Annotated[str, described("A name or an id.", minLength=1)]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new member, under an id that was never used before. As `voter` it votes once it has caught up."""

    id: Annotated[str, described("A minted id, of visible ASCII.", minLength=1, maxLength=MAX_ID_LENGTH)]
    name: members.Name
    peer_address: Annotated[str, described("host:port that the others dial; loopback only.")]
    endpoint: Annotated[str, described("The URL of its API.")]
    role: Annotated[Literal["voter", "learner"], described("What it is to become.")] = "voter"


class PromoteMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A learner that is to vote."""

    target: Target


class RemoveMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member that is to go for good."""

    target: Target
    force: Annotated[bool, described("Also where no other member could fail any more.")] = False


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as it is agreed. `role` is `none` for one that has a name but no place yet, or any more.

    A `learner` may be on its way to become a voter. `state` is null where no name is known for it.
    """

    id: str
    name: str
    role: Role
    state: Literal["joining", "alive", "down"] | None
    peer_address: str
    endpoint: str


class Membership(msgspec.Struct, frozen=True):
    """Who belongs to the cluster, by name, and where to find them."""

    cluster: str
    cluster_id: str
    items: list[Known]


class Changed(msgspec.Struct, frozen=True):
    """The member whose place was to change; `changed` is false where it had that place already."""

    id: str
    name: str
    role: Role
    changed: bool


class MembershipService:
    """All deadlines are `time.monotonic()` seconds."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def show(self, deadline: float) -> Membership:
        """Who belongs to the cluster, as of now. Raises NoQuorum, NotReady."""
        await self._member.consensus.read_barrier(deadline)
        return self._view()

    async def join(self, newcomer: Join, deadline: float) -> Membership:
        """Let a member in, or tell one that is in already where the others are.

        Raises InvalidInput, LimitReached, Conflict (its name is taken, or its id was removed), Unavailable.
        """
        standing = Standing.LEARNER if newcomer.role == "learner" else Standing.JOINING
        add = Add(newcomer.id, newcomer.peer_address, standing)
        check(add)
        _require_loopback(newcomer)
        await self._until_enabled(deadline)
        await self._require_room(newcomer.id, deadline)
        await self._announce(newcomer, deadline)
        await self._change(add, deadline)
        return await self.show(deadline)

    async def promote(self, target: str, deadline: float) -> Changed:
        """Let a learner vote. Raises NotFound, Conflict, Unavailable."""
        await self._until_enabled(deadline)
        found = await self._find(target, deadline)
        if found.role == "voter":
            return _told(found, "voter", changed=False)
        if found.role == "none":
            raise Conflict(f"{found.name} does not belong to the cluster; it has to join first")
        await self._change(Promote(found.id), deadline)
        return _told(found, "voter", changed=True)

    async def remove(self, target: str, deadline: float, *, force: bool = False) -> Changed:
        """Send a member away for good, handing over leadership first if it leads.

        `force`: also where the members left could not spare another one, and one of them does not answer.
        Raises NotFound, Conflict, Unavailable.
        """
        await self._until_enabled(deadline)
        found = await self._find(target, deadline)
        if found.role != "none":
            if not force:
                await self._refuse_risk(found)
            await self._hand_over(found, deadline)
            await self._change(Remove(found.id), deadline)
        is_known = found.id in self._member.all_records()
        if is_known:
            await self._forget(found.id, deadline)
        return _told(found, "none", changed=found.role != "none" or is_known)

    # The steps.

    async def _until_enabled(self, deadline: float) -> None:
        """A cluster that has just begun enables its level within a moment; one half upgraded does not."""
        while self._member.machine.level < MEMBERSHIP_SINCE:
            if deadline - time.monotonic() < RETRY_S:
                raise NotEnabled(
                    "members can come and go once every member runs a version that knows how; upgrade all of "
                    "them (`raftos status` says which are behind)"
                )
            await asyncio.sleep(RETRY_S)

    async def _require_room(self, newcomer_id: str, deadline: float) -> None:
        """Raises LimitReached before a name is announced that nobody would come to have."""
        await self._member.consensus.read_barrier(deadline)
        status = self._member.consensus.status()
        belong = (*status.voters, *status.learners)
        if newcomer_id not in belong and len(belong) >= MAX_PEERS:
            raise LimitReached(f"the cluster has {len(belong)} members already; remove one first")

    async def _announce(self, newcomer: Join, deadline: float) -> None:
        announced = members.Announce(
            id=newcomer.id,
            name=newcomer.name,
            endpoint=newcomer.endpoint,
            peer_address=newcomer.peer_address,
        )
        validate(announced)
        try:
            owner = await self._ask(members.Get(name=newcomer.name), deadline)
        except NotFound:
            owner = None
        if owner is not None:
            if msgspec.structs.asdict(announced).items() <= msgspec.structs.asdict(owner).items():
                return
            if owner.id in self._member.consensus.status().removed:
                await self._member.submit_own(members.Forget(owner.id), deadline)
        await self._member.submit_own(announced, deadline)

    async def _change(self, change: Change, deadline: float) -> None:
        """Agree on a change, after those that are under way."""
        while True:
            try:
                await self._member.consensus.change(change, deadline)
            except Busy:
                if deadline - time.monotonic() < RETRY_S:
                    raise
                await asyncio.sleep(RETRY_S)
            except Conflict as error:
                raise Conflict(self._member.with_names(error.message)) from error
            else:
                return

    async def _hand_over(self, found: Known, deadline: float) -> None:
        consensus = self._member.consensus
        if consensus.status().voters == (found.id,):
            raise Conflict(
                f"{found.name} is the last voter, so it cannot be removed; "
                "`raftos dev stop --purge` ends a whole cluster"
            )
        while consensus.status().leader_id == found.id:
            try:
                await self._member.transfer(None, deadline)
            except Unavailable:
                if deadline - time.monotonic() < RETRY_S:
                    raise
            # It may be done, and this member not have heard yet who leads now.
            await asyncio.sleep(RETRY_S)

    async def _forget(self, member_id: str, deadline: float) -> None:
        try:
            await self._member.submit_own(members.Forget(member_id), deadline)
        except Unavailable:
            # It is removed all the same, perhaps this very member; the leader forgets the name in a moment.
            return

    async def _refuse_risk(self, found: Known) -> None:
        """Raises Conflict where a voter that answers would go, and those left could not spare another."""
        voters = self._member.consensus.status().voters
        answering = await self._member.reports()
        silent = [voter for voter in voters if voter != found.id and voter not in answering]
        left = len(voters) - 1
        spare = left - len(silent) - (left // 2 + 1)
        if found.id in voters and found.id in answering and silent and spare == 0:
            names = " and ".join(sorted(map(self._member.name_of, silent)))
            raise Conflict(
                f"without {found.name} no other member could fail, as {names} cannot be reached; bring it "
                "back or remove it first, or add --force"
            )

    # What is known.

    async def _find(self, target: str, deadline: float) -> Known:
        """The member of a name or an id, also one that was removed. Raises NotFound, Unavailable."""
        items = (await self.show(deadline)).items
        for known in (*(item for item in items if item.id == target), *items):
            if target in {known.id, known.name}:
                return known
        removed: members.RemovedMembers = await self._ask(members.ListRemoved(), deadline)
        for gone in removed.items:
            if target in {gone.id, gone.name}:
                return _outsider(gone.id, gone.name)
        if target in self._member.consensus.status().removed:
            return _outsider(target, target)
        raise NotFound(f"no member is called {target!r}; `raftos node ls` lists them")

    def _view(self) -> Membership:
        status, records = self._member.consensus.status(), self._member.all_records()
        listed = dict.fromkeys((*status.voters, *status.learners, *records))
        items = [self._known(member_id, status, records) for member_id in listed]
        config = self._member.config
        return Membership(config.cluster, config.cluster_id, sorted(items, key=lambda item: item.name))

    def _known(self, member_id: str, status: Status, records: Mapping[str, Any]) -> Known:
        record = records.get(member_id)
        known = record or self._member.config.voter(member_id)
        return Known(
            id=member_id,
            name=known.name if known else member_id,
            role=_role_of(member_id, status),
            state=record.state if record else None,
            peer_address=known.peer_address if known else "",
            endpoint=known.endpoint if known else "",
        )

    async def _ask(self, query: Query, deadline: float) -> Any:
        """The answer as of now. Raises what it is refused with, Unavailable."""
        [answer] = await self._member.query([query], "linearizable", deadline)
        if isinstance(answer, RaftosError):
            raise answer
        return answer


def _role_of(member_id: str, status: Status) -> Role:
    if member_id in status.voters:
        return "voter"
    return "learner" if member_id in status.learners else "none"


def _outsider(member_id: str, name: str) -> Known:
    return Known(id=member_id, name=name or member_id, role="none", state=None, peer_address="", endpoint="")


def _told(found: Known, role: Role, *, changed: bool) -> Changed:
    return Changed(found.id, found.name, role, changed)


def _require_loopback(newcomer: Join) -> None:
    try:
        inside = is_loopback(newcomer.peer_address)
    except StartupError as error:
        raise InvalidInput(f"peer_address: {error.message}") from None
    if not inside:
        raise InvalidInput(
            f"peer_address {newcomer.peer_address!r} is not a loopback address; this version connects on "
            "loopback only, so use 127.0.0.1"
        )
