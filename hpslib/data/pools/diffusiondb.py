"""DiffusionDB (Wang et al., 2023) as the pool of the paper: images people had made, gathered by prompt.

The release is one table (``metadata.parquet``, a row per image) and up to 14,000 zip files of 1000 images each::

    metadata.parquet
    images/part-000001.zip, images/part-000002.zip, ...

The paper takes the first million images of DiffusionDB Large, in groups of at least four with one prompt. Here the
groups are found in the table; the images stay in their zip files until they are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpslib.data.images.archives import is_file, is_folder, open_zip
from hpslib.data.pools.pool import pool_features
from hpslib.data.rows import check_columns, parquet_file, parquet_rows
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

__all__ = ["PoolCounts", "read_diffusiondb"]

_MOST_PARTS = 100_000  # the release has 14,000
_KINDS = {"image_name": "text", "prompt": "text", "part_id": "whole", "seed": "whole", "step": "whole"}
_KINDS |= {"cfg": "number", "image_nsfw": "number"}
_COLUMNS = ("image_name", "prompt", "part_id", "seed", "step", "cfg")


@dataclass(frozen=True)
class PoolCounts:
    """What became of the rows of the table: all numbers are images, except ``groups``.

    ``rows`` = ``images`` (in the pool, in ``groups`` groups) + ``nsfw`` (filtered) + ``blank`` (no prompt) + ``absent``
    (named by the table, not in its part) + ``twice`` (a row of the same image stood before) + ``too_small`` (in
    groups below ``min_group``) + ``beyond`` (in groups after the first ``max_groups``).

    >>> print(PoolCounts(rows=12, images=8, groups=2, nsfw=1, too_small=3))
    8 of 12 images in 2 groups; left out: 1 by its NSFW score, 3 in groups that are too small
    """

    rows: int
    images: int
    groups: int
    nsfw: int = 0
    blank: int = 0
    absent: int = 0
    twice: int = 0
    too_small: int = 0
    beyond: int = 0

    def __str__(self) -> str:
        reasons = {
            f"by {'its' if self.nsfw == 1 else 'their'} NSFW score": self.nsfw,
            "without a prompt": self.blank,
            "absent from the parts": self.absent,
            "named twice": self.twice,
            "in groups that are too small": self.too_small,
            "in groups beyond max_groups": self.beyond,
        }
        left = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        return f"{self.images} of {self.rows} images in {self.groups} groups" + (f"; left out: {left}" if left else "")


def read_diffusiondb(
    metadata: str | Path,
    parts_folder: str | Path,
    *,
    parts: Iterable[int] = range(1, 1001),
    min_group: int = 4,
    max_nsfw: float | None = None,
    max_groups: int | None = None,
) -> tuple[Dataset, PoolCounts]:
    """Gather DiffusionDB by prompt, without unpacking anything.

    Args:
        metadata: ``metadata.parquet`` or ``metadata-large.parquet``; only the needed columns and parts are read.
        parts_folder: holds ``part-000001.zip`` and so on, or folders ``part-000001`` if you have unpacked them.
        parts: the numbers of the parts to use; all must be there.
        min_group: fewest images of a prompt (the paper: 4).
        max_nsfw: leave out images whose ``image_nsfw`` is not below it. The score is 0 to 1, and 2.0 where the
            authors found the image blurred by Stable Diffusion's own filter: 2.0 drops just those. None keeps all.
        max_groups: at most this many groups, the first in the table.

    Returns a dataset with the columns of :func:`hpslib.data.pools.pool.read_pool`, its groups and images in the order
    of the table, and the counts. Pass ``parts_folder`` as ``root``. The ids come from the prompt (``ddb-`` and 16
    hexadecimal digits of its SHA-256), so they stay the same whatever parts and filters are chosen.

    Raises ``FileNotFoundError`` when the table is absent, or parts are (the first is named, all are counted), and
    ``ValueError`` when the table is no parquet or lacks a column or a value, a part is damaged, an argument makes no
    sense, or no group is left.
    """
    numbers = sorted(set(islice(parts, _MOST_PARTS + 1)))
    if not numbers or numbers[0] < 1 or min_group < 1 or (max_groups is not None and max_groups < 1):
        raise ValueError(
            f"{len(numbers)} parts from {min(numbers, default=0)}, min_group={min_group} and max_groups={max_groups} "
            "make no pool: use numbers from 1."
        )
    if len(numbers) > _MOST_PARTS:
        raise ValueError(f"more than {_MOST_PARTS} parts are named: pass the numbers of those you have as parts=.")
    names = _names_in_parts(Path(parts_folder), numbers)
    table = _rows_of_parts(Path(metadata), numbers, with_nsfw=max_nsfw is not None)
    rows = len(table)
    keep = table[table["image_nsfw"] < max_nsfw] if max_nsfw is not None else table
    nsfw = rows - len(keep)
    worded = keep[keep["prompt"].str.strip() != ""]
    blank = len(keep) - len(worded)
    there = [name in names[part][1] for name, part in zip(worded["image_name"], worded["part_id"])]
    named = worded[np.array(there, dtype=bool)]  # an empty list would choose columns
    distinct = named.drop_duplicates(["part_id", "image_name"])
    sizes = distinct.groupby("prompt", sort=False)["image_name"].transform("size")
    large = distinct[sizes >= min_group]
    order = large.groupby("prompt", sort=False).ngroup()
    chosen = large if max_groups is None else large[order < max_groups]
    if chosen.empty:
        raise ValueError(
            f"{metadata} has no prompt with {min_group} images among the {rows} rows of {len(numbers)} parts "
            f"({nsfw} were filtered by max_nsfw, {blank} have no prompt, {len(worded) - len(named)} are absent): "
            "use more parts or a smaller min_group."
        )
    dataset = _gathered(chosen, {part: place for part, (place, _) in names.items()})
    counts = PoolCounts(
        rows=rows,
        images=len(chosen),
        groups=len(dataset),
        nsfw=nsfw,
        blank=blank,
        absent=len(worded) - len(named),
        twice=len(named) - len(distinct),
        too_small=len(distinct) - len(large),
        beyond=len(large) - len(chosen),
    )
    return dataset, counts


def _names_in_parts(folder: Path, numbers: list[int]) -> dict[int, tuple[str, set[str]]]:
    """For each part its name in the folder and the names of the images in it."""
    names: dict[int, tuple[str, set[str]]] = {}
    absent = []
    for number in numbers:
        name = f"part-{number:06d}"
        if is_file(folder / f"{name}.zip"):
            names[number] = f"{name}.zip", set(open_zip(folder / f"{name}.zip", where=str(folder)).namelist())
        elif is_folder(folder / name):
            names[number] = name, {file.name for file in (folder / name).iterdir()}
        else:
            absent.append(name)
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks {absent[0]}.zip ({len(absent)} of {len(numbers)} parts are absent): download them or pass "
            "the numbers of those you have as parts=."
        )
    return names


def _rows_of_parts(metadata: Path, numbers: list[int], *, with_nsfw: bool) -> pd.DataFrame:
    import pyarrow.dataset as pads

    columns = [*_COLUMNS, *(["image_nsfw"] if with_nsfw else [])]
    with parquet_file(metadata, columns, "name DiffusionDB's metadata.parquet") as parquet:
        check_columns(parquet.schema_arrow, metadata, _KINDS)
    try:
        table = pads.dataset(metadata, format="parquet").to_table(
            columns=columns, filter=pads.field("part_id").isin(numbers)
        )
        table.validate(full=True)
    except Exception as error:  # the end of the file is whole, a page before it is not; or a text is not UTF-8
        with parquet_file(metadata, columns, "name DiffusionDB's metadata.parquet") as parquet:
            for _ in parquet_rows(parquet, metadata, columns, 10_000):  # names the row
                pass
        raise ValueError(f"{metadata} is not readable as parquet ({one_line(error)}): download it again.") from error
    if table.num_rows == 0:
        raise ValueError(f"{metadata} has no row of the parts {numbers[0]} to {numbers[-1]}: name other parts.")
    empty = [name for name in _COLUMNS if table[name].null_count]
    if empty:
        raise ValueError(f"{metadata} lacks a value of the column {empty[0]} in some row: download it again.")
    rows = table.to_pandas()
    for name, limit in (("seed", 2**63 - 1), ("step", 2**63 - 1), ("cfg", np.finfo(np.float32).max)):
        odd = rows[~(rows[name].abs() <= limit)]  # NaN too
        if len(odd):
            raise ValueError(
                f"{metadata} gives the image {odd['image_name'].iloc[0]!r} the {name} {odd[name].iloc[0]}, which is no "
                "number that a pool can hold: correct or remove its row."
            )
    return rows


def _gathered(rows: pd.DataFrame, places: dict[int, str]) -> Dataset:
    import datasets

    schema = pool_features()
    columns: dict[str, list] = {name: [] for name in schema}
    for prompt, group in rows.groupby("prompt", sort=False):
        columns["id"].append(f"ddb-{hashlib.sha256(str(prompt).encode()).hexdigest()[:16]}")
        columns["prompt"].append(prompt)
        paths = [f"{places[part]}/{name}" for part, name in zip(group["part_id"], group["image_name"])]
        columns["images"].append([{"bytes": None, "path": path} for path in paths])
        for name in ("seed", "step", "cfg"):
            columns[name].append(group[name].tolist())
    return datasets.Dataset.from_dict(columns, features=schema)
