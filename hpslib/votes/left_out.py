"""How well does a personal score know its own voter, when nobody else can be asked?

Held-out groups need votes too, and somebody who gave sixty has no others. So the score is trained as many times as
there are folds, each time without one fold, and says what it expects there: every vote is predicted once, by a score
that has never seen it. The ridge is chosen anew inside each training set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hpslib.votes.personal import Axes, Shown, personal_scores, train_personal

__all__ = ["left_out_scores"]


def left_out_scores(shown: Shown, choices: ArrayLike, axes: Axes, *, folds: int = 5, seed: int = 0) -> list[np.ndarray]:
    """The personal score of every image of the groups voted on, by a score trained without that group's fold.

    ``choices`` (groups,) int, the image chosen in each group of ``shown``; folds are drawn by ``seed``. One array a
    group, as :func:`hpslib.metrics.agreement.top1_accuracy` takes them: cross-validation (Stone, 1974), so what it
    reports is a score of four fifths of the votes, a little worse than the one trained on all.

    Raises ``ValueError`` when the folds are fewer than two or too many for every training set to have five votes.
    """
    chosen = np.asarray(choices)
    if not 2 <= folds <= len(chosen) or len(chosen) - -(-len(chosen) // folds) < 5:
        raise ValueError(f"{len(chosen)} votes cannot be left out in {folds} folds: vote on ten groups or more.")
    fold = np.random.default_rng([seed, 5]).permutation(len(chosen)) % folds
    scores: list[np.ndarray] = [np.zeros(0)] * len(chosen)
    for k in range(folds):
        kept, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        trained = train_personal(shown.subset(kept), chosen[kept], axes, seed=seed)
        for group, values in zip(out.tolist(), personal_scores(trained, shown.subset(out)), strict=True):
            scores[group] = values
    return scores
