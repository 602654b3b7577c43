"""Your own judgements: a CSV file with one image a line.

Either one image of each group is chosen, or all have ranks (1 is the best, equal numbers are ties)::

    id,prompt,image,chosen          id,prompt,image,rank,user
    7,a red cat,a.png,1             7,a red cat,a.png,2,ann
    7,a red cat,b.png,0             7,a red cat,b.png,1,ann
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_file
from hpslib.data.preferences import row_fault
from hpslib.data.rankings import models_feature
from hpslib.data.releases.annotations import Images, checked_option, finished, group_row
from hpslib.data.rows import csv_columns, csv_rows
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_table"]


def read_table(path: str | Path, images: Images = "require") -> Dataset:
    """Read preference groups from a CSV file (UTF-8) with the columns ``id``, ``prompt``, ``image`` and one of these:

    * ``chosen``: 1 for the image that was chosen, 0 for the others; exactly one 1 in each group.
    * ``rank``: a whole number from 1 (the best); equal numbers are ties.

    ``user`` may say who judged, and ``model`` what made the image (the column ``models`` of the dataset). Lines with
    the same id are one group, in the order of the file, and need not stand together; images are relative to the file's
    folder. Further columns are not read.

    Args:
        path: the CSV file.
        images: ``"require"`` or ``"optional"``, see :func:`hpslib.data.releases.hpd_v1.read_hpd`.

    The dataset has the columns of :func:`hpslib.data.rankings.ranked_features`; ``source`` is ``"table"``. Raises
    ``FileNotFoundError`` when the file is absent, or with ``images="require"`` any image, and ``ValueError``, naming
    the line (from 1, the header), when a line or a group is malformed.
    """
    file = Path(path)
    checked_option(images)
    if not is_file(file):
        raise FileNotFoundError(f"{file} does not exist: name a CSV file.")
    judged = _judgement(csv_columns(file), file)
    groups: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, line in csv_rows(file):
        first = groups.setdefault(line["id"], [(number, line)])
        for name in ("prompt", "user"):
            if line.get(name) != first[0][1].get(name):
                raise ValueError(
                    f"{file}, line {number} has another {name} than line {first[0][0]}, which has the same id "
                    f"{one_line(repr(line['id']))}: make them equal or change the id."
                )
        if first[0][0] != number:
            first.append((number, line))
    if not groups:
        raise ValueError(f"{file} holds no line below its header: give at least one group.")
    rows = [_group(name, members, judged, file) for name, members in groups.items()]
    return finished(rows, file, images, further=models_feature() if "models" in rows[0] else None)


def _judgement(columns: list[str], file: Path) -> str:
    missing = [name for name in ("id", "prompt", "image") if name not in columns]
    if missing:
        raise ValueError(f"{file}, line 1 lacks the column {', '.join(missing)}: give it a header id,prompt,image.")
    judged = [name for name in ("chosen", "rank") if name in columns]
    if len(judged) != 1:
        columns_there = "both columns chosen and rank" if judged else "neither a column chosen nor rank"
        raise ValueError(f"{file}, line 1 has {columns_there}: give exactly one of them.")
    if len(set(columns)) < len(columns):
        raise ValueError(f"{file}, line 1 uses a column name twice: rename one.")
    return judged[0]


def _group(name: str, members: list[tuple[int, dict[str, str]]], judged: str, file: Path) -> dict[str, Any]:
    numbers = [_number(line[judged], judged, f"{file}, line {number}") for number, line in members]
    start = f"{file}, line {members[0][0]}, group {one_line(repr(name))},"
    if judged == "chosen" and sum(numbers) != 1:
        raise ValueError(f"{start} has {sum(numbers)} chosen images: mark exactly one with 1.")
    ranks = numbers if judged == "rank" else [2 - number for number in numbers]
    first = members[0][1]
    row = group_row(
        name, first["prompt"], [line["image"] for _, line in members], ranks, "table", first.get("user", "")
    )
    if "model" in first:
        row["models"] = [line["model"].strip() for _, line in members]
    fault = row_fault(row)
    if fault is not None:
        raise ValueError(f"{start} is malformed, since {fault}: correct or remove its lines.")
    return row


def _number(text: str, judged: str, where: str) -> int:
    allowed = (
        text.strip() in ("0", "1")
        if judged == "chosen"
        else re.fullmatch("[0-9]{1,18}", text.strip()) and int(text) >= 1
    )
    if not allowed:
        kind = "0 or 1" if judged == "chosen" else "a whole number from 1 (the best)"
        raise ValueError(
            f"{where} has {one_line(repr(text))} as {judged} where {kind} was expected: correct this line."
        )
    return int(text)
