"""Pools of generated pictures nobody was asked about: what the adaptation chooses its training pictures from.

The paper's pool is DiffusionDB (Wang et al., 2023): pictures people had made with Stable Diffusion, each with its
prompt and settings. A packed pool is one parquet file with DiffusionDB's field names and the picture itself, one row a
picture; :func:`read_pool` gathers them by prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpslib.data.images.safe import image_extension
from hpslib.runs.shards import read_shards

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["POOL_COLUMNS", "pool_table", "read_pool", "write_pool"]

POOL_COLUMNS = ("image_name", "prompt", "seed", "step", "cfg", "image")


def read_pool(path: str | Path) -> Dataset:
    """A packed pool, or a folder of them as ``hpslib generate`` leaves it, gathered by prompt in order of appearance.

    Returns a dataset with the columns ``id`` (text), ``prompt``, ``images`` (a list of bytes and names, as in
    :mod:`hpslib.data.preferences`), ``seed``, ``step`` and ``cfg`` (lists, one entry a picture, with which it can be
    made again), so that :func:`hpslib.data.groups.flatten_groups` and :func:`hpslib.data.preferences.load_images` take
    its rows. It stays in memory; reading takes about three times what the files take.

    Raises ``FileNotFoundError`` when the file is absent and ``ValueError``, naming file and row, when it is no pool, is
    empty, or holds an empty prompt, an unnamed picture, a setting that is no number or something that is no picture.
    """
    import datasets
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, name a packed pool (.parquet) or a folder of hpslib generate")
    if path.is_dir():
        table = read_shards(path)
    else:
        try:
            table = pq.read_table(path)
        except Exception as error:  # pyarrow raises its own types as well as OSError
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is not readable as parquet ({reason}), download it again") from error
    missing = [name for name in POOL_COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: the column {', '.join(missing)} is missing, write it with write_pool")
    if table.num_rows == 0:
        raise ValueError(f"{path}: there is no row in it, name a pool with at least one picture")
    places: dict[str, list[int]] = {}  # prompt -> rows, in order of appearance
    told = table.select([name for name in POOL_COLUMNS if name != "image"]).to_pylist()
    for row, (entry, image) in enumerate(zip(told, table.column("image"))):
        where = f"{path}, row {row} (from 0)"
        _checked_extension(entry["prompt"], entry["image_name"], image.as_py(), where)
        for name in ("seed", "step", "cfg"):
            if not isinstance(entry[name], int | float):
                raise ValueError(f"{where}: {name} is {entry[name]!r}, correct or remove this row")
        places.setdefault(entry["prompt"], []).append(row)
    text, whole = datasets.Value("string"), datasets.List(datasets.Value("int64"))
    schema = datasets.Features(
        {
            "id": text,
            "prompt": text,
            "images": datasets.List(datasets.Image(decode=False)),
            "seed": whole,
            "step": whole,
            "cfg": datasets.List(datasets.Value("float32")),
        }
    )
    gathered = _gathered(table, list(places.items())).cast(schema.arrow_schema)
    lengths = pc.binary_length(table.column("image")).to_pylist()
    mark = hashlib.sha256(f"{path.resolve()} {told} {lengths}".encode()).hexdigest()  # datasets would copy every byte
    return datasets.Dataset(gathered, info=datasets.DatasetInfo(features=schema), fingerprint=mark[:16])


def _gathered(table: pa.Table, groups: list[tuple[str, list[int]]]) -> pa.Table:
    """The rows of a packed pool by prompt, in Arrow all the way: pictures as Python objects take seven times as much.

    Blocks of some 250 pictures: one array of bytes holds 2 GB, and a block is in memory twice while it is made.
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
        lists = {"images": images, **{name: column[name] for name in ("seed", "step", "cfg")}}
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
    """Write encoded pictures, each with its prompt and seed, as a packed pool; returns its path.

    ``step`` and ``cfg`` are DiffusionDB's names for the number of sampling steps and the guidance scale. The file is
    replaced only when the new one is complete. Raises ``ValueError`` on unequal lengths, an empty prompt or bytes that
    are no picture.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    table = pool_table(prompts, seeds, images, step=step, cfg=cfg)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
    return path


def pool_table(
    prompts: Sequence[str], seeds: Sequence[int], images: Sequence[bytes], *, step: int, cfg: float, first: int = 0
) -> pa.Table:
    """The rows of :func:`write_pool` as an Arrow table; pictures are numbered from ``first``."""
    import pyarrow as pa

    if not len(prompts) == len(seeds) == len(images) > 0:
        raise ValueError(
            f"{len(prompts)} prompts, {len(seeds)} seeds and {len(images)} images, give one of each for every picture"
        )
    names = []
    for row, (prompt, data) in enumerate(zip(prompts, images, strict=True), start=first):
        extension = _checked_extension(prompt, "picture", data, f"the pool, row {row} (from 0)")
        names.append(f"pool_{row:06d}.{extension}")
    return pa.table(
        {
            "image_name": names,
            "prompt": list(prompts),
            "seed": pa.array(list(seeds), pa.int64()),
            "step": pa.array([step] * len(names), pa.int16()),
            "cfg": pa.array([cfg] * len(names), pa.float32()),
            "image": pa.array(list(images), pa.binary()),
        }
    )


def _checked_extension(prompt: object, name: object, data: object, where: str) -> str:
    """The picture's file extension; ``ValueError`` for an empty prompt, no name or what is no picture."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: the prompt is empty, correct or remove this row")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: the picture has no name, correct or remove this row")
    if not isinstance(data, bytes) or not data:
        raise ValueError(f"{where}: the picture has no bytes, correct or remove this row")
    return image_extension(data, where=where)
