"""The rows of a votes file: what is sound in one, and how it is handed out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from numbers import Integral, Real
from typing import Any

from hpslib.votes.database import VotesFileError

__all__ = ["as_row", "is_order", "is_seconds", "is_time", "is_whole"]

_LARGEST = 2**53  # JSON and SQLite hold whole numbers up to it


def as_row(row: dict[str, Any], sizes: Mapping[str, int], where: str) -> dict[str, Any]:
    """The row as :meth:`hpslib.votes.votes.Votes.rows` hands it out, ``row`` being as the file has it.

    ``sizes`` has the number of images of each group, ``where`` names the row. Raises ``VotesFileError`` where no
    program of ours can have written it so.
    """
    choice = row["choice"]
    try:
        order = None if row["shown_order"] is None else json.loads(row["shown_order"])
    except (ValueError, TypeError, RecursionError):
        order = row["shown_order"]
    images = sizes.get(row["id"]) if isinstance(row["id"], str) else None
    sound = {
        "id": images is not None,
        "rater": isinstance(row["rater"], str),
        "vote_key": isinstance(row["vote_key"], str),
        "repeat": is_whole(row["repeat"]),
        "choice": choice is None or (is_whole(choice) and images is not None and choice < images),
        "shown_order": order is None or (isinstance(order, list) and images is not None and is_order(order, images)),
        "seconds": row["seconds"] is None or is_seconds(row["seconds"]),
        "time": is_time(row["time"]),
        "withdrawn": row["withdrawn"] is None or is_time(row["withdrawn"]),
    }
    faults = [name for name, fine in sound.items() if not fine]
    if faults:
        raise VotesFileError(
            f"{where} is damaged, for its {faults[0]} is {str(row[faults[0]])[:80]!r}: restore a copy of the file."
        )
    return {
        **{name: row[name] for name in ("vote_key", "id", "rater", "repeat", "choice")},
        "position": None if choice is None or order is None else order.index(choice),
        "shown_order": order,
        "skipped": choice is None,
        **{name: row[name] for name in ("withdrawn", "seconds", "time")},
    }


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number from 0; True and False are none.

    >>> is_whole(2), is_whole(2.0), is_whole(True), is_whole(-1)
    (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < _LARGEST


def is_seconds(value: Any) -> bool:
    """Whether a value is a finite number from 0."""
    try:
        return isinstance(value, Real) and 0 <= float(value) < _LARGEST
    except OverflowError:
        return False


def is_time(text: Any) -> bool:
    """Whether a value is a time with its zone as ISO 8601 writes it.

    >>> is_time("2023-03-25T12:00:00.000+00:00"), is_time("2023-03-25T12:00:00"), is_time("noon")
    (True, False, False)
    """
    try:
        return datetime.fromisoformat(text).utcoffset() is not None
    except (TypeError, ValueError):
        return False


def is_order(order: Any, images: int) -> bool:
    """Whether a value lists the indices of so many images, each once.

    >>> is_order([2, 0, 1], 3), is_order([0, 0, 1], 3), is_order("201", 3)
    (True, False, False)
    """
    listed = hasattr(order, "__len__") and hasattr(order, "__getitem__") and not isinstance(order, Mapping)
    return listed and all(map(is_whole, order)) and sorted(order) == list(range(images))
