"""Public releases of human preferences, and pools, by the names of their formats.

A release is read into the one schema of :mod:`hpslib.data.preferences`, a pool into that of
:func:`hpslib.data.pools.pool.read_pool`:

================  ================================================================  ==============================
format            what lies on disk                                                 people said
================  ================================================================  ==============================
``hpd_v1``        ``preference_*.json`` or a packed file (:mod:`.releases.hpd_v1`)  the best of 2 to 4
``hpd_v2_train``  ``train.json`` and ``train/``                                     the better of 2, or level
``hpd_v2_test``   ``test.json`` and ``test/``                                       an order of 9 or 10, ten times
``imagereward``   ``test.json`` or ``metadata-*.parquet``, images or zips           an order of 4 to 9, with ties
``pickapic``      parquet files that hold the images (:mod:`.releases.pickapic`)    the better of 2, or level
``table``         your own CSV file with an image a line (:mod:`.releases.table`)   either
================  ================================================================  ==============================

No reader runs a dataset's own loading script. What a release calls a rank is brought to 1 = best, a malformed row is
refused by its number, and absent images are refused or reported as in :func:`hpslib.data.releases.hpd_v1.read_hpd`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.formats import DATA_FORMATS, FORMATS
from hpslib.data.images.archives import is_folder
from hpslib.data.pools.captioned import read_captioned
from hpslib.data.pools.diffusiondb import read_diffusiondb
from hpslib.data.pools.pool import read_pool
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.data.releases.hpd_v2 import read_hpd_v2_test, read_hpd_v2_train
from hpslib.data.releases.imagereward import read_imagereward
from hpslib.data.releases.pickapic import read_pickapic
from hpslib.data.releases.table import read_table

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_data", "read_preferences"]


def read_preferences(path: str | Path, format: str, **options: Any) -> Dataset:
    """Read any release by the name of its format; ``options`` go to its reader.

    ``format`` is one of :data:`hpslib.data.formats.FORMATS`.
    Raises ``ValueError`` for an unknown format; otherwise as the reader does.

    >>> read_preferences("votes.csv", "csv")
    Traceback (most recent call last):
    ...
    ValueError: the format 'csv' is unknown: use one of hpd_v1, hpd_v2_train, hpd_v2_test, pickapic, imagereward, table.
    """
    readers: dict[str, Callable[..., Any]] = {
        "hpd_v1": read_hpd,
        "hpd_v2_train": read_hpd_v2_train,
        "hpd_v2_test": read_hpd_v2_test,
        "pickapic": read_pickapic,
        "imagereward": read_imagereward,
        "table": read_table,
    }
    if format not in readers:
        raise ValueError(f"the format {format!r} is unknown: use one of {', '.join(FORMATS)}.")
    return readers[format](path, **options)


def read_data(path: Path, format: str, parts: str | None = None) -> tuple[Any, Path]:
    """A preference set or a pool, and the folder its images' paths start from.

    ``format`` is one of :data:`hpslib.data.formats.DATA_FORMATS`.
    ``parts`` such as "1-1000" says which parts of DiffusionDB. What a reader left out is counted in a ``UserWarning``.
    Raises ``ValueError`` for an unknown format, and as its reader does.
    """
    if parts is not None and format != "diffusiondb":
        raise ValueError(f"parts {parts!r} with the format {format}: only DiffusionDB has parts.")
    root = path if is_folder(path) else path.parent
    if format in FORMATS:
        return read_preferences(path, format), root
    if format == "pool":
        return read_pool(path), root
    if format == "captioned":
        return read_captioned(path), root
    if format != "diffusiondb":
        raise ValueError(f"the format {format!r} is unknown: use one of {', '.join(DATA_FORMATS)}.")
    first, _, last = (parts or "1-1000").partition("-")
    if not (first.isdecimal() and (last or first).isdecimal() and max(len(first), len(last)) <= 6):
        raise ValueError(f"parts {parts!r}: name a range of numbers such as 1-1000.")
    dataset, counts = read_diffusiondb(path, path.parent / "images", parts=range(int(first), int(last or first) + 1))
    warnings.warn(str(counts), stacklevel=2)
    return dataset, path.parent / "images"
