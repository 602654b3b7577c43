"""Correlation over a whole corpus: scipy as the oracle, laws of ranks, the bootstrap by prompt, and what is refused."""

from __future__ import annotations

import doctest
import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

import hpslib.metrics.correlation as module
from hpslib.metrics.correlation import corpus_correlation

NAN, INF = math.nan, math.inf


def corpus(rng: np.random.Generator, groups: int = 40, noise: float = 1.0):
    """Scores and marks from 1 to 5 that share something, in groups of 2 to 6."""
    truth = [rng.normal(rng.normal(0, 1), 1, size=rng.integers(2, 7)) for _ in range(groups)]
    scores = [group + rng.normal(0, noise, size=len(group)) for group in truth]
    return scores, [np.clip(np.rint(group + 3), 1, 5) for group in truth]


@pytest.mark.parametrize(("measure", "oracle"), [("kendall", stats.kendalltau), ("spearman", stats.spearmanr)])
def test_it_is_scipy_s_over_all_images(rng, measure, oracle) -> None:
    scores, marks = corpus(rng)
    estimate = corpus_correlation(scores, marks, measure=measure, n_resamples=200)
    expected = oracle(np.concatenate(scores), np.concatenate(marks)).statistic
    assert estimate.value == pytest.approx(expected, abs=1e-12)
    assert estimate.low < estimate.value < estimate.high and estimate.n == 40


def test_the_interval_is_scipy_s_of_the_prompts_drawn_by_hand(rng) -> None:
    scores, marks = corpus(rng, groups=12)
    prompts = [f"prompt {k % 5}" for k in range(12)]
    estimate = corpus_correlation(scores, marks, prompts, n_resamples=80, seed=4)
    draws = np.random.default_rng(4).integers(5, size=(80, 5))
    values = []
    for draw in draws:
        rows = [k for prompt in draw for k in range(12) if k % 5 == prompt]
        one, two = (np.concatenate([part[k] for k in rows]) for part in (scores, marks))
        values.append(stats.kendalltau(one, two).statistic)
    assert [estimate.low, estimate.high] == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_ranks_alone_count_and_a_turned_scale_turns_the_sign(rng) -> None:
    scores, marks = corpus(rng)
    for measure in ("kendall", "spearman"):
        value = corpus_correlation(scores, marks, measure=measure, n_resamples=10).value
        bent = corpus_correlation([np.exp(s) for s in scores], marks, measure=measure, n_resamples=10)
        turned = corpus_correlation(scores, [-m for m in marks], measure=measure, n_resamples=10)
        assert bent.value == pytest.approx(value) and turned.value == pytest.approx(-value)
        assert corpus_correlation(marks, marks, measure=measure, n_resamples=10).value == pytest.approx(1)


def test_it_compares_prompts_where_the_one_within_a_prompt_does_not() -> None:
    """A scorer that only knows which prompt is hard correlates over the corpus, and not within any prompt."""
    from hpslib.metrics.comparison import vote_share_correlation

    scores, marks = [[1.0, 1.1], [5.0, 5.1]] * 4, [[2, 1], [5, 4]] * 4
    assert corpus_correlation(scores, marks, n_resamples=10).value > 0.3
    assert vote_share_correlation(scores, marks, n_resamples=10).value == pytest.approx(-1)


def test_infinities_are_ordinary_values() -> None:
    for measure, scale in product(("kendall", "spearman"), (9.0, INF)):
        scores = [[-scale, 1.0], [2.0, scale]]
        assert corpus_correlation(scores, [[1, 2], [4, 3]], measure=measure, n_resamples=5).value == pytest.approx(
            {"kendall": 2 / 3, "spearman": 0.8}[measure]
        )


def test_one_prompt_has_no_interval_and_says_so() -> None:
    estimate = corpus_correlation([[1.0, 2.0], [3.0, 4.0]], [[1, 2], [3, 5]], ["a cat", "a cat"])
    assert estimate.value == pytest.approx(1) and not estimate.has_interval
    assert str(estimate) == "1.000 (no interval: one prompt)"


def test_a_few_resamples_without_a_correlation_are_counted(rng) -> None:
    marks = [[1, 1], [1, 2], [1, 2]]  # one draw in 27 takes the first three times
    with pytest.warns(UserWarning, match=r"\d+ of 500 resamples hold equal scores or equal ratings only; the int"):
        estimate = corpus_correlation(rng.normal(size=(3, 2)).tolist(), marks, n_resamples=500)
    assert estimate.has_interval


@pytest.mark.parametrize(
    ("scores", "ratings", "options", "message"),
    [
        ([[1.0, 2.0]], [[1, 2]], {"measure": "pearson"}, '"kendall" or "spearman"'),
        ([[1.0, 2.0], [1.0, 2.0]], [[1, 2]], {}, "scores and ratings differ in groups or their sizes"),
        ([[1.0, NAN], [1.0, 2.0]], [[1, 2], [1, 2]], {}, r"scores\[0\] has a NaN, which has no rank: leave that group"),
        ([[1.0, 2.0], [1.0, 2.0]], [[1, 2], [1, NAN]], {}, r"ratings\[1\] has a NaN"),
        ([[1.0, 1.0], [1.0, 1.0]], [[1, 2], [1, 2]], {}, r"all scores are equal, so the correlation is 0 / 0"),
        ([[1.0, 2.0], [1.0, 2.0]], [[3, 3], [3, 3]], {}, r"all ratings are equal"),
        ([[1.0, 2.0], [1.0, 2.0]], [[1, 2], [3, 4]], {"prompts": ["a", NAN]}, r"prompts\[1\] is nan: give every row"),
        ([[1.0, 2.0], [1.0, 2.0]], [[1, 2], [3, 4]], {"confidence": 95}, "strictly between 0 and 1"),
        (
            [[1.0, 2.0]] * 3,
            [[1, 1], [1, 1], [1, 2]],
            {},
            r"\d+ of 1000 resamples hold equal .* only: give more",
        ),
    ],
)
def test_what_has_no_correlation_is_refused(scores, ratings, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corpus_correlation(scores, ratings, **options)


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0
