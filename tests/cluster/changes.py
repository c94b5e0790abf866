"""One more member, which comes and goes while others die, sleep, or are cut off from each other.

It is a guest of its cluster: on record with a folder and ports, so that clients ask it all the time, but
none of the first voters. Each time it comes it is a new member, with a new id and no data, as if a machine
had been replaced; each time it goes it is removed for good, and its daemon has to end by itself.

    `Guest(cluster, seed)`            nothing has happened yet
    `guest.changes(faults)`           the same table of faults, with a change about the beginning of each

What a change asks for is asked again until it is done, of any of the first members, as a patient operator
would: also of one that is paused, dead, or cut off from all others.
"""

from __future__ import annotations

import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TypeVar

from raftos.client import Client
from raftos.errors import Conflict, Unavailable
from raftos_cli.devcluster import LOOPBACK, Member
from tests.cluster.daemons import EXPELLED, Cluster, wait_until
from tests.cluster.faults import Arena, Fault

CHANGE_S = 60.0
ATTEMPT_S, REST_S = 2.0, 0.1
LOG_BYTES, VALUES, VALUE_BYTES = 4 * 2**20, 160, 2**18
ARRIVING_S, LEAVING_S, LATEST_S = 1.5, 0.2, 0.6
"""A change begins so long before its fault at most, or so long after: arriving takes about as long, so that
faults strike in all of it."""
A = TypeVar("A", bound=Arena)
T = TypeVar("T")


class Guest:
    """The one guest of a cluster that runs, and is at its newest level (`Cluster.settle`)."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._choice = random.Random(seed)
        self._hosts = list(cluster.members)
        self._agreed, self._given_up = threading.Event(), threading.Event()
        self.member = cluster.dev.members[-1]
        assert not cluster.belongs(self.member), "this cluster has no guest"
        cluster.forgive(EXPELLED)

    def changes(self, faults: Mapping[str, Fault[A]]) -> dict[str, Fault[A]]:
        """Faults of the same names, about whose beginning the guest comes or goes.

        Where a majority goes on, it agrees to that while the fault lasts; after it, the change is complete.
        """
        return {name: replace(fault, strike=self._meanwhile(fault)) for name, fault in faults.items()}

    def _meanwhile(self, fault: Fault[A]) -> Callable[[A], AbstractContextManager[None]]:
        @contextmanager
        def strike(arena: A) -> Iterator[None]:
            with self._change(), fault.strike(arena):
                if fault.serves:
                    wait_until("the change is agreed to", self._agreed.is_set, CHANGE_S)
                yield
            if self._cluster.belongs(self.member):
                self._serve()
            else:
                self._cluster.wait_expelled(self.member)

        return strike

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Come or go on a thread that begins somewhat earlier or later than the block, and ends with it."""
        self._agreed.clear()
        here = self._cluster.belongs(self.member)
        after_s = self._choice.uniform(-(LEAVING_S if here else ARRIVING_S), LATEST_S)
        with ThreadPoolExecutor(1) as thread:
            change = thread.submit(self.go if here else self.come, max(0.0, after_s))
            try:
                time.sleep(max(0.0, -after_s))
                yield
            except BaseException as failure:
                self._given_up.set()
                failure.add_note(f"the change of members meanwhile: {change.exception()!r}")
                raise
            change.result()

    def come(self, after_s: float = 0) -> None:
        """Be let in as a new member, start, catch up by a snapshot, and vote."""
        time.sleep(after_s)
        member = self.member
        member.id = secrets.token_hex(8)
        shutil.rmtree(self._cluster.dev.data_dir(member), ignore_errors=True)
        self._cluster.configure(member, member_id=member.id)
        peer_address = f"{LOOPBACK}:{member.peer_port}"
        self._ask(
            lambda client: client.members.add(
                member.id, member.name, peer_address=peer_address, endpoint=member.endpoint
            )
        )
        self._agreed.set()
        self._cluster.spawn(member)
        self._cluster.members = [*self._hosts, member]
        wait_until("the guest votes", lambda: self._ask(self._votes), CHANGE_S)
        assert self._has_snapshot(), "it voted before it had a snapshot, without which it knows nothing"

    def go(self, after_s: float = 0) -> None:
        """Be removed, even where nobody else could fail then. No fault chooses it from here on."""
        time.sleep(after_s)
        self._cluster.members = self._hosts
        self._ask(lambda client: client.members.remove(self.member.id, force=True))
        self._agreed.set()

    def _votes(self, client: Client) -> bool:
        return any(each.id == self.member.id and each.role == "voter" for each in client.members.show().items)

    def _has_snapshot(self) -> bool:
        return any((self._cluster.dev.data_dir(self.member) / "snapshots").glob("*.snapshot"))

    def _serve(self) -> None:
        """Take a write and answer a read, asked alone."""
        self._cluster.wait_ready(self.member)
        self._ask(lambda client: client.kv.put("guest", self.member.id), self.member)
        assert self._ask(lambda client: client.kv.get("guest"), self.member).value.decode() == self.member.id

    def _ask(self, what: Callable[[Client], T], of: Member | None = None) -> T:
        """Of one member, or of one host after another, until one of them agrees."""
        deadline = time.monotonic() + CHANGE_S
        while not self._given_up.is_set():
            asked = of or self._choice.choice(self._hosts)
            try:
                with self._cluster.client(asked, timeout_s=ATTEMPT_S) as client:
                    return what(client)
            except (Unavailable, Conflict) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"nobody agrees within {CHANGE_S:g} s") from error
                time.sleep(REST_S)
        raise AssertionError("given up, as the fault went wrong")


def outgrow_journals(cluster: Cluster) -> None:
    """Start it, and write what no journal holds to its beginning any more: who comes now needs a snapshot."""
    for member in cluster.dev.members:
        cluster.configure(member, snapshot_log_bytes=LOG_BYTES)
    cluster.start(*cluster.members)
    noise = random.Random(1)
    with cluster.client() as client:
        for number in range(VALUES):
            client.kv.put(f"ballast/{number}", noise.randbytes(VALUE_BYTES))
    cluster.settle()
