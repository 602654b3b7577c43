"""Who chose what: a preference dataset as the matrix that measures of agreement between people take."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpslib.data.images.lazy import image_name_of
from hpslib.data.rankings import choice_from_ranks

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["RaterMatrix", "rater_matrix"]

_MOST = 2_000_000_000  # entries, 4 GB


class RaterMatrix(NamedTuple):
    """``choices``, int16 (groups, raters): the index of the image each rater chose in each group, -1 for no choice.

    ``raters`` names the columns, ``rows`` the row of the dataset that each group first stands in (its images have the
    order of the indices). :func:`hpslib.votes.reliability.choice_agreement` and, with ``missing=-1``,
    :func:`hpslib.votes.reliability.krippendorff_alpha` take ``choices``.
    """

    raters: list[str]
    choices: np.ndarray
    rows: list[int]


def rater_matrix(dataset: Dataset) -> RaterMatrix:
    """The choices of a preference dataset, a row per group and a column per rater, both in order of appearance.

    Rows of the dataset with the same prompt and the same images, in whatever order, are one group. Raters are the
    ``user_hash`` of each row, ``second_user_hash`` with ``second_preference`` where the dataset has them, and the
    ``raters`` with their ``rater_ranks`` of HPD v2's test set. A tie is no choice of one image and stands as -1.
    Answers without a rater's name, and second answers of a rater to the same group, are left out and counted in one
    warning.

    Raises ``ValueError`` when no answer has a rater's name, or the matrix would have more than two thousand million
    entries.
    """
    places: dict[Any, int] = {}
    first: list[list[str]] = []
    rows: list[int] = []
    columns: dict[str, int] = {}
    choices: dict[tuple[int, int], int] = {}
    nameless = again = 0
    for number, row in enumerate(dataset):
        images = [image_name_of(item) for item in row["images"]]
        place = places.setdefault((row["prompt"], tuple(sorted(images))), len(places))
        if place == len(first):
            first.append(images)
            rows.append(number)
        for rater, choice in _answers(row):
            if not rater:
                nameless += 1
                continue
            cell = place, columns.setdefault(rater, len(columns))
            if cell in choices:
                again += 1
            elif 0 <= choice < len(images):
                choices[cell] = choice if images == first[place] else first[place].index(images[choice])
            else:
                choices[cell] = -1
    if not columns:
        raise ValueError("no answer of the dataset has a user_hash: name a release that says who chose.")
    if len(rows) * len(columns) > _MOST:
        raise ValueError(f"{len(rows)} groups by {len(columns)} raters are too many for one matrix: select fewer rows.")
    if nameless or again:
        warnings.warn(
            f"{nameless} answers without a user_hash and {again} second answers of a rater to the same group are left "
            "out: give every answer a rater of its own to use it.",
            stacklevel=2,
        )
    matrix = np.full((len(rows), len(columns)), -1, dtype=np.int16)
    for cell, choice in choices.items():
        matrix[cell] = choice
    return RaterMatrix(list(columns), matrix, rows)


def _answers(row: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Who chose which image of one row of the dataset."""
    if row.get("rater_ranks"):
        yield from zip(row["raters"], map(choice_from_ranks, row["rater_ranks"]), strict=True)
        return
    yield row["user_hash"], row["human_preference"]
    if row.get("second_preference") is not None and row.get("second_user_hash") is not None:
        yield row["second_user_hash"], row["second_preference"]
