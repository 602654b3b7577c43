"""The SQLite file under :mod:`hpslib.votes.votes`: its tables, its transactions, and SQLite's errors as sentences.

A connection lives for one transaction. That costs about a millisecond and leaves nothing to close, nothing shared
between threads or forked processes, and no handle to a file that was moved away. ``synchronous = FULL`` puts every
committed transaction on the disk, write-ahead logging lets readers go on while one writes.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpslib.runs.files import one_line

__all__ = [
    "COLUMNS",
    "VotesFileError",
    "connection",
    "create_if_new",
    "insert_row",
    "is_storable",
    "now",
    "open_study",
    "usable_path",
    "withdraw_row",
]

#: The columns of the table ``votes`` after its running number.
COLUMNS = ("vote_key", "rater", "id", "repeat", "choice", "shown_order", "seconds", "time", "withdrawn")

_APPLICATION = 0x48505356  # "HPSV", in the header of every votes file
_TABLES = (
    "CREATE TABLE study (name TEXT NOT NULL, uid TEXT NOT NULL, fingerprint TEXT NOT NULL, created TEXT NOT NULL)",
    """CREATE TABLE groups (
        position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, prompt TEXT NOT NULL, images INTEGER NOT NULL
    )""",
    """CREATE TABLE votes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        vote_key TEXT NOT NULL UNIQUE,
        rater TEXT NOT NULL,
        id TEXT NOT NULL REFERENCES groups (id),
        repeat INTEGER NOT NULL,
        choice INTEGER,     -- index in the order of the group; empty where the group was skipped
        shown_order TEXT,   -- JSON: the index of the image shown first, second, ...
        seconds REAL,
        time TEXT NOT NULL, -- UTC
        withdrawn TEXT      -- UTC; empty while the vote counts
    )""",
    "CREATE UNIQUE INDEX one_vote_counts ON votes (rater, id, repeat) WHERE withdrawn IS NULL",
    """CREATE TRIGGER votes_stay BEFORE DELETE ON votes
        BEGIN SELECT RAISE(ABORT, 'votes are withdrawn, never deleted'); END""",
    f"PRAGMA application_id = {_APPLICATION}",
)


class VotesFileError(OSError):
    """A votes file cannot be used: locked, read-only, full disk, damaged, no votes file. The vote may be sent again."""


@contextmanager
def connection(path: Path, timeout: float, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    """A connection that is closed after the block, which undoes what was not committed.

    ``mode`` ``"rw"`` never makes a file, ``"rwc"`` does. ``timeout`` is in seconds. Raises :class:`VotesFileError`.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            yield db
    except sqlite3.Error as error:
        raise VotesFileError(_sentence(error, path, timeout)) from error
    except UnicodeDecodeError as error:  # a text in it is no UTF-8
        raise VotesFileError(f"{path} is damaged ({one_line(error)}): restore a copy of it.") from error


def usable_path(path: str | Path) -> Path:
    """The path itself. Raises ``ValueError`` for a name that no file can have (a NUL, half a character)."""
    if "\0" in str(path) or not is_storable(str(path), os.fsencode):
        raise ValueError(f"the path {str(path)!r} holds a character that no file's name can have: name another file.")
    return Path(path)


def is_storable(text: Any, encode: Callable[[str], bytes] = str.encode) -> bool:
    """Whether a value is text that SQLite (or what ``encode`` is for) can hold: no half of a character outside UTF-8.

    >>> is_storable("a cat 🐈"), is_storable("half \\ud83d"), is_storable(3)
    (True, False, False)
    """
    try:
        return isinstance(text, str) and encode(text) is not None
    except UnicodeEncodeError:
        return False


def _sentence(error: sqlite3.Error, path: Path, timeout: float) -> str:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} has been locked by another program for {timeout:g} s: close that program and try again."
    if path.is_dir():
        return f"{path} is a folder: name a file in it."
    if code == sqlite3.SQLITE_CANTOPEN and not path.exists():
        return f"{path} is not there or cannot be made: put it back or name a file in a folder that can be written to."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{path} or its folder is read-only: make both writable or move the file."
    if code == sqlite3.SQLITE_FULL:
        return f"the disk of {path} is full: free some space and try again."
    if code == sqlite3.SQLITE_IOERR:
        return f"{path} cannot be read or written ({error}): check its disk and the space on it."
    if code == sqlite3.SQLITE_NOTADB:
        return f"{path} is no votes file, for it is not SQLite: name another file or restore a copy of it."
    return f"{path} is damaged ({error}): restore a copy of it."


def create_if_new(path: Path, name: str, fingerprint: str, groups: Iterable[tuple], timeout: float) -> None:
    """Make the tables in one transaction where the file is absent or empty, as a killed first start may leave it.

    ``groups`` are rows (id, prompt, number of images). Raises :class:`VotesFileError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VotesFileError(
            f"the folder {path.parent} cannot be made ({error.strerror}): name another one."
        ) from error
    with connection(path, timeout, "rwc") as db:
        if _is_empty(db):
            db.execute("BEGIN IMMEDIATE")
            if _is_empty(db):  # nobody else was quicker
                for statement in _TABLES:
                    db.execute(statement)
                db.execute("INSERT INTO study VALUES (?, ?, ?, ?)", (name, str(uuid.uuid4()), fingerprint, now()))
                db.executemany("INSERT INTO groups VALUES (?, ?, ?, ?)", [(k, *row) for k, row in enumerate(groups)])
            db.execute("COMMIT")


def _is_empty(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def open_study(path: Path, timeout: float) -> tuple[str, str, str, list[tuple[str, str, int]]]:
    """Check the whole file and return the study's name, the file's own id, the fingerprint, and the groups' rows.

    Raises :class:`VotesFileError` where the file is damaged or of another program.
    """
    with connection(path, timeout) as db:
        faults = db.execute("PRAGMA integrity_check").fetchall()
        if faults != [("ok",)]:
            raise VotesFileError(f"{path} is damaged ({' '.join(faults[0][0].split())}): restore a copy of it.")
        if db.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise VotesFileError(f"{path} is no votes file but some other SQLite file: name another one.")
        db.execute("PRAGMA journal_mode = WAL")  # kept in the file
        study = db.execute("SELECT name, uid, fingerprint FROM study").fetchall()
        if len(study) != 1 or not all(isinstance(text, str) for text in study[0]):
            raise VotesFileError(f"{path} is damaged ({len(study)} studies in place of one): restore a copy of it.")
        groups = db.execute("SELECT id, prompt, images FROM groups ORDER BY position").fetchall()
        for row, (group_id, prompt, images) in enumerate(groups):
            if not (isinstance(group_id, str) and isinstance(prompt, str) and isinstance(images, int) and images >= 2):
                raise VotesFileError(f"{path}, group {row} (from 0) is damaged: restore a copy of the file.")
        name, uid, fingerprint = study[0]
        return name, uid, fingerprint, groups


def insert_row(db: sqlite3.Connection, row: Mapping[str, Any]) -> bool:
    """Insert a row with the keys of :data:`COLUMNS`; False where its key is there already.

    Raises ``ValueError`` where the key belongs to another vote, or the rater's vote on this group counts already.
    """
    same = ("rater", "id", "repeat", "choice")
    known = db.execute(f"SELECT {', '.join(same)} FROM votes WHERE vote_key = ?", (row["vote_key"],)).fetchone()
    if known is not None:
        if known != tuple(row[name] for name in same):
            raise ValueError(f"the key {row['vote_key']!r} belongs to another vote: make a new one for each vote.")
        return False
    if row["withdrawn"] is None:
        counts = "SELECT 1 FROM votes WHERE rater = ? AND id = ? AND repeat = ? AND withdrawn IS NULL"
        if db.execute(counts, (row["rater"], row["id"], row["repeat"])).fetchone():
            raise ValueError(f"{row['rater']!r} has already answered the group {row['id']!r}: undo that vote first.")
    values: Sequence[Any] = [row[name] for name in COLUMNS]
    db.execute(f"INSERT INTO votes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", values)
    return True


def withdraw_row(db: sqlite3.Connection, vote_key: str, moment: str) -> int:
    """Mark a vote as withdrawn; returns how many were: 0 where it already is or the key is unknown, else 1.

    ``moment`` is the time in UTC, as :func:`now` gives it.
    """
    query = "UPDATE votes SET withdrawn = ? WHERE vote_key = ? AND withdrawn IS NULL"
    return db.execute(query, (moment, vote_key)).rowcount


def now() -> str:
    """The time in UTC as text with milliseconds, such as ``2023-03-25T12:00:00.000+00:00``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
