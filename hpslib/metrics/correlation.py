"""Correlation of scores with people over a whole corpus, the way text-to-image evaluations publish it.

TIFA (Hu et al. 2023, arXiv 2303.11897) and its successors correlate over all images of all prompts at once. Such a
number compares images of different prompts too: a scorer gains by knowing which prompts are hard. Within a prompt,
which is all that HPS promises, ask :func:`hpslib.metrics.comparison.vote_share_correlation`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from hpslib.metrics.agreement import score_arrays
from hpslib.metrics.intervals import (
    Estimate,
    checked_confidence,
    drawn_prompts,
    prompt_numbers,
    report_failed_resamples,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike

__all__ = ["corpus_correlation"]


def corpus_correlation(
    scores: Sequence[ArrayLike],
    ratings: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    measure: Literal["kendall", "spearman"] = "kendall",
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Rank correlation of scores and human ratings over all images of the corpus, in [-1, 1]; 0 is no relation.

    Kendall's tau-b or Spearman's rho by scipy, ties included; see the head of this module for what it means.

    Args:
        scores: one list per group, one number per image, higher is better; infinities are ordinary values.
        ratings: likewise, **higher is better**: marks, votes, or ranks with their sign turned.
        prompts: one label per group; the percentile bootstrap draws whole prompts with all their images.
        measure: "kendall" or "spearman".
        confidence, n_resamples, seed: of the bootstrap.

    ``n`` of the estimate counts the groups. Raises ``ValueError`` when lengths differ, a number is NaN, all scores or
    all ratings are equal (the correlation is then 0 / 0), and as
    :func:`hpslib.metrics.intervals.report_failed_resamples` for resamples in which they are.

    >>> round(corpus_correlation([[1.0, 3.0], [2.0, 4.0]], [[1, 2], [4, 5]], n_resamples=50).value, 3)
    0.667
    """
    if measure not in ("kendall", "spearman"):
        raise ValueError(f'measure is {measure!r}: choose "kendall" or "spearman".')
    checked_confidence(confidence)
    given, people = score_arrays(scores, "scores"), score_arrays(ratings, "ratings")
    if [len(group) for group in given] != [len(group) for group in people]:
        raise ValueError("scores and ratings differ in groups or their sizes: give one rating per score.")
    for name, groups in (("scores", given), ("ratings", people)):
        bad = next((i for i, group in enumerate(groups) if np.isnan(group).any()), None)
        if bad is not None:
            raise ValueError(f"{name}[{bad}] has a NaN, which has no rank: leave that group out and say so.")
        if len(np.unique(np.concatenate(groups))) == 1:
            raise ValueError(f"all {name} are equal, so the correlation is 0 / 0: give some that differ.")
    value = _correlation(np.concatenate(given), np.concatenate(people), measure)
    number = prompt_numbers(prompts, len(given))
    if not number.any():  # one prompt
        return Estimate(value, np.nan, np.nan, len(given), confidence)
    members = [np.flatnonzero(number == prompt) for prompt in range(number.max() + 1)]
    by_prompt = [np.stack([np.concatenate([part[i] for i in rows]) for part in (given, people)]) for rows in members]
    blocks = drawn_prompts(prompts, len(given), n_resamples, seed)[1]
    drawn = (np.concatenate([by_prompt[k] for k in draw], axis=1) for draw in chain.from_iterable(blocks))
    values = np.array([_correlation(pair[0], pair[1], measure) for pair in drawn])
    report_failed_resamples(
        int(np.isnan(values).sum()),
        n_resamples,
        "hold equal scores or equal ratings only",
        "give more prompts",
    )
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), len(given), confidence)


def _correlation(scores: np.ndarray, ratings: np.ndarray, measure: str) -> float:
    """NaN where one of them is constant."""
    from scipy import stats

    if (scores == scores[0]).all() or (ratings == ratings[0]).all():
        return np.nan  # before scipy warns of it
    # Spearman's rho is Pearson's r of the ranks, which are finite where a score is not.
    pair = (stats.rankdata(scores), stats.rankdata(ratings))
    return float((stats.kendalltau if measure == "kendall" else stats.pearsonr)(*pair).statistic)
