"""Feature levels: what a version of raftos understands, as one number.

Members of two versions run side by side while a cluster is upgraded, so nothing may enter the log that the
older one cannot read. Each version therefore has a level, and the cluster an *enabled* level, which is part
of the agreed state: the highest that every member has registered. What came with a level is used once that
level is enabled, and refused as `not_enabled` before. Enabled levels never go down, and a version that knows
only lower ones is refused.

| level | what came with it                                                     |
|-------|-----------------------------------------------------------------------|
| 1     | everything up to the first version that has levels                    |
| 2     | levels themselves: `cluster.enable`, and `level` in `members.register`;|
|       | members that come and go: `members.announce`, `members.forget`, and    |
|       | configurations in the log; snapshots between members;                  |
|       | a quota that is not there is named without `repr`; at most a thousand  |
|       | members are known                                                      |

A change of what is in the log, in a result or in the tables raises LEVEL by one, adds a row here, and says
`since` in the new commands. docs/decisions/upgrades.md has the whole rule.
"""

LEVEL = 2
"""The level of this version."""

FIRST_LEVEL = 1
"""The level of versions that do not know of levels, and of a cluster that has enabled nothing yet."""

TOLD_SINCE = 2
"""From this level on a version can read `members.register` with a level."""

MEMBERSHIP_SINCE = 2
"""From this level on members may come and go, and be sent snapshots."""

SHOWN_SINCE = 2
"""From this level on the refusal of a quota is the same text in every version of Python."""

NUMBERED_SINCE = 2
"""From this level on the answer to a pre-vote says which question it answers."""
