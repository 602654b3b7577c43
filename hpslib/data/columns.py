"""A preference dataset read many rows at a time: row by row, reading takes longer than what is done with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.presence import plain_lookup
from hpslib.data.images.safe import image_present

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

__all__ = ["absent_images", "each_row", "group_sizes", "loose_images"]

_ROWS, _BYTES = 1000, 16_000_000  # read at once: embedded images must not fill the memory


def each_row(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Every row as a dictionary, as ``for row in dataset`` gives them."""
    bytes_per_row = dataset.data.nbytes // max(dataset.data.num_rows, 1) + 1
    for batch in dataset.iter(min(max(_BYTES // bytes_per_row, 1), _ROWS)):
        names = list(batch)
        yield from (dict(zip(names, values)) for values in zip(*batch.values()))


def _image_lists(dataset: Dataset) -> Iterator[Any]:
    """The column ``images`` as Arrow arrays of lists; no image's bytes are copied."""
    for table in dataset.select_columns(["images"]).with_format("arrow").iter(_ROWS):
        yield from table["images"].chunks


def group_sizes(dataset: Dataset) -> np.ndarray:
    """The number of images of each group, int64 (groups,)."""
    import numpy as np
    import pyarrow.compute as pc

    sizes = [pc.list_value_length(lists).to_numpy(zero_copy_only=False) for lists in _image_lists(dataset)]
    return np.concatenate([np.empty(0, dtype=np.int64), *sizes]).astype(np.int64)


def loose_images(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """``(row number, path)`` of every image that is not embedded."""
    import pyarrow.compute as pc

    row = 0
    for lists in _image_lists(dataset):
        items, rows = lists.flatten(), pc.list_parent_indices(lists)
        loose = pc.is_null(pc.struct_field(items, "bytes"))
        rows, paths = rows.filter(loose).to_pylist(), pc.struct_field(items, "path").filter(loose).to_pylist()
        yield from ((row + k, path) for k, path in zip(rows, paths))
        row += len(lists)


def absent_images(dataset: Dataset, root: str | Path | None, where: str = "the dataset") -> list[tuple[int, str]]:
    """``(row number, path)`` of every image that is neither embedded nor found below ``root``; none is opened.

    Raises ``ValueError`` as :func:`hpslib.data.images.safe.image_present` does, naming the row.
    """
    there = (lambda _: None) if root is None else plain_lookup(root)
    absent = []
    for number, path in loose_images(dataset):
        found = there(path)
        if found is None:
            item = {"bytes": None, "path": path}
            found = image_present(item, root, where=f"{where}, row {number} (from 0)")
        if not found:
            absent.append((number, path))
    return absent
