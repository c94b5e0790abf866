"""Going on after a majority is lost for good: one member becomes the only voter, by order of a person.

It is the one place where raftos gives up a promise, and so it is never done by itself: what the lost majority
acknowledged and this member had not received is gone, and what this member had received, acknowledged or
not, counts from now on. The others are removed: should one of them come back, it is told, and stops.

Done offline, on the data directory of a stopped member: its journal gets a new term and one more entry,
the configuration of this member alone. Interrupted before the sync nothing has happened, or it has the new
term only, which harms nobody; after it, all.

The term is one far ahead of what the others can have come to without this member. Were it one that they had
a leader in, two different entries could have the same index and term, and should they come back just when
this member starts, it would take what follows theirs for what follows its own.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from raftos.config import Config
from raftos.consensus.configuration import MAX_REMOVED, Configuration, Peer, decode, encode
from raftos.consensus.guard import FIRST_INDEX, NO_OP
from raftos.consensus.journal import Journal
from raftos.consensus.opening import first_configuration, open_data, write_now
from raftos.errors import StartupError

TERMS_AHEAD = 1_000_000
"""More than the others can have held elections: at one in a second it would take them eleven days."""


class Recovered(msgspec.Struct, frozen=True):
    """What the sole voter begins with."""

    index: int
    """Of the entry that makes it so, the last of its log."""
    term: int
    applied_index: int
    """The last entry that it knew to be agreed on; those after it count now, whether they were or not."""
    dropped: tuple[str, ...]
    """The ids of the members that were removed by this."""


def make_sole_voter(folder: Path, config: Config) -> Recovered:
    """Make the stopped member of a data directory the only one of its cluster. Raises StartupError."""
    opened = open_data(folder, config.cluster_id, config.member_id)
    with closing(opened.machine), closing(opened.snapshots), closing(opened.journal) as journal:
        present = decode(journal.mark.payload) if journal.mark else first_configuration(config)
        if config.member_id in present.removed:
            raise StartupError(
                f"this member ({config.member_id}) was removed from the cluster, and would stop at its "
                "start; recover the cluster from another member, or from a snapshot"
            )
        dropped = tuple(peer.id for peer in present.peers if peer.id != config.member_id)
        alone = Configuration(
            (Peer(config.member_id, config.peer_address),), (*present.removed, *dropped)[-MAX_REMOVED:]
        )
        _append(journal, config.member_id, encode(alone))
        return Recovered(journal.last_index, journal.term, opened.machine.applied_index, dropped)


def _append(journal: Journal, member_id: str, command: bytes) -> None:
    if journal.last_index == 0:
        journal.append(bytes((NO_OP,)), FIRST_INDEX, 0)
    journal.set_hard_state(journal.term + TERMS_AHEAD, member_id)
    journal.append(command, journal.last_index + 1, journal.term)
    write_now(journal)
