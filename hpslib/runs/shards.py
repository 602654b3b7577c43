"""Long work in pieces: rows dealt out to processes, one parquet file a piece, and what is done is not done again.

A folder holds ``part-00003-of-00120.parquet`` and its like. Each file is written whole or not at all and carries the
settings it was made with, which part it is and how many rows it has, so a killed run, started again with any number of
processes, ends with the same files. The borders of the pieces depend on the number of pieces of work alone; one may
give several rows. ``pandas.read_parquet(folder)`` reads them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.files import one_line, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Shards", "read_shards", "shards_left", "work_in_shards"]

_SETTINGS, _PART, _ROWS = b"hpslib", b"hpslib part", b"hpslib rows"
_NAME = re.compile(r"part-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Shards:
    """What :func:`work_in_shards` did in this process: parts ``made``, ``mended`` of which had been cut off, and parts
    that were ``found`` whole."""

    folder: Path
    made: int
    found: int
    mended: int

    def __str__(self) -> str:
        again = f", {self.mended} of them again because they were cut off" if self.mended else ""
        return f"{self.folder}: {self.made} parts made{again}, {self.found} were there."


def work_in_shards(
    count: int,
    work: Callable[[range], pa.Table],
    folder: str | Path,
    *,
    settings: Mapping[str, Any],
    shard_size: int = 1_000,
    process_index: int = 0,
    processes: int = 1,
    wait: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Shards:
    """Call ``work(rows)`` for each piece of ``range(count)`` that is not there yet and write its table.

    ``settings`` (JSON) says what decides the content, data included, by name or hash: a folder made with others is
    refused rather than mixed. Process k of n makes every n-th piece; with ``wait``, which returns when all n have
    called it, every n-th of those that are missing, so that a resumed run is dealt out evenly. ``progress`` receives
    (rows done by this process, its rows in all). Names that begin with a dot are half-written and may be deleted.

    Raises ``ValueError`` when the folder holds parts of other settings or of another number of rows, or ``count`` is 0,
    ``OSError`` when a part cannot be written: the other parts are whole, and the same call goes on.
    """
    import pyarrow.parquet as pq

    folder = Path(folder)
    parts, settings_text = _parts(count, folder, settings, shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    if wait is None:
        parts = parts[process_index::processes]
    existing = [file for _, file in parts if file.exists()]
    whole = {file for file in existing if _is_whole(file, settings_text)}
    missing, done_before = [part for part in parts if part[1] not in whole], len(whole)
    if wait is not None:
        wait()  # until every process has looked: from here on others are at work
        missing, done_before = missing[process_index::processes], len(range(done_before)[process_index::processes])
    mended = sum(file in existing for _, file in missing)
    done, total = 0, sum(len(span) for span, _ in missing)
    for span, file in missing:
        table = work(span)
        told = {_SETTINGS: settings_text, _PART: file.stem, _ROWS: str(table.num_rows)}
        table = table.replace_schema_metadata({key: value.encode() for key, value in told.items()})
        with written_whole(file) as partial:
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        done += len(span)
        if progress is not None:
            progress(done, total)
    return Shards(folder, len(missing), done_before, mended)


def shards_left(count: int, folder: str | Path, *, settings: Mapping[str, Any], shard_size: int = 1_000) -> list[range]:
    """The rows of the parts that :func:`work_in_shards`, called with the same, would make; nothing is written.

    Raises ``ValueError`` as it does.
    """
    parts, settings_text = _parts(count, Path(folder), settings, shard_size)
    return [span for span, file in parts if not (file.exists() and _is_whole(file, settings_text))]


def _parts(
    count: int, folder: Path, settings: Mapping[str, Any], shard_size: int
) -> tuple[list[tuple[range, Path]], str]:
    """The rows and the file of each part, and what the files are to say of their settings."""
    if count < 1 or shard_size < 1:
        raise ValueError(f"{count} rows in parts of {shard_size}: give at least one row, and parts of at least one.")
    settings_text = json.dumps({**settings, "rows": count, "shard_size": shard_size}, sort_keys=True)
    spans = [range(start, min(start + shard_size, count)) for start in range(0, count, shard_size)]
    files = [folder / f"part-{k:05d}-of-{len(spans):05d}.parquet" for k in range(len(spans))]
    strangers = sorted(set(folder.glob("part-*.parquet")) - set(files))
    if strangers:
        raise ValueError(f"{strangers[0]} belongs to a run over another number of rows: name another folder.")
    return list(zip(spans, files)), settings_text


def _is_whole(file: Path, settings_text: str) -> bool:
    """False for a file that is cut off; ``ValueError`` for one made with other settings or as another part.

    Only the end of the file is read here. It is written last; damage before it is noticed by :func:`read_shards`.
    """
    import pyarrow.parquet as pq

    file.open("rb").close()  # a file that may not be read is no file that is cut off
    try:
        metadata = pq.read_metadata(file).metadata or {}
        written = metadata.get(_SETTINGS, b"{}").decode()
        before, now = json.loads(written), json.loads(settings_text)
        if not isinstance(before, dict):
            return False
    except Exception:  # the footer comes last: what has none was cut off, and is made again
        return False
    _check_place(file, metadata)
    if written == settings_text:
        return True
    name = next((key for key in {**before, **now} if before.get(key) != now.get(key)), "settings")
    raise ValueError(
        f"{file} was made with {name} {before.get(name)!r}, but now it is {now.get(name)!r}: name another folder, or "
        "delete this one to start anew."
    )


def _check_place(file: Path, metadata: Mapping[bytes, bytes]) -> None:
    """``ValueError`` for a part that bears another's name; parts of earlier releases do not say which they are."""
    part = metadata.get(_PART, file.stem.encode()).decode(errors="replace")
    if part != file.stem:
        raise ValueError(
            f"{file} was written as {part}.parquet: give the parts their names back, or delete it and run the same "
            "command again."
        )


def _check_rows(file: Path, rows: int, metadata: Mapping[bytes, bytes]) -> None:
    """``ValueError`` for a part that lost or gained rows after it was written; parts of earlier releases do not say."""
    written = metadata.get(_ROWS, str(rows).encode()).decode(errors="replace")
    if written != str(rows):
        raise ValueError(f"{file} holds {rows} rows instead of {written}: delete it and run the same command again.")


def read_shards(folder: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All parts of a folder, in the order of the rows.

    Raises ``FileNotFoundError`` when there is none, ``ValueError`` when one is missing, damaged, bears another's name,
    lacks a column, or was made with other settings than the rest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    numbers = {file: match for file in folder.glob("part-*-of-*.parquet") if (match := _NAME.fullmatch(file.stem))}
    files = sorted(numbers, key=lambda file: int(numbers[file][1]))
    if not files:
        raise FileNotFoundError(f"{folder} holds no part-*.parquet: name a folder that hpslib wrote.")
    totals = sorted({int(match[2]) for match in numbers.values()})
    if len(totals) > 1:
        raise ValueError(
            f"{folder} holds parts of runs of {totals[0]} and of {totals[1]} parts: move those of one run elsewhere."
        )
    if [int(numbers[file][1]) for file in files] != list(range(totals[0])):
        raise ValueError(f"{folder} holds {len(files)} of {totals[0]} parts: run the same command again to finish it.")
    tables: list[pa.Table] = []
    names = None if columns is None else list(columns)
    for file in files:
        try:
            # not as a data set: a folder called seed=1/ would add a column
            table = pq.read_table(file, columns=names, page_checksum_verification=True, partitioning=None)
        except Exception as error:  # pyarrow has types of its own
            raise ValueError(
                f"{file} cannot be read ({one_line(error)}): delete it and run the same command again."
            ) from error
        metadata = table.schema.metadata or {}
        _check_place(file, metadata)
        _check_rows(file, table.num_rows, metadata)
        first = tables[0].schema if tables else table.schema
        if (first.metadata or {}).get(_SETTINGS) != metadata.get(_SETTINGS) or not first.equals(table.schema):
            raise ValueError(
                f"{file} was made with other settings or columns than {files[0].name}: delete the parts of one of the "
                "two runs, and run the same command again."
            )
        tables.append(table)
    return pa.concat_tables(tables)
