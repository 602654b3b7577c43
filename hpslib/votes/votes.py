"""Votes that are never lost: a study's judgements in one SQLite file.

A study is a name and a list of groups (id, prompt, number of images), fixed when the file is made. Each vote is one
transaction that is on the disk before :meth:`Votes.record` returns; each carries a key made by whoever sends it, so
that a message sent twice is one vote. Nothing is deleted: a vote taken back stays as a row marked withdrawn.

There is nothing to close, and several notebooks, threads and processes can use one file at once
(:mod:`hpslib.votes.database`). Files for and from others: :mod:`hpslib.votes.files`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hpslib.votes.database import (
    COLUMNS,
    VotesFileError,
    connection,
    create_if_new,
    insert_row,
    is_storable,
    now,
    open_study,
    usable_path,
    withdraw_row,
)
from hpslib.votes.rows import as_row, is_order, is_seconds, is_time, is_whole

__all__ = ["Progress", "VoteGroup", "Votes", "open_votes", "study_fingerprint"]


class VoteGroup(NamedTuple):
    """What a study knows of a group."""

    id: str
    prompt: str
    images: int


class Progress(NamedTuple):
    """How far a rater is.

    >>> print(Progress(voted=10, skipped=2, total=60))
    12 of 60
    """

    voted: int
    skipped: int
    total: int

    def __str__(self) -> str:
        return f"{self.voted + self.skipped} of {self.total}"


def open_votes(
    path: str | Path, study: str | None = None, groups: Sequence[Mapping[str, Any]] | None = None, timeout: float = 10.0
) -> Votes:
    """Open a votes file, making it where there is none.

    Args:
        path: such as ``votes.sqlite``; while it is in use, SQLite keeps two more files beside it (``-wal``, ``-shm``).
            A local disk is needed: SQLite's locks do not hold on many network disks.
        study, groups: the study's name and its groups, a preference dataset or rows with ``id``, ``prompt`` and
            ``images``; of the images only the number counts. None opens the file with the study that it holds.
        timeout: seconds to wait for another process that is writing.

    Raises ``FileNotFoundError`` when the file is absent and no study is given, ``ValueError`` when it holds another
    study or other groups or the groups are malformed, and :class:`hpslib.votes.database.VotesFileError` when it cannot
    be used (locked, read-only, full disk, damaged, no votes file).
    """
    path = usable_path(path)
    if (study is None) != (groups is None):
        raise ValueError("study and groups belong together: give both or none of them.")
    if groups is None and not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a votes file or give a study and its groups.")
    given = None
    if study is not None and not is_storable(study):
        raise ValueError(f"study is {study!r}: give its name, as text.")
    if groups is not None:
        given = _vote_groups(groups)
        create_if_new(path, str(study), study_fingerprint(str(study), given), given, timeout)
    name, uid, fingerprint, rows = open_study(path, timeout)
    stored = tuple(VoteGroup(*row) for row in rows)
    if given is not None and fingerprint != study_fingerprint(str(study), given):
        raise ValueError(
            f"{path} holds the votes of the study {name!r} on {_span(stored)}, not of {study!r} on {_span(given)}: "
            "name another file or give that study's own groups."
        )
    return Votes(path, name, stored, uid, timeout)


def study_fingerprint(study: str, groups: Sequence[VoteGroup]) -> str:
    """SHA-256 of the study's name and its groups' ids, prompts and numbers of images, in their order."""
    return hashlib.sha256(json.dumps([study, [list(group) for group in groups]]).encode()).hexdigest()


@dataclass(frozen=True)
class Votes:
    """An open votes file; make it with :func:`open_votes`. Every method may raise ``VotesFileError``.

    A rater is any text. ``repeat`` counts the passes of one rater through the study, from 0. ``uid`` tells this file
    from any other, also from one of the same study.
    """

    path: Path
    study: str
    groups: tuple[VoteGroup, ...]
    uid: str
    timeout: float = 10.0

    def record(
        self,
        rater: str,
        group_id: str,
        choice: int | None,
        shown_order: Sequence[int] | None = None,
        seconds: float | None = None,
        kind: str = "vote",
        *,
        vote_key: str | None = None,
        repeat: int = 0,
    ) -> bool:
        """Store one vote, which is on the disk when this returns: False where this very vote was there before, else
        True.

        Args:
            choice: index of the chosen image in the order of the group, not in the order shown; None for a skip.
            shown_order: a permutation: the index of the image shown first, second, ...; None where it is unknown.
            seconds: how long the rater looked; None where it is unknown.
            kind: ``"vote"``, or ``"skip"`` for a group without an answer.
            vote_key: made by the sender, the same when the vote is sent again (a UUID); None makes a new one.

        Raises ``ValueError`` for a group that is not in the study, a choice or an order out of range, a key that
        belongs to another vote, or a group this rater has already answered in this pass (undo that vote first).
        """
        if kind not in ("vote", "skip"):
            raise ValueError(f"kind is {kind!r}: choose 'vote' or 'skip'.")
        if (kind == "skip") != (choice is None):
            raise ValueError(f"kind is {kind!r} but choice is {choice!r}: give a vote a choice and a skip None.")
        values = (vote_key, rater, group_id, repeat, choice, shown_order, seconds, None, None)
        row = self.checked_row(dict(zip(COLUMNS, values)))
        with self.transaction() as db:
            return insert_row(db, row)

    def undo(self, rater: str, vote_key: str | None = None, repeat: int = 0) -> str | None:
        """Withdraw this rater's vote or skip with ``vote_key``, or else the last one that counts in this pass.

        With a key, doing it twice is no harm. Returns the id of the group, or None where there is nothing to undo.
        Raises ``ValueError`` for a key that this rater has not used.
        """
        with self.transaction() as db:
            if vote_key is None:
                query = "SELECT id, vote_key FROM votes WHERE rater = ? AND repeat = ? AND withdrawn IS NULL"
                row = db.execute(f"{query} ORDER BY number DESC", (rater, repeat)).fetchone()
            else:
                query = "SELECT id, vote_key FROM votes WHERE rater = ? AND vote_key = ?"
                row = db.execute(query, (rater, vote_key)).fetchone()
                if row is None:
                    raise ValueError(f"{rater!r} has no vote with the key {vote_key!r}: undo one that was recorded.")
            if row is None:
                return None
            withdraw_row(db, row[1], now())
            return row[0]

    def rows(self, rater: str | None = None, repeat: int | None = None, withdrawn: bool = True) -> list[dict[str, Any]]:
        """Votes and skips in the order they were recorded, of one rater and one pass or of all.

        Each is a dictionary: ``vote_key``, ``id`` (of the group), ``rater``, ``repeat``, ``choice`` (index in the
        group's order, None for a skip), ``position`` (where the chosen image stood, from 0; None for a skip or an
        unknown order), ``shown_order``, ``skipped``, ``withdrawn`` (UTC, None while it counts), ``seconds``, ``time``
        (UTC). ``withdrawn=False`` leaves out what no longer counts. A row that no program of ours has written so is a
        ``VotesFileError`` that names its number.
        """
        filters = {"rater = ?": rater, "repeat = ?": repeat}
        filters = {test: value for test, value in filters.items() if value is not None}
        tests = " AND ".join(["1", *filters, *([] if withdrawn else ["withdrawn IS NULL"])])
        query = f"SELECT number, {', '.join(COLUMNS)} FROM votes WHERE {tests} ORDER BY number"
        sizes = {group.id: group.images for group in self.groups}
        with self.transaction(write=False) as db:
            return [
                as_row(dict(zip(COLUMNS, values)), sizes, f"{self.path}, vote {number}")
                for number, *values in db.execute(query, tuple(filters.values()))
            ]

    def choices(self, rater: str, repeat: int = 0) -> dict[str, int]:
        """Group id to chosen index (in the order of the group), for the votes that count; skips are left out."""
        return {row["id"]: row["choice"] for row in self.rows(rater, repeat, withdrawn=False) if not row["skipped"]}

    def pending(self, rater: str, repeat: int = 0) -> list[str]:
        """Ids of the groups that this rater has neither voted on nor skipped, in the order of the study."""
        answered = {row["id"] for row in self.rows(rater, repeat, withdrawn=False)}
        return [group.id for group in self.groups if group.id not in answered]

    def next_group(self, rater: str, repeat: int = 0) -> str | None:
        """The first of :meth:`pending`, None when all is answered."""
        return next(iter(self.pending(rater, repeat)), None)

    def progress(self, rater: str, repeat: int = 0) -> Progress:
        """How many groups this rater has voted on and skipped, and how many there are."""
        skips = [row["skipped"] for row in self.rows(rater, repeat, withdrawn=False)]
        return Progress(voted=skips.count(False), skipped=skips.count(True), total=len(self.groups))

    def raters(self) -> list[str]:
        """Everyone with a row, also a withdrawn one, in order of appearance."""
        return list(dict.fromkeys(row["rater"] for row in self.rows()))

    @contextmanager
    def transaction(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing: an exception that leaves the block undoes what was done in it."""
        with connection(self.path, self.timeout) as db:
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            if db.execute("SELECT uid FROM study").fetchone() != (self.uid,):
                raise VotesFileError(f"{self.path} is another votes file than the one that was opened: open it again.")
            yield db
            db.execute("COMMIT")

    def checked_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as :func:`hpslib.votes.database.insert_row` takes it, a key and a time made where they are None.

        Raises ``ValueError``, naming the value, for what does not fit the study.
        """
        sizes = {group.id: group.images for group in self.groups}
        images = sizes.get(row["id"]) if isinstance(row["id"], str) else None
        if images is None:
            raise ValueError(
                f"the study {self.study!r} has no group {row['id']!r}: name one of its {len(self.groups)}."
            )
        for name in ("rater", "vote_key"):
            given = row[name] is not None or name == "rater"
            if given and not (is_storable(row[name]) and row[name].strip()):
                raise ValueError(f"{name} is {row[name]!r:.80}: give text.")
        choice, order, seconds = row["choice"], row["shown_order"], row["seconds"]
        if choice is not None and not (is_whole(choice) and choice < images):
            raise ValueError(f"choice is {choice!r}: give an index from 0 to {images - 1}.")
        if order is not None and not is_order(order, images):
            raise ValueError(f"shown_order is {order!r}: give the indices 0 to {images - 1}, each once.")
        if seconds is not None and not is_seconds(seconds):
            raise ValueError(f"seconds is {seconds!r}: give a number from 0.")
        if not is_whole(row["repeat"]):
            raise ValueError(f"repeat is {row['repeat']!r}: give a whole number from 0.")
        for name in ("time", "withdrawn"):
            if row[name] is not None and not is_time(row[name]):
                raise ValueError(f"{name} is {row[name]!r:.80}: give a time such as {now()}.")
        return {
            **{name: row[name] for name in COLUMNS},
            "vote_key": row["vote_key"] or str(uuid.uuid4()),
            "repeat": int(row["repeat"]),
            "choice": None if choice is None else int(choice),
            "shown_order": None if order is None else json.dumps([int(index) for index in order]),
            "seconds": None if seconds is None else float(seconds),
            "time": row["time"] or now(),
        }


def _vote_groups(groups: Sequence[Mapping[str, Any]]) -> tuple[VoteGroup, ...]:
    by_id: dict[str, VoteGroup] = {}
    for number, row in enumerate(groups):
        missing = [name for name in ("id", "prompt", "images") if name not in row]
        if missing:
            raise ValueError(f"group {number} (from 0) has no {', '.join(missing)}: give rows of a preference dataset.")
        group = VoteGroup(row["id"], row["prompt"], len(row["images"]))
        if not (is_storable(group.id) and group.id and is_storable(group.prompt)):
            raise ValueError(f"group {number} (from 0) has the id {group.id!r}: give it an id and a prompt of text.")
        if group.images < 2:
            raise ValueError(f"the group {group.id!r} holds {group.images} images: give at least 2 to choose from.")
        if by_id.setdefault(group.id, group) is not group:
            raise ValueError(f"two groups have the id {group.id!r}: give each its own.")
    if not by_id:
        raise ValueError("there is no group to vote on: give at least one row of a preference dataset.")
    return tuple(by_id.values())


def _span(groups: Sequence[VoteGroup]) -> str:
    return f"{len(groups)} group{'s' * (len(groups) > 1)} ({groups[0].id!r} to {groups[-1].id!r})"
