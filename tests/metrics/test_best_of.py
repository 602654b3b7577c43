"""hpslib.metrics.best_of against every draw there is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from hpslib.metrics.best_of import best_of_n


def by_hand(scores: np.ndarray, values: np.ndarray, n: int) -> float:
    """The mean over all draws of n; images that share the best score share the draw."""
    means = []
    for drawn in combinations(range(len(scores)), n):
        some = np.array(drawn)
        best = some[scores[some] == scores[some].max()]
        means.append(values[best].mean())
    return float(np.mean(means))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_it_is_the_mean_over_all_draws(n: int, rng: np.random.Generator) -> None:
    scores, values = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    scores[1] = scores[1].round()  # ties
    scores[2] = 1.0
    np.testing.assert_allclose(best_of_n(scores, values, n), [by_hand(s, v, n) for s, v in zip(scores, values)])


def test_one_is_the_mean_and_all_is_the_best(rng: np.random.Generator) -> None:
    scores, values = rng.normal(size=(4, 9)), rng.normal(size=(4, 9))
    np.testing.assert_allclose(best_of_n(scores, values, 1), values.mean(axis=1))
    np.testing.assert_allclose(best_of_n(scores, values, 9), values[np.arange(4), scores.argmax(axis=1)])
    rising = [best_of_n(scores, scores, n) for n in range(1, 10)]
    assert (np.diff(rising, axis=0) > 0).all(), "the score of the best rises with every image"


def test_a_score_that_is_a_bad_target_is_found_out() -> None:
    """What it likes most is worth least: the best of few is good, the best of many is not."""
    scores = np.arange(64.0)[None]
    values = np.where(scores > 58, -10.0, scores)
    means = [best_of_n(scores, values, n)[0] for n in (1, 4, 16, 64)]
    assert means[1] > means[0] and means[1] > means[2] > means[3] == -10


@pytest.mark.parametrize("n", [0, 4, 1.5])
def test_an_n_that_cannot_be_drawn_is_refused(n: float) -> None:
    with pytest.raises(ValueError, match=rf"n is {n}: give a whole number from 1 to 3, the images of a prompt"):
        best_of_n(np.zeros((1, 3)), np.zeros((1, 3)), n)


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores are \(3,\) and values \(3,\): give two tables"):
        best_of_n(np.zeros(3), np.zeros(3), 1)
    with pytest.raises(ValueError, match="a score or a value is not finite: leave that prompt out"):
        best_of_n([[np.nan, 1.0]], [[0.0, 1.0]], 1)
