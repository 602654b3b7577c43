"""Best-of-n: what becomes of pictures when a score chooses among ever more of them."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["best_of_n"]


def best_of_n(scores: ArrayLike, values: ArrayLike, n: int) -> np.ndarray:
    """The value of the best-scored of ``n`` images, expected over all ways to draw the n: float64 (prompts,).

    ``scores`` and ``values`` are (prompts, images), what chooses and what the choice is worth; with ``values`` the
    scores themselves, it is the score of the best. Of the m images of a prompt, the one of rank k from below is the
    best of n in C(k - 1, n - 1) of C(m, n) draws, so that no draw needs to be made (the unbiased estimator of Nakano et
    al., 2021, appendix I; used for the over-optimisation of rewards by Gao et al., 2023). Equal scores share their
    ranks' weights.

    Raises ``ValueError`` for tables of different shapes, a number that is not finite, or an ``n`` that is not among 1
    to m.

    >>> best_of_n([[1.0, 2.0, 3.0]], [[10.0, 40.0, 20.0]], n=2).round(2).tolist()
    [26.67]
    """
    chooser, worth = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if chooser.ndim != 2 or chooser.shape != worth.shape:
        raise ValueError(f"scores are {chooser.shape} and values {worth.shape}: give two tables (prompts, images).")
    if not (np.isfinite(chooser).all() and np.isfinite(worth).all()):
        raise ValueError("a score or a value is not finite: leave that prompt out.")
    m = chooser.shape[1]
    if n != int(n) or not 1 <= n <= m:
        raise ValueError(f"n is {n}: give a whole number from 1 to {m}, the images of a prompt.")
    below = (chooser[:, None, :] < chooser[:, :, None]).sum(axis=2)
    upto = (chooser[:, None, :] <= chooser[:, :, None]).sum(axis=2)
    # The best of n lies among those with at most this score, and not all n lie below it; ties share the chance.
    ways = np.array([comb(k, int(n)) / comb(m, int(n)) for k in range(m + 1)])
    return ((ways[upto] - ways[below]) / (upto - below) * worth).sum(axis=1)
