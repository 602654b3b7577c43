"""Strengths from votes: oracles (statsmodels, by hand), laws, recovery of the truth, and the text of errors."""

from __future__ import annotations

import doctest
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse

import hpslib.votes.bradley_terry as module
from hpslib.votes.bradley_terry import (
    Comparison,
    bradley_terry,
    ranking_table,
    strength_intervals,
    win_matrix,
    win_probabilities,
)

TRUTH = np.array([0.9, 0.4, 0.0, -0.3, -1.0])
NAMES = ["v5", "v4", "v3", "v2", "v1"]


def test_doctests() -> None:
    result = doctest.testmod(module, extraglobs={"math": math})
    assert result.failed == 0 and result.attempted >= 5


def played(rng: np.random.Generator, prompts: int, truth: np.ndarray = TRUTH, tie: float = 0.0) -> list[Comparison]:
    """Every pair of simulated models on every prompt."""
    chance, rows = win_probabilities(truth), []
    for prompt in range(prompts):
        for i, j in combinations(range(len(truth)), 2):
            outcome = "tie" if rng.random() < tie else "a" if rng.random() < chance[i, j] else "b"
            rows.append(Comparison(NAMES[i], NAMES[j], outcome, f"prompt {prompt}"))
    return rows


# --- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "losses"), [(8, 2), (2, 8), (5, 5), (0.5, 7.5), (1e6, 1)])
def test_two_models_differ_by_the_log_of_wins_over_losses(wins: float, losses: float) -> None:
    first, second = bradley_terry([[0, wins], [losses, 0]])
    assert first - second == pytest.approx(math.log(wins / losses), abs=1e-6)
    assert first + second == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("prior", [0.25, 1.0, 3.0])
def test_the_prior_adds_tied_comparisons(prior: float) -> None:
    first, second = bradley_terry([[0, 12], [0, 0]], prior)
    assert first - second == pytest.approx(math.log((12 + prior / 2) / (prior / 2)), abs=1e-8)
    wins = np.array([[0, 3, 0], [1, 0, 0], [2, 0, 0.0]])
    more = wins + prior / 2 * np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]])  # not to the pair that never met
    np.testing.assert_allclose(bradley_terry(wins, prior), bradley_terry(more), atol=1e-8)


def test_strengths_are_those_of_statsmodels_logistic_regression(rng: np.random.Generator) -> None:
    wins = rng.integers(1, 30, size=(6, 6)).astype(float)
    np.fill_diagonal(wins, 0)
    pairs = list(combinations(range(6), 2))
    design = np.array([np.eye(6)[i] - np.eye(6)[j] for i, j in pairs])[:, 1:]
    outcomes = [[wins[i, j], wins[j, i]] for i, j in pairs]
    fitted = sm.GLM(outcomes, design, family=sm.families.Binomial()).fit(tol=1e-12)
    theirs = np.append(0, fitted.params)
    np.testing.assert_allclose(bradley_terry(wins), theirs - theirs.mean(), atol=1e-7)


def test_predicted_wins_equal_the_counted_ones(rng: np.random.Generator) -> None:
    """The equations of the largest likelihood: each model's expected number of wins is what it won."""
    wins = rng.integers(0, 20, size=(7, 7)).astype(float)
    np.fill_diagonal(wins, 0)
    expected = ((wins + wins.T) * win_probabilities(bradley_terry(wins))).sum(axis=1)
    np.testing.assert_allclose(expected, wins.sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_array, sparse.csc_matrix])
def test_a_sparse_table_gives_what_the_whole_one_gives(rng: np.random.Generator, kind) -> None:
    wins = rng.integers(0, 20, size=(7, 7)) * (1 - np.eye(7, dtype=int))
    for prior in (0.0, 0.5):
        np.testing.assert_array_equal(bradley_terry(kind(wins), prior), bradley_terry(wins, prior))
    with pytest.raises(ValueError, match=r"^wins has shape \(7, 6\): give one row and one column"):
        bradley_terry(kind(wins[:, :6]))
    with pytest.raises(ValueError, match=r"^wins holds no counts"):
        bradley_terry(kind(-wins))


def test_a_thousand_models_are_ranked_from_the_pairs_that_met(rng: np.random.Generator) -> None:
    """A dense table would hold a million pairs; 1,500 prompts with one each would hold a thousand times more."""
    truth = rng.normal(size=1000)
    first = np.append(np.arange(1000), rng.integers(1000, size=30_000))
    second = np.append((np.arange(1000) + 1) % 1000, (first[1000:] + rng.integers(1, 1000, size=30_000)) % 1000)
    won = rng.random(len(first)) < 1 / (1 + np.exp(truth[second] - truth[first]))
    rows = [(a, b, "a" if w else "b", k % 1500) for k, (a, b, w) in enumerate(zip(first, second, won))]
    estimates = strength_intervals(rows, prior=1.0, n_resamples=3)
    values = np.array([estimates[k].value for k in range(1000)])
    wins = sparse.coo_array((np.ones(len(won)), (np.where(won, first, second), np.where(won, second, first))))
    np.testing.assert_allclose(values, bradley_terry(wins.tocsr(), prior=1.0), atol=1e-9)
    assert np.corrcoef(values, truth)[0, 1] > 0.95
    assert all(estimate.low <= estimate.high for estimate in estimates.values())


def test_resamples_are_those_of_the_fits_one_by_one(rng: np.random.Generator) -> None:
    """As the intervals were found before they were fitted together: each resample's table, its own fit."""
    rows, truth = played(rng, 25, tie=0.1), np.random.default_rng(9)
    fits = []
    for _ in range(50):
        drawn = truth.integers(25, size=25)
        again = [row._replace(prompt=k) for k, p in enumerate(drawn) for row in rows if row.prompt == f"prompt {p}"]
        names, wins = win_matrix(again)
        fits.append(bradley_terry(wins, prior=0.5)[[names.index(name) for name in NAMES]])
    expected = np.quantile(fits, [0.025, 0.975], axis=0).T
    estimates = strength_intervals(rows, prior=0.5, n_resamples=50, seed=9)
    np.testing.assert_allclose([(estimates[name].low, estimates[name].high) for name in NAMES], expected, atol=1e-9)


# --- laws -------------------------------------------------------------------------------------------------------------


def test_order_and_scale_do_not_matter_and_losing_mirrors_winning(rng: np.random.Generator) -> None:
    wins = rng.integers(1, 20, size=(5, 5)) * (1 - np.eye(5))
    strengths, order = bradley_terry(wins), rng.permutation(5)
    np.testing.assert_allclose(bradley_terry(wins[order][:, order]), strengths[order], atol=1e-7)
    np.testing.assert_allclose(bradley_terry(7 * wins), strengths, atol=1e-7)
    np.testing.assert_allclose(bradley_terry(wins.T), -strengths, atol=1e-7)
    assert strengths.mean() == pytest.approx(0, abs=1e-12)


def test_a_stronger_prior_pulls_everything_together(rng: np.random.Generator) -> None:
    wins = win_matrix(played(rng, 10))[1]
    spread = [np.ptp(bradley_terry(wins, prior)) for prior in (0, 1, 10, 1000)]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.1


def test_probabilities_of_a_pair_add_up_to_one() -> None:
    chance = win_probabilities(TRUTH)
    np.testing.assert_allclose(chance + chance.T, 1)
    assert chance[0, 4] == pytest.approx(1 / (1 + math.exp(-1.9)))


def test_a_tie_is_half_a_win_for_each_and_sides_do_not_matter() -> None:
    rows = [("x", "y", "a", 1), ("y", "x", "a", 1), ("x", "y", "tie", 2), ("y", "x", "b", 2)]
    names, wins = win_matrix(rows)
    assert names == ["x", "y"] and wins.tolist() == [[0, 2.5], [1.5, 0]]
    swapped = [(b, a, {"a": "b", "b": "a", "tie": "tie"}[outcome], prompt) for a, b, outcome, prompt in rows]
    assert win_matrix(swapped)[1][::-1, ::-1].tolist() == wins.tolist()


# --- from votes -------------------------------------------------------------------------------------------------------


def test_strengths_of_simulated_models_are_recovered(rng: np.random.Generator) -> None:
    names, wins = win_matrix(played(rng, 2000))
    assert names == NAMES
    np.testing.assert_allclose(bradley_terry(wins), TRUTH - TRUTH.mean(), atol=0.1)


def test_the_intervals_cover_the_truth(rng: np.random.Generator) -> None:
    truth, hits = np.array([0.5, 0.0, -0.5]), 0
    for k in range(30):
        estimates = strength_intervals(played(rng, 60, truth), n_resamples=100, seed=k)
        hits += sum(estimates[NAMES[i]].low <= truth[i] <= estimates[NAMES[i]].high for i in range(3))
    assert 0.86 <= hits / 90 <= 0.99


def test_copies_of_a_prompts_votes_do_not_narrow_the_interval(rng: np.random.Generator) -> None:
    rows = played(rng, 40, TRUTH[:3])
    once, five = strength_intervals(rows, n_resamples=100), strength_intervals(rows * 5, n_resamples=100)
    for name in NAMES[:3]:
        assert (five[name].value, five[name].low) == pytest.approx((once[name].value, once[name].low), abs=1e-6)
        assert five[name].n == 5 * once[name].n == 5 * 80


def test_the_interval_of_two_models_is_the_bootstrap_of_their_log_odds(rng: np.random.Generator) -> None:
    rows = played(rng, 50, TRUTH[:2])
    estimate = strength_intervals(rows, n_resamples=400, seed=3)["v5"]
    won, draw = np.array([row.outcome == "a" for row in rows]), np.random.default_rng(3)
    shares = np.array([won[draw.integers(50, size=50)].mean() for _ in range(400)])
    expected = np.quantile(np.log(shares / (1 - shares)) / 2, [0.025, 0.975])
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-6)


def test_the_table_ranks_and_counts(rng: np.random.Generator) -> None:
    rows = played(rng, 50, tie=0.2)
    table = ranking_table(rows, n_resamples=40, seed=2)
    assert isinstance(table, pd.DataFrame) and sorted(table.index) == sorted(NAMES)
    assert table["strength"].is_monotonic_decreasing and table["strength"].sum() == pytest.approx(0, abs=1e-9)
    assert (table["wins"] + table["ties"] + table["losses"]).tolist() == table["comparisons"].tolist() == [200] * 5
    assert table.loc["v4", "ties"] == sum(row.outcome == "tie" and "v4" in row[:2] for row in rows)
    assert table["wins"].sum() == table["losses"].sum() == sum(row.outcome != "tie" for row in rows)
    chance = win_probabilities(table["strength"])
    assert table["beats_others"].iloc[0] == pytest.approx(chance[0, 1:].mean())
    estimate = strength_intervals(rows, n_resamples=40, seed=2)["v3"]
    row = table.loc["v3"]
    assert (row["strength"], row["strength_low"], row["strength_high"]) == (estimate.value, estimate.low, estimate.high)


# --- where there is no answer -----------------------------------------------------------------------------------------


def test_parts_that_never_met_are_refused_by_name_whatever_the_prior() -> None:
    wins = np.zeros((4, 4))
    wins[0, 2], wins[2, 0], wins[1, 3], wins[3, 1] = 3, 1, 2, 2
    for prior in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"fall into 2 parts .*\('a', 'c' \| 'b', 'd'\): compare some across"):
            bradley_terry(wins, prior, names="abcd")


def test_who_never_won_is_named_and_a_prior_makes_them_finite(rng: np.random.Generator) -> None:
    wins = np.triu(rng.integers(1, 9, size=(4, 4)), 1).astype(float)
    wins[1, 0] = 2  # a and b beat each other; c and d never beat those, d beats nobody
    with pytest.raises(ValueError, match=r"^'d' never won against the other models, .* pass prior=1.0"):
        bradley_terry(wins, names="abcd")
    wins[3, 2] = 1
    with pytest.raises(ValueError, match=r"^'c', 'd' never won against the other models"):
        bradley_terry(wins, names="abcd")
    strengths = bradley_terry(wins, prior=1.0)
    assert np.isfinite(strengths).all() and max(strengths[2:]) < min(strengths[:2])


def test_who_won_always_is_refused_by_way_of_the_others() -> None:
    with pytest.raises(ValueError, match=r"^1, 2 never won against the other models"):
        bradley_terry([[0, 3, 3], [0, 0, 2], [0, 2, 0]])


def test_resamples_without_a_win_are_counted_and_a_prior_helps() -> None:
    rows = [("x", "y", "b" if prompt == 0 else "a", prompt) for prompt in range(10)]
    with pytest.raises(ValueError, match=r"\d\d of 100 resamples leave a model without a win or a loss.*prior=1.0"):
        strength_intervals(rows, n_resamples=100)
    estimate = strength_intervals(rows, prior=1.0, n_resamples=100)["x"]
    assert estimate.value == pytest.approx(math.log(9.5 / 1.5) / 2)
    assert estimate.high == pytest.approx(math.log(10.5 / 0.5) / 2)


def test_a_few_resamples_without_a_win_are_left_out_and_counted() -> None:
    """Three upsets in twenty prompts: one draw in some thirty holds none of them."""
    rows = [("x", "y", "b" if prompt < 3 else "a", prompt) for prompt in range(20)]
    with pytest.warns(UserWarning, match=r"^\d+ of 400 resamples leave .* infinite; the .*prior=1.0") as told:
        estimate = strength_intervals(rows, n_resamples=400, seed=0)["x"]
    draws = np.random.default_rng(0).integers(20, size=(400, 20))
    upsets = (draws < 3).sum(axis=1)
    left = np.log((20 - upsets[upsets > 0]) / upsets[upsets > 0]) / 2
    assert str(told[0].message).startswith(f"{(upsets == 0).sum()} of 400") and 0 < (upsets == 0).sum() <= 20
    assert [estimate.low, estimate.high] == pytest.approx(np.quantile(left, [0.025, 0.975]))


def test_one_prompt_gives_strengths_without_an_interval() -> None:
    rows = [("x", "y", outcome, "p") for outcome in "aaab"]
    estimate = strength_intervals(rows)["x"]
    assert estimate.value == pytest.approx(math.log(3) / 2) and not estimate.has_interval and estimate.n == 4
    assert "no interval: one prompt" in str(estimate) and np.isnan(ranking_table(rows).loc["x", "strength_low"])


def test_who_won_always_has_a_finite_strength_with_a_prior() -> None:
    estimate = strength_intervals([("x", "y", "a", prompt) for prompt in range(10)], prior=1.0, n_resamples=20)["x"]
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((math.log(10.5 / 0.5) / 2,) * 3)


def test_a_pair_that_a_resample_misses_keeps_its_prior() -> None:
    """x and z meet y on one prompt each; a resample may miss one of them altogether."""
    rows = [("x", "y", "a", 1), ("y", "x", "a", 1), ("y", "z", "a", 2), ("z", "y", "a", 2), ("x", "y", "b", 3)]
    estimates = strength_intervals(rows, prior=0.5, n_resamples=60)
    assert all(np.isfinite([estimate.low, estimate.high]).all() for estimate in estimates.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry([[0]]), r"wins has shape \(1, 1\): give one row and one column for each of 2 or more"),
        (lambda: bradley_terry([[0, 1, 2], [1, 0, 2]]), r"wins has shape \(2, 3\)"),
        (
            lambda: bradley_terry([[1, 1], [1, 0]]),
            "wins holds no counts: give finite numbers from 0, zeros on the diagonal",
        ),
        (lambda: bradley_terry([[0, -1], [1, 0]]), "wins holds no counts: give finite numbers from 0"),
        (lambda: bradley_terry([[0, math.nan], [1, 0]]), "wins holds no counts: give finite numbers from 0"),
        (
            lambda: bradley_terry([[0, 1], [1, 0]], -1),
            "prior is -1: give a finite number of comparisons, 0 or more",
        ),
        (lambda: bradley_terry([[0, 1], [1, 0]], names=["x"]), "names has 1 entries for 2 models"),
        (lambda: bradley_terry([[0, 0], [0, 0]]), r"fall into 2 parts .*\(0 \| 1\)"),
        (lambda: win_probabilities([math.inf, 0]), "or is not finite: give a flat list of finite numbers"),
        (lambda: win_matrix([]), "comparisons is empty"),
        (
            lambda: win_matrix([("x", "y", 1, "p")]),
            r'comparison 0 \(from 0\) has the outcome 1: give "a", "b" or',
        ),
        (lambda: win_matrix([("x", "x", "a", "p")]), r"comparison 0 \(from 0\) shows 'x' against itself"),
        (lambda: win_matrix([("x", "y", "a")]), r"comparison 0 \(from 0\) is \('x', 'y', 'a'\): give model_a, model_b"),
        (lambda: win_matrix(["xyap"]), r"comparison 0 \(from 0\) is 'xyap': give model_a, model_b, outcome and prompt"),
        (lambda: win_matrix([("x", "y", "a", "p"), ("x", "y", "b", math.nan)]), r"prompts\[1\] is nan: give every row"),
        (
            lambda: strength_intervals([("x", "y", "tie", "p")], confidence=1),
            "confidence is 1: give a number strictly between 0 and 1",
        ),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
