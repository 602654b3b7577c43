"""The rows of JSON, parquet and CSV files, and prompts; the first unreadable row is named."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.data.images.archives import is_file
from hpslib.runs.files import one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "check_columns",
    "csv_columns",
    "csv_rows",
    "json_rows",
    "parquet_file",
    "parquet_rows",
    "read_prompts",
    "table_rows",
]


def json_rows(file: Path) -> list[Any]:
    """The rows of a JSON file that holds a list.

    Raises ``FileNotFoundError`` when it is absent and ``ValueError`` when it is not JSON, cut off, empty or no list.
    """
    if not is_file(file):
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

    Raises ``FileNotFoundError`` when it is absent, ``ValueError`` when it is not parquet, cut off, or lacks a column or
    has it twice; ``remedy`` ends both sentences, such as "name a metadata.parquet of DiffusionDB".
    """
    import pyarrow.parquet as pq

    if not is_file(file):
        raise FileNotFoundError(f"{file} does not exist: {remedy}.")
    try:
        # By default pyarrow keeps every row group of a file it iterates over, hundreds of gigabytes for Pick-a-Pic.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        names = parquet.schema_arrow.names
    except Exception as error:  # pyarrow raises its own types as well as OSError
        raise ValueError(f"{file} is not readable as parquet ({one_line(error)}): download it again.") from error
    missing = [name for name in needed if name not in names]
    twice = [name for name in needed if names.count(name) > 1]
    if missing or twice:
        parquet.close()
        fault = f"lacks the column {', '.join(missing)}" if missing else f"has the column {twice[0]} twice"
        raise ValueError(f"{file} {fault}: {remedy}.")
    return parquet


def parquet_rows(
    parquet: pq.ParquetFile, file: str | Path, columns: Sequence[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """The rows of an open parquet file, ``batch_size`` of them in memory.

    Raises ``ValueError`` where the file is damaged, naming the row where one of its texts is not UTF-8.
    """
    batches, first = parquet.iter_batches(batch_size=batch_size, columns=list(columns)), 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # the end of the file is whole, a page before it is not
            raise ValueError(f"{file} is damaged ({one_line(error)}): download it again.") from error
        yield from table_rows(batch, file, first)
        first += batch.num_rows


def table_rows(table: pa.Table | pa.RecordBatch, file: str | Path, first: int = 0) -> list[dict[str, Any]]:
    """The rows of an Arrow table, the first of which has the number ``first`` in ``file``.

    Raises ``ValueError`` naming the first row with a text that is not UTF-8.
    """
    try:
        return table.to_pylist()
    except Exception as error:  # Arrow looks at letters and ranges only now: UnicodeDecodeError, ArrowInvalid
        fault: Exception = error
    rows: list[dict[str, Any]] = []
    for number in range(table.num_rows):
        try:
            rows += table.slice(number, 1).to_pylist()
        except Exception as error:  # the same, of this row
            reason = "text that is not UTF-8" if isinstance(error, UnicodeError) else f"no value ({one_line(error)})"
            raise ValueError(
                f"{file}, row {first + number} (from 0) holds {reason}: correct or remove this row."
            ) from error
    raise ValueError(f"{file} is damaged ({one_line(fault)}): download it again.") from fault


def check_columns(schema: pa.Schema, file: str | Path, kinds: Mapping[str, str]) -> None:
    """Refuse a table with a column of another kind than the release's, since its values would be misread.

    ``kinds`` gives each column "text", "whole" (numbers), "number", "label" (true and false, or numbers), "name" (texts
    or whole numbers) or "bytes"; a column that is absent or holds nothing but nulls passes. Raises ``ValueError``
    naming file and column.
    """
    for name, kind in kinds.items():
        found = schema.field(name).type if schema.names.count(name) == 1 else None
        if schema.names.count(name) > 1:
            raise ValueError(f"{file} has the column {name!r} twice: remove one of them.")
        if found is not None and not _is_kind(found, kind):
            raise ValueError(
                f"{file} has the column {name!r} of the type {one_line(str(found))} where {_KINDS[kind]} was expected: "
                "convert the column or download the file again."
            )


_KINDS = {
    "text": "text",
    "whole": "a whole number",
    "number": "a number",
    "label": "true or false",
    "name": "text or a whole number",
    "bytes": "the bytes of a file",
}


def _is_kind(found: Any, kind: str) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(found):  # pandas' categories
        found = found.value_type
    whole = types.is_integer(found)
    text = types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)
    return (
        types.is_null(found)
        or {
            "text": text,
            "name": text or whole,
            "whole": whole,
            "number": whole or types.is_floating(found),
            "label": whole or types.is_boolean(found) or types.is_floating(found),
            "bytes": types.is_binary(found) or types.is_large_binary(found) or types.is_binary_view(found),
        }[kind]
    )


def csv_columns(file: Path) -> list[str]:
    """The header of a CSV file; ``ValueError`` where it is not readable."""
    return next(_csv_lines(file), (1, []))[1]


def csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV file (UTF-8) below its header, each with its number, by the names in the header.

    Raises ``ValueError``, naming the line, where a line has more or fewer fields than the header, and where the header
    has a name twice.
    """
    lines = _csv_lines(file)
    _, header = next(lines, (1, []))
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{file}, line 1 has the column {name!r} twice: remove or rename one of them.")
    for number, line in lines:
        if len(line) != len(header):
            raise ValueError(
                f"{file}, line {number} has {len(line)} fields where the header has {len(header)}: put texts with a "
                "comma into double quotes."
            )
        yield number, dict(zip(header, line))


def _csv_lines(file: Path, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Numbers and fields of the lines; those that are blank have no field, and come only if asked for."""
    try:
        with file.open(encoding=_encoding(file), newline="") as stream:
            reader = csv.reader(stream, strict=True)
            yield from ((reader.line_num, line) for line in reader if line or blank)
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{file} is not readable as CSV ({one_line(error)}): save it as CSV with UTF-8.") from error


def _encoding(file: Path) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 where its mark says so (Windows writes both)."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


# --- prompts ----------------------------------------------------------------------------------------------------------


def read_prompts(path: Path) -> list[str]:
    """Prompts, their letters unchanged, from a file of one of these endings, in small letters or capitals:

    * ``.csv`` with a column ``prompt``; prompts with a comma stand in double quotes.
    * ``.tsv`` with a column ``prompt``, tabs between the fields and no quoting: a quotation mark is a letter
      (PartiPrompts' file has some).
    * ``.json``, a list of texts, or ``.jsonl``, with a text or an object that has a field ``prompt`` in each line.
    * any other: a text file with a prompt a line. Lines end with a line feed, with or without a carriage return.

    Files are UTF-8, with or without a byte order mark. Empty lines at the end do not count.

    Raises ``FileNotFoundError`` when the file is absent, ``ValueError``, naming the line or number, when it is not
    readable, a prompt is empty, no text or not valid Unicode, or there is none.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"{path} does not exist: name a file of prompts (.txt, .json, .jsonl, .csv or .tsv).")
    ending = path.suffix.lower()
    if ending == ".csv":
        prompts = _csv_prompts(path)
    else:
        try:
            prompts = _listed_prompts(path.read_bytes().decode(_encoding(path)), ending)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end, or one of our own
            raise ValueError(f"{path} cannot be read as prompts ({one_line(error)}): correct the file.") from error
    for number, prompt in enumerate(prompts):
        fault = _prompt_fault(prompt)
        if fault is not None:
            raise ValueError(f"{path} {fault}, number {number} (from 0): correct the file.")
    if not prompts:
        raise ValueError(f"{path} holds no prompt: correct the file.")
    return prompts


def _prompt_fault(prompt: Any) -> str | None:
    """What is wrong with a prompt, as "holds ...", or ``None``."""
    if not isinstance(prompt, str):
        return f"holds a {type(prompt).__name__} where a text was expected"
    if not prompt.strip():
        return "holds an empty prompt"
    if re.search("[\ud800-\udfff]", prompt):  # JSON can carry half an emoji, a tokenizer cannot
        return "holds a prompt that is not valid Unicode"
    if "\0" in prompt:  # UTF-16 without its mark, or no text at all
        return "holds a prompt with a NUL character"
    return None


def _prompt_column(header: Sequence[str]) -> int:
    columns = [number for number, name in enumerate(header) if name.strip().lower() == "prompt"]
    if len(columns) != 1:
        raise ValueError(f"it has {'two columns' if columns else 'no column'} 'prompt'")
    return columns[0]


def _csv_prompts(path: Path) -> list[str]:
    lines = list(_csv_lines(path, blank=True))  # a blank line in the middle must not move the seeds of those after it
    while lines and not lines[-1][1]:
        lines.pop()
    try:
        _, header = lines[0] if lines else (1, [])
        column = _prompt_column(header)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as prompts ({one_line(error)}): correct the file.") from error
    prompts = []
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise ValueError(
                f"{path}, line {number} has {len(line)} fields where the header has {len(header)}: put prompts with a "
                "comma into double quotes and leave no line empty."
            )
        prompts.append(line[column])
    return prompts


def _listed_prompts(text: str, ending: str) -> list[Any]:
    """The prompts of a text, JSON, JSON lines or TSV file; ``ValueError`` says what is wrong with it."""
    if ending == ".json":
        entries = json.loads(text)
        if not isinstance(entries, list) or (entries and all(isinstance(entry, dict) for entry in entries)):
            raise ValueError("it is no list of texts")
        return entries
    # Not splitlines, which also cuts at the odd U+2028 or form feed in a prompt, so that all later seeds move.
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            raise ValueError(f"line {number} has a carriage return without a line feed, as old Macs wrote them")
    if ending == ".jsonl":
        entries = [json.loads(line) for line in lines]
        return [entry.get("prompt") if isinstance(entry, dict) else entry for entry in entries]
    if ending != ".tsv" or not lines:
        return list(lines)
    header, *rows = [line.split("\t") for line in lines]
    column = _prompt_column(header)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} fields where the header has {len(header)}")
    return [row[column] for row in rows]
