"""Consensus without one of its repairs: what PySyncObj, or a careless design around it, would do instead.

Each repair that is not a rule of the shipped guard is left out here from outside, by putting something in
the place of the shipped function for one run. The numbers are those of the findings about PySyncObj.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from raftos.consensus import opening
from raftos.consensus.core import Core
from raftos.consensus.engine import Engine
from raftos.consensus.following import Following
from raftos.consensus.journal import Journal, Mark
from raftos.consensus.messages import Append, SnapshotOffered
from raftos.consensus.replication import Replication
from tests.simulation.care import Care


def _takes_an_offer_for_its_content(following: Following, peer: str, offer: SnapshotOffered) -> None:
    """15: each piece of a snapshot that comes raises the commit index to the follower's own last entry."""
    core = following._core
    core.engine.installed(core.journal.last_index)
    _offered(following, peer, offer)


def _install_over_everything(journal: Journal, index: int, term: int, mark: bytes | None) -> None:
    """17: what the log has after a snapshot is thrown away, matching or not."""
    if journal.last_index > index:
        journal.truncate_from(max(index, journal.first_index))
    _install(journal, index, term, mark)


def _mark_of_now(journal: Journal, index: int) -> Mark | None:
    """23: a snapshot carries the members that were appended, agreed on or not."""
    return journal.mark


def _everybody_counts(engine: Engine, now: float, voters: Iterable[str], learners: Iterable[str]) -> None:
    """24: a learner counts in the majority."""
    _configure(engine, now, [*voters, *learners], ())


def _first_members_count(core: Core) -> None:
    """22: after a start the members that the cluster began with count, until the log says otherwise anew."""
    _take_configuration(core)
    if not hasattr(core, "engine"):
        journal, core.journal = core.journal, _Unmarked()  # type: ignore[assignment]
        _take_configuration(core)
        core.journal, core._mark = journal, journal.mark


class _Unmarked:
    mark = None


def _append_of_what_is_counted(replication: Replication, start: int) -> tuple[Append, int]:
    """27: PySyncObj counts a lone voter before its sync; its followers are told so."""
    append, size_bytes = _append(replication, start)
    commit_index = replication._core.engine.commit_index
    return msgspec.structs.replace(append, commit_index=commit_index), size_bytes


_append = Replication._append
_offered, _install, _configure = Following.offered, Journal.install, Engine.configure
_take_configuration = Core._configure

_REPLACED: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "whole_snapshots": (Following, "offered", _takes_an_offer_for_its_content),
    "keeps_tail": (Journal, "install", _install_over_everything),
    "trusts_journal": (opening, "_is_ahead", lambda _journal, _newest: True),
    "snapshots_as_agreed": (Journal, "mark_at", _mark_of_now),
    "derives_members": (Core, "_configure", _first_members_count),
    "tells_synced": (Replication, "_append", _append_of_what_is_counted),
    "learners_apart": (Engine, "configure", _everybody_counts),
}


@contextmanager
def careless_consensus(care: Care) -> Iterator[None]:
    """For a while everything works as shipped, but for the repairs that are left out."""
    with ExitStack() as stack:
        for name, (owner, attribute, instead) in _REPLACED.items():
            if not getattr(care, name):
                stack.enter_context(_replaced(owner, attribute, instead))
        if not care.trusts_journal:
            stack.enter_context(_replaced(Journal, "install", _install_over_everything))
        yield


@contextmanager
def _replaced(owner: Any, attribute: str, instead: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, attribute)
    setattr(owner, attribute, instead)
    try:
        yield
    finally:
        setattr(owner, attribute, before)
