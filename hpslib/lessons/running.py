"""What is said while a notebook runs: which cell of how many, under which heading, and how far the work in it is."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpslib.runs.progress import EVERY, duration

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["CellProgress", "headings"]

_FENCED = re.compile(r"^```.*?^```", re.M | re.S)  # code, where # begins a comment
_APART = 10.0  # seconds between two lines where cells go by quickly


class CellProgress:
    """A ``progress(cell, cells, heading)`` for :func:`hpslib.lessons.execution.execute`, to be used in a ``with``.

    On a terminal one line is written over again and again, elsewhere there is a line every ten seconds while cells go
    by, and one every minute inside a cell. ``inside`` is a file where the kernel says how far its own work is
    (``$HPSLIB_PROGRESS`` of :class:`hpslib.runs.progress.ProgressBar`).
    """

    def __init__(self, lesson: str, inside: Path | None = None) -> None:
        self.lesson, self.inside = lesson, inside
        self._where = "starting"
        self._began = self._said = time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CellProgress:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __call__(self, cell: int, cells: int, heading: str) -> None:
        with self._lock:
            self._where = f"cell {cell + 1} of {cells}" + (f", {heading}" if heading else "")
            self._began = time.monotonic()
            if self.inside is not None:
                self.inside.unlink(missing_ok=True)  # it was about another cell
            if sys.stderr.isatty() or self._began - self._said >= _APART:
                self._say()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            with self._lock:
                if sys.stderr.isatty() or time.monotonic() - self._said >= EVERY:
                    self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        line = f"{self.lesson}: {self._where}"
        if self._said - self._began >= 1:
            line += f", for {duration(self._said - self._began)}"
        if self.inside is not None and self.inside.is_file():
            line += f": {self.inside.read_text(encoding='utf-8').strip()}"
        end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
        print(f"{end[0]}{line[:200]}", end=end[1], file=sys.stderr, flush=True)


def headings(notebook: NotebookNode) -> list[str]:
    """The heading that each cell stands under, its own last one included, as plain text; empty above the first."""
    under, last = [], ""
    for cell in notebook.cells:
        lines = _FENCED.sub("", cell.source).splitlines() if cell.cell_type == "markdown" else []
        last = next((line.lstrip("#").strip() for line in reversed(lines) if re.match(r"#{1,6} ", line)), last)
        under.append(last)
    return under
