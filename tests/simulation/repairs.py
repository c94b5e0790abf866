"""What was found wrong in PySyncObj 0.3.17, finding by finding, and where it is shown to be repaired.

A repair that the simulation can leave out has a name: that of a rule of the guard (`Rules`) or of a care
(`Care`). Left out, a directed schedule or a few seeds have to notice. The others cannot be left out: the
design has no place for the fault any more, and tests hold that.

`python -m tests.simulation --without list` prints the table, `--without NUMBER` leaves one repair out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.schedules import SCHEDULES


class Repair(NamedTuple):
    """One finding: what the engine does by itself, and who holds that we do not."""

    number: int
    wrong: str
    name: str | None
    """The rule or the care to leave out, or None: there is nothing to leave out."""
    tests: tuple[str, ...]
    """As `file::name`, the files below `tests/`."""


_UNIT = "unit/consensus/"

REPAIRS = (
    Repair(
        1,
        "an acknowledgement moves the send position back: what is under way is sent again",
        "keep_next_index",
        (_UNIT + "test_engine.py::test_a_calm_cluster_under_load_sends_no_entry_twice",),
    ),
    Repair(
        2,
        "a follower drops entries that match, which it has promised to keep",
        "trim_held",
        (
            _UNIT + "test_guard.py::"
            "test_what_is_admitted_never_truncates_a_matching_entry_and_never_acknowledges_more_than_was_sent",
        ),
    ),
    Repair(
        3,
        "an acknowledgement of an earlier term counts in this one",
        "match_term",
        (
            _UNIT + "test_guard.py::"
            "test_an_acknowledgement_counts_in_its_own_term_and_for_entries_the_leader_has",
            _UNIT + "test_replica.py::"
            "test_a_message_of_an_older_link_and_an_answer_of_a_stranger_are_dropped",
        ),
    ),
    Repair(
        4,
        "nothing is synced before it is acknowledged or voted for",
        "durable_first",
        (
            _UNIT + "test_replica.py::test_a_follower_acknowledges_only_what_is_on_its_disk",
            _UNIT + "test_elections.py::test_a_vote_is_sent_only_when_it_is_durable",
        ),
    ),
    Repair(
        5,
        "the journal is rewritten in place, in mapped memory: a full disk ends the process",
        None,
        (
            _UNIT + "test_journal_trim.py::TestRemovals::test_a_power_cut_leaves_one_run_of_segments",
            _UNIT + "test_journal.py::TestFailingDisks::test_a_really_full_disk_is_waited_out",
        ),
    ),
    Repair(
        6,
        "a member that was away deposes a healthy leader, term after term",
        "pre_vote",
        (
            _UNIT + "test_elections.py::"
            "test_a_member_that_was_away_for_long_neither_raised_its_term_nor_deposes_anyone",
        ),
    ),
    Repair(
        7,
        "a leader that is cut off answers reads from the past for 30 s",
        "read_match_term",
        (
            _UNIT + "test_elections.py::test_a_leader_without_a_majority_steps_down_and_its_term_stays",
            _UNIT + "test_barriers.py::"
            "test_a_deposed_leader_does_not_answer_by_confirmations_of_another_term",
        ),
    ),
    Repair(
        8,
        "what raises while it is applied is tried again for ever",
        None,
        ("unit/state/test_faults.py::test_a_bug_fails_one_command_and_no_other",),
    ),
    Repair(
        9,
        "methods are numbered by their sorted names: one more gives the log another meaning",
        None,
        (_UNIT + "test_engine.py::test_there_is_one_replicated_method_and_it_does_nothing",),
    ),
    Repair(
        10,
        "a snapshot that could not be loaded counts as loaded",
        "loads_snapshots",
        ("unit/state/test_replacing.py::test_an_unfit_state_is_refused_and_nothing_changes",),
    ),
    Repair(
        11,
        "bytes that come from the network are unpickled",
        None,
        (
            _UNIT + "test_engine.py::test_what_pysyncobj_calls_pickle_takes_no_pickle_apart",
            _UNIT + "test_messages.py::test_a_real_pickle_is_refused",
            "architecture/test_architecture.py::test_nothing_imports_pickle",
        ),
    ),
    Repair(
        12,
        "the members in a snapshot silently take the place of those that were configured",
        None,
        (
            _UNIT + "test_following.py::"
            "test_an_installed_snapshot_survives_a_restart_with_term_vote_and_configuration",
            _UNIT + "test_opening.py::test_a_sole_voter_keeps_its_log_and_remembers_whom_it_dropped",
            _UNIT + "test_driver.py::test_members_that_a_snapshot_brings_are_logged_and_shown",
        ),
    ),
    Repair(
        13,
        "a member is its host and port, and another one when these change",
        None,
        (
            _UNIT + "test_transport_moves.py::test_a_member_that_came_back_elsewhere_is_found",
            "cluster/test_membership.py::test_addresses_may_change_over_a_restart_of_all",
        ),
    ),
    Repair(
        14,
        "a command that a follower forwards can vanish, answered neither way",
        None,
        (
            _UNIT + "test_proposals.py::"
            "test_what_was_forwarded_to_a_lost_leader_is_sent_to_the_next_and_is_answered",
            _UNIT + "test_proposals.py::"
            "test_at_its_deadline_a_call_that_was_sent_is_unknown_and_one_that_was_not_is_refused",
        ),
    ),
    Repair(
        15,
        "each piece of a snapshot moves the commit index to the end of the follower's log",
        "whole_snapshots",
        (_UNIT + "test_following.py::test_a_snapshot_is_durable_before_it_is_acknowledged",),
    ),
    Repair(
        16,
        "a start wipes the journal unless its first entries are exactly the snapshot's",
        "trusts_journal",
        (_UNIT + "test_opening.py::test_a_snapshot_of_what_the_journal_has_changes_nothing",),
    ),
    Repair(
        17,
        "installing a snapshot throws away the entries after it",
        "keeps_tail",
        (_UNIT + "test_journal_trim.py::TestInstall::test_a_log_that_has_the_entry_is_kept",),
    ),
    Repair(
        18,
        "while a snapshot is made the leader spins and sends empty messages",
        None,
        (
            _UNIT + "test_following.py::test_an_offer_is_repeated_while_the_leader_is_heard_all_the_time",
            _UNIT + "test_following.py::test_no_entry_is_sent_to_who_waits_for_a_snapshot",
        ),
    ),
    Repair(
        19,
        "an entry a little smaller than a batch is cut wrongly, and never arrives",
        None,
        (_UNIT + "test_engine.py::test_entries_of_the_greatest_size_are_agreed_and_replaced",),
    ),
    Repair(
        20,
        "a message of somebody who is no member any more fails in every turn",
        "members_only",
        (_UNIT + "test_changes.py::test_acknowledgements_of_a_removed_member_count_no_more",),
    ),
    Repair(
        21,
        "a second change of the members is appended before the first is agreed on",
        "one_change_at_a_time",
        (_UNIT + "test_changes.py::test_one_change_at_a_time",),
    ),
    Repair(
        22,
        "after a start the first members vote, until the log has been applied",
        "derives_members",
        (_UNIT + "test_changes.py::test_the_configuration_in_force_survives_a_restart",),
    ),
    Repair(
        23,
        "a snapshot carries members that are not agreed on, and a replay applies old changes again",
        "snapshots_as_agreed",
        (_UNIT + "test_journal_trim.py::TestMarks::test_the_newest_mark_is_known_at_any_index",),
    ),
    Repair(
        24,
        "a learner counts in the majority",
        "learners_apart",
        (_UNIT + "test_changes.py::test_a_learner_counts_in_no_majority",),
    ),
    Repair(
        25,
        "a snapshot has its name before it is on the disk, and the log is trimmed after it",
        "syncs_snapshots",
        (_UNIT + "test_snapshot_store.py::test_a_power_cut_leaves_all_or_nothing",),
    ),
    Repair(
        26,
        "leadership is not handed over while a single write is under way",
        None,
        (_UNIT + "test_replica.py::test_a_transfer_makes_the_target_lead_and_loses_no_write",),
    ),
    Repair(
        27,
        "a leader counts itself before its own disk has the entry",
        "tells_synced",
        (
            _UNIT + "test_replica.py::test_a_leader_counts_itself_only_as_far_as_its_own_disk",
            _UNIT + "test_changes.py::test_learners_are_told_only_what_a_lone_voter_has_on_its_disk",
        ),
    ),
    Repair(
        28,
        "sets of nodes iterate in the order of string hashes: a seed is not one run",
        None,
        (_UNIT + "test_simulation.py::test_a_seed_has_one_trace_whoever_runs_it_and_how",),
    ),
)

RULES = tuple(rule.name for rule in fields(Rules))
CARES = tuple(care.name for care in fields(Care))


def numbered(text: str) -> Repair | None:
    """The repair of the finding that `text` is the number of."""
    return next((repair for repair in REPAIRS if text == str(repair.number)), None)


def nothing_to_leave_out(repair: Repair) -> str:
    """What `--without NUMBER` says where the fault cannot come back by leaving something out."""
    return "\n".join(
        (
            f"finding {repair.number}: {repair.wrong}",
            "There is no rule or care to leave out: the design has no place for this fault. Held by",
            *(f"  tests/{test}" for test in repair.tests),
        )
    )


def listing() -> Iterator[str]:
    """Every repair, and then the rules and cares that answer no finding, with what shows each."""
    yield "The findings about PySyncObj, the rule or care that can be left out, and where it is shown:"
    yield ""
    for repair in REPAIRS:
        yield f"{repair.number:>2}  {repair.wrong}"
        if repair.name is not None:
            yield f"      {'rule' if repair.name in RULES else 'care'} {repair.name}: {_shown(repair.name)}"
        yield from (f"      tests/{test}" for test in repair.tests)
    named = {repair.name for repair in REPAIRS}
    for kind, names in (("rules", RULES), ("cares", CARES)):
        yield ""
        yield f"Other {kind}, which answer no finding but can be left out as well:"
        yield ""
        yield from (f"    {name:<20} {_shown(name)}" for name in names if name not in named)


def _shown(name: str) -> str:
    schedules = [title for title, schedule in SCHEDULES.items() if schedule.about == name]
    return ", ".join(f'schedule "{title}"' for title in schedules) or "seeds"
