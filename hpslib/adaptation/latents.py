"""Latents on the disk: files of a thousand, each image known by its name, so that one that goes takes no other with it.

A set of 200,000 images takes hours to encode. What is there is kept: after a kill, for another process, and when an
image was removed, added or moved to another place. A file says which images and which autoencoder it was made with, and
carries the hash of its latents.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from hpslib.runs.files import digest, one_line, written_whole

__all__ = ["SHARD", "CachedLatents", "batches", "cached_latents"]

SHARD = 1_000  # images in one cached file: half an hour's loss at worst, and 33 MB at 512 pixels

_RECORD = "hpslib"  # the entry of a file's metadata

#: Rows of images -> their latents (k, c, h, w), the rows that these belong to, and (row, sentence) of each bad image.
Encode = Callable[[Sequence[int]], tuple[Tensor, list[int], list[tuple[int, str]]]]


@dataclass(frozen=True)
class _File:
    """One file: latents mapped into memory, not read, the names of their images, and (name, sentence) of bad ones."""

    latents: Tensor
    names: list[str]
    bad: list[tuple[str, str]]
    made_of: str
    model: str | None
    check: str | None


class CachedLatents:
    """The latents of all cached files as one array, ``shape`` (n, c, h, w): rows are read when they are asked for.

    The files are mapped into memory, not read: 260,000 latents of 512 pixels are 8.5 GB, which all processes of a
    machine then share. ``made_of`` tells these images from others; ``bad`` holds (name, sentence) of images that were
    left out.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        parts = [_read(file) for file in files]
        self._parts = [part.latents for part in parts]
        self.made_of = [part.made_of for part in parts]
        self.names = [name for part in parts for name in part.names]
        self.bad = [fault for part in parts for fault in part.bad]
        self._ends = list(accumulate(map(len, self._parts)))
        self.shape = (self._ends[-1], *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The latents of these rows (k,), float16."""
        return torch.stack([self._row(row) for row in rows.tolist()])

    def _row(self, row: int) -> Tensor:
        part = bisect_right(self._ends, row)
        return self._parts[part][row - self._ends[part]]  # from the end, which is where a negative index counts from


def cached_latents(
    names: Sequence[str],
    encode: Encode,
    folder: Path,
    *,
    model: str,
    former: Callable[[range], str] | None = None,
    shard: int = SHARD,
    keep_bad: bool = False,
    rank: int = 0,
    processes: int = 1,
    wait: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedLatents:
    """The latents of the images of these ``names``, of which ``folder`` keeps what it has.

    Args:
        names: what tells each image from others, in order.
        encode: makes the latents of some rows (:data:`Encode`).
        model: what tells the autoencoder and the resolution from others; files of another model are refused.
        former: what an earlier release wrote as ``made_of`` for these rows, so that its files are kept.
        shard: images in one file.
        keep_bad: leave out again what was left out before; otherwise it is tried anew.
        rank, processes, wait: this process encodes every n-th file; ``wait`` returns when all have called it.
        progress: receives (images in files that are there, images).

    Raises ``ValueError`` when a file is damaged, or was made with another model or for other images only; ``OSError``
    when one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spans = [range(start, min(start + shard, len(names))) for start in range(0, len(names), shard)]
    files = [folder / f"latents-{number:05d}.safetensors" for number in range(len(spans))]
    former_of = {file: former(span) for file, span in zip(files, spans)} if former else {}
    wanted = {file: [names[row] for row in span] for file, span in zip(files, spans)}
    there: dict[Path, _File] = {}
    for number, file in enumerate(sorted(folder.glob("latents-*.safetensors"))):
        there[file] = _checked(file, model, former_of.get(file), wanted.get(file, []), number % processes == rank)
    known = _rows_by_name(there, set(names))
    if wait is not None:
        wait()  # until all have opened the files: from here on some are replaced
    for number, (file, span) in enumerate(zip(files, spans)):
        if number % processes == rank and not _holds(there.get(file), wanted[file], keep_bad):
            _write(file, [(row, names[row]) for row in span], known, encode, model)
        if progress is not None:
            progress(span.stop, len(names))
    if wait is not None:
        wait()
    return CachedLatents(files)


def _holds(before: _File | None, wanted: list[str], keep_bad: bool) -> bool:
    """Whether a file holds just these images, in order, but for bad ones that are to stay out."""
    if before is None or (before.bad and not keep_bad):
        return False
    bad = {name for name, _ in before.bad}
    return bad <= set(wanted) and [name for name in wanted if name not in bad] == before.names


def _checked(file: Path, model: str, former: str | None, wanted: list[str], whole: bool) -> _File:
    """A file of the cache, its hash compared where ``whole``. ``ValueError`` when it is damaged or of another model."""
    found = _read(file, former, wanted)
    if whole and found.check not in (None, _check(found)):
        raise ValueError(f"{file} is damaged, its content does not have its hash: delete it, it is made anew.")
    if (found.model or (model if found.made_of == former else None)) != model:
        raise ValueError(f"{file} was made for other images, captions or models: name another cache or delete it.")
    return found


def _check(file: _File) -> str:
    return digest(file.latents, str(file.model), *file.names, *(part for fault in file.bad for part in fault))


def _read(file: Path, former: str | None = None, wanted: Sequence[str] = ()) -> _File:
    """One file of the cache. One of an earlier release, which names no images, holds those of ``wanted``, if any."""
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as content:
            latents, metadata = content.get_tensor("latents"), content.metadata() or {}
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{file} is cut off or no safetensors file: delete it, it is made anew.") from error
    try:
        if _RECORD not in metadata:
            made_of = metadata["made_of"]
            names = list(wanted) if made_of == former else [f"row {k} of {made_of}" for k in range(len(latents))]
            return _File(latents, names, [], made_of, None, None)
        record = json.loads(metadata[_RECORD])
        names, bad = list(map(str, record["names"])), [(str(name), str(text)) for name, text in record["bad"]]
        if len(names) != len(latents):
            raise ValueError(f"{len(latents)} latents and {len(names)} names")
        return _File(latents, names, bad, digest(record["model"], *names), record["model"], record["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON; a name is missing; another type
        raise ValueError(f"{file} is damaged ({one_line(error)}): delete it, it is made anew.") from error


def _rows_by_name(there: dict[Path, _File], wanted: set[str]) -> dict[str, Tensor]:
    """The latents that are there, by name; ``ValueError`` when none of them is asked for: it is another set's cache."""
    known = {name: row for part in there.values() for name, row in zip(part.names, part.latents) if name in wanted}
    if there and not known:
        file = next(iter(there))
        raise ValueError(f"{file} was made for other images, captions or models: name another cache or delete it.")
    return known


def _write(file: Path, rows: list[tuple[int, str]], known: dict[str, Tensor], encode: Encode, model: str) -> None:
    """One file: latents that are known from before, and those of the other images."""
    from safetensors.torch import save_file

    new = [row for row, name in rows if name not in known]
    parts: dict[int, Tensor] = {row: known[name] for row, name in rows if name in known}
    faults: list[tuple[int, str]] = []
    if new:
        made, made_rows, faults = encode(new)
        parts |= dict(zip(made_rows, made.half().cpu()))
    name_of = dict(rows)
    kept = [row for row, _ in rows if row in parts]
    latents = torch.stack([parts[row] for row in kept]).contiguous() if kept else made.half().cpu()
    names, bad = [name_of[row] for row in kept], [(name_of[row], text) for row, text in faults]
    check = _check(_File(latents, names, bad, "", model, None))
    record = {"model": model, "names": names, "bad": bad, "sha256": check}
    with written_whole(file) as partial:  # one entry, since safetensors writes several in no order
        save_file({"latents": latents}, partial, metadata={_RECORD: json.dumps(record)})


def batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """``rows`` in pieces of ``size``, the last one perhaps shorter."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
