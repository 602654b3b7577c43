"""Download the images of a list of addresses, such as LAION's, each with its caption.

Most of such a list is not what it was: pages are gone, images changed, servers wait for ever. So every image is
checked before it gets its name, every failure is noted with its reason, and a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hpslib.data.images.archives import is_file
from hpslib.data.images.safe import IMAGE_ENDINGS, image_extension, open_image
from hpslib.data.pools.fetching import FetchError, fetch
from hpslib.data.rows import check_columns, csv_columns, csv_rows, parquet_file, parquet_rows
from hpslib.runs.files import written_whole

__all__ = ["FAILED", "DownloadReport", "download_images"]

#: Where failures are noted.
FAILED = "failed.jsonl"


@dataclass(frozen=True)
class DownloadReport:
    """What became of the rows of a list: ``done`` now, ``already`` there, ``given_up`` before and not tried again,
    ``failed`` now, by reason.

    >>> print(DownloadReport(done=7, already=2, failed={"HTTP 404": 3, "timed out": 1}))
    7 images downloaded, 2 were there already, 4 failed (3 HTTP 404, 1 timed out)
    """

    done: int = 0
    already: int = 0
    given_up: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.done} image{'s' * (self.done != 1)} downloaded"]
        if self.already:
            parts.append(f"{self.already} {'was' if self.already == 1 else 'were'} there already")
        if self.given_up:
            parts.append(
                f"{self.given_up} had failed before and {'was' if self.given_up == 1 else 'were'} not tried again"
            )
        if self.failed:
            reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(self.failed).most_common())
            parts.append(f"{sum(self.failed.values())} failed ({reasons})")
        return ", ".join(parts)


def download_images(
    list_file: str | Path,
    folder: str | Path,
    *,
    url_column: str = "URL",
    text_column: str = "TEXT",
    limit: int | None = None,
    workers: int = 16,
    timeout: float = 20.0,
    retries: int = 2,
    retry_failed: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> DownloadReport:
    """Fetch the images of a list of addresses, each with its caption, into ``{row:08d}.jpg`` and ``{row:08d}.txt``.

    Only http and https are followed, at most 20 MB are read, every image is decoded once
    (:func:`hpslib.data.images.safe.open_image`) before it gets its name, and its bytes stay as they came. Where the
    list has a column ``sha256``, the bytes must agree with it. An image that stands in the folder is not fetched
    again, so a stopped run goes on; failures are noted in ``failed.jsonl`` (row, url, reason) and tried again only when
    you say so.

    Args:
        list_file: ``.parquet`` (read in batches) or ``.csv``; rows count from 0.
        folder: made if absent. One folder is for one list: a caption that differs from the list is refused.
        url_column, text_column: names in the list; those of LAION by default.
        limit: only the first so many rows.
        workers: images fetched at once.
        timeout: seconds to wait for an answer, and again for the whole image.
        retries: how often more an image is tried after a time-out, a broken connection or a busy server.
        retry_failed: try the rows of ``failed.jsonl`` again.
        progress: called with (rows settled so far, rows in all if known) after each image.

    Returns the counts, which print as a sentence. Raises ``FileNotFoundError`` when the list is absent, ``ValueError``
    when the list is damaged or lacks a column, an argument makes no sense, or the folder holds images of another list,
    and ``OSError`` when the disk is full.
    """
    if workers < 1 or timeout <= 0 or retries < 0 or (limit is not None and limit < 1):
        raise ValueError(
            f"workers={workers}, timeout={timeout}, retries={retries} and limit={limit} fetch nothing: use at least 1 "
            "worker, a time above 0, no negative retries and a limit of at least 1."
        )
    source, folder = Path(list_file), Path(folder)
    total, listed = _listed(source, url_column, text_column)
    total = limit if total is None else min(total, limit or total)
    folder.mkdir(parents=True, exist_ok=True)
    fetched = {file.stem for file in folder.iterdir() if file.suffix in IMAGE_ENDINGS and not file.name.startswith(".")}
    given_up = set() if retry_failed else _failed_rows(folder / FAILED)
    counts, failed = Counter[str](), Counter[str]()
    waiting: dict[Future[str | None], tuple[int, str]] = {}

    def settle() -> None:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            row, url = waiting.pop(future)
            reason = future.result()
            if reason is None:
                counts["done"] += 1
            else:
                failed[reason] += 1
                _note_failure(folder / FAILED, row, url, reason)
            if progress is not None:
                progress(counts.total() + failed.total(), total)

    pool = ThreadPoolExecutor(workers)
    try:
        for row, (url, text, digest) in enumerate(islice(listed, limit)):
            if f"{row:08d}" in fetched:
                _refuse_other_caption(folder / f"{row:08d}.txt", text, source)
                counts["already"] += 1
            elif row in given_up:
                counts["given_up"] += 1
            else:
                future = pool.submit(_fetch_one, folder, row, url, text, digest, timeout, retries)
                waiting[future] = row, url
            if len(waiting) >= 4 * workers:  # the list may be longer than memory
                settle()
        while waiting:
            settle()
    finally:
        pool.shutdown(cancel_futures=True)
    return DownloadReport(**counts, failed=dict(failed))


def _fetch_one(
    folder: Path, row: int, url: str, text: str, digest: str | None, timeout: float, retries: int
) -> str | None:
    """Put one image and its caption into the folder, or say in a few words why not."""
    if not text:
        return "without a caption"
    try:
        data = fetch(url, timeout=timeout, retries=retries)
    except FetchError as error:
        return str(error)
    if digest and hashlib.sha256(data).hexdigest() != digest.lower():
        return "changed since the list was made"
    try:
        open_image(data, where=url)
        extension = image_extension(data, where=url)
    except ValueError:
        return "no intact image"
    # The image comes last: where it stands, its caption does too.
    for name, content in ((f"{row:08d}.txt", text.encode()), (f"{row:08d}.{extension}", data)):
        with written_whole(folder / name) as partial:
            partial.write_bytes(content)
    return None


def _listed(
    source: Path, url_column: str, text_column: str
) -> tuple[int | None, Iterator[tuple[str, str, str | None]]]:
    """The number of rows, if the list says so, and (address, caption, SHA-256) of each."""
    needed, remedy = (url_column, text_column), "name the columns of your list as url_column= and text_column="
    if source.suffix.lower() == ".parquet":
        parquet = parquet_file(source, needed, remedy)
        check_columns(parquet.schema_arrow, source, dict.fromkeys(needed, "text"))
        columns = [*needed, *(["sha256"] if "sha256" in parquet.schema_arrow.names else [])]
        entries = parquet_rows(parquet, source, columns, 10_000)
        total = parquet.metadata.num_rows
    else:
        if not is_file(source):
            raise FileNotFoundError(f"{source} does not exist: name a list of addresses (.parquet or .csv).")
        known = csv_columns(source)
        missing = [name for name in needed if name not in known]
        if missing:
            raise ValueError(f"{source} lacks the column {', '.join(missing)}: {remedy}.")
        entries, total = (row for _, row in csv_rows(source)), None
    return total, (
        (row[url_column] or "", _caption(row[text_column]), _hexadecimal(row.get("sha256"), source)) for row in entries
    )


def _caption(text: str | None) -> str:
    """As it is written: lone surrogates cannot be, and white space around it means nothing."""
    return (text or "").encode("utf-8", "replace").decode().strip()


def _hexadecimal(digest: Any, source: Path) -> str | None:
    """A SHA-256 as 64 digits, which some lists hold as 32 bytes; ``None`` where there is none."""
    text = digest.hex() if isinstance(digest, bytes) and len(digest) == 32 else digest
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if text and not (isinstance(text, str) and re.fullmatch("[0-9a-fA-F]{64}", text)):
        raise ValueError(
            f"{source} has the sha256 {text!r}, which is no hash of 64 digits: correct or drop the column."
        )
    return text or None


def _refuse_other_caption(file: Path, text: str, source: Path) -> None:
    if not file.is_file() or file.read_bytes() != text.encode():
        raise ValueError(f"{file} does not hold the caption of {source}: use another folder for another list.")


def _failed_rows(file: Path) -> set[int]:
    rows = set()
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            rows.add(int(json.loads(line)["row"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # cut off when a run was killed: that row is tried again
    return rows


def _note_failure(file: Path, row: int, url: str, reason: str) -> None:
    with file.open("ab+") as stream:
        if stream.tell() > 0:
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":  # see _failed_rows
                stream.write(b"\n")
        stream.write(json.dumps({"row": row, "url": url, "reason": reason}).encode() + b"\n")
