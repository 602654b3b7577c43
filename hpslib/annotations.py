"""From the rows of an annotation file to a dataset in the schema: what the readers of several releases share.

A reader says where the fields of one row go (:func:`gather` collects what it cannot read, so that the first bad row is
named and the others are counted); :func:`finished` checks the rows, finds the folder or zip file the pictures lie in,
and refuses or reports those that are absent.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.images import image_present
from hpslib.preferences import malformed_rows, refuse_malformed
from hpslib.rankings import choice_from_ranks, ranked_features
from hpslib.sources import Images, checked_option, report_absent

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from datasets import Dataset

__all__ = [
    "csv_columns",
    "csv_rows",
    "fields_of",
    "finished",
    "gather",
    "group_row",
    "json_rows",
    "parquet_file",
    "parquet_rows",
]


def json_rows(file: Path) -> list[Any]:
    """The rows of a JSON file that holds a list.

    Raises ``FileNotFoundError`` when it is absent and ``ValueError`` when it is not JSON, cut off, empty or no list.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist, name a JSON file of the release")
    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, cut off, or nested without end
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable as JSON ({reason}), download it again") from error
    if not isinstance(entries, list) or not entries:
        kind = (
            "no row" if isinstance(entries, list) else f"a {type(entries).__name__} where a list of rows was expected"
        )
        raise ValueError(f"{file} holds {kind}, name another file or download it again")
    return entries


def parquet_file(file: Path, needed: Sequence[str], remedy: str) -> pq.ParquetFile:
    """An open parquet file with the needed columns.

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is not parquet, cut off, or lacks a column.
    """
    import pyarrow.parquet as pq

    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist, {remedy}")
    try:
        # By default pyarrow keeps every row group of a file it iterates over, hundreds of gigabytes for Pick-a-Pic.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    except Exception as error:  # pyarrow raises its own types as well as OSError
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable as parquet ({reason}), download it again") from error
    missing = [name for name in needed if name not in parquet.schema_arrow.names]
    if missing:
        raise ValueError(f"{file}: the column {', '.join(missing)} is missing, {remedy}")
    return parquet


def parquet_rows(
    parquet: pq.ParquetFile, file: str | Path, columns: Sequence[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """The rows of an open parquet file, ``batch_size`` of them in memory; ``ValueError`` where it is damaged."""
    batches = parquet.iter_batches(batch_size=batch_size, columns=list(columns))
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # the end of the file is whole, a page before it is not
            reason = " ".join(str(error).split())
            raise ValueError(f"{file} is damaged ({reason}), download it again") from error
        yield from batch.to_pylist()


def csv_columns(file: Path) -> list[str]:
    """The header of a CSV file; ``ValueError`` where it is not readable."""
    return next(_csv_lines(file), (1, []))[1]


def csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV file (UTF-8) below its header, each with its number, by the names in the header.

    Raises ``ValueError``, naming the line, where a line has more or fewer fields than the header.
    """
    lines = _csv_lines(file)
    _, header = next(lines, (1, []))
    for number, line in lines:
        if len(line) != len(header):
            raise ValueError(
                f"{file}, line {number}: it has {len(line)} fields where the header has {len(header)}, put texts with "
                "a comma into double quotes"
            )
        yield number, dict(zip(header, line))


def _csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            yield from ((reader.line_num, line) for line in reader if line)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not readable as CSV ({error}), save it as CSV with UTF-8") from error


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
    """The rows as a dataset, checked, with paths that lead to the pictures.

    Args:
        rows: of :func:`group_row`, changed in place.
        file: the annotation file; paths are relative to its folder.
        places: what may stand before the paths, such as ``("", "train/")``. The first place where one of the
            first thousand pictures is found is taken for all of them.
        further: types of further columns.

    Raises:
        ValueError: if a row is malformed. FileNotFoundError: see :func:`report_absent`.
    """
    import datasets

    checked_option(images)
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
