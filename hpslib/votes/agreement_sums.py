"""Kappa and alpha as functions of sums over items, so that a bootstrap computes all its resamples at once.

What an item says is the same in every resample that holds it. It is written down once, as one row of terms; a resample
is then a weighted sum of rows, and the statistic a formula of a few sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Sums", "alpha_sums", "kappa_sums"]


class Sums(NamedTuple):
    """``terms``, sparse (items, terms), and ``statistic``: sums of them (resamples, terms) to values (resamples,).

    The first ``answers`` terms are how often each answer was given to the item.
    """

    terms: csr_array
    statistic: Callable[[np.ndarray], np.ndarray]
    answers: int

    def defined(self, sums: np.ndarray) -> np.ndarray:
        """Where the statistic has a value, bool (resamples,): two answers or more occur."""
        return (sums[:, : self.answers] > 0).sum(axis=1) >= 2


def kappa_sums(table: np.ndarray) -> Sums:
    """Fleiss' kappa (Fleiss 1971) of counts (items, answers), as many votes on each item.

    >>> terms, kappa, _ = kappa_sums(np.array([[3, 0], [0, 3], [2, 1]]))
    >>> kappa(terms.sum(axis=0)[None]).round(3)
    array([0.55])
    """
    from scipy.sparse import csr_array, hstack

    raters, answers = int(table[0].sum()), table.shape[1]
    share = (table * (table - 1)).sum(axis=1) / (raters * (raters - 1))
    once = np.ones(len(table))

    def statistic(sums: np.ndarray) -> np.ndarray:
        counts, agree, items = sums[:, :answers], sums[:, answers], sums[:, answers + 1]
        luck = ((counts / (items * raters)[:, None]) ** 2).sum(axis=1)
        return (agree / items - luck) / (1 - luck)

    return Sums(
        hstack([csr_array(table), csr_array(np.stack([share, once], axis=1))], format="csr"), statistic, answers
    )


def alpha_sums(table: np.ndarray, level: Literal["nominal", "ordinal"]) -> Sums:
    """Krippendorff's alpha (Krippendorff 2011) of counts (items, answers), two votes or more on each item.

    Nominal: the observed disagreement is a number per item. Ordinal: it is a number per item and pair of answers, for
    how far apart two answers are depends on how often each was given in the resample: it is the distance of their mean
    ranks (his sum of counts from one answer to the other, less half of either).

    >>> terms, alpha, _ = alpha_sums(np.array([[3, 0], [0, 3], [2, 1]]), "nominal")
    >>> alpha(terms.sum(axis=0)[None]).round(3)
    array([0.6])
    """
    from scipy.sparse import csc_array, csr_array, diags_array, hstack

    answers, cast = table.shape[1], table.sum(axis=1)
    apart = ((cast**2 - (table**2).sum(axis=1)) / (cast - 1))[:, None]

    def nominal(sums: np.ndarray) -> np.ndarray:
        counts, observed = sums[:, :answers], sums[:, answers]
        n = counts.sum(axis=1)
        return 1 - observed * (n - 1) / (n**2 - (counts**2).sum(axis=1))

    if level == "nominal":
        return Sums(hstack([csr_array(table), csr_array(apart)], format="csr"), nominal, answers)
    given = csc_array(table, dtype=np.float64)
    first, second = np.nonzero(np.triu((given.T @ given).toarray(), 1))  # answers that stand together on some item
    together = diags_array(1 / (cast - 1)) @ (given[:, first].multiply(given[:, second]))

    def ordinal(sums: np.ndarray) -> np.ndarray:
        counts, observed = sums[:, :answers], sums[:, answers:]
        n = counts.sum(axis=1)
        rank = np.cumsum(counts, axis=1) - counts / 2
        found = (observed * (rank[:, first] - rank[:, second]) ** 2).sum(axis=1)
        return 1 - found * (n - 1) / (n * (counts * (rank - n[:, None] / 2) ** 2).sum(axis=1))

    return Sums(hstack([given, together], format="csr"), ordinal, answers)
