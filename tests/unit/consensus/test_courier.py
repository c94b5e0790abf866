"""A snapshot travels: whole, resumed where it stopped, and never a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from raftos.consensus import courier, messages
from raftos.consensus.core import Offer
from raftos.consensus.courier import BURST_S, PIECES_UNDER_WAY, SERVING_S, STALLED_S, Courier
from raftos.consensus.messages import Message, SnapshotPiece, SnapshotWanted
from raftos.consensus.snapshots import Header, SnapshotStore, Stored
from raftos.errors import RaftosError
from tests.simulation.storage import SimulatedStorage

PIECE_BYTES = 1_000
RAW = Random(1).randbytes(20_000)


def header(index: int = 90, raw: bytes = RAW) -> Header:
    return Header("c", index, 3, b"configuration", 5, 80, b"hash", 2, len(raw), "1.0", 0)


class End:
    """One member's courier with its store; frames go to `sent` and jobs are done at once, or when told."""

    def __init__(self) -> None:
        self.storage = SimulatedStorage()
        self.store = SnapshotStore(self.storage, "c")
        self.sent: list[Message] = []
        self.arrived: list[Stored] = []
        self.lost = 0
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.is_busy = False
        self.courier = Courier(
            self.store, self._send, self._work, self.arrived.append, self._lose, piece_bytes=PIECE_BYTES
        )

    def _lose(self) -> None:
        self.lost += 1

    def flip_bit(self, name: str, offset: int) -> None:
        [byte] = self.storage.read(name, offset, 1)
        self.storage.write(name, offset, bytes([byte ^ 1]))

    def _send(self, peer: str, generation: int, message: Message) -> None:
        assert (peer, generation) in {("leader", 1), ("leader", 2), ("other", 1), ("follower", 1)}
        self.sent.append(messages.decode(messages.encode(message)))

    def _work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.jobs.append((job, done))
        while self.jobs and not self.is_busy:
            job, done = self.jobs.pop(0)
            try:
                value = job()
            except RaftosError as error:
                value = error
            done(value)

    def taken(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return sent


class Pair:
    """A leader that has a snapshot, and a follower that was offered it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.leader, self.follower = End(), End()
        self.stored = self.leader.store.write(header(), [RAW])

    def offer(self, peer: str = "leader", generation: int = 1) -> None:
        made = self.stored
        offer = Offer(peer, generation, made.header.index, made.header.term, made.size_bytes)
        self.follower.courier.offered(self.now, offer)

    def ask(self, count: int | None = None) -> list[Message]:
        """Bring questions to the leader; its answers."""
        for message in self.follower.taken()[:count]:
            assert isinstance(message, SnapshotWanted)
            self.leader.courier.wanted(self.now, "follower", 1, message)
        return self.leader.taken()

    def bring(self, pieces: list[Message], peer: str = "leader", generation: int = 1) -> None:
        for piece in pieces:
            assert isinstance(piece, SnapshotPiece)
            self.follower.courier.piece(self.now, peer, generation, piece)

    def carry(self) -> int:
        """Go on until nobody says anything more; how many pieces travelled."""
        count = 0
        while pieces := self.ask():
            count += len(pieces)
            self.bring(pieces)
        return count


def lacking(_peer: str) -> int:
    """What a leader knows of a follower that has not acknowledged anything yet."""
    return 1


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_it_arrives_whole_and_durable(pair: Pair) -> None:
    pair.offer()
    assert pair.carry() == -(-pair.stored.size_bytes // PIECE_BYTES)
    assert [stored.header for stored in pair.follower.arrived] == [header()]
    pair.follower.storage.crash(Random(0))
    again = SnapshotStore(pair.follower.storage, "c")
    assert again.newest is not None
    assert b"".join(again.pieces(again.newest.name)) == RAW


def test_few_pieces_are_under_way_at_a_time(pair: Pair) -> None:
    pair.offer()
    assert len(pair.follower.sent) == PIECES_UNDER_WAY


def test_no_more_is_asked_for_than_leaves_room_for_others(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the pieces come: what was let pass is made up for only a little."""
    monkeypatch.setattr(courier, "FETCH_BYTES_PER_S", PIECE_BYTES / BURST_S)
    pair.offer()
    count = pair.carry()
    assert count == 2
    for _ in range(3):
        pair.now += BURST_S
        pair.follower.courier.tick(pair.now, lacking)
        count += pair.carry()
    assert count == 5
    pair.now += 100 * BURST_S
    pair.follower.courier.tick(pair.now, lacking)
    assert pair.carry() == 2


def test_an_offer_repeated_meanwhile_asks_for_nothing_twice(pair: Pair) -> None:
    pair.offer()
    pair.offer()
    assert len(pair.follower.sent) == PIECES_UNDER_WAY


def test_over_a_new_link_it_goes_on_from_what_is_there(pair: Pair) -> None:
    pair.offer()
    pair.bring(pair.ask())
    pair.follower.taken()
    pair.offer(generation=2)
    first = pair.follower.sent[0]
    assert isinstance(first, SnapshotWanted)
    assert first.offset == PIECES_UNDER_WAY * PIECE_BYTES
    left = -(-pair.stored.size_bytes // PIECE_BYTES) - PIECES_UNDER_WAY
    count = 0
    while pieces := pair.ask():
        count += len(pieces)
        pair.bring(pieces, generation=2)
    assert count == left
    assert pair.follower.arrived


def test_a_stalled_transfer_is_asked_for_again(pair: Pair) -> None:
    """The leader restarted its process, say, and forgot the questions; the link may even be the same."""
    pair.offer()
    pair.follower.taken()
    pair.now += STALLED_S
    pair.offer()
    assert pair.carry()
    assert pair.follower.arrived


def test_what_nobody_offers_any_more_is_given_up(pair: Pair) -> None:
    """Its leader has gone, and the next one has the log that this member lacks."""
    pair.offer()
    pair.bring(pair.ask())
    follower = pair.follower
    follower.courier.tick(pair.now + SERVING_S, lacking)
    assert follower.storage.names()
    follower.courier.tick(pair.now + SERVING_S + 1, lacking)
    assert not follower.storage.names()
    follower.taken()
    pair.offer()
    pair.carry()
    assert follower.arrived


def test_what_waits_for_the_own_disk_is_not_given_up(pair: Pair) -> None:
    pair.offer()
    pieces = pair.ask()
    pair.follower.is_busy = True
    pair.bring(pieces)
    pair.now += 2 * SERVING_S
    pair.follower.courier.tick(pair.now, lacking)
    pair.follower.is_busy = False
    pair.follower._work(lambda: None, lambda _: None)
    pair.follower.courier.tick(pair.now, lacking)
    pair.carry()
    assert pair.follower.arrived


def test_pieces_of_an_older_link_are_dropped(pair: Pair) -> None:
    pair.offer()
    old = pair.ask()
    pair.offer(generation=2)
    pair.bring(old)
    assert pair.follower.courier._fetch is not None
    assert pair.follower.courier._fetch.incoming is not None
    assert pair.follower.courier._fetch.incoming.received == 0


def test_another_leader_begins_from_the_beginning(pair: Pair) -> None:
    """Its file may differ in bytes, though it is of the same index."""
    pair.offer()
    pair.bring(pair.ask())
    pair.follower.taken()
    pair.offer("other")
    first = pair.follower.sent[0]
    assert isinstance(first, SnapshotWanted)
    assert first.offset == 0


def test_a_newer_one_of_the_same_leader_waits_while_pieces_come(pair: Pair) -> None:
    """It may make them faster than one is fetched, and nothing would ever be whole."""
    first = pair.stored
    pair.offer()
    pair.bring(pair.ask())
    pair.stored = pair.leader.store.write(header(index=95), [RAW])
    pair.now += STALLED_S / 2
    pair.offer()
    pair.carry()
    assert [stored.name for stored in pair.follower.arrived] == [first.name]


def test_a_newer_one_of_the_same_leader_is_fetched_instead_where_no_piece_comes(pair: Pair) -> None:
    """The leader may not have the older one any more."""
    pair.offer()
    pair.ask()
    pair.stored = pair.leader.store.write(header(index=95), [RAW])
    pair.now += STALLED_S
    pair.offer()
    pair.carry()
    assert [stored.name for stored in pair.follower.arrived] == [pair.stored.name]


def test_a_flipped_bit_on_the_way_is_found_and_all_of_it_fetched_again(pair: Pair) -> None:
    pair.offer()
    pieces = pair.ask()
    spoilt = pieces[1]
    assert isinstance(spoilt, SnapshotPiece)
    data = bytearray(spoilt.data)
    data[7] ^= 1
    pieces[1] = SnapshotPiece(spoilt.index, spoilt.index_term, spoilt.offset, bytes(data))
    pair.bring(pieces)
    pair.carry()
    assert not pair.follower.arrived
    pair.offer()
    pair.carry()
    assert pair.follower.arrived


def test_one_that_is_damaged_at_the_leader_is_found_out_and_discarded(pair: Pair) -> None:
    """When it is wanted again: it would be fetched in vain for ever, by everybody."""
    pair.leader.flip_bit(pair.stored.name, pair.stored.size_bytes // 2)
    pair.offer()
    assert pair.carry() > 1
    assert (pair.follower.arrived, pair.leader.lost) == ([], 0)
    pair.offer()
    pair.carry()
    assert (pair.follower.arrived, pair.leader.lost) == ([], 1)
    assert pair.leader.store.newest is None
    pair.stored = pair.leader.store.write(header(), [RAW])
    pair.offer()
    pair.carry()
    assert pair.follower.arrived


def test_a_sound_one_that_is_wanted_again_is_sent_again(pair: Pair) -> None:
    for _ in range(3):
        pair.offer()
        pair.carry()
        pair.follower.courier.installed()
        pair.follower.store.discard(pair.stored.name)
    assert (len(pair.follower.arrived), pair.leader.lost) == (3, 0)


def test_what_could_not_be_installed_is_not_fetched_again_but_tried_again_after_a_while(pair: Pair) -> None:
    pair.offer()
    pair.carry()
    pair.follower.courier.not_installed(pair.now + 5)
    pair.offer()
    assert len(pair.follower.arrived) == 1
    pair.now += 5
    pair.offer(generation=2)
    assert len(pair.follower.arrived) == 2
    pair.offer()
    assert len(pair.follower.arrived) == 2, "one at a time"
    assert not pair.follower.sent


def test_the_file_of_another_member_is_fetched_although_one_of_that_name_is_here(pair: Pair) -> None:
    """The state in the first one may not be what its header says."""
    pair.offer()
    pair.carry()
    pair.follower.courier.not_installed(pair.now)
    pair.offer("other")
    assert pair.follower.sent
    while pieces := pair.ask():
        pair.bring(pieces, peer="other")
    assert len(pair.follower.arrived) == 2


def test_a_damaged_one_that_somebody_holds_stays_until_it_is_wanted_later(pair: Pair) -> None:
    pair.leader.flip_bit(pair.stored.name, pair.stored.size_bytes // 2)
    with pair.leader.store.pin(pair.stored.name):
        for _ in range(2):
            pair.offer()
            pair.carry()
        assert (pair.leader.lost, pair.leader.store.newest) == (0, pair.stored)
    for _ in range(2):
        pair.offer()
        pair.carry()
    assert (pair.leader.lost, pair.leader.store.newest) == (1, None)


def unreadable(name: str, offset: int, size: int) -> bytes:
    raise OSError(5, "Input/output error")


def test_a_disk_that_fails_for_a_moment_costs_no_snapshot(pair: Pair) -> None:
    read = pair.leader.storage.read
    for _ in range(2):
        pair.offer()
        pair.leader.storage.read = unreadable  # type: ignore[method-assign]
        pair.carry()
        assert (pair.follower.arrived, pair.leader.lost) == ([], 0)
        pair.leader.storage.read = read  # type: ignore[method-assign]
        pair.offer()
        pair.ask()
        pair.follower.courier.installed()
    pair.offer()
    pair.carry()
    assert (len(pair.follower.arrived), pair.leader.lost) == (1, 0)


def test_one_that_the_disk_cannot_read_again_and_again_is_discarded(pair: Pair) -> None:
    pair.leader.storage.read = unreadable  # type: ignore[method-assign]
    for _ in range(2):
        pair.offer()
        pair.carry()
    assert (pair.leader.lost, pair.leader.store.newest) == (1, None)


def test_a_piece_of_one_that_is_gone_by_now_costs_no_other(pair: Pair) -> None:
    pair.offer()
    pair.leader.is_busy = True
    pair.ask()
    newer = pair.leader.store.write(header(95), [RAW])
    pair.leader.courier.wanted(pair.now, "follower", 1, SnapshotWanted(95, 3, 0))
    pair.leader.store.keep(1)
    pair.leader.is_busy = False
    pair.leader._work(lambda: None, lambda _: None)
    assert (pair.leader.lost, pair.leader.store.newest) == (0, newer)


def test_a_full_disk_ends_it_until_the_next_offer(pair: Pair) -> None:
    pair.offer()
    pieces = pair.ask()

    def full(name: str, offset: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    write, pair.follower.storage.write = pair.follower.storage.write, full  # type: ignore[method-assign]
    pair.bring(pieces)
    pair.follower.storage.write = write  # type: ignore[method-assign]
    assert not pair.ask()
    pair.offer()
    pair.carry()
    assert pair.follower.arrived


def test_what_the_leader_does_not_have_any_more_ends_it(pair: Pair) -> None:
    pair.offer()
    newer = pair.leader.store.write(header(95), [RAW])
    pair.leader.store.keep(1)
    pair.carry()
    assert not pair.follower.arrived
    pair.stored = newer
    pair.offer()
    pair.carry()
    assert pair.follower.arrived


def test_what_is_being_fetched_stays_and_so_does_the_log_after_it(pair: Pair) -> None:
    pair.offer()
    pair.bring(pair.ask())
    pair.leader.store.write(header(95), [RAW])
    pair.leader.store.keep(1)
    assert pair.leader.courier.needed_index() == 90
    pair.carry()
    assert pair.follower.arrived
    pair.leader.courier.tick(pair.now + SERVING_S + 1, lacking)
    assert pair.leader.courier.needed_index() is None
    assert pair.leader.store.keep(1)


def test_it_stays_for_as_long_as_a_follower_may_take_to_install_it_and_a_while_longer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the log that was written meanwhile, the follower would have to fetch another one."""
    monkeypatch.setattr("raftos.consensus.courier.INSTALLED_BYTES_PER_S", len(RAW) / 600)
    pair.offer()
    pair.carry()
    leader = pair.leader.courier
    leader.tick(600.0, lacking)
    leader.tick(610.0, lambda _: 90)
    leader.tick(610.0 + SERVING_S, lambda _: 90)
    assert leader.needed_index() == 90
    leader.tick(611.0 + SERVING_S, lambda _: 90)
    assert leader.needed_index() is None


def test_a_follower_that_is_never_done_with_it_is_not_waited_for_for_ever(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftos.consensus.courier.INSTALLED_BYTES_PER_S", len(RAW) / 600)
    pair.offer()
    pair.carry()
    pair.leader.courier.tick(601.0 + SERVING_S, lacking)
    assert pair.leader.courier.needed_index() is None


def test_it_stays_while_a_piece_waits_for_this_members_own_disk(pair: Pair) -> None:
    pair.offer()
    pair.leader.is_busy = True
    pair.ask()
    for minutes in range(5):
        pair.leader.courier.tick(pair.now + minutes * (SERVING_S + 1), lacking)
    assert pair.leader.courier.needed_index() == 90


def test_while_one_is_being_installed_no_other_is_fetched(pair: Pair) -> None:
    pair.offer()
    pair.carry()
    pair.stored = pair.leader.store.write(header(95), [RAW])
    pair.offer()
    assert not pair.follower.sent
    pair.follower.courier.installed()
    pair.offer()
    pair.carry()
    assert len(pair.follower.arrived) == 2


def test_another_offer_while_the_disk_is_busy_leaves_nothing_open(pair: Pair) -> None:
    """The first transfer is given up before its file was even made."""
    pair.follower.is_busy = True
    pair.offer()
    pair.offer("other")
    pair.follower.is_busy = False
    pair.follower._work(lambda: None, lambda _: None)
    pair.bring(pair.ask(), peer="other")
    while pieces := pair.ask():
        pair.bring(pieces, peer="other")
    assert len(pair.follower.arrived) == 1


def test_while_the_own_disk_is_busy_nothing_is_asked_for_again(pair: Pair) -> None:
    """The thread may make a snapshot for a minute, and all that came meanwhile would be kept in memory."""
    pair.offer()
    pieces = pair.ask()
    pair.follower.is_busy = True
    pair.bring(pieces)
    pair.now += 2 * STALLED_S
    pair.offer()
    assert not pair.follower.sent
    pair.follower.is_busy = False
    pair.follower._work(lambda: None, lambda _: None)
    pair.carry()
    assert pair.follower.arrived


def test_what_a_busy_leader_is_asked_for_again_is_sent_once(pair: Pair) -> None:
    """All of it at once would overflow the link, and that is closed then."""
    pair.offer()
    pair.leader.is_busy = True
    pair.ask()
    for _ in range(10):
        pair.now += STALLED_S
        pair.offer()
        pair.ask()
    pair.leader.is_busy = False
    pair.leader._work(lambda: None, lambda _: None)
    pieces = pair.leader.taken()
    assert len(pieces) == PIECES_UNDER_WAY
    pair.bring(pieces)
    pair.carry()
    assert pair.follower.arrived


def test_of_all_that_is_being_fetched_the_oldest_says_what_of_the_log_stays(pair: Pair) -> None:
    pair.offer()
    pair.bring(pair.ask())
    pair.leader.store.write(header(95), [RAW])
    pair.leader.courier.wanted(pair.now, "other", 1, SnapshotWanted(95, 3, 0))
    assert pair.leader.courier.needed_index() == 90
