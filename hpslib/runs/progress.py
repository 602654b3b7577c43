"""How far long work is, with an honest time left: what a resumed run finds already done does not count as speed.

On a terminal that is a bar. Where output goes to a file, under ``nohup`` or in CI, it is lines of plain text: the first
after seconds, then one at least every minute, also while nothing gets done, since silence looks like a run that hangs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["EVERY", "FIRST", "ProgressBar", "duration"]

FIRST, EVERY = 5.0, 60.0  # seconds until the first line, and between two lines
_WINDOW = 300.0  # seconds that a rate looks back: long enough for pauses, short enough to forget what was done before
_APART = 0.5  # seconds between two moments that are kept for it

#: What a line says of the values that training loops log, in this order: their names and the words for them.
_SHOWN = {"loss": ("loss", ".3f"), "validation_top1": ("accuracy", ".2f")}


class ProgressBar:
    """A ``progress(done, total)`` callback, as all long functions of the library take it; a bar or lines on stderr.

    A call with less done, or another total, begins anew. ``shown=True`` draws a bar, ``None`` a bar on a terminal and
    lines elsewhere, ``False`` neither. Where ``$HPSLIB_PROGRESS`` names a file, as in the kernels of ``make course``,
    that file gets the last line instead of a bar. :meth:`note` is a ``log(values, step)`` callback: the loss and the
    accuracy on validation are then shown as well, each as it was last known.
    """

    def __init__(self, unit: str, shown: bool | None = True) -> None:
        self.unit, self.shown = unit, shown
        self.values: dict[str, float] = {}
        self._bar: Any = None
        self._lines: _Lines | None = None
        place = os.environ.get("HPSLIB_PROGRESS")
        if shown and place:
            self._lines = _Lines(unit, lambda line: _put(Path(place), line), 1.0, 1.0)
        elif shown is None and not sys.stderr.isatty():
            self._lines = _Lines(unit, lambda line: print(line, file=sys.stderr, flush=True), FIRST, EVERY)
        if self._lines is not None:
            weakref.finalize(self, self._lines.close)  # whoever lets go of the bar waits for nothing more

    def __call__(self, done: int, total: int) -> None:
        if self.shown is False:
            return
        if self._lines is not None:
            self._lines.move(done, total)
            return
        from tqdm.auto import tqdm

        if self._bar is not None and (done < self._bar.n or total != self._bar.total):
            self.close()
        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, unit=self.unit, leave=False)
        self._bar.set_postfix_str(_said(self.values), refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Keep what a training loop logs at a step, to be shown with the next line."""
        self.values.update((name, value) for name, value in values.items() if name in _SHOWN)
        if self._lines is not None:
            self._lines.values = dict(self.values)

    def close(self) -> None:
        """Take the bar away, or write no more lines."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._lines is not None:
            self._lines.close()


class _Lines:
    """The lines of one :class:`ProgressBar`, written when they are due by whoever notices first: a call or a thread."""

    def __init__(self, unit: str, write: Callable[[str], None], first: float, every: float) -> None:
        self.unit, self.values = unit, dict[str, float]()
        self._put, self._every = write, every
        self._seen: deque[tuple[float, int]] = deque()  # (time, done) of the last minutes
        self._done = self._total = 0
        self._began = self._moved = time.monotonic()
        self._due = self._began + first
        self._lock, self._wrote = threading.Lock(), False
        self._watched()

    def move(self, done: int, total: int) -> None:
        now = time.monotonic()
        with self._lock:
            if done < self._done or total != self._total:
                self._seen.clear()
            self._done, self._total, self._moved = done, total, now
            if len(self._seen) > 1 and now - self._seen[-2][0] < _APART:
                self._seen.pop()
            self._seen.append((now, done))
            while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW:
                self._seen.popleft()
            if now >= self._due or (done >= total and self._wrote):
                self._write(now)
            if done >= total:
                self._ended.set()
            elif self._ended.is_set():
                self._watched()

    def close(self) -> None:
        with self._lock:
            self._ended.set()

    def _watched(self) -> None:
        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.05, self._due - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now >= self._due and not ended.is_set():
                    self._write(now)

    def _write(self, now: float) -> None:
        self._due, self._wrote = now + self._every, True
        self._put(self._line(now))

    def _line(self, now: float) -> str:
        if not self._seen:
            return f"no {self.unit} done after {duration(now - self._began)}"
        parts = [f"{self.unit} {self._done:,} of {self._total:,}"]
        said = _said(self.values)
        (then, before), (last, done) = self._seen[0], self._seen[-1]
        if done > before and last > then:
            each = (last - then) / (done - before)
            rate = f"{1 / each:.1f} {self.unit}s/s" if each < 1 else f"{each:.1f} s per {self.unit}"
            parts += [said, rate, f"{duration(each * (self._total - done))} left"]
        else:
            parts += [said, "rate and time left not known yet"]
        if now - self._moved >= EVERY:
            parts.append(f"the last {duration(now - self._moved)} ago")
        return ", ".join(part for part in parts if part)


def _put(place: Path, line: str) -> None:
    with suppress(OSError):  # a full disk is no reason to end the work
        place.write_text(line, encoding="utf-8")


def _said(values: Mapping[str, float]) -> str:
    return ", ".join(f"{word} {values[name]:{form}}" for name, (word, form) in _SHOWN.items() if name in values)


def duration(seconds: float) -> str:
    """A time for people, rounded to what matters.

    >>> duration(42.4), duration(276), duration(16_000), duration(400_000)
    ('42 s', '4.6 min', '4.4 h', '4.6 days')
    """
    for length, word, form in ((86_400, "days", ".1f"), (3_600, "h", ".1f"), (60, "min", ".1f")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:{form}} {word}"
    return f"{seconds:.0f} s"
