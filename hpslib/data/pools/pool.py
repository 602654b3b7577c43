"""Pools of generated images nobody was asked about: what the adaptation chooses its training images from.

The paper's pool is DiffusionDB (Wang et al., 2023): images people had made with Stable Diffusion, each with its
prompt and settings. A packed pool is one parquet file with DiffusionDB's field names and the image itself, one row a
image; :func:`read_pool` gathers them by prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpslib.data.images.archives import is_file, is_folder
from hpslib.data.images.safe import image_extension
from hpslib.data.rows import parquet_file, table_rows
from hpslib.runs.files import one_line, written_whole
from hpslib.runs.shards import read_shards

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

__all__ = ["POOL_COLUMNS", "pool_features", "pool_table", "read_pool", "write_pool"]

_ARROW_TYPES = {
    "image_name": "string",
    "prompt": "string",
    "seed": "int64",
    "step": "int16",
    "cfg": "float32",
    "image": "binary",
}
#: The columns of a packed pool, with DiffusionDB's names.
POOL_COLUMNS = tuple(_ARROW_TYPES)
_REMEDY = "write it with write_pool"
_SETTINGS = ("seed", "step", "cfg")  # with which an image can be made again


def pool_features() -> Features:
    """The columns of a pool that is gathered by prompt, a group a row.

    >>> list(pool_features())
    ['id', 'prompt', 'images', 'seed', 'step', 'cfg']
    """
    import datasets

    text, whole = datasets.Value("string"), datasets.List(datasets.Value("int64"))
    images, number = datasets.List(datasets.Image(decode=False)), datasets.List(datasets.Value("float32"))
    return datasets.Features(
        {"id": text, "prompt": text, "images": images, "seed": whole, "step": whole, "cfg": number}
    )


def read_pool(path: str | Path) -> Dataset:
    """A packed pool, or a folder of them as ``hpslib generate`` leaves it, gathered by prompt in order of appearance.

    Returns a dataset with the columns ``id`` (text), ``prompt``, ``images`` (a list of bytes and names, as in
    :mod:`hpslib.data.preferences`), ``seed``, ``step`` and ``cfg`` (lists, one entry an image, with which it can be
    made again), so that :func:`hpslib.data.groups.flatten_groups` and :func:`hpslib.data.preferences.load_images` take
    its rows. It stays in memory; reading takes about three times what the files take.

    Raises ``FileNotFoundError`` when the file is absent and ``ValueError``, naming file and row, when it is no pool, is
    empty, or holds an empty prompt, an unnamed image, a setting that is no number or something that is no image.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    path = Path(path)
    table = _pool_rows(path)
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no row: name a pool with at least one image.")
    places: dict[str, list[int]] = {}  # prompt -> rows, in order of appearance
    entries = table_rows(table.select([name for name in POOL_COLUMNS if name != "image"]), path)
    encoded = pa.types.is_binary(table.schema.field("image").type) or pa.types.is_large_binary(
        table.schema.field("image").type
    )
    for row, (entry, image) in enumerate(zip(entries, table.column("image"))):
        where = f"{path}, row {row} (from 0)"
        _checked_extension(entry["prompt"], entry["image_name"], image.as_py() if encoded else None, where)
        for name in _SETTINGS:
            limit = float(np.finfo(np.float32).max) if name == "cfg" else 2**63 - 1
            kinds = (int, float) if name == "cfg" else int
            known = isinstance(entry[name], kinds) and not isinstance(entry[name], bool)
            if not known or not abs(entry[name]) <= limit:  # NaN too
                raise ValueError(f"{where} has the {name} {entry[name]!r}: correct or remove this row.")
        places.setdefault(entry["prompt"], []).append(row)
    schema = pool_features()
    try:
        gathered = _gathered(table, list(places.items())).cast(schema.arrow_schema)
    except pa.ArrowException as error:  # such as names of images in a type of their own
        raise ValueError(f"{path} has columns of other types than a pool's ({one_line(error)}): {_REMEDY}.") from error
    lengths = pc.binary_length(table.column("image")).to_pylist()
    mark = hashlib.sha256(
        f"{path.resolve()} {entries} {lengths}".encode()
    ).hexdigest()  # datasets would copy every byte
    return datasets.Dataset(gathered, info=datasets.DatasetInfo(features=schema), fingerprint=mark[:16])


def _pool_rows(path: Path) -> pa.Table:
    """A packed pool, or the parts of one, as they lie on the disk: an image a row."""
    import pyarrow as pa

    if not is_file(path) and not is_folder(path):
        raise FileNotFoundError(f"{path} does not exist: name a packed pool (.parquet) or a folder of hpslib generate.")
    if not is_folder(path):
        with parquet_file(path, POOL_COLUMNS, _REMEDY) as file:
            try:
                return file.read()
            except Exception as error:  # the end of the file is whole, a page before it is not
                raise ValueError(f"{path} is damaged ({one_line(error)}): download it again.") from error
    try:
        table = read_shards(path)
    except pa.ArrowException as error:  # parts with columns of different types
        raise ValueError(f"{path} holds parts that do not fit together ({one_line(error)}): {_REMEDY}.") from error
    missing = [name for name in POOL_COLUMNS if table.column_names.count(name) != 1]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}, or has it twice: {_REMEDY}.")
    return table


def _gathered(table: pa.Table, groups: list[tuple[str, list[int]]]) -> pa.Table:
    """The rows of a packed pool by prompt, in Arrow all the way: images as Python objects take seven times as much.

    Blocks of some 250 images: one array of bytes holds 2 GB, and a block is in memory twice while it is made.
    """
    import pyarrow as pa

    blocks, start = [], 0
    while start < len(groups):
        stop, count = start, 0
        while stop < len(groups) and count < 250:
            count += len(groups[stop][1])
            stop += 1
        rows = [row for _, group in groups[start:stop] for row in group]
        block = table.take(rows).combine_chunks()
        ends = pa.array(np.cumsum([0, *(len(group) for _, group in groups[start:stop])]), pa.int32())
        column = {name: block.column(name).combine_chunks() for name in POOL_COLUMNS}
        images = pa.StructArray.from_arrays([column["image"], column["image_name"]], ["bytes", "path"])
        lists = {"images": images, **{name: column[name] for name in _SETTINGS}}
        blocks.append(
            pa.table(
                {
                    "id": [f"pool{k:05d}" for k in range(start, stop)],
                    "prompt": [prompt for prompt, _ in groups[start:stop]],
                    **{name: pa.ListArray.from_arrays(ends, values) for name, values in lists.items()},
                }
            )
        )
        start = stop
    return pa.concat_tables(blocks)


def write_pool(
    path: str | Path, prompts: Sequence[str], seeds: Sequence[int], images: Sequence[bytes], *, step: int, cfg: float
) -> Path:
    """Write encoded images, each with its prompt and seed, as a packed pool; returns its path.

    ``step`` and ``cfg`` are DiffusionDB's names for the number of sampling steps and the guidance scale. The file is
    replaced only when the new one is complete. Raises ``ValueError`` on unequal lengths, an empty prompt, bytes that
    are no image or a number that does not fit, and ``OSError`` when the disk is full.
    """
    import pyarrow.parquet as pq

    table = pool_table(prompts, seeds, images, step=step, cfg=cfg)
    with written_whole(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return Path(path)


def pool_table(
    prompts: Sequence[str], seeds: Sequence[int], images: Sequence[bytes], *, step: int, cfg: float, first: int = 0
) -> pa.Table:
    """The rows of :func:`write_pool` as an Arrow table; images are numbered from ``first``."""
    import pyarrow as pa

    if not len(prompts) == len(seeds) == len(images) > 0:
        raise ValueError(
            f"{len(prompts)} prompts, {len(seeds)} seeds and {len(images)} images make no pool: give as many of each."
        )
    odd = [seed for seed in (*seeds, step) if not isinstance(seed, Integral) or isinstance(seed, bool)]
    if odd:  # Arrow would cut 0.5 down to 0
        raise ValueError(f"a seed or the number of steps is {odd[0]!r}: give whole numbers.")
    names = []
    for row, (prompt, data) in enumerate(zip(prompts, images, strict=True), start=first):
        extension = _checked_extension(prompt, "image", data, f"the pool, row {row} (from 0)")
        names.append(f"pool_{row:06d}.{extension}")
    columns: dict[str, list] = {"image_name": names, "prompt": list(prompts), "seed": list(seeds)}
    columns |= {"step": [step] * len(names), "cfg": [cfg] * len(names), "image": list(images)}
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _ARROW_TYPES.items()])
    try:
        return pa.table(columns, schema=schema)
    except (pa.ArrowException, OverflowError, TypeError) as error:  # a seed of 2**63, half a step, no number at all
        raise ValueError(
            f"the seeds, {step} steps and the guidance scale {cfg} do not fit into a pool ({one_line(error)}): give "
            "whole numbers below 2**63 as seeds and below 32768 as steps."
        ) from error


def _checked_extension(prompt: object, name: object, data: object, where: str) -> str:
    """The image's file extension; ``ValueError`` for an empty prompt, no name or what is no image."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where} has an empty prompt: correct or remove this row.")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} has an image without a name: correct or remove this row.")
    if not isinstance(data, bytes) or not data:
        raise ValueError(f"{where} has an image without bytes: correct or remove this row.")
    return image_extension(data, where=where)
