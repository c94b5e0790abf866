"""A member more that comes and goes while others die, sleep, or are cut off from each other.

It is a guest of its cluster: on record with a folder and ports, so that clients ask it all the time, but
none of the first voters. Each time it comes it is a new member, with a new id and no data, as if a machine
had been replaced; each time it goes it is removed for good, and its daemon has to end by itself.

    `Guest(cluster, seed)`            nothing has happened yet
    `guest.changes(faults)`           the same table of faults, each with a change that is begun with it

What a change asks for is asked again until it is done, of any of the first members, as a patient operator
would: also of one that is paused, dead, or cut off from all others.
"""

from __future__ import annotations

import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TypeVar

from raftos.client import Client
from raftos.errors import Conflict, Unavailable
from raftos_cli.devcluster import LOOPBACK
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.faults import Arena, Fault

CHANGE_S = 60.0
ATTEMPT_S = 2.0
REST_S = 0.1
LOG_BYTES, VALUES, VALUE_BYTES = 4 * 2**20, 160, 2**18
LATEST_S = 0.6
"""A change begins so long after its fault, at the latest."""
A = TypeVar("A", bound=Arena)
T = TypeVar("T")


class Guest:
    """The one guest of a cluster that runs, and is at its newest level (`Cluster.settle`)."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._choice = random.Random(seed)
        self._hosts = list(cluster.members)
        self.member = cluster.dev.members[-1]
        assert self.member not in self._hosts, "this cluster has no guest"
        self._comings = 0
        cluster.forgive("removed")

    @property
    def is_in(self) -> bool:
        return self.member in self._cluster.members

    def changes(self, faults: Mapping[str, Fault[A]]) -> dict[str, Fault[A]]:
        """Faults of the same names, during which the guest comes or goes; in the end it has done so."""
        return {name: replace(fault, strike=self._meanwhile(fault)) for name, fault in faults.items()}

    def _meanwhile(self, fault: Fault[A]) -> Callable[[A], AbstractContextManager[None]]:
        @contextmanager
        def strike(arena: A) -> Iterator[None]:
            change, after_s = self.go if self.is_in else self.come, self._choice.uniform(0, LATEST_S)
            with ThreadPoolExecutor(1) as thread:
                under_way = thread.submit(change, after_s)
                with fault.strike(arena):
                    yield
                under_way.result()
            if not self.is_in:
                self._see_it_end()

        return strike

    def come(self, after_s: float = 0) -> None:
        """Be let in as a new member, start, catch up, and vote."""
        time.sleep(after_s)
        member, data = self.member, self._cluster.dev.data_dir(self.member)
        self._comings += 1
        member.id = secrets.token_hex(8)
        shutil.rmtree(data, ignore_errors=True)
        self._cluster.configure(member, member_id=member.id)
        peer_address = f"{LOOPBACK}:{member.peer_port}"
        self._ask(
            lambda client: client.members.add(
                member.id, member.name, peer_address=peer_address, endpoint=member.endpoint
            )
        )
        self._cluster.spawn(member)
        self._cluster.members = [*self._hosts, member]
        wait_until("the guest votes", lambda: self._ask(self._votes), CHANGE_S)

    def go(self, after_s: float = 0) -> None:
        """Be removed, even where nobody else could fail then. No fault chooses it from here on."""
        time.sleep(after_s)
        self._cluster.members = self._hosts
        self._ask(lambda client: client.members.remove(self.member.id, force=True))

    def check_fetches(self) -> None:
        """It needed a snapshot each time; for that, `outgrow_journals`."""
        fetches = self._cluster.log(self.member).count("fetched a snapshot")
        assert fetches >= self._comings > 0

    def _votes(self, client: Client) -> bool:
        return any(each.id == self.member.id and each.role == "voter" for each in client.members.show().items)

    def _see_it_end(self) -> None:
        wait_until("the removed guest has ended", lambda: not self._cluster.is_running(self.member), CHANGE_S)
        assert "removed" in self._cluster.log(self.member).splitlines()[-1]

    def _ask(self, what: Callable[[Client], T]) -> T:
        """Of one member after another, until one of them agrees."""
        deadline = time.monotonic() + CHANGE_S
        while True:
            try:
                with self._cluster.client(self._choice.choice(self._hosts), timeout_s=ATTEMPT_S) as client:
                    return what(client)
            except (Unavailable, Conflict) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"nobody agrees within {CHANGE_S:g} s") from error
                time.sleep(REST_S)


def outgrow_journals(cluster: Cluster) -> None:
    """Start it, and write until no journal begins at its beginning: who comes now needs a snapshot."""
    for member in cluster.dev.members:
        cluster.configure(member, snapshot_log_bytes=LOG_BYTES)
    cluster.start(*cluster.members)
    noise = random.Random(1)
    with cluster.client() as client:
        for number in range(VALUES):
            client.kv.put(f"ballast/{number}", noise.randbytes(VALUE_BYTES))
    cluster.settle()
