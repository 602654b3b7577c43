"""How far long work is, and an honest time left: what a resumed run found done is no speed."""

from __future__ import annotations

from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """A ``progress(done, total)`` callback, as all long functions of the library take it, that draws a bar.

    A call with less done, or another total, begins a new bar. ``shown=False`` draws nothing, ``None`` only on a
    terminal.
    """

    def __init__(self, unit: str, shown: bool | None = True) -> None:
        self.unit, self.shown = unit, shown
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if self._bar is not None and (done < self._bar.n or total != self._bar.total):
            self.close()
        if self._bar is None:
            hidden = None if self.shown is None else not self.shown
            self._bar = tqdm(total=total, initial=done, unit=self.unit, leave=False, disable=hidden)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
