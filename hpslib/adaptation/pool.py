"""The pool that the adaptation selects from, read in one way by lesson 4 and by the command line.

DiffusionDB Large lies in the release's folders ``diffusiondb-large-part-1/`` (parts 1 to 10,000) and ``-2/``; its
``images/`` is the 2M subset, whose parts have the same names and hold other images. The paper took the first 1,000
parts of Large (``large_first_1m``). Here the parts that are there are taken, and how many they are is said.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpslib.data.pools.diffusiondb import PoolCounts, read_diffusiondb
from hpslib.data.read import read_data

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "LARGE_FOLDER",
    "MAX_NSFW",
    "SelectionPool",
    "diffusiondb_parts",
    "images_folder",
    "parts_text",
    "read_selection_pool",
    "wanted_parts",
    "whole_pool",
]

#: Where the release keeps the first 10,000 parts of Large.
LARGE_FOLDER = "diffusiondb-large-part-1"
#: The authors' mark for images that Stable Diffusion's own filter had blurred: those are left out.
MAX_NSFW = 2.0


class SelectionPool(NamedTuple):
    """The pool and the folder of its images, the parts it is of (text such as "1-1000"), and what was left out."""

    dataset: Dataset
    root: Path
    parts: str
    counts: PoolCounts


def images_folder(folder: str | Path) -> Path:
    """Where the zips of Large lie beside the table: the release's own folder where it is there, else ``images/``."""
    large = Path(folder) / LARGE_FOLDER
    return large if diffusiondb_parts(large) else Path(folder) / "images"


def diffusiondb_parts(images: str | Path) -> list[int]:
    """The numbers of DiffusionDB's parts in a folder, zips with content or unpacked folders.

    A browser's "part-000001 (1).zip", a half download and an empty file are none. A folder that is not there has none.
    """
    numbers = set()
    for place in Path(images).glob("part-*"):
        name = re.fullmatch(r"part-(\d{6})(\.zip)?", place.name)
        if name and (any(place.iterdir()) if place.is_dir() else place.is_file() and place.stat().st_size > 0):
            numbers.add(int(name[1]))
    return sorted(numbers)


def parts_text(numbers: list[int]) -> str:
    """Numbers in rising order as text that :func:`wanted_parts` reads.

    >>> parts_text([1, 2, 3, 7])
    '1-3,7'
    """
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def wanted_parts(text: str) -> list[int]:
    """The numbers in text such as "1-1000" or "1-3,7". Raises ``ValueError`` for other text.

    >>> wanted_parts("1-3,7")
    [1, 2, 3, 7]
    """
    numbers: set[int] = set()
    for piece in text.split(","):
        first, dash, last = (word.strip() for word in piece.partition("-"))
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and len(end) <= 5 for end in ends) or int(ends[1]) < int(ends[0]):
            raise ValueError(f"parts {text!r}: name a range of numbers such as 1-1000.")
        numbers |= set(range(int(ends[0]), int(ends[1]) + 1))
    return sorted(numbers)


def read_selection_pool(
    metadata: str | Path,
    *,
    parts: str | None = None,
    min_group: int = 4,
    max_groups: int | None = 100_000,
    max_nsfw: float | None = MAX_NSFW,
) -> SelectionPool:
    """DiffusionDB's images by prompt, from the parts that are there or from those that are named.

    ``metadata`` is the table (``metadata-large.parquet``), with the parts beside it (:func:`images_folder`). The
    defaults are lesson 4's at the full scale. Raises ``FileNotFoundError`` when no part is there, and what
    :func:`wanted_parts` and :func:`hpslib.data.pools.diffusiondb.read_diffusiondb` raise.
    """
    folder = images_folder(Path(metadata).parent)
    numbers = diffusiondb_parts(folder) if parts is None else wanted_parts(parts)
    if not numbers:
        raise FileNotFoundError(
            f"{folder} holds no part of DiffusionDB: put part-000001.zip and so on there, from {LARGE_FOLDER}/ of the "
            "release."
        )
    dataset, counts = read_diffusiondb(
        metadata, folder, parts=numbers, max_nsfw=max_nsfw, min_group=min_group, max_groups=max_groups
    )
    return SelectionPool(dataset, folder, parts_text(numbers), counts)


def whole_pool(pool: Path, format: str, parts: str | None = None) -> tuple[Any, Path]:
    """Any pool, and of DiffusionDB all groups and images, to find again what was chosen from some of them.

    Arguments, warnings and errors are those of :func:`hpslib.data.read.read_data` and :func:`read_selection_pool`.
    """
    if format != "diffusiondb":
        return read_data(pool, format, parts)
    found = read_selection_pool(pool, parts=parts, min_group=1, max_groups=None, max_nsfw=None)
    return found.dataset, found.root
