"""hpslib.votes.agreement_sums and resamples: a weighted sum of rows gives what the libraries say of repeated rows."""

from __future__ import annotations

import doctest

import krippendorff
import numpy as np
import pytest
from statsmodels.stats import inter_rater

import hpslib.votes.agreement_sums as module
import hpslib.votes.resamples
from hpslib.metrics.intervals import drawn_prompts
from hpslib.votes.agreement_sums import Sums, alpha_sums, kappa_sums
from hpslib.votes.resamples import times_drawn


def test_doctests() -> None:
    for each, least in ((module, 4), (hpslib.votes.resamples, 2)):
        result = doctest.testmod(each)
        assert result.failed == 0 and result.attempted >= least


def counted(rng: np.random.Generator, items: int, raters: int, answers: int, gaps: bool) -> np.ndarray:
    """Counts (items, answers) of raters who often agree; with gaps, of 2 to ``raters`` votes on each item."""
    votes = np.where(
        rng.random((items, raters)) < 0.5,
        rng.integers(answers, size=(items, 1)),
        rng.integers(answers, size=(items, raters)),
    )
    if gaps:
        votes[np.arange(raters) >= rng.integers(2, raters + 1, size=(items, 1))] = -1
    return (votes[:, :, None] == np.arange(answers)).sum(axis=1)


def agree_with_resampled_tables(rng: np.random.Generator, table: np.ndarray, sums: Sums, library) -> None:
    times = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=30)
    found = sums.statistic(times.astype(float) @ sums.terms)
    expected = [library(np.repeat(table, weights, axis=0)) for weights in times]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert sums.defined(times.astype(float) @ sums.terms).all()


@pytest.mark.parametrize(("items", "raters", "answers"), [(30, 3, 2), (50, 5, 4), (20, 6, 25)])
def test_kappa_is_that_of_statsmodels(rng: np.random.Generator, items: int, raters: int, answers: int) -> None:
    table = counted(rng, items, raters, answers, gaps=False)
    agree_with_resampled_tables(rng, table, kappa_sums(table), inter_rater.fleiss_kappa)


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize(("items", "raters", "answers"), [(30, 3, 2), (50, 5, 4), (20, 6, 25), (12, 2, 30)])
def test_alpha_is_that_of_the_package(
    rng: np.random.Generator, items: int, raters: int, answers: int, level: str
) -> None:
    table = counted(rng, items, raters, answers, gaps=True)

    def alpha(counts: np.ndarray) -> float:
        return krippendorff.alpha(value_counts=counts, level_of_measurement=level)

    agree_with_resampled_tables(rng, table, alpha_sums(table, level), alpha)


def test_full_agreement_is_one_to_the_last_digit(rng: np.random.Generator) -> None:
    table = np.eye(3, dtype=int)[rng.integers(3, size=40)] * rng.integers(2, 7, size=(40, 1))
    for level in ("nominal", "ordinal"):
        terms, alpha, _ = alpha_sums(table, level)
        assert (alpha(rng.integers(1, 5, size=(9, 40)).astype(float) @ terms) == 1).all()


def test_one_answer_alone_is_undefined() -> None:
    table = np.array([[2, 0], [2, 0], [0, 2]])
    for sums in (kappa_sums(table), alpha_sums(table, "nominal"), alpha_sums(table, "ordinal")):
        assert sums.defined(np.array([[1.0, 1, 1], [2, 1, 0], [0, 0, 3]]) @ sums.terms).tolist() == [True, False, False]


@pytest.mark.parametrize("cells", [1, 300_000, 10**9])
def test_times_are_those_of_the_draws_however_many_come_at_once(cells: int) -> None:
    labels = ["a", "b", "a", "c", "d"]
    number, blocks = times_drawn(labels, 5, 50, 3, cells)
    same, draws = drawn_prompts(labels, 5, 50, 3)
    expected = [np.bincount(draw, minlength=4) for block in draws for draw in block]
    blocks = list(blocks)
    assert (number == same).all() and (np.concatenate(blocks) == expected).all()
    assert len(blocks) == {1: 1, 300_000: 9, 10**9: 50}[cells]
