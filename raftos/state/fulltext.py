"""Search for words in what a domain keeps, with SQLite's FTS5.

To index a text costs more than to keep it, most of all where commands come one by one. So commands do not
index what they store: the domain proposes steps (`steps`) that index what came since, and a search first
looks through that tail itself, so that it is never behind. How far the index is, a tally says.

Texts have an integer id that grows with time, so that newest first is the order of the ids backwards, and
belong to a part (a room), whose number is a word of the index: so a common word is found in a rare part
without reading all its other places. For a prefix FTS5 gathers every place of every word that begins so,
before it names the first. A common one is sure to occur among the newest texts, so those are looked through
as well, and the index is asked for rare ones only.

FTS5 writes what it holds in memory when a transaction ends. Where transactions end differs between members,
and the pieces on disk would: so everything here that changes an index ends by having it written.

People search with words that all have to occur, "phrases", prefix*, and -words that must not (`expression`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from raftos.errors import InvalidInput
from raftos.state.domain import Context
from raftos.state.limits import check_text

STEP_TEXTS = 500
STEP_BYTES = 256 * 1024
"""One step ends once its texts reach this: about 25 ms of work."""
MAX_STEPS = 10
"""The most steps proposed at once."""
NEWEST_TEXTS = 2_000
"""So many are looked through for a prefix."""
MAX_TAIL = 10_000
MAX_TAIL_CHARACTERS = 4 * 1024 * 1024
"""The most that is looked through besides the index. Only a flood leaves more of them to be indexed."""
BATCH_TEXTS = 100
MAX_SEARCH_BYTES = 1024
MAX_TERMS = 16
MAX_PREFIXES = 2
MIN_PREFIX = 2

_TOKENS = "columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'"
# The defaults of FTS5 merge more eagerly: a fifth more work for each text, for searches that are fast anyway.
_SCHEMA = """
CREATE VIEW IF NOT EXISTS {name}_texts AS SELECT id, part, text FROM ({texts})
    WHERE id <= (SELECT value FROM tallies WHERE name = '{tally}');
CREATE VIRTUAL TABLE IF NOT EXISTS {name}
    USING fts5 (part, text, content = '{name}_texts', content_rowid = 'id', {tokens});
INSERT INTO {name} ({name}, rank) SELECT 'automerge', 8
    WHERE NOT EXISTS (SELECT 1 FROM {name}_config WHERE k = 'automerge');
INSERT INTO {name} ({name}, rank) SELECT 'crisismerge', 64
    WHERE NOT EXISTS (SELECT 1 FROM {name}_config WHERE k = 'crisismerge');
"""
_TALLY = "SELECT value FROM tallies WHERE name = ?"
_PLAIN = re.compile("[a-z0-9]+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')


class FullText:
    """The index `name`; `texts` is a SELECT of `id`, `part`, `place` and `text`, with what can be searched.

    In a part, `place` grows with `id`, and SQLite has an index of both. `tally` counts how far this index
    is: every text with an id up to that is in it. The SQL here is put together from names that the domain
    chose, and none that a user did.
    """

    def __init__(self, name: str, texts: str, tally: str) -> None:
        self.tally = tally
        self.schema = _SCHEMA.format(name=name, texts=texts, tally=tally, tokens=_TOKENS)
        self._add = (
            f"INSERT INTO {name} (rowid, part, text) SELECT id, part, text FROM ({texts}) "  # noqa: S608
            "WHERE id > ? AND id <= ?"
        )
        self._text = f"SELECT id, part, text FROM ({texts}) WHERE id = ?"  # noqa: S608
        self._remove = f"INSERT INTO {name} ({name}, rowid, part, text) VALUES ('delete', ?, ?, ?)"  # noqa: S608
        self._sizes = (
            f"SELECT id, length(CAST(text AS BLOB)) FROM ({texts}) "  # noqa: S608
            "WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        )
        self._find = f"SELECT rowid FROM {name} WHERE {name} MATCH ? ORDER BY rowid DESC LIMIT ?"  # noqa: S608
        self._newest = f"SELECT id, part, text FROM ({texts}) ORDER BY id DESC LIMIT {MAX_TAIL}"  # noqa: S608
        self._newest_of_part = (
            f"SELECT id, part, text FROM ({texts}) WHERE part = ? "  # noqa: S608
            f"ORDER BY place DESC LIMIT {MAX_TAIL}"
        )
        self._compare = f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)"  # noqa: S608

    def remove(self, db: sqlite3.Connection, context: Context, ids: Iterable[int]) -> None:
        """Take texts out of the index, before they change or go; those not indexed yet are passed over."""
        for at in ids:
            text = db.execute(self._text, (at,)).fetchone() if at <= context.counts[self.tally] else None
            # Not by `INSERT ... SELECT`: after each of those FTS5 writes a piece, which 500 times is slow.
            if text is not None:
                context.run(self._remove, text)
        _write(context)

    def restore(self, context: Context, at: int) -> None:
        """Index a text again that has changed, if its turn had come."""
        if at <= context.counts[self.tally]:
            context.run(self._add, (at - 1, at))
            _write(context)

    def advance(self, db: sqlite3.Connection, context: Context, through: int) -> bool:
        """Take one step, no further than `through`. False, and nothing done, if there is no text."""
        after = context.counts[self.tally]
        last = self._step(db, after, through)
        if last is None:
            return False
        context.run(self._add, (after, last))
        _write(context)
        context.counts[self.tally] = last
        return True

    def steps(self, db: sqlite3.Connection) -> Iterator[tuple[int, int]]:
        """The next steps, each as `(after, through)`."""
        (after,) = db.execute(_TALLY, (self.tally,)).fetchone()
        for _ in range(MAX_STEPS):
            through = self._step(db, after, 2**62)
            if through is None:
                return
            yield after, through
            after = through

    def find(self, db: sqlite3.Connection, text: str, part: int | None, limit: int) -> list[int]:
        """The ids of the texts that match, the newest first. Raises InvalidInput, TooLarge."""
        sought = understood(text, part)
        found = self._among_the_newest(db, sought, part, limit)
        if len(found) < limit:
            # Some may have been indexed since the tail was looked through: they are found twice.
            found.update(at for (at,) in db.execute(self._find, (sought.expression, limit)))
        return sorted(found, reverse=True)[:limit]

    def _among_the_newest(
        self, db: sqlite3.Connection, sought: Sought, part: int | None, limit: int
    ) -> set[int]:
        """What is found in the texts that are not indexed, and for a prefix in those before as well."""
        rows = db.execute(self._newest) if part is None else db.execute(self._newest_of_part, (part,))
        (indexed,) = db.execute(_TALLY, (self.tally,)).fetchone()
        found: set[int] = set()
        batch: list[tuple[int, int, str]] = []
        characters = 0
        for count, row in enumerate(rows):
            characters += len(row[2])
            is_tail = row[0] > indexed or (sought.has_prefix and count < NEWEST_TEXTS)
            if not is_tail or characters > MAX_TAIL_CHARACTERS:
                break
            if sought.may_match(row[2]):
                batch.append(row)
            if len(batch) == BATCH_TEXTS:
                found |= _matching(batch, sought.expression)
                batch.clear()
                if len(found) >= limit:
                    break
        return found | _matching(batch, sought.expression)

    def _step(self, db: sqlite3.Connection, after: int, through: int) -> int | None:
        """The last id of one step; None if there is no text."""
        rows = until(STEP_BYTES, db.execute(self._sizes, (after, through, STEP_TEXTS)))
        return rows[-1][0] if rows else None

    def check(self, db: sqlite3.Connection) -> Iterator[str]:
        """One sentence if the index does not hold what a new one would."""
        try:
            db.execute(self._compare)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT_VTAB:
                raise
            yield "the index does not find what the texts say"


def _write(context: Context) -> None:
    """Have the indexes write what they hold in memory: a savepoint makes them."""
    context.run("SAVEPOINT written")
    context.run("RELEASE written")


def until(most_bytes: int, rows: Iterable[Any]) -> list[Any]:
    """The first of these rows, until their sizes, which stand in the last column, reach this."""
    taken = []
    size_bytes = 0
    for row in rows:
        taken.append(row)
        size_bytes += row[-1]
        if size_bytes >= most_bytes:
            break
    return taken


def _matching(texts: list[tuple[int, int, str]], expression: str) -> set[int]:
    """The ids of those `(id, part, text)` that match: a small index in memory understands all the same."""
    if not texts:
        return set()
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.execute(f"CREATE VIRTUAL TABLE tail USING fts5 (part, text, content = '', {_TOKENS})")
        memory.executemany("INSERT INTO tail (rowid, part, text) VALUES (?, ?, ?)", texts)
        return {at for (at,) in memory.execute("SELECT rowid FROM tail WHERE tail MATCH ?", (expression,))}


class Sought(NamedTuple):
    """What somebody searches for."""

    expression: str
    """As FTS5 wants it, every word quoted."""
    words: list[str]
    """Lower-case letters and digits that an ASCII text must have somewhere."""
    has_prefix: bool

    def may_match(self, text: str) -> bool:
        """Whether it is worth asking FTS5; most texts are not."""
        if not text.isascii():
            return True
        lower = text.lower()
        return all(word in lower for word in self.words)


class _Term(NamedTuple):
    """One word or phrase."""

    words: str
    is_prefix: bool
    leave_out: bool

    def quoted(self) -> str:
        return f'"{self.words}" *' if self.is_prefix else f'"{self.words}"'


def understood(text: str, part: int | None = None) -> Sought:
    """What is searched for, in one part or in all. Raises InvalidInput, TooLarge."""
    check_text("search", text, MAX_SEARCH_BYTES)
    if text.count('"') % 2:
        raise InvalidInput('a quotation mark is not closed; write "a phrase" with both, or leave it out')
    terms = [_term(*match.groups()) for match in _TERM.finditer(text)]
    wanted = [term for term in terms if not term.leave_out]
    unwanted = [term.quoted() for term in terms if term.leave_out]
    if not wanted:
        raise InvalidInput("there is nothing to search for; give at least one word without a - before it")
    if len(terms) > MAX_TERMS or sum(term.is_prefix for term in terms) > MAX_PREFIXES:
        raise InvalidInput(
            f"a search has at most {MAX_TERMS} words and phrases, and {MAX_PREFIXES} that end in *; "
            "leave some out"
        )
    without = f" NOT ({' OR '.join(unwanted)})" if unwanted else ""
    within = "" if part is None else f'{{part}}: "{part}" AND '
    expression = f"{within}{{text}}: (({' AND '.join(term.quoted() for term in wanted)}){without})"
    plain = [word for term in wanted if term.words.isascii() for word in _PLAIN.findall(term.words.lower())]
    return Sought(expression, plain, any(term.is_prefix for term in terms))


def _term(minus: str, phrase: str | None, word: str | None) -> _Term:
    words = (phrase if word is None else word) or ""
    is_prefix = word is not None and word.endswith("*")
    words = words[:-1] if is_prefix else words
    if not any(map(str.isalnum, words)):
        raise InvalidInput(f"{phrase or word or ''!r} has no letter and no digit; search for words")
    if word is not None and "*" in words:
        raise InvalidInput("a * may stand at the end of a word only, as in mess*")
    if is_prefix and len(words) < MIN_PREFIX:
        raise InvalidInput(f"{word} is too short; give at least {MIN_PREFIX} characters before the *")
    return _Term(words, is_prefix, bool(minus))
