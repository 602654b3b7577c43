"""The bootstrap by prompt as weights: how often each prompt was drawn, so that sums over rows become one product."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from hpslib.metrics.intervals import drawn_prompts

__all__ = ["times_drawn"]

_CELLS = 2_000_000  # of what is computed from the draws at once (16 MB each)


def times_drawn(
    prompts: Sequence[Hashable] | None, rows: int, n_resamples: int, seed: int | np.random.Generator, cells: int
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The resamples of :func:`hpslib.metrics.intervals.drawn_prompts`, each as how often every prompt is in it.

    Returns the number of each row's prompt, int64 (rows,), and blocks of float64 (resamples, prompts). ``cells`` is how
    many numbers the caller computes for one resample: the more, the fewer resamples come at once. Raises
    ``ValueError`` as ``drawn_prompts`` does.

    >>> number, blocks = times_drawn(["a cat", "a dog", "a cat"], rows=3, n_resamples=4, seed=0, cells=1)
    >>> number, [block.tolist() for block in blocks]
    (array([0, 1, 0]), [[[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [2.0, 0.0]]])
    """
    number, blocks = drawn_prompts(prompts, rows, n_resamples, seed)
    return number, (times for block in blocks for times in _counted(block, cells))


def _counted(block: np.ndarray, cells: int) -> Iterator[np.ndarray]:
    k = block.shape[1]
    step = max(1, _CELLS // max(k, cells))
    for start in range(0, len(block), step):
        drawn = block[start : start + step]
        places = (drawn + k * np.arange(len(drawn))[:, None]).ravel()
        yield np.bincount(places, minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
