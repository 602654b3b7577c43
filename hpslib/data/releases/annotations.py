"""From the rows of an annotation file to a dataset in the schema: what the readers of several releases share.

A reader says where the fields of one row go (:func:`gather` collects what it cannot read, so that the first bad row is
named and the others are counted); :func:`finished` checks the rows, finds the folder or zip file the images lie in,
and refuses or reports those that are absent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpslib.data.columns import absent_images, group_sizes
from hpslib.data.images.safe import image_present
from hpslib.data.preferences import malformed_rows, refuse_malformed
from hpslib.data.rankings import choice_from_ranks, ranked_features

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Images", "checked_option", "fields_of", "finished", "gather", "group_row", "report_absent"]

#: What is done about absent images: refused, or reported in one warning.
Images = Literal["require", "optional"]


def checked_option(images: str) -> None:
    """Raise ``ValueError`` unless it is ``"require"`` or ``"optional"``."""
    if images not in ("require", "optional"):
        raise ValueError(f"images={images!r} is neither 'require' nor 'optional': use one of these.")


def report_absent(dataset: Dataset, root: Path, where: str, images: Images, stacklevel: int = 3) -> None:
    """With ``"require"`` raise ``FileNotFoundError`` for absent images, else warn once of how many there are."""
    absent = absent_images(dataset, root, where)
    if absent:
        row, first = absent[0]
        count = f"{len(absent)} of {group_sizes(dataset).sum()} image files are absent below {root}"
        if images == "require":
            raise FileNotFoundError(
                f"{where}, row {row} (from 0): the image file {first!r} is absent ({count}), "
                "put the images beside the annotation file or read it with images='optional'"
            )
        warnings.warn(
            f"{count}, the first is {first!r} in row {row} (from 0) of {where}: put them there before you open any.",
            stacklevel=stacklevel,
        )


def fields_of(entry: Any, names: Sequence[str], paths: Sequence[str]) -> list[Any]:
    """The named values of one row, then its list of paths under the first of the names in ``paths`` that it has.

    Raises ``ValueError``, saying what is missing or of the wrong kind.

    >>> fields_of({"prompt": "a cat", "image_path": ["a.png", "b.png"]}, ["prompt"], ["file_path", "image_path"])
    ['a cat', ['a.png', 'b.png']]
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"it is a {type(entry).__name__} where an object with named fields was expected")
    given = next((name for name in paths if name in entry), "")
    missing = [name for name in names if name not in entry] + ([] if given else [" or ".join(paths)])
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if not isinstance(entry[given], list):
        raise ValueError(f"{given} is a {type(entry[given]).__name__} where a list was expected")
    return [*(entry[name] for name in names), entry[given]]


def gather(entries: Sequence[Any], read_row: Callable[[int, Any], dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Call ``read_row(number, entry)`` for every row; a ``ValueError`` names the first bad row, counting the others."""
    rows, faults = [], []
    for number, entry in enumerate(entries):
        try:
            rows.append(read_row(number, entry))
        except ValueError as error:
            faults.append((number, str(error)))
    refuse_malformed(faults, where)
    return rows


def group_row(name: Any, prompt: Any, paths: Sequence[Any], ranks: Any, source: str, user: Any = "") -> dict[str, Any]:
    """A row of the schema with ranks, its choice following from them; what is odd in it is left to :func:`finished`."""
    rankable = isinstance(ranks, list) and len(ranks) > 0 and all(isinstance(rank, int) for rank in ranks)
    return {
        "id": name,
        "prompt": prompt,
        "images": [{"bytes": None, "path": path} for path in paths],
        "human_preference": choice_from_ranks(ranks) if rankable else 0,
        "user_hash": user,
        "contain_name": False,
        "source": source,
        "ranks": [] if ranks is None else ranks,
    }


def finished(
    rows: list[dict[str, Any]],
    file: Path,
    images: Images,
    places: Sequence[str] = ("",),
    further: Mapping[str, Any] | None = None,
) -> Dataset:
    """The rows as a dataset, checked, with paths that lead to the images.

    Args:
        rows: of :func:`group_row`, changed in place.
        file: the annotation file; paths are relative to its folder.
        places: what may stand before the paths, such as ``("", "train/")``. The first place where one of the
            first thousand images is found is taken for all of them.
        further: types of further columns.

    Raises ``ValueError`` when a row is malformed and ``FileNotFoundError`` as :func:`report_absent` does.
    """
    import datasets

    checked_option(images)
    if not rows:
        raise ValueError(f"{file} holds no row: name another file or download it again.")
    refuse_malformed(malformed_rows(rows), str(file))
    items = [item for row in rows for item in row["images"]]
    tried = (
        place
        for item in items[:1000]
        for place in places
        if image_present({**item, "path": place + item["path"]}, file.parent, where=str(file))
    )
    place = next(tried, "") if len(places) > 1 else places[0]
    for item in items if place else ():
        item["path"] = place + item["path"]
    schema = datasets.Features({**ranked_features(), **(further or {})})
    dataset = datasets.Dataset.from_list(rows, features=schema)
    report_absent(dataset, file.parent, str(file), images, stacklevel=4)
    return dataset
