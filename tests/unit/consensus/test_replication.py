"""What a leader sends: entries as they fit, heartbeats to those who take no more, and the news of commits."""

from __future__ import annotations

from raftos.consensus.core import Timings
from raftos.consensus.messages import Acknowledged, Append
from raftos.consensus.replication import NOTICE_S
from tests.unit.consensus.wire import Wire


def elected() -> Wire:
    """A leads, and everybody knows all there is."""
    wire = Wire()
    wire.elect("a")
    wire.delivered.clear()
    return wire


def appends_to(wire: Wire, name: str) -> list[Append]:
    """Those not delivered yet."""
    return [frame.message for frame in wire.waiting(Append) if frame.receiver == name]  # type: ignore[misc]


def watch(wire: Wire, name: str, *, watching: bool = True) -> None:
    """Somebody at `name` waits for news; the leader hears of it with the next heartbeat's answer."""
    wire[name].watching = watching
    wire.pass_time(0.15)


def commit(wire: Wire, text: str = "x") -> None:
    """Write through A, until the acknowledgements are with it, and no further."""
    write = wire.propose("a", text)
    wire.deliver(lambda frame: isinstance(frame.message, Append) and bool(frame.message.entries))
    wire.deliver(lambda frame: isinstance(frame.message, Acknowledged))
    assert write in wire.ended


def knows(wire: Wire, name: str) -> bool:
    return wire.members[name].applied_index == wire.members["a"].applied_index


def test_news_of_a_commit_waits_for_the_next_entry() -> None:
    """In a stream of lone writes it costs no message of its own."""
    wire = elected()
    commit(wire)
    assert appends_to(wire, "b") == []
    assert wire["a"].replication.has_news
    wire.propose("a", "y")
    [append] = appends_to(wire, "b")
    assert append.entries
    wire.deliver()
    assert wire.members["b"].requests == wire.members["a"].requests[:1]


def test_news_of_a_commit_goes_alone_after_a_while() -> None:
    wire = elected()
    commit(wire)
    wire.now += 2 * NOTICE_S
    wire.step("a")
    assert [append.entries for append in appends_to(wire, "b")] == [[]]
    assert not wire["a"].replication.has_news
    wire.deliver()
    assert knows(wire, "b")


def test_news_of_a_commit_goes_along_with_whatever_is_sent_to_a_follower() -> None:
    """The question of a read does not let the follower wait for what it is to see."""
    wire = elected()
    write = wire.propose("b", "x")
    wire.deliver()
    assert write in wire.ended
    assert knows(wire, "b")
    assert not knows(wire, "c")


def test_news_of_a_commit_goes_at_once_to_a_follower_with_watchers_and_to_no_other() -> None:
    wire = elected()
    watch(wire, "b")
    commit(wire)
    assert [append.entries for append in appends_to(wire, "b")] == [[]]
    assert appends_to(wire, "c") == []
    wire.deliver()
    assert knows(wire, "b")
    assert not knows(wire, "c")


def test_a_follower_whose_watchers_have_gone_waits_again() -> None:
    wire = elected()
    watch(wire, "b")
    watch(wire, "b", watching=False)
    commit(wire)
    assert appends_to(wire, "b") == []


def test_the_next_leader_learns_of_watchers_by_itself() -> None:
    """It is said with every acknowledgement, so a change of leaders needs no word of its own."""
    wire = elected()
    watch(wire, "b")
    wire.crash("a")
    wire.elect("c")
    wire.propose("c", "x")
    wire.deliver()
    assert wire.members["b"].applied_index == wire.members["c"].applied_index


def test_watching_ends_with_the_link_and_begins_again_with_the_next() -> None:
    wire = elected()
    watch(wire, "b")
    wire.unlink("a", "b")
    wire.link("a", "b")
    wire["b"].watching = False
    wire.pass_time(0.15)
    commit(wire)
    assert appends_to(wire, "b") == []
    watch(wire, "b")
    commit(wire)
    assert appends_to(wire, "b")


def far_behind() -> Wire:
    """B acknowledges nothing, and its window is full of entries."""
    wire = Wire(timings=Timings(append_bytes=1_000))
    wire.elect("a")
    wire.cut.add(("b", "a"))
    for number in range(10):
        wire.propose("a", str(number % 10) * 500)
        wire.deliver()
    wire.delivered.clear()
    return wire


def sent_to_b(wire: Wire) -> list[Append]:
    return [
        frame.message
        for frame in wire.delivered
        if frame.receiver == "b" and isinstance(frame.message, Append)
    ]


def test_a_follower_with_a_full_window_hears_a_heartbeat_on_common_ground() -> None:
    """Common is what it acknowledged; the commit index is not told further than that."""
    wire = far_behind()
    matched = wire["a"].replication.matched("b")
    for _ in range(4):
        wire.tick("a", after_s=0.06)
        wire.deliver()
    heartbeats = sent_to_b(wire)
    assert 2 <= len(heartbeats) <= 4
    for heartbeat in heartbeats:
        assert (heartbeat.prev_index, heartbeat.entries) == (matched, [])
        assert heartbeat.commit_index <= matched


def test_a_follower_with_room_again_is_sent_on_from_the_first_entry_it_was_not_sent() -> None:
    wire = far_behind()
    end = wire["a"].replication.matched("c")
    wire.heal()
    wire.deliver()
    indexes = [index for append in sent_to_b(wire) for _, index, _ in append.entries]
    assert indexes == list(range(indexes[0], end + 1))
    assert wire["a"].replication.matched("b") == end


def test_followers_that_lack_the_same_are_sent_the_same_append() -> None:
    """It is built, and encoded, once."""
    wire = elected()
    wire.propose("a", "x")
    first, second = appends_to(wire, "b") + appends_to(wire, "c")
    assert first is second


def test_the_last_acknowledgement_of_an_entry_asks_for_no_step() -> None:
    """The first one committed it; a third of a leader's turns for a lone write would conclude nothing."""
    wire = elected()
    wire.propose("a", "x")
    wire.deliver(lambda frame: isinstance(frame.message, Append))
    due = []
    for frame in wire.waiting(Acknowledged):
        due.append(wire["a"].received(wire.now, frame.sender, frame.generation, frame.message))
        wire.step("a")
    assert due == [True, False]


def test_of_the_acknowledgements_that_wait_for_the_leaders_disk_the_furthest_counts() -> None:
    """The answer to a heartbeat on common ground comes after the answer to an entry, and says less."""
    wire = Wire(timings=Timings(append_bytes=1_000))
    wire.elect("a")
    wire.isolate("c")
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver()
    wire.cut.add(("a", "b"))
    write = wire.propose("a", "y" * 3_000)
    wire.tick("a", after_s=0.12)
    assert [len(append.entries) for append in appends_to(wire, "b")] == [1, 0]
    wire.cut.remove(("a", "b"))
    wire.deliver()
    wire.repair_disk("a")
    assert write in wire.ended


def test_a_full_window_does_not_outlive_its_link() -> None:
    """The answers it waits for are lost with the link: waiting on, the follower would never be sent more."""
    wire = far_behind()
    wire.unlink("a", "b")
    wire.heal()
    wire.link("a", "b")
    wire.pass_time(0.2)
    assert wire["a"].replication.matched("b") == wire["a"].core.journal.last_index


def test_a_follower_that_had_no_room_for_the_news_hears_it_as_soon_as_it_answers() -> None:
    wire = Wire(timings=Timings(append_bytes=1_000))
    wire.elect("a")
    wire.cut.add(("b", "a"))
    write = wire.propose("a", "x" * 3_000)
    wire.deliver()
    assert write in wire.ended
    wire.now += 2 * NOTICE_S
    wire.step("a")
    assert appends_to(wire, "b") == []
    wire.heal()
    wire.deliver()
    assert knows(wire, "b")


def test_an_answer_that_makes_room_for_more_asks_for_a_step() -> None:
    """Nothing else would: the next look may be half a heartbeat away."""
    wire = far_behind()
    answer = next(frame for frame in wire.waiting(Acknowledged) if frame.sender == "b")
    assert wire["a"].received(wire.now, "b", answer.generation, answer.message)


def sync(wire: Wire, name: str) -> bool:
    """End a write of a stuck disk; whether that asks for a step."""
    member = wire.members[name]
    write = member.begin_write()
    member.journal.writer.write(write)
    member.journal.finish(write)
    return member.replica.synced(wire.now)


def test_a_sync_asks_for_a_step_where_answers_waited_for_it() -> None:
    wire = elected()
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver()
    assert sync(wire, "a")


def test_a_sync_asks_for_a_step_where_a_committed_entry_waited_for_it_and_nowhere_else() -> None:
    wire = elected()
    wire.members["b"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver(lambda frame: isinstance(frame.message, Append))
    assert not sync(wire, "b")
    wire.deliver()
    wire.propose("a", "y")
    wire.deliver()
    wire.now += 2 * NOTICE_S
    wire.step("a")
    wire.deliver()
    assert sync(wire, "b")


def test_the_sync_of_a_lone_voter_asks_for_a_step() -> None:
    """It alone agrees on what it has written, and nobody's answer will come."""
    wire = Wire(1)
    wire.until(lambda: bool(wire.leaders()))
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    assert sync(wire, "a")
