"""A preference set as flat lists, one value per image, and back into groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpslib.data.images.lazy import LazyImages, StoredImages

__all__ = ["Groups", "flatten_groups", "read_groups", "split_groups"]


def flatten_groups(groups: Any, root: str | Path | None = None) -> tuple[LazyImages, list[str], list[int]]:
    """All images of a preference dataset in order, the prompt of each, and the number of images of each group.

    ``groups`` is a ``datasets.Dataset`` or a list of its rows; ``root`` is the folder of the annotation file, needed
    where images are files of their own. Images are opened when they are asked for, and anew each time
    (:class:`hpslib.data.images.lazy.LazyImages`), since a whole release fits into no memory; ``images[:]`` opens all at
    once. Raises ``ValueError`` when there is no group.
    """
    if len(groups) == 0:
        raise ValueError("no groups to flatten: hand over at least one.")
    if hasattr(groups, "data"):  # a datasets.Dataset: its images may be more than the memory holds
        items: Any = StoredImages(groups)
        names, texts, sizes = groups["id"], groups["prompt"], items.sizes
    else:
        items = [item for group in groups for item in group["images"]]
        names, texts, sizes = zip(*((group["id"], group["prompt"], len(group["images"])) for group in groups))
    wheres = [f"group {name!r}, image {k}" for name, n in zip(names, sizes) for k in range(n)]
    prompts = [text for text, n in zip(texts, sizes) for _ in range(n)]
    return LazyImages(items, wheres, root), prompts, list(sizes)


def split_groups(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Cut one value per image into one array per group; ``ValueError`` unless there is a value for every image.

    >>> [part.tolist() for part in split_groups(np.array([1, 2, 3, 4, 5]), [2, 3])]
    [[1, 2], [3, 4, 5]]
    """
    if len(values) != sum(sizes):
        raise ValueError(f"{len(values)} values for groups of {sum(sizes)} images in all: score every image once.")
    return np.split(np.asarray(values), np.cumsum(sizes)[:-1])


class Groups(NamedTuple):
    """A split, flattened: images and a prompt for each, group sizes, choices; ``second``: those of another rater."""

    images: Sequence[Any]
    image_prompts: list[str]
    prompts: list[str]
    sizes: list[int]
    choices: list[int]
    second: list[int]
    raters: list[str]


def read_groups(dataset: Any, root: str | Path | None = None) -> Groups:
    """Flatten a preference dataset; ``second`` is empty where nobody chose a second time."""
    lazy, image_prompts, sizes = flatten_groups(dataset, root)
    # Those embedded in the miniature world's files are opened once, since a lesson looks at them many times.
    images = lazy[:] if root is None else lazy
    prompts, choices, raters = (list(dataset[name]) for name in ("prompt", "human_preference", "user_hash"))
    second = list(dataset["second_preference"]) if "second_preference" in dataset.column_names else []
    return Groups(images, image_prompts, prompts, sizes, choices, second, raters)
