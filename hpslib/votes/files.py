"""Votes for and from others: HPD v1's layout to train on, and a table with everything that was recorded.

Both ways keep each vote's key, so that importing a file twice, or one's own export, doubles nothing.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, NamedTuple

from hpslib.runs.files import written_whole
from hpslib.votes.database import insert_row, usable_path, withdraw_row

if TYPE_CHECKING:
    from datasets import Dataset

    from hpslib.votes.votes import Votes

__all__ = ["Imported", "export_hpd", "export_table", "import_hpd", "import_table", "user_hash"]

_TABLE_COLUMNS: dict[str, type] = {
    "vote_key": str,
    "id": str,
    "rater": str,
    "repeat": int,
    "choice": int,
    "position": int,
    "shown_order": str,
    "skipped": bool,
    "withdrawn": str,
    "seconds": float,
    "time": str,
}


class Imported(NamedTuple):
    """What an import did.

    >>> print(Imported(new=3, withdrawn=0, known=57))
    3 new votes, 0 withdrawn, 57 known before
    """

    new: int
    withdrawn: int
    known: int

    def __str__(self) -> str:
        return f"{self.new} new vote{'s' * (self.new != 1)}, {self.withdrawn} withdrawn, {self.known} known before"


def user_hash(rater: str) -> str:
    """SHA-256 of a rater's name, 64 hex digits; what already is such a hash stays as it is.

    A pseudonym, no anonymity: who guesses the name can compute it, too.

    >>> user_hash("ann")[:8], user_hash(user_hash("ann"))[:8]
    ('46e5b12c', '46e5b12c')
    """
    return rater if re.fullmatch(r"[0-9a-f]{64}", rater) else hashlib.sha256(f"hpslib {rater}".encode()).hexdigest()


# --- HPD v1 -----------------------------------------------------------------------------------------------------------


def export_hpd(
    votes: Votes,
    dataset: Dataset,
    folder: str | Path,
    split: str,
    rater: str | None = None,
    *,
    root: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the groups that were voted on in HPD v1's layout, images beside the JSON, one row a vote that counts.

    ``human_preference`` is the vote and ``user_hash`` stands for the rater; ``source`` is ``"votes"``. Further fields
    are ``group_id``, ``vote_key``, ``repeat``, ``shown_order`` and ``seconds``. Further columns of ``dataset`` are left
    out, for they tell what others chose. Skipped groups are not written.

    Args:
        dataset: the preference dataset that was voted on.
        folder, split, root, overwrite: see :func:`hpslib.data.releases.hpd_v1.write_hpd`.
        rater: one rater, whose rows keep the ids of their groups (``_r1`` is added in a second pass). None takes all
            raters, and adds the first 8 digits of the hash to each id.

    Raises ``ValueError`` when there is no vote or the dataset is not the one that was voted on, and as
    :func:`hpslib.data.releases.hpd_v1.write_hpd` does.
    """
    import datasets

    from hpslib.data.preferences import features
    from hpslib.data.releases.hpd_v1 import write_hpd

    voted = [row for row in votes.rows(rater, withdrawn=False) if not row["skipped"]]
    if not voted:
        by = "" if rater is None else f" by {rater!r}"
        raise ValueError(f"{votes.path} holds no vote{by}: vote first or name another rater.")
    place_of = {name: place for place, name in enumerate(dataset["id"])}
    sizes = {group.id: (group.prompt, group.images) for group in votes.groups}
    rows = []
    for vote in voted:
        group = dataset[place_of[vote["id"]]] if vote["id"] in place_of else None
        if group is None or (group["prompt"], len(group["images"])) != sizes[vote["id"]]:
            raise ValueError(
                f"the group {vote['id']!r} is not in this dataset or has another prompt or number of images there: "
                f"pass the dataset of the study {votes.study!r}."
            )
        number = f"_{user_hash(vote['rater'])[:8]}" * (rater is None) + f"_r{vote['repeat']}" * (vote["repeat"] > 0)
        rows.append(
            {
                **{name: group[name] for name in features()},
                "id": vote["id"] + number,
                "human_preference": vote["choice"],
                "user_hash": user_hash(vote["rater"]),
                "source": "votes",
                "group_id": vote["id"],
                **{name: vote[name] for name in ("vote_key", "repeat", "shown_order", "seconds")},
            }
        )
    text, whole = datasets.Value("string"), datasets.Value("int64")
    further = {"group_id": text, "vote_key": text, "repeat": whole, "shown_order": datasets.List(whole)}
    schema = datasets.Features({**features(), **further, "seconds": datasets.Value("float64")})
    exported = datasets.Dataset.from_list(rows, features=schema)
    return write_hpd(exported, folder, split, root=root, overwrite=overwrite)


def import_hpd(votes: Votes, path: str | Path, split: str | None = None) -> Imported:
    """Record the choices of a file in HPD v1's layout as votes; all of them or, where one is refused, none.

    A ``user_hash`` that belongs to a rater of the votes file becomes that rater, any other is the rater's name. Rows
    without ``vote_key`` (of another program) get one made of group and user.

    ``path`` and ``split`` are those of :func:`hpslib.data.releases.hpd_v1.read_hpd`; absent images are one warning, for
    they are not needed. Raises ``ValueError``, naming the first row that does not fit the study or contradicts a vote
    that counts.
    """
    from hpslib.data.releases.hpd_v1 import read_hpd

    dataset = read_hpd(path, images="optional", split=split)
    names = {user_hash(rater): rater for rater in votes.raters()}
    sizes = {group.id: (group.prompt, group.images) for group in votes.groups}
    rows = []
    for number, entry in enumerate(dataset):
        name = entry["group_id"] if isinstance(entry.get("group_id"), str) and entry["group_id"] else entry["id"]
        if sizes.get(name) != (entry["prompt"], len(entry["images"])):
            raise ValueError(
                f"{path}, row {number} (from 0) has the group {name!r} with this prompt and {len(entry['images'])} "
                f"images, which is not in the study {votes.study!r}: name a file of that study."
            )
        user = entry["user_hash"]
        derived = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}\n{user}"))
        vote = {"vote_key": entry.get("vote_key") or derived, "id": name, "rater": names.get(user, user)}
        vote |= {"choice": entry["human_preference"], "repeat": entry.get("repeat") or 0}
        rows.append({**vote, **{key: entry.get(key) for key in ("shown_order", "seconds", "time", "withdrawn")}})
    return _record_all(votes, rows, str(path))


# --- tables -----------------------------------------------------------------------------------------------------------


def export_table(votes: Votes, path: str | Path) -> Path:
    """Write every row, withdrawn ones included, to a ``.csv`` or ``.parquet`` file; returns its path.

    Columns: see :meth:`hpslib.votes.votes.Votes.rows`; ``shown_order`` is text such as ``"2 0 1"``. An existing file is
    replaced when the new one is complete. Raises ``ValueError`` for another ending.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    path = _table_path(path)
    rows = votes.rows()
    for row in rows:
        row["shown_order"] = None if row["shown_order"] is None else " ".join(map(str, row["shown_order"]))
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in _TABLE_COLUMNS.items()])
    table = pa.Table.from_pylist(rows, schema=schema)
    with written_whole(path) as partial:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, partial)
        else:
            pq.write_table(table, partial)
    return path


def import_table(votes: Votes, path: str | Path) -> Imported:
    """Record the rows of a file of :func:`export_table`, such as a colleague's; all of them or none.

    Rows whose key is known are not doubled; where the table says that such a vote was withdrawn, it is withdrawn here,
    too. Raises ``ValueError``, naming the row, for what does not fit the study or contradicts a vote that counts.
    """
    path = _table_path(path)
    rows = _csv_table(path) if path.suffix.lower() == ".csv" else _parquet_table(path)
    for number, row in enumerate(rows):
        row["choice"] = None if row["choice"] != row["choice"] else row["choice"]
        if row["skipped"] != (row["choice"] is None):
            where = f"{path}, row {number} (from 0)"
            raise ValueError(f"{where} has a choice that contradicts skipped: correct or remove this row.")
        for name in ("repeat", "choice"):
            row[name] = _as_whole(row[name])
        row["seconds"] = None if row["seconds"] != row["seconds"] else row["seconds"]  # NaN, which pandas has for None
        order = row["shown_order"]
        if isinstance(order, str):  # a parquet file may hold a list
            # What is no number stays text, so that the check of the row names it.
            row["shown_order"] = [int(part) if part.isdecimal() else part for part in order.split()]
    return _record_all(votes, rows, str(path))


def _record_all(votes: Votes, rows: Sequence[Mapping[str, Any]], where: str) -> Imported:
    """One transaction; withdrawals first, for they make room for a later vote on the same group."""
    new = withdrawn = 0
    with votes.transaction() as db:
        checked = []
        for number, row in enumerate(rows):
            try:
                checked.append(votes.checked_row(row))
            except ValueError as error:
                raise ValueError(f"{where}, row {number} (from 0), {error}") from error
        for row in checked:
            if row["withdrawn"] is not None:
                withdrawn += withdraw_row(db, row["vote_key"], row["withdrawn"])
        for number, row in enumerate(checked):
            try:
                new += insert_row(db, row)
            except ValueError as error:
                raise ValueError(f"{where}, row {number} (from 0), {error}") from error
    return Imported(new, withdrawn, len(rows) - new)


def _as_whole(value: Any) -> Any:
    """2.0 as 2, for a column with gaps comes back from pandas as floats; 0.5 stays, so that the check names it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _table_path(path: str | Path) -> Path:
    path = usable_path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends neither in .csv nor in .parquet: rename it.")
    return path


def _parquet_table(path: Path) -> list[dict[str, Any]]:
    from hpslib.data.rows import parquet_file, parquet_rows

    parquet = parquet_file(path, list(_TABLE_COLUMNS), "write it with export_table")
    return list(parquet_rows(parquet, path, list(_TABLE_COLUMNS), 10_000))


def _csv_table(path: Path) -> list[dict[str, Any]]:
    from hpslib.data.rows import csv_columns, csv_rows

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: write it with export_table.")
    missing = [name for name in _TABLE_COLUMNS if name not in csv_columns(path)]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}: write it with export_table.")
    return [_typed(line, f"{path}, line {number}") for number, line in csv_rows(path)]


def _typed(line: Mapping[str, str], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: line[name] or None for name in _TABLE_COLUMNS}
    truth = {"true": True, "false": False}.__getitem__
    readers: dict[str, Callable[[str], Any]] = {
        "repeat": _number,
        "choice": _number,
        "seconds": float,
        "skipped": truth,
    }
    for name, read in readers.items():
        try:
            row[name] = None if row[name] is None else read(row[name].lower())
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where} has {brief(line[name])} as {name}: correct or remove this line.") from error
    return row


def _number(text: str) -> int | float:
    """A whole number, also one that went through pandas ("2.0"); "0.5" stays what it is and is refused by the check."""
    return int(text) if text.isdecimal() else float(text)
