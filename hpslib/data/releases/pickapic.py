"""Pick-a-Pic (Kirstain et al., 2023): pairs that users of a web page judged, in parquet files that hold the images.

The release is hundreds of gigabytes, so it is never held in memory: the labels of all rows are checked first (the
images stay on disk), then the rows go past in small batches, into a dataset on disk or past your training loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hpslib import __version__
from hpslib.data.images.archives import is_folder, is_hidden
from hpslib.data.preferences import row_fault
from hpslib.data.rankings import choice_from_ranks, models_feature, ranked_features
from hpslib.data.rows import check_columns, parquet_file, parquet_rows

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["read_pickapic"]

_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_HELPFUL = ("has_label", "ranking_id", "user_id", "image_0_uid", "image_1_uid")
_MODELS = ("model_0", "model_1")
_KINDS = {"caption": "text", "jpg_0": "bytes", "jpg_1": "bytes", "label_0": "number", "label_1": "number"}
_KINDS |= {"has_label": "label", "model_0": "text", "model_1": "text"}
_KINDS |= dict.fromkeys(("ranking_id", "user_id", "image_0_uid", "image_1_uid"), "name")
_BATCH = 64  # rows whose images are in memory at once, about 64 x 2 x 0.5 MB; also one page of the file at a time

_File = tuple[str, int, int, int]  # path, size, time of the last change, number of its first row among all files


@overload
def read_pickapic(
    files: str | Path | Sequence[str | Path], *, streaming: Literal[False] = ..., cache_dir: str | Path | None = ...
) -> Dataset: ...
@overload
def read_pickapic(
    files: str | Path | Sequence[str | Path], *, streaming: Literal[True], cache_dir: str | Path | None = ...
) -> IterableDataset: ...
def read_pickapic(
    files: str | Path | Sequence[str | Path], *, streaming: bool = False, cache_dir: str | Path | None = None
) -> Dataset | IterableDataset:
    """Read Pick-a-Pic's parquet files, images included.

    A label of 1 beside 0 is a choice, 0.5 beside 0.5 a tie (ranks [1, 1], ``human_preference`` ``TIED``). Rows nobody
    labelled and rows without the bytes of an image are left out and counted in one warning, which a stream gives at
    the end of each file. The release without images (``_no_images``) cannot be read: it holds only addresses.

    Args:
        files: one parquet file, or several in the order they shall be read, or the folder they lie in.
        streaming: False writes a dataset to disk, once: a later call with unchanged files (same path, size and time)
            takes it from there. True reads as you iterate and writes nothing.
        cache_dir: where the dataset on disk goes; datasets' own folder by default.

    The dataset has the columns of :func:`hpslib.data.rankings.ranked_features`; ``id`` is the ``ranking_id`` (with the
    row's number behind it where two rows share one, the number alone where there is none), ``user_hash`` the
    ``user_id``, ``source`` ``"pickapic"``. Where all files say it, ``models`` names what made each image.

    Raises ``FileNotFoundError`` when a file is absent, and ``ValueError``, naming the file, when it is no parquet, cut
    off, or lacks a column; naming the row too, when a label is none of the three or a labelled caption is empty; also
    when no row is left.
    """
    from datasets import Dataset, Features, IterableDataset
    from datasets.exceptions import DatasetGenerationError

    paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    if len(paths) == 1 and is_folder(paths[0]):
        paths = sorted(path for path in paths[0].glob("*.parquet") if not is_hidden(path.name))  # ._a.parquet of macOS
        if not paths:
            raise FileNotFoundError(f"{files} holds no parquet file: name the folder of Pick-a-Pic's.")
    if not paths:
        raise ValueError("files is empty: name at least one parquet file of Pick-a-Pic.")
    known: list[_File] = []
    has_models = all(_has_models(path) for path in paths)
    seen: dict[Any, bool] = {}  # ranking_id -> used twice
    total = unlabelled = 0
    for path in paths:
        rows, without = _check_labels(path, seen)
        stat = path.stat()
        known.append((str(path.resolve()), stat.st_size, stat.st_mtime_ns, total))
        total, unlabelled = total + rows, unlabelled + without
    if total == unlabelled:
        raise ValueError(f"{paths[0]} has no label in any of the {total} rows: name files with labelled rows.")
    # The fingerprint of a generated dataset is that of these arguments: a changed file, or a changed version of this
    # reader, is read again. The list is what datasets deals out to workers.
    twice = tuple(sorted(str(name) for name, again in seen.items() if again))
    arguments: dict[str, Any] = {"files": known, "twice": twice, "models": has_models, "version": __version__}
    schema = Features({**ranked_features(), **(models_feature() if has_models else {})})
    if next(iter(_rows(**arguments)), None) is None:
        raise ValueError(
            f"{paths[0]} has the bytes of both images in none of the {total - unlabelled} labelled rows: name files "
            "that hold the images."
        )
    if streaming:
        return IterableDataset.from_generator(_stream, features=schema, gen_kwargs=arguments)
    place: dict[str, Any] = {"cache_dir": str(cache_dir)} if cache_dir else {}
    try:
        dataset = Dataset.from_generator(_rows, features=schema, gen_kwargs=arguments, **place)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):  # our own sentence
            raise error.__cause__ from None
        raise
    _report(paths, total, unlabelled, total - unlabelled - len(dataset))
    return dataset


def _has_models(path: Path) -> bool:
    with parquet_file(path, _NEEDED, "name a parquet file of Pick-a-Pic that holds the images") as parquet:
        return set(_MODELS) <= set(parquet.schema_arrow.names)


def _check_labels(path: Path, seen: dict[Any, bool]) -> tuple[int, int]:
    """Number of rows and of rows without a label; the images are not read. Notes the ids in ``seen``."""
    parquet = parquet_file(path, _NEEDED, "name a parquet file of Pick-a-Pic that holds the images")
    check_columns(parquet.schema_arrow, path, _KINDS)
    helpful = [name for name in ("has_label", "ranking_id") if name in parquet.schema_arrow.names]
    unlabelled = 0
    for number, row in enumerate(parquet_rows(parquet, path, ["caption", "label_0", "label_1", *helpful], 10_000)):
        labels = _labels(row)
        if labels is None:
            unlabelled += 1
        elif labels not in ((1, 0), (0, 1), (0.5, 0.5)):
            raise ValueError(
                f"{path}, row {number} (from 0) has the labels {labels} where 1 and 0, 0 and 1 or two times 0.5 were "
                "expected: correct or remove this row."
            )
        elif not (row["caption"] or "").strip():
            raise ValueError(f"{path}, row {number} (from 0) has an empty caption: correct or remove this row.")
        name = row.get("ranking_id")
        if name is not None:
            seen[name] = name in seen
    return parquet.metadata.num_rows, unlabelled


def _labels(row: dict[str, Any]) -> tuple[float, float] | None:
    """The two labels, or ``None`` where nobody gave any; pandas writes NaN for what is missing, others 0 for false."""
    labels = row["label_0"], row["label_1"]
    has_label = row.get("has_label")
    if (has_label is not None and not has_label) or any(label is None or label != label for label in labels):
        return None
    return labels


def _rows(files: Sequence[_File], twice: Sequence[str], models: bool, version: str) -> Iterator[dict[str, Any]]:
    """Every labelled row with both images, as a row of the schema."""
    del version  # part of the fingerprint only
    return (row for row in _walk(files, set(twice), models) if not isinstance(row, str))


def _stream(files: Sequence[_File], twice: Sequence[str], models: bool, version: str) -> Iterator[dict[str, Any]]:
    """The same, followed by the warning."""
    del version
    counts = {"label": 0, "bytes": 0, "given": 0}
    for row in _walk(files, set(twice), models):
        counts[row if isinstance(row, str) else "given"] += 1
        if not isinstance(row, str):
            yield row
    _report([path for path, *_ in files], sum(counts.values()), counts["label"], counts["bytes"])


def _walk(files: Sequence[_File], repeated: set[str], models: bool) -> Iterator[dict[str, Any] | str]:
    """For each row its group, or what it lacks: "label" or "bytes"."""
    for path, _, _, first in files:
        parquet = parquet_file(Path(path), _NEEDED, "name a parquet file of Pick-a-Pic")
        helpful = [*_HELPFUL, *(_MODELS if models else ())]
        columns = [*_NEEDED, *(name for name in helpful if name in parquet.schema_arrow.names)]
        for number, row in enumerate(parquet_rows(parquet, path, columns, _BATCH)):
            labels = _labels(row)
            if labels is None:
                yield "label"
            elif not row["jpg_0"] or not row["jpg_1"]:
                yield "bytes"
            else:
                group = _group(row, labels, first + number, repeated, f"{path}, row {number} (from 0)")
                yield {**group, "models": [row[name] or "" for name in _MODELS]} if models else group


def _group(
    row: dict[str, Any], labels: tuple[float, float], number: int, repeated: set[str], where: str
) -> dict[str, Any]:
    ranks = [1 if label == max(labels) else 2 for label in labels]
    name = row.get("ranking_id")
    images = []
    for k in (0, 1):
        uid = row.get(f"image_{k}_uid")
        images.append({"bytes": row[f"jpg_{k}"], "path": None if uid is None else f"{uid}.jpg"})
    group = {
        "id": f"row-{number}" if name is None else f"{name}-{number}" if str(name) in repeated else str(name),
        "prompt": row["caption"],
        "images": images,
        "human_preference": choice_from_ranks(ranks),
        "user_hash": "" if row.get("user_id") is None else str(row["user_id"]),
        "contain_name": False,
        "source": "pickapic",
        "ranks": ranks,
    }
    fault = row_fault(group)
    if fault is not None:
        raise ValueError(f"{where} is malformed, since {fault}: correct or remove this row.")
    return group


def _report(files: Sequence[str | Path], total: int, unlabelled: int, without_bytes: int) -> None:
    if unlabelled or without_bytes:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        warnings.warn(
            f"{unlabelled + without_bytes} of {total} rows of {files[0]}{more} are left out, {unlabelled} without a "
            f"label and {without_bytes} without the bytes of an image: complete them to use them.",
            stacklevel=3,
        )
