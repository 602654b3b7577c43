"""Estimates and their intervals: Wilson against scipy, the bootstrap's coverage by prompt, printing, errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpslib.metrics.intervals import (
    Estimate,
    bootstrap_by_prompt,
    checked_confidence,
    drawn_prompts,
    report_failed_resamples,
    wilson_interval,
)

# --- Wilson ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (74, 100), (2175, 5000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_equals_scipy(k, n, confidence):
    ours = wilson_interval(k, n, confidence)
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (ours.value, ours.low, ours.high) == pytest.approx((k / n, theirs.low, theirs.high), abs=1e-12)


def test_wilson_takes_the_halves_that_ties_give():
    low, middle, high = (wilson_interval(k, 10) for k in (4, 4.5, 5))
    assert low.low < middle.low < high.low
    assert low.high < middle.high < high.high


# --- the bootstrap by prompt -----------------------------------------------------------------------------------------


def test_an_interval_of_90_percent_covers_in_90_percent_of_clustered_sets():
    """25 prompts x 8 groups, each prompt with a level of its own: drawing groups one by one would cover 50 %."""
    rng = np.random.default_rng(90)
    prompts, covered, by_group = np.repeat(np.arange(25), 8), 0, 0
    for k in range(300):
        values = np.repeat(rng.normal(0.3, 1, 25), 8) + rng.normal(0, 1, 200)
        ours = bootstrap_by_prompt(values, None, prompts.tolist(), confidence=0.9, n_resamples=300, seed=k)
        wrong = bootstrap_by_prompt(values, confidence=0.9, n_resamples=300, seed=k)
        covered += ours.low <= 0.3 <= ours.high
        by_group += wrong.low <= 0.3 <= wrong.high
    assert 0.85 <= covered / 300 <= 0.94, "three standard errors are 0.05; percentiles of 25 prompts are a little short"
    assert by_group / 300 < 0.65


def test_an_interval_of_90_percent_covers_a_ratio_of_sums():
    """Prompts with more groups weigh more: numerator and denominator have to be drawn together."""
    rng, covered = np.random.default_rng(91), 0
    for k in range(300):
        pairs = rng.integers(1, 6, 60)
        credit = rng.binomial(pairs, 0.7).astype(float)
        ours = bootstrap_by_prompt(credit, pairs, (np.arange(60) // 2).tolist(), 0.9, 300, seed=k)
        covered += ours.low <= 0.7 <= ours.high
    assert 0.85 <= covered / 300 <= 0.95


def test_without_a_denominator_the_value_is_the_mean():
    values = np.random.default_rng(3).normal(size=40)
    assert bootstrap_by_prompt(values) == bootstrap_by_prompt(values, np.ones(40), None, 0.95, 2000, seed=0)
    assert bootstrap_by_prompt(values).value == pytest.approx(values.mean())
    assert bootstrap_by_prompt([1, 0, 1, 1], abstained=2).abstained == 2 and bootstrap_by_prompt([1, 0]).abstained == 0
    once = bootstrap_by_prompt(values, n_resamples=1)
    assert once.low == once.high, "one resample is enough for an answer"


def test_two_prompts_are_the_fewest_and_a_resample_may_hold_one_of_them():
    estimate = bootstrap_by_prompt([0.0, 1.0], n_resamples=200)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0, 1)


def test_the_draws_are_those_of_one_generator_whatever_the_blocks(monkeypatch):
    number, blocks = drawn_prompts(["b", "a", "b", "c"], 4, 50, seed=7)
    whole = np.concatenate(list(blocks))
    assert number.tolist() == [0, 1, 0, 2] and whole.shape == (50, 3)
    assert set(np.unique(whole)) == {0, 1, 2}
    rng = np.random.default_rng(7)
    assert (whole == np.stack([rng.integers(3, size=3) for _ in range(50)])).all()
    monkeypatch.setattr("hpslib.metrics.intervals._CELLS", 20)
    pieces = list(drawn_prompts(["b", "a", "b", "c"], 4, 50, seed=7)[1])
    assert [len(piece) for piece in pieces] == [6] * 8 + [2] and (np.concatenate(pieces) == whole).all()


# --- printing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.435, 0.410, 0.461, 5000, 0.95), "0.435 [0.410, 0.461]"),
        (Estimate(38.2, 36.94, 39.91, 100, 0.95), "38.2 [36.9, 39.9]"),
        (Estimate(0.00123, 0.00101, 0.00148, 100, 0.95), "0.00123 [0.00101, 0.00148]"),
        (Estimate(0.25, 0.25, 0.25, 100, 0.95), "0.250 [0.250, 0.250]"),
        (Estimate(412.0, 300.0, 550.0, 100, 0.95), "412 [300, 550]"),
    ],
)
def test_an_estimate_prints_two_digits_of_its_width(estimate, text):
    assert str(estimate) == text


def test_an_estimate_in_percent_and_frozen():
    estimate = Estimate(0.435, 0.410, 0.461, 5000, 0.95)
    assert estimate.percent() == "43.5 % [41.0, 46.1]"
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1.0


def test_one_prompt_has_a_mean_and_says_that_it_has_no_interval():
    one = bootstrap_by_prompt([1.0, 2.0, 6.0], prompts=["a cat"] * 3, abstained=2)
    assert (one.value, one.n, one.has_interval) == (3.0, 3, False) and math.isnan(one.low) and math.isnan(one.high)
    assert str(one) == "3.000 (no interval: one prompt) (2 of 3 groups abstained)"
    assert bootstrap_by_prompt([0.25]).percent() == "25.0 % (no interval: one prompt)"
    assert bootstrap_by_prompt([1.0, 2.0]).has_interval


def test_a_few_resamples_without_a_value_are_left_out_and_counted():
    with pytest.warns(UserWarning, match=r"^5 of 100 resamples fail; the interval leaves .* too narrow: give more.$"):
        report_failed_resamples(5, 100, "fail", "give more")
    numerator, denominator = np.full(4, 2.0), np.array([1.0, 1.0, 1.0, 0.0])
    with pytest.warns(UserWarning, match=r"of 4000 resamples have 0 below the line of their ratio; the interval"):
        estimate = bootstrap_by_prompt(numerator, denominator, n_resamples=4000, seed=1)
    draws = np.random.default_rng(1).integers(4, size=(4000, 4))
    below = denominator[draws].sum(axis=1)
    expected = np.quantile(8 / below[below > 0], [0.025, 0.975])
    assert [estimate.low, estimate.high] == pytest.approx(expected) and estimate.value == pytest.approx(8 / 3)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(5, 4), "5 successes of 4: give 0 to n successes"),
        (lambda: wilson_interval(-0.5, 4), "-0.5 successes of 4"),
        (lambda: wilson_interval(0, 0), "0 successes of 0"),
        (lambda: wilson_interval(1, 2, confidence=0.0), "confidence is 0.0: give a number strictly between 0 and 1"),
        (lambda: checked_confidence(1), "confidence is 1: give"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], [1.0]), r"shape \(2,\) and denominator \(1,\): give one number per"),
        (lambda: bootstrap_by_prompt([[1.0, 2.0]]), r"shape \(1, 2\)"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], n_resamples=0), "n_resamples is 0: give 1 or more"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], prompts=["a"]), "prompts has 1 labels for 2 rows: give one for each"),
        (lambda: drawn_prompts(None, 1, 10, 0), "at least 2 different prompts, got 1: give more prompts"),
        (lambda: bootstrap_by_prompt([]), "0 groups have denominators that add up to 0: give at least one group"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], [0.0, 0.0]), "2 groups have denominators that add up to 0"),
        (lambda: bootstrap_by_prompt([1.0, math.nan]), r"group 1 \(from 0\) has nan / 1.0: give finite numbers"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], [1.0, math.inf]), r"group 1 \(from 0\) has 2.0 / inf"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], prompts=["a", math.nan]), r"prompts\[1\] is nan: give every row the"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], prompts=[None, "a"]), r"prompts\[0\] is None: give every row the"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], prompts=["a", pd.NA]), r"prompts\[1\] is <NA>: give every row the"),
        (lambda: bootstrap_by_prompt([1.0, 2.0], prompts=np.array([np.nan, 1.0])), r"prompts\[0\] is nan"),
        (
            lambda: bootstrap_by_prompt([1.0, 1.0], [0.0, 1.0]),
            r"\d+ of 2000 resamples have 0 below the line of their ratio: take a difference in place of a ratio, or",
        ),
        (lambda: report_failed_resamples(6, 100, "fail", "give more"), "^6 of 100 resamples fail: give more.$"),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()
