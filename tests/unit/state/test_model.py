"""kv, its quota and members against a dictionary: whatever happens in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raftos.state.command import Command, Ok, Rejected, Result
from raftos.state.domains import kv, members, quota
from raftos.state.tally import ROW_BYTES, STATE_BYTES
from tests.unit.state.feeder import Feeder

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "é", "\U0010ffff"])
VALUES = st.binary(max_size=3)
VERSIONS = st.none() | st.integers(0, 3)
BESIDE = st.none() | st.integers(0, 1)
"""How far beside the true revision of a key the one expected is; None: no revision is expected."""
TTLS = st.none() | st.integers(1, 50)
MEMBERS = st.sampled_from(["m-1", "m-2", "m-3"])
NAMES = st.sampled_from(["n1", "n2", "n3"])
STATES = st.sampled_from(["alive", "down"])


class StateModel(RuleBasedStateMachine):
    """A machine and what a dictionary says it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.feeder = Feeder(self.folder / "state")
        self.revision = 0
        self.items: dict[str, kv.Item] = {}
        self.members: dict[str, tuple[str, str]] = {}
        self.most_keys = kv.MAX_KEYS
        self.last: tuple[bytes, Command, Result] | None = None

    def teardown(self) -> None:
        self.feeder.close()
        shutil.rmtree(self.folder)

    def send(self, command: Command, expected: str | None) -> Any:
        """Apply the command; `expected` is the code of the refusal the model foresees."""
        request_id = self.feeder.new_id()
        [result] = self.feeder.send((request_id, command))
        self.last = request_id, command, result
        if expected is not None:
            assert isinstance(result, Rejected), result
            assert result.code == expected
            return None
        assert isinstance(result, Ok), result
        self.revision += 1
        return result.value

    def version(self, key: str) -> int:
        return self.items[key].version if key in self.items else 0

    def revision_beside(self, key: str, beside: int | None) -> int | None:
        if beside is None:
            return None
        return beside + (self.items[key].revision if key in self.items else 1)

    def is_at(self, key: str, revision: int | None) -> bool:
        return revision is None or (key in self.items and self.items[key].revision == revision)

    def crowded(self, keys: Iterable[str]) -> str | None:
        """The refusal of writing these keys, if some are new and too many."""
        new = sum(key not in self.items for key in keys)
        return "limit_reached" if new and len(self.items) + new > self.most_keys else None

    def written(self, key: str, value: bytes, ttl_ms: int | None) -> kv.Item:
        expires_ms = None if ttl_ms is None else self.feeder.now_ms + ttl_ms
        return kv.Item(key, self.version(key) + 1, self.revision, value, expires_ms)

    @rule(key=KEYS, value=VALUES, expect=VERSIONS, ttl_ms=TTLS)
    def put(self, key: str, value: bytes, expect: int | None, ttl_ms: int | None) -> None:
        refused = "conflict" if expect not in {None, self.version(key)} else self.crowded([key])
        answer = self.send(kv.Put(key, value, expect, ttl_ms), refused)
        if answer is not None:
            self.items[key] = self.written(key, value, ttl_ms)
            assert answer == {"key": key, "version": self.version(key), "revision": self.revision}

    @rule(key=KEYS, expect=VERSIONS, beside=BESIDE)
    def delete(self, key: str, expect: int | None, beside: int | None) -> None:
        revision = self.revision_beside(key, beside)
        refused = "not_found" if key not in self.items else None
        if refused is None and (expect not in {None, self.version(key)} or not self.is_at(key, revision)):
            refused = "conflict"
        if self.send(kv.Delete(key, expect, revision), refused) is not None:
            del self.items[key]

    @rule(prefix=st.sampled_from(["", "a", "a/", "x"]), limit=st.integers(1, 3))
    def delete_prefix(self, prefix: str, limit: int) -> None:
        found = sorted((key for key in self.items if key.startswith(prefix)), key=str.encode)
        answer = self.send(kv.DeletePrefix(prefix, limit), None)
        assert answer == {"deleted": len(found[:limit]), "more": len(found) > limit}
        for key in found[:limit]:
            del self.items[key]

    @rule(
        versions=st.lists(st.tuples(KEYS, st.integers(0, 2)), max_size=2),
        revisions=st.lists(st.tuples(KEYS, st.integers(0, 1)), max_size=2),
        writes=st.dictionaries(KEYS, st.none() | VALUES, min_size=1, max_size=3),
        ttl_ms=TTLS,
    )
    def txn(
        self,
        versions: list[tuple[str, int]],
        revisions: list[tuple[str, int]],
        writes: dict[str, bytes | None],
        ttl_ms: int | None,
    ) -> None:
        conditions = [kv.Compare(key, version) for key, version in versions]
        conditions += [
            kv.Compare(key, revision=self.revision_beside(key, beside)) for key, beside in revisions
        ]
        matches = all(
            each.version in {None, self.version(each.key)} and self.is_at(each.key, each.revision)
            for each in conditions
        )
        puts = [key for key, value in writes.items() if value is not None]
        refused = self.crowded(puts) if matches else "conflict"
        operations = tuple(
            kv.TxnDelete(key) if value is None else kv.TxnPut(key, value, ttl_ms)
            for key, value in writes.items()
        )
        if self.send(kv.Txn(writes=operations, compare=tuple(conditions)), refused) is None:
            return
        for key, value in writes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = self.written(key, value, ttl_ms)

    @rule(behind=st.integers(0, 1))
    def expire(self, behind: int) -> None:
        """Everything that has a time-to-live is named, some at a revision that is not theirs."""
        named = [item for item in self.items.values() if item.expires_ms is not None]
        if not named:
            return
        self.send(kv.Expire(tuple(kv.Seen(item.key, item.revision + behind) for item in named)), None)
        for item in named:
            if not behind and item.expires_ms is not None and item.expires_ms <= self.feeder.now_ms:
                del self.items[item.key]

    @rule(key=KEYS, ttl_ms=st.integers(1, 50), beside=BESIDE)
    def touch(self, key: str, ttl_ms: int, beside: int | None) -> None:
        revision = self.revision_beside(key, beside)
        refused = "not_found" if key not in self.items else None if self.is_at(key, revision) else "conflict"
        answer = self.send(kv.Touch(key, ttl_ms, revision), refused)
        if answer is not None:
            expires_ms = self.feeder.now_ms + ttl_ms
            assert answer == {"key": key, "revision": self.items[key].revision, "expires_ms": expires_ms}
            self.items[key] = msgspec.structs.replace(self.items[key], expires_ms=expires_ms)

    @rule(most=st.integers(0, 6))
    def limit_keys(self, most: int) -> None:
        self.send(quota.Set(kv.KEYS, most), None)
        self.most_keys = most

    @rule(member=MEMBERS, name=NAMES)
    def register(self, member: str, name: str) -> None:
        taken = any(other != member and known[0] == name for other, known in self.members.items())
        command = members.Register(id=member, name=name, endpoint="", peer_address="", version="1")
        if self.send(command, "conflict" if taken else None) is not None:
            self.members[member] = (name, "alive")

    @rule(member=MEMBERS, state=STATES)
    def mark(self, member: str, state: Any) -> None:
        expect: Any = "down" if state == "alive" else "alive"
        known = self.members.get(member)
        refused = "not_found" if known is None else None if known[1] == expect else "conflict"
        if self.send(members.Mark(member, state, expect), refused) is not None and known:
            self.members[member] = (known[0], state)

    @rule()
    def repeat(self) -> None:
        """The last request once more gives its first answer and changes nothing."""
        if self.last is not None:
            request_id, command, result = self.last
            assert self.feeder.send((request_id, command)) == [result]

    @rule(passed_ms=st.integers(1, 30))
    def wait(self, passed_ms: int) -> None:
        self.feeder.now_ms += passed_ms

    @rule()
    def reopen(self) -> None:
        self.feeder.reopen()

    @invariant()
    def both_say_the_same(self) -> None:
        self.feeder.machine.check()
        assert self.feeder.machine.revision == self.revision
        page = self.feeder.ask(kv.List())
        assert page.items == sorted(self.items.values(), key=lambda item: item.key.encode())
        known = {member.id: (member.name, member.state) for member in self.feeder.ask(members.List()).items}
        assert known == self.members

    @invariant()
    def the_tallies_add_up(self) -> None:
        kept = [len(item.key) + len(item.value or b"") for item in self.items.values()]
        tallies = self.feeder.machine.tallies
        assert tallies[kv.KEYS] == len(kept)
        assert tallies[STATE_BYTES] == sum(kept) + ROW_BYTES * len(kept)


StateModel.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
test_the_state_follows_the_model = StateModel.TestCase
