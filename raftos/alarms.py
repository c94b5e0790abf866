"""What an operator has to do something about: a pure function of what is known, and one memory.

| alarm       | raised while                                                                          |
|-------------|---------------------------------------------------------------------------------------|
| `NOSPACE`   | the state holds as much as its quota allows                                           |
| `SPACE_LOW` | it holds 90 % of that                                                                 |
| `CORRUPT`   | a member's state is not to be trusted; or members differ and no majority says who errs |
| `DISK_FULL` | a member cannot write because its disk is full                                        |
| `TROUBLE`   | a member says of itself that something else is wrong                                  |
| `LAGGING`   | a member has been `lagging_entries` behind for `lagging_after_ms`                     |
| `CLOCK_SKEW`| a member's wall clock differs from the leader's by more than `clock_skew_ms`, for sure |
| `DOWN`      | the cluster agreed that a member is down, and it is still silent                      |
| `NO_SPARE`  | voters are out of reach, and one more failure would leave no majority                 |
| `NO_QUORUM` | there is no majority to be reached from here                                          |

Nothing is agreed through the log here, raised or taken back: an alarm is true while its reason is. Whoever
is asked gathers reports and computes them anew. Only LAGGING needs to remember; the leader does (`Heard`),
and its report tells the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from raftos.config import Config
from raftos.reports import Alarm, Judgement, Reading, Report
from raftos.state.tally import STATE_BYTES

NO_SPACE = "NOSPACE"
SPACE_LOW = "SPACE_LOW"
CORRUPT = "CORRUPT"
DISK_FULL = "DISK_FULL"
TROUBLE = "TROUBLE"
LAGGING = "LAGGING"
CLOCK_SKEW = "CLOCK_SKEW"
DOWN = "DOWN"
NO_SPARE = "NO_SPARE"
NO_QUORUM = "NO_QUORUM"
NAMES = (
    NO_SPACE, SPACE_LOW, CORRUPT, DISK_FULL, TROUBLE, LAGGING, CLOCK_SKEW, DOWN, NO_SPARE, NO_QUORUM,
)  # fmt: skip

LOW_PERCENT = 90
FULL_DISK = ("No space left", "disk is full")
"""How a full disk is called by the system, and by SQLite."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """All that alarms are made of. Members are named by their ids."""

    config: Config
    tallies: Mapping[str, int]
    limits: Mapping[str, int]
    names: Mapping[str, str] = {}
    voters: Collection[str] = ()
    readings: Mapping[str, Reading] = {}
    """Of those that answered."""
    clock: str = ""
    """By whose clock the others are judged: the leader's, where it answered."""
    down: Collection[str] = ()
    """Those that the cluster agreed are down."""
    lagging: Mapping[str, int] = {}
    judgement: Judgement = Judgement({}, {})

    def name(self, member_id: str) -> str:
        return self.names.get(member_id, member_id)

    def reports(self) -> Iterator[tuple[str, Report]]:
        """With the names, by name."""
        found = [(self.name(member_id), reading.report) for member_id, reading in self.readings.items()]
        return iter(sorted(found, key=lambda pair: pair[0]))


def raised(picture: Picture) -> list[Alarm]:
    """Every alarm there is reason for, the gravest kinds first."""
    return [alarm for rule in RULES for alarm in rule(picture)]


def _corrupt(picture: Picture) -> Iterable[Alarm]:
    for name, report in picture.reports():
        if report.lost is not None:
            yield Alarm(CORRUPT, report.lost, name)
    for member_id, verdict in picture.judgement.wrong.items():
        name = picture.name(member_id)
        yield Alarm(CORRUPT, f"{name} has another state at entry {verdict.index} than a majority", name)
    suspects = picture.judgement.suspects
    if suspects:
        names = " and ".join(sorted(map(picture.name, suspects)))
        yield Alarm(
            CORRUPT,
            f"{names} have different states at entry {min(suspects.values())}, and no majority says which is "
            "right: take no writes, and compare them with a backup",
        )


def _own_trouble(picture: Picture) -> Iterable[Alarm]:
    for name, report in picture.reports():
        if report.trouble and report.lost is None:
            full = any(words in report.trouble for words in FULL_DISK)
            help_is = "; free some space there, it goes on by itself" if full else ""
            yield Alarm(DISK_FULL if full else TROUBLE, f"{report.trouble}{help_is}", name)


def _space(picture: Picture) -> Iterable[Alarm]:
    kept, limit = picture.tallies[STATE_BYTES], picture.limits[STATE_BYTES]
    holds = f"the state holds {kept} bytes of the {limit} that the quota `{STATE_BYTES}` allows"
    help_is = "delete something, or raise the quota (`raftos quota ls`)"
    if kept >= limit:
        yield Alarm(NO_SPACE, f"{holds}: only reads and deletes are served; {help_is}")
    elif kept * 100 >= limit * LOW_PERCENT:
        yield Alarm(SPACE_LOW, f"{holds}: soon only reads and deletes will be served; {help_is}")


def _quorum(picture: Picture) -> Iterable[Alarm]:
    voters = len(picture.voters)
    reached = sum(voter in picture.readings for voter in picture.voters)
    majority = voters // 2 + 1
    if reached < majority:
        sentence = (
            f"{reached} of {voters} voters can be reached, and it takes {majority}: nothing can be written"
        )
        yield Alarm(NO_QUORUM, f"{sentence}; start the others")
    elif reached == majority < voters:
        sentence = f"{reached} of {voters} voters can be reached: with one less nothing can be written"
        yield Alarm(NO_SPARE, f"{sentence}; start the others, or replace them")


def _down(picture: Picture) -> Iterable[Alarm]:
    for name in sorted(picture.name(each) for each in picture.down if each not in picture.readings):
        yield Alarm(DOWN, "the member does not answer; start it, or remove it from the cluster", name)


def _lagging(picture: Picture) -> Iterable[Alarm]:
    after_s = picture.config.lagging_after_ms / 1000
    for member_id, behind in sorted(picture.lagging.items()):
        sentence = f"the member is {behind} entries behind, and has been for {after_s:g} s and more"
        yield Alarm(LAGGING, f"{sentence}; look at its disk and its load", picture.name(member_id))


def _clocks(picture: Picture) -> Iterable[Alarm]:
    reference = picture.readings.get(picture.clock)
    if reference is None:
        return
    for member_id, reading in sorted(picture.readings.items()):
        apart = reading.ahead_ms - reference.ahead_ms
        sure = abs(apart) - reading.doubt_ms - reference.doubt_ms
        if member_id != picture.clock and sure > picture.config.clock_skew_ms:
            direction = "ahead of" if apart > 0 else "behind"
            yield Alarm(
                CLOCK_SKEW,
                f"its clock is about {abs(apart)} ms {direction} that of {picture.name(picture.clock)}; "
                "synchronize the clocks of the machines",
                picture.name(member_id),
            )


RULES: tuple[Callable[[Picture], Iterable[Alarm]], ...] = (
    _corrupt,
    _quorum,
    _space,
    _own_trouble,
    _down,
    _lagging,
    _clocks,
)


class Heard:
    """What a leader heard last, and since when members have been behind. `now_s` only goes forward."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._behind_since_s: dict[str, float] = {}
        self.readings: Mapping[str, Reading] = {}
        self.lagging: dict[str, int] = {}
        """Who has been behind for long, and by how much."""

    def note(self, readings: Mapping[str, Reading], now_s: float, belong: Collection[str]) -> None:
        """One round of reports. Who did not answer keeps the time since which it has been behind.

        Who does not `belong` to the cluster any more is forgotten.
        """
        self.readings = readings
        for gone in self._behind_since_s.keys() - set(belong):
            del self._behind_since_s[gone]
            self.lagging.pop(gone, None)
        commit = max((reading.report.commit_index for reading in readings.values()), default=0)
        for member_id, reading in readings.items():
            behind = commit - reading.report.applied_index
            self._note_one(member_id, behind, now_s)

    def _note_one(self, member_id: str, behind: int, now_s: float) -> None:
        if behind <= self._config.lagging_entries:
            self._behind_since_s.pop(member_id, None)
            self.lagging.pop(member_id, None)
            return
        since_s = self._behind_since_s.setdefault(member_id, now_s)
        if (now_s - since_s) * 1000 >= self._config.lagging_after_ms:
            self.lagging[member_id] = behind

    def forget(self) -> None:
        """A new leader begins without an opinion."""
        self._behind_since_s.clear()
        self.lagging.clear()
        self.readings = {}
