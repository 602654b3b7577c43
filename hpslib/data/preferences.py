"""What people chose: the one schema of the course, its checks, and splitting without leaks.

A *preference group* is one prompt, two or more images made for it, and the index of the image a person chose.
Whatever release the groups come from (see :mod:`hpslib.data.releases.hpd_v1`), they are one :class:`datasets.Dataset`
with the columns of :func:`features`; further columns, such as the miniature set's ``second_preference``, are allowed
and kept.

One further column means something here: ``ranks``, where people ordered all images of a group. It holds one whole
number per image, 1 for the best; equal numbers are ties, and gaps (1, 2, 5, 3) mean nothing. Where several images
share the best rank, ``human_preference`` is :data:`TIED` (see :mod:`hpslib.data.rankings`). Another is ``models``,
where a release says what made each image: one text per image, empty where it is unknown.

The layout follows HPD v1 (Wu et al., ICCV 2023, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from hpslib.data.columns import each_row
from hpslib.data.images.names import path_fault, path_parts
from hpslib.data.images.safe import image_source, open_image
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, Features
    from PIL import Image

__all__ = [
    "TIED",
    "PreferenceGroup",
    "features",
    "is_unicode",
    "load_images",
    "malformed_rows",
    "normalise_prompt",
    "refuse_malformed",
    "row_fault",
    "split_by_prompt",
    "validate",
]

#: ``human_preference`` of a group whose best rank is shared; allowed only beside ``ranks``.
TIED = -1


class PreferenceGroup(TypedDict):
    """One row of a preference dataset; ``ranks`` (a list of int, see the module) may stand beside these fields.

    Each entry of ``images`` is ``{"bytes": bytes | None, "path": str | None}``: bytes in a packed file, otherwise a
    path relative to the folder of the annotation file.
    """

    id: str
    prompt: str
    images: list[dict[str, Any]]
    human_preference: int
    user_hash: str
    contain_name: bool
    source: str


def features() -> Features:
    """The columns every preference dataset has, in order.

    >>> list(features())
    ['id', 'prompt', 'images', 'human_preference', 'user_hash', 'contain_name', 'source']
    """
    import datasets

    text = datasets.Value("string")
    return datasets.Features(
        {
            "id": text,
            "prompt": text,
            "images": datasets.List(datasets.Image(decode=False)),
            "human_preference": datasets.Value("int64"),
            "user_hash": text,
            "contain_name": datasets.Value("bool"),
            "source": text,
        }
    )


# --- is it well formed? -----------------------------------------------------------------------------------------------


def row_fault(row: Any, *, allow_empty_prompt: bool = False) -> str | None:
    """What is wrong with one row, or ``None`` where it is a well-formed :class:`PreferenceGroup`.

    >>> row_fault({"id": "7", "prompt": "a cat"})
    'it has no images (file_path in HPD v1), human_preference, user_hash, contain_name, source'
    """
    if not isinstance(row, Mapping):
        return f"it is a {type(row).__name__} where an object with named fields was expected"
    missing = [name for name in PreferenceGroup.__annotations__ if name not in row]
    if missing:
        return f"it has no {', '.join(missing)}".replace("images", "images (file_path in HPD v1)")
    for name in ("id", "prompt", "user_hash", "source"):
        if not isinstance(row[name], str):
            return f"{name} is a {type(row[name]).__name__} where text was expected"
        if not is_unicode(row[name]):
            return f"{name} holds characters that are not valid Unicode"
    for name in ("id",) if allow_empty_prompt else ("id", "prompt"):
        if not row[name].strip():
            return f"{name} is empty"
    if not isinstance(row["contain_name"], bool):
        return f"contain_name is a {type(row['contain_name']).__name__} where true or false was expected"
    choice, images = row["human_preference"], row["images"]
    if not isinstance(choice, Integral) or isinstance(choice, bool):
        return f"human_preference is a {type(choice).__name__} where a whole number was expected"
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        return f"images (file_path in HPD v1) is a {type(images).__name__} where a list was expected"
    if len(images) < 2:
        return f"the group holds {len(images)} image{'s' * (len(images) != 1)} where a choice needs at least 2"
    ranks = row.get("ranks")
    if not 0 <= int(choice) < len(images) and (ranks is None or choice != TIED):
        tied = "" if ranks is None else f", or {TIED} for a tie,"
        return f"human_preference is {choice} where an index from 0 to {len(images) - 1}{tied} was expected"
    return (
        _images_fault(images)
        or (None if ranks is None else _ranks_fault(ranks, int(choice), len(images)))
        or (None if row.get("models") is None else _models_fault(row["models"], len(images)))
    )


def _models_fault(models: Any, n_images: int) -> str | None:
    texts = isinstance(models, Sequence) and not isinstance(models, str) and all(isinstance(m, str) for m in models)
    if not texts or len(models) != n_images or not all(map(is_unicode, models)):
        return f"models is {one_line(repr(models))} where a list of {n_images} texts, one per image, was expected"
    return None


def _ranks_fault(ranks: Any, choice: int, n_images: int) -> str | None:
    if not isinstance(ranks, Sequence) or isinstance(ranks, str | bytes) or len(ranks) != n_images:
        return f"ranks is {one_line(repr(ranks))} where a list of {n_images} numbers, one per image, was expected"
    for k, rank in enumerate(ranks):
        if not isinstance(rank, Integral) or isinstance(rank, bool) or not 1 <= int(rank) < 2**63:
            return f"image {k} has the rank {one_line(repr(rank))} where a whole number from 1 (the best) was expected"
    best = [k for k, rank in enumerate(ranks) if rank == min(ranks)]
    if len(best) > 1 and choice != TIED:
        return f"images {best[0]} and {best[1]} share the best rank, so human_preference must be {TIED}, not {choice}"
    if len(best) == 1 and choice != best[0]:
        return f"image {best[0]} has the best rank, so human_preference must be {best[0]}, not {choice}"
    return None


def _images_fault(images: Sequence[Any]) -> str | None:
    paths: dict[tuple[str, ...], int] = {}
    for k, item in enumerate(images):
        if not isinstance(item, Mapping) or "bytes" not in item or "path" not in item:
            return f"image {k} is a {type(item).__name__} where bytes and path were expected"
        data, path = item["bytes"], item["path"]
        if data is None and path is None:
            return f"image {k} has neither bytes nor a path"
        if data is not None and not (isinstance(data, bytes) and data):
            return f"image {k} has {'empty' if data == b'' else type(data).__name__} bytes"
        if path is None:
            continue
        fault = path_fault(path)
        if fault is not None:
            return f"in image {k} {fault}"
        if not is_unicode(path):
            return f"the path of image {k} holds characters that are not valid Unicode"
        place = tuple(path_parts(path))
        if data is None and place in paths:
            return f"images {paths[place]} and {k} are the same file {path!r}"
        paths[place] = k
    return None


def is_unicode(text: str) -> bool:
    """False for lone surrogates: JSON can carry them, Arrow and files cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def malformed_rows(rows: Iterable[Any], *, allow_empty_prompts: bool = False) -> list[tuple[int, str]]:
    """``(row number from 0, what is wrong)`` for every malformed row, a second use of an id included."""
    faults: list[tuple[int, str]] = []
    first_use: dict[str, int] = {}
    for number, row in enumerate(rows):
        fault = row_fault(row, allow_empty_prompt=allow_empty_prompts)
        if fault is None and first_use.setdefault(row["id"], number) != number:
            fault = f"its id {row['id'][:100]!r} is already used by row {first_use[row['id']]}"
        if fault is not None:
            faults.append((number, fault))
    return faults


def refuse_malformed(faults: Sequence[tuple[int, str]], where: str) -> None:
    """Raise one ``ValueError`` for all faults, the first in full, the rest counted; do nothing where there is none."""
    if faults:
        (number, fault), more = faults[0], len(faults) - 1
        rest = f" and {more} more malformed row{'s' * (more > 1)}" if more else ""
        raise ValueError(
            f"{where}, row {number} (from 0) is malformed, since {fault}: correct or remove this row{rest}."
        )


def validate(
    rows: Dataset | Iterable[Mapping[str, Any]], where: str = "the dataset", *, allow_empty_prompts: bool = False
) -> None:
    """Check every row against the schema; the files themselves are not opened.

    Args:
        rows: a preference dataset, or rows as dictionaries.
        where: what the error message calls the data, usually its file.
        allow_empty_prompts: let empty prompts pass, as the audit does to count them.

    Raises ``ValueError`` naming the first malformed row and counting the others; also for a dataset without rows,
    without one of the columns, or whose images are decoded on access.

    >>> validate([{"id": "7", "prompt": "a cat"}, "a dog"], "my.json")
    Traceback (most recent call last):
    ...
    ValueError: my.json, row 0 (from 0) is malformed, since it has no images (file_path in HPD v1), human_preference, \
user_hash, contain_name, source: correct or remove this row and 1 more malformed row.
    """
    columns = getattr(rows, "features", None)
    if columns is not None:
        missing = [name for name in features() if name not in columns]
        if missing:
            raise ValueError(f"{where} lacks the column {', '.join(missing)}: build the dataset with features().")
        if columns["images"] != features()["images"]:
            raise ValueError(f"{where} has images of the type {columns['images']}: use List(Image(decode=False)).")
    entries: Sequence[Any] = list(rows) if columns is None else cast("Sequence[Any]", rows)
    if len(entries) == 0:
        raise ValueError(f"{where} holds no row: give at least one preference group.")
    checked = entries if columns is None else each_row(cast("Dataset", rows))
    refuse_malformed(malformed_rows(checked, allow_empty_prompts=allow_empty_prompts), where)


# --- the images -----------------------------------------------------------------------------------------------------


def load_images(group: Mapping[str, Any], root: str | Path | None = None) -> list[Image.Image]:
    """Open the images of one group, in the order of the annotation, as upright RGB.

    Args:
        group: one row of a preference dataset.
        root: folder of the annotation file; needed if the images are files.

    Raises ``FileNotFoundError`` and ``ValueError`` as :func:`hpslib.data.images.safe.open_image` does, naming the group
    and the image.
    """
    wheres = [f"group {group['id']!r}, image {k}" for k in range(len(group["images"]))]
    return [open_image(image_source(item, root, where=w), where=w) for item, w in zip(group["images"], wheres)]


# --- splitting --------------------------------------------------------------------------------------------------------


def normalise_prompt(prompt: str) -> str:
    """Lower case, every run of white space one blank: prompts equal after this count as the same prompt.

    >>> normalise_prompt("  A cat,\\tOIL  painting ")
    'a cat, oil painting'
    """
    return " ".join(prompt.lower().split())


def split_by_prompt(
    dataset: Dataset, fractions: Mapping[str, float], seed: int | np.random.Generator
) -> dict[str, Dataset]:
    """Split at random so that no prompt (after :func:`normalise_prompt`) is in two splits.

    The prompts are shuffled and dealt out until each split has its share of the *groups*; a prompt with many groups may
    move a border by their number. The result does not depend on the order of the rows, and rows keep their order.

    Args:
        fractions: name and share of each split, each above 0, together 1.
        seed: an int or a numpy generator.

    Raises ``ValueError`` when the fractions are wrong or a split would be empty.
    """
    import numpy as np

    shares = list(fractions.values())
    if not shares or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"fractions={dict(fractions)} are no shares: give numbers above 0 that add up to 1.")
    keys = [normalise_prompt(prompt) for prompt in dataset["prompt"]]
    groups_per_prompt = Counter(keys)
    prompts = sorted(groups_per_prompt)
    np.random.default_rng(seed).shuffle(prompts)
    borders = np.round(np.cumsum(shares) * len(keys))
    starts = np.cumsum([0, *(groups_per_prompt[prompt] for prompt in prompts)])[:-1]
    split_of = dict(zip(prompts, np.searchsorted(borders, starts, side="right").tolist()))
    splits = {}
    for number, name in enumerate(fractions):
        rows = [row for row, key in enumerate(keys) if split_of[key] == number]
        if not rows:
            raise ValueError(
                f"the split {name!r} would be empty, since {len(prompts)} different prompts are dealt out as "
                f"{dict(fractions)}: give it a larger share."
            )
        splits[name] = dataset.select(rows)
    return splits
