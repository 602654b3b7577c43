"""The rows of JSON, parquet, CSV and prompt files, read one by one; the first unreadable one is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.files import one_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["csv_columns", "csv_rows", "json_rows", "parquet_file", "parquet_rows", "read_prompts"]


def json_rows(file: Path) -> list[Any]:
    """The rows of a JSON file that holds a list.

    Raises ``FileNotFoundError`` when it is absent and ``ValueError`` when it is not JSON, cut off, empty or no list.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: name a JSON file of the release.")
    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, cut off, or nested without end
        raise ValueError(f"{file} is not readable as JSON ({one_line(error)}): download it again.") from error
    if not isinstance(entries, list) or not entries:
        content = f"a {type(entries).__name__} where a list of rows was expected" if entries != [] else "no row"
        raise ValueError(f"{file} holds {content}: name another file or download it again.")
    return entries


def parquet_file(file: Path, needed: Sequence[str], remedy: str) -> pq.ParquetFile:
    """An open parquet file with the needed columns.

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is not parquet, cut off, or lacks a column;
    ``remedy`` ends both sentences, such as "name a metadata.parquet of DiffusionDB".
    """
    import pyarrow.parquet as pq

    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: {remedy}.")
    try:
        # By default pyarrow keeps every row group of a file it iterates over, hundreds of gigabytes for Pick-a-Pic.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    except Exception as error:  # pyarrow raises its own types as well as OSError
        raise ValueError(f"{file} is not readable as parquet ({one_line(error)}): download it again.") from error
    missing = [name for name in needed if name not in parquet.schema_arrow.names]
    if missing:
        parquet.close()
        raise ValueError(f"{file} lacks the column {', '.join(missing)}: {remedy}.")
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
            raise ValueError(f"{file} is damaged ({one_line(error)}): download it again.") from error
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
                f"{file}, line {number} has {len(line)} fields where the header has {len(header)}: put texts with a "
                "comma into double quotes."
            )
        yield number, dict(zip(header, line))


def _csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            yield from ((reader.line_num, line) for line in reader if line)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not readable as CSV ({one_line(error)}): save it as CSV with UTF-8.") from error


def read_prompts(path: Path) -> list[str]:
    """Prompts from a text file (one a line), a JSON list, or a CSV/TSV with a column ``prompt`` (PartiPrompts' file).

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError`` when a prompt is empty or there is none.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a file of prompts (.txt, .json, .csv or .tsv).")
    try:
        if path.suffix in (".csv", ".tsv"):
            table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
            column = next((name for name in table.columns if name.lower() == "prompt"), None)
            if column is None:
                raise ValueError("it has no column 'prompt'")
            prompts = table[column].tolist()
        elif path.suffix == ".json":
            prompts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
                raise ValueError("it is no list of texts")
        else:
            prompts = path.read_text(encoding="utf-8").splitlines()
            while prompts and not prompts[-1].strip():
                prompts.pop()
    except ValueError as error:  # pandas' and json's own errors are ValueErrors too
        raise ValueError(f"{path} cannot be read as prompts ({one_line(error)}): correct the file.") from error
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty or not prompts:
        fault = f"holds an empty prompt, number {empty[0]} (from 0)" if empty else "holds no prompt"
        raise ValueError(f"{path} {fault}: correct the file.")
    return prompts
