"""The packed file: a preference dataset with its images in one parquet file, as the miniature set comes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.safe import image_extension, image_source
from hpslib.data.preferences import features, validate
from hpslib.data.rows import parquet_file, table_rows
from hpslib.runs.files import one_line, written_whole

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["image_bytes", "read_packed", "write_packed"]


def read_packed(file: str | Path) -> Dataset:
    """The groups of a packed file, checked: the columns of :func:`hpslib.data.preferences.features`, then any further.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` when it is no parquet, damaged, lacks a column
    or holds a malformed row.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset, Features
    from datasets.table import table_cast

    with parquet_file(Path(file), list(features()), "write it with write_packed"):
        try:
            # ParquetFile.read refuses nested columns of more than 2 GB; a folder called seed=1 adds no column.
            table = pq.read_table(file, partitioning=None)
        except Exception as error:  # the end of the file is whole, a page before it is not
            raise ValueError(f"{file} is damaged ({one_line(error)}): download it again.") from error
    try:
        # Other writers leave no note of the image type, or use Arrow's large strings.
        columns = Features.from_arrow_schema(table.schema)
        schema = Features({**features(), **{name: kind for name, kind in columns.items() if name not in features()}})
        dataset = Dataset(table_cast(table, schema.arrow_schema))
    except Exception as error:  # Arrow has a dozen types
        raise ValueError(f"{file} lacks the types of features() ({one_line(error)}): write it again.") from error
    try:
        dataset.data.table.validate(full=True)
    except Exception:  # the letters of texts are looked at only now
        table_rows(table, file)  # names the row
        raise ValueError(f"{file} is damaged: download it again.") from None
    validate(dataset, str(file))
    return dataset


def image_bytes(item: Mapping[str, Any], root: str | Path | None, where: str) -> bytes:
    """The bytes of one ``{"bytes", "path"}`` entry, read from its file or zip file if need be.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` as
    :func:`hpslib.data.images.safe.image_source` does.
    """
    source = image_source(item, root, where=where)
    if isinstance(source, bytes):
        return source
    if not source.is_file():
        raise FileNotFoundError(f"{where} is absent ({source}): download it or remove its row.")
    return source.read_bytes()


def write_packed(
    dataset: Dataset, path: str | Path, *, root: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write a preference dataset with its images into one parquet file, which :func:`read_packed` reads.

    The same rows give the same bytes with the same pyarrow version. Images are copied as they are.

    Args:
        path: file to write, ending in ``.parquet``; its folder is made if absent.
        root: folder of the annotation file that ``dataset`` came from; needed if its images are files.
        overwrite: replace an existing file, once the new one is complete.

    Raises ``FileExistsError`` when the file exists and ``overwrite`` is false, ``FileNotFoundError`` when an image is
    absent, ``ValueError`` when the dataset is malformed or holds something that is no image, and ``OSError`` when the
    disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} does not end in .parquet, which is how read_hpd knows a packed file: rename it.")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already: pass overwrite=True or write to another file.")
    validate(dataset, f"the dataset for {path}")
    schema = dataset.features.arrow_schema
    with written_whole(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for start in range(0, len(dataset), 1000):  # so that a large release never stands in memory as a whole
            columns = dataset[start : start + 1000]
            for number, images in enumerate(columns["images"], start):
                for k, item in enumerate(images):
                    where = f"the dataset, row {number} (from 0), image {k}"
                    item["bytes"] = image_bytes(item, root, where)
                    image_extension(item["bytes"], where=where)  # refuses what is no image
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
    return path
