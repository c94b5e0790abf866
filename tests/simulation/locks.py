"""Users of locks: take one, keep it alive, write under it with its token, release it or let it expire.

A lock is a key: taking it is a put that expects no key, its token the revision of that put. Looked at in
the end, revision by revision: nobody takes a lock that is held, tokens grow, none expires before its time,
and whoever wrote with a token held the lock at that revision.
"""

from __future__ import annotations

from typing import NamedTuple

from raftos.state.domains.kv import Compare, Delete, Expire, Put, Touch, Txn, TxnDelete, TxnPut
from tests.simulation.caller import Caller
from tests.simulation.history import Asked, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.replay import Done, Replay
from tests.simulation.world import World

LOCKS = ("lock/a", "lock/b")
TTL_MS = 700


class Locker(Caller):
    """One user of one lock after another."""

    def __init__(self, world: World, name: str, *, pace_s: float = 0.15) -> None:
        super().__init__(world, name, pace_s=pace_s)
        self._lock = LOCKS[0]
        self._token = 0

    def go(self) -> None:
        if self.stopped:
            return
        if not self._token:
            self._acquire()
        else:
            choice = self.world.random.random()
            if choice < 0.4:
                self._write()
            elif choice < 0.6:
                self._keep()
            elif choice < 0.8:
                self._release()
            else:
                self._token = 0  # Forgotten: it will expire.
                self._next()

    def _acquire(self) -> None:
        self._lock = self.world.random.choice(LOCKS)
        expected = 0 if self.world.care.expects_absence else None
        put = Put(self._lock, self.name.encode(), expect_version=expected, ttl_ms=TTL_MS)
        self.command(put, self._acquired)

    def _acquired(self, asked: Asked) -> None:
        value = getattr(asked.result, "value", None)
        self._token = value["revision"] if value else 0
        self._next()

    def _write(self) -> None:
        names = [f"fenced/{number}" for number in range(self.world.random.randint(2, 5))]
        value = f"{self._lock} {self._token}".encode()
        keys: list[TxnPut | TxnDelete] = [TxnPut(name, value) for name in names]
        if self.world.random.random() < 0.2:
            keys.append(TxnDelete("fenced/9"))
        compare = (Compare(self._lock, revision=self._token),) if self.world.care.fences_writes else ()
        self.command(Txn(tuple(keys), compare), self._while_held)

    def _keep(self) -> None:
        self.command(Touch(self._lock, TTL_MS, expect_revision=self._token), self._while_held)

    def _while_held(self, asked: Asked) -> None:
        if getattr(asked.result, "value", None) is None:
            self._token = 0
        self._next()

    def _release(self) -> None:
        self.command(Delete(self._lock, expect_revision=self._token), lambda _: self._next())
        self._token = 0


class Held(NamedTuple):
    """A lock that somebody holds."""

    token: int
    expires_ms: int


def check_locks(replay: Replay, ledger: Ledger) -> None:
    """Raise a Violation where a lock was no lock."""
    held: dict[str, Held] = {}
    last = dict.fromkeys(LOCKS, 0)
    for done in replay.done.values():
        match done.command:
            case _ if done.value is None:
                continue
            case Put(key=key) if key in last:
                if key in held or done.value["revision"] <= last[key]:
                    raise Violation(f"{key} was taken by {done} although {held.get(key)} holds it")
                last[key] = done.value["revision"]
                held[key] = Held(last[key], done.time_ms + TTL_MS)
            case Touch(key=key, expect_revision=token):
                _check_holder(held, key, token, done)
                held[key] = Held(held[key].token, done.time_ms + TTL_MS)
            case Delete(key=key, expect_revision=token):
                _check_holder(held, key, token, done)
                del held[key]
            case Txn(writes=writes) if isinstance(writes[0], TxnPut):
                lock, fence = writes[0].value.decode().split()
                _check_holder(held, lock, int(fence), done)
            case Expire():
                _expire(held, ledger, done)


def _check_holder(held: dict[str, Held], lock: str, token: int | None, done: Done) -> None:
    if lock not in held or held[lock].token != token:
        raise Violation(f"{done} was done under {lock}, which was held by {held.get(lock)}")


def _expire(held: dict[str, Held], ledger: Ledger, done: Done) -> None:
    for event in ledger.of(done.revision):
        lock = held.pop(event.fields["key"])
        if done.time_ms < lock.expires_ms:
            raise Violation(f"{lock} expired {lock.expires_ms - done.time_ms} ms before its time")
