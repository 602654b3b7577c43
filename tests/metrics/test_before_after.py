"""Before against after: oracles (scipy, by hand), laws (antisymmetry, pairing), coverage, and the text of errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpslib.metrics.before_after import (
    Outcome,
    comparison_table,
    majority_votes,
    mean_difference,
    rate_difference,
    relative_change,
    simulated_votes,
    win_rate,
)

NAN = float("nan")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7441)


# --- win rate --------------------------------------------------------------------------------------------------------


def test_win_rate_counts_wins_and_half_of_the_ties():
    assert win_rate([0, 0, 0, 1], [1, 1, 0, 0]).value == 2.5 / 4


def test_win_rate_is_the_scaled_rank_statistic_of_pairs(rng):
    before, after = rng.normal(size=300), rng.normal(0.4, 1, size=300)
    assert win_rate(before, after).value == np.mean(after > before)


def test_swapping_before_and_after_mirrors_the_estimate(rng):
    before, after = rng.integers(0, 4, 80), rng.integers(0, 4, 80)
    there, back = win_rate(before, after), win_rate(after, before)
    assert there.value + back.value == pytest.approx(1)
    assert (there.low + back.high, there.high + back.low) == pytest.approx((1, 1))


def test_identical_images_win_half_of_the_time(rng):
    scores = rng.normal(size=30)
    estimate = win_rate(scores, scores)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_pairs_within_the_margin_are_ties():
    assert win_rate([0.0, 0.0], [0.1, 5.0], tie_margin=0.5).value == 0.75


def test_nan_counts_half_and_is_reported():
    estimate = win_rate([NAN, 0, 0, 0], [9, NAN, 1, 1])
    assert estimate.value == 0.75
    assert estimate.abstained == 2
    assert "2 of 4 groups abstained" in str(estimate)


def test_infinities_are_ordinary_values():
    assert win_rate([-np.inf, np.inf, np.inf], [0.0, np.inf, 0.0]).value == 0.5


def test_repeated_prompts_widen_the_interval(rng):
    """Ten copies of each prompt's result carry no more information than one."""
    after = np.repeat(rng.normal(0.2, 1, size=40), 10)
    zeros, prompts = np.zeros(400), np.repeat(np.arange(40), 10)
    clustered, independent = win_rate(zeros, after, prompts), win_rate(zeros, after)
    assert clustered.value == independent.value
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_the_interval_covers_the_truth(rng):
    truth = stats.norm.cdf(0.3 / np.sqrt(2))
    hits = 0
    for k in range(150):
        estimate = win_rate(rng.normal(size=120), rng.normal(0.3, 1, size=120), n_resamples=300, seed=k)
        hits += estimate.low <= truth <= estimate.high
    assert 0.88 <= hits / 150 <= 0.99


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_a_difference_of_exactly_the_margin_is_a_tie_on_either_side(margin):
    """0.5 and 2 are exact in binary: +margin and -margin count half, the next number beyond wins or loses."""
    beyond = np.nextafter(margin, np.inf)
    credits = {change: win_rate([0, 0], [change] * 2, tie_margin=margin).value for change in (margin, -margin)}
    assert credits == {margin: 0.5, -margin: 0.5}
    assert win_rate([0, 0], [beyond] * 2, tie_margin=margin).value == 1
    assert win_rate([0, 0], [-beyond] * 2, tie_margin=margin).value == 0


def test_win_rate_is_reproducible_and_uses_its_seed(rng):
    before, after = rng.normal(size=(2, 50))
    assert win_rate(before, after, seed=3) == win_rate(before, after, seed=3)
    assert win_rate(before, after, seed=3) != win_rate(before, after, seed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1]), "before and after have shapes \(2,\) and \(1,\): give one number per pair"),
        (([], []), r"shapes \(0,\) and \(0,\)"),
        (([[1, 2]], [[1, 2]]), r"shapes \(1, 2\) and \(1, 2\): give one number per pair"),
        (([1, 2], [1, 2], None, -0.1), "tie_margin is -0.1: give 0 or more"),
        (([1, 2], [1, 2], None, NAN), "tie_margin is nan: give 0 or more"),
        (([1, 2], [1, 2], None, np.inf), "tie_margin is inf: give 0 or more"),
        (([1, 2], [1, 2], ["a", NAN]), r"prompts\[1\] is nan: give every row the label of its prompt"),
        (([1, 2], [1, 2], ["a"]), "prompts has 1 labels for 2 rows: give one for each"),
    ],
)
def test_win_rate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        win_rate(*arguments)


# --- differences -----------------------------------------------------------------------------------------------------


def test_mean_difference_agrees_with_the_paired_t_interval(rng):
    before = rng.normal(20, 3, size=400)
    after = before + rng.normal(0.5, 1, size=400)
    estimate = mean_difference(before, after, n_resamples=4000)
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert estimate.value == pytest.approx(np.mean(after) - np.mean(before))
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_pairing_is_what_makes_it_sharp(rng):
    before = rng.normal(20, 3, size=200)
    after = before + 0.5
    assert (mean_difference(before, after).low, mean_difference(before, after).high) == pytest.approx((0.5, 0.5))
    shuffled = mean_difference(before, rng.permutation(after))
    assert shuffled.value == pytest.approx(0.5)
    assert shuffled.high - shuffled.low > 0.5


def test_rate_difference_and_relative_change_by_hand():
    before = np.array([True] * 40 + [False] * 60)
    after = np.array([True] * 30 + [False] * 70)
    assert rate_difference(before, after).value == pytest.approx(-0.10)
    change = relative_change(before, after)
    assert change.value == pytest.approx(-0.25)
    assert change.low < -0.25 < change.high < 0


def test_mean_difference_refuses_nan_and_says_where():
    with pytest.raises(ValueError, match=r"pair 1 holds a number that is not finite \(so do 1 of 3\)"):
        mean_difference([1.0, NAN, 2.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("function", [rate_difference, relative_change])
def test_rates_refuse_probabilities(function):
    with pytest.raises(ValueError, match="before has dtype float64: give True or False for each pair"):
        function([0.2, 0.9], [True, False])


def test_relative_change_refuses_a_ratio_of_almost_nothing():
    with pytest.raises(ValueError, match="only 1 of 50 are True before: use rate_difference"):
        relative_change([True] + [False] * 49, [False] * 50)


def test_relative_change_refuses_resamples_without_any_true():
    before = [True] * 5 + [False] * 60
    with pytest.raises(ValueError, match=r"\d{3} of 2000 resamples have 0 below the line of their ratio: take a diff"):
        relative_change(before, before, prompts=[0] * 5 + [1] * 60)


def test_one_prompt_gives_the_change_without_an_interval():
    before, after = [True] * 8 + [False] * 2, [True] * 6 + [False] * 4
    for function, expected in ((relative_change, -0.25), (rate_difference, -0.2), (win_rate, 0.4)):
        told = function(before, after, ["a cat"] * 10)
        assert told.value == pytest.approx(expected) and not told.has_interval
    table = comparison_table({"base": {"hps": [1.0, 2.0]}, "new": {"hps": [2.0, 4.0]}}, "base", ["a", "a"], "hps")
    assert table.loc["new", "hps_diff"] == 1.5 and np.isnan(table.loc["new", "win_rate_low"])


# --- votes -----------------------------------------------------------------------------------------------------------


def test_the_papers_study_is_reproduced_by_its_counts():
    votes = np.concatenate([np.full((74, 20), 1), np.full((22, 20), -1), np.tile([1, -1], (4, 10))])
    outcome = majority_votes(votes)
    assert outcome == Outcome(74, 22, 4)
    assert outcome.of_all().value == 0.74
    assert outcome.of_decided().value == pytest.approx(74 / 96)
    assert outcome.of_decided().n == 96
    assert "after wins 74, before wins 22, 4 ties" in str(outcome)


def test_majority_ignores_the_order_of_raters_and_flips_with_the_sign(rng):
    votes = rng.integers(-1, 2, size=(60, 9))
    outcome = majority_votes(votes)
    assert majority_votes(rng.permuted(votes, axis=1)) == outcome
    assert majority_votes(-votes) == Outcome(outcome.losses, outcome.wins, outcome.ties)
    assert outcome.pairs == 60


def test_small_integer_votes_do_not_overflow():
    assert majority_votes(np.ones((1, 300), dtype=np.int8)) == Outcome(1, 0, 0)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([1, -1], r"votes has shape \(2,\): give one row per pair and one column per rater"),
        (np.empty((0, 3)), "votes has shape"),
        ([[1, 2]], r"a vote is 2: give \+1 \(after\), -1 \(before\) or 0"),
        ([[1.0, NAN]], "a vote is nan"),
    ],
)
def test_majority_refuses(votes, message):
    with pytest.raises(ValueError, match=message):
        majority_votes(votes)


def test_all_ties_leave_nothing_decided():
    outcome = majority_votes([[1, -1], [0, 0]])
    assert outcome.of_all().value == 0
    with pytest.raises(ValueError, match="all 2 pairs are tied, none is decided: collect more votes"):
        outcome.of_decided()


def test_simulated_votes_follow_the_logistic_law():
    difference, noise = 0.6, 0.8
    votes = simulated_votes(np.zeros((200, 100)), np.full((200, 100), difference), noise, seed=0)
    assert set(np.unique(votes)) == {-1, 1}
    assert (votes == 1).mean() == pytest.approx(1 / (1 + np.exp(-difference / noise)), abs=0.01)


def test_simulated_votes_use_their_seed_only():
    zeros = np.zeros((5, 20))
    np.testing.assert_array_equal(simulated_votes(zeros, zeros, 1.0, 3), simulated_votes(zeros, zeros, 1.0, 3))
    assert (simulated_votes(zeros, zeros, 1.0, 3) != simulated_votes(zeros, zeros, 1.0, 4)).any()


@pytest.mark.parametrize(
    ("before", "after", "noise", "message"),
    [
        ([0.0], [0.0], 1.0, r"utilities have shapes \(1,\) and \(1,\): give \(pairs, raters\) for both"),
        ([[0.0, 1.0]], [[0.0]], 1.0, r"shapes \(1, 2\) and \(1, 1\)"),
        ([[NAN]], [[0.0]], 1.0, "a utility is not finite"),
        ([[0.0]], [[0.0]], 0.0, "noise is 0.0: give a scale above 0"),
        ([[0.0]], [[0.0]], NAN, "noise is nan: give a scale above 0"),
        ([[0.0]], [[0.0]], np.inf, "noise is inf: give a scale above 0"),
    ],
)
def test_simulated_votes_refuse(before, after, noise, message):
    with pytest.raises(ValueError, match=message):
        simulated_votes(before, after, noise, seed=0)


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.fixture
def conditions(rng) -> dict[str, dict[str, np.ndarray]]:
    hps = rng.normal(20, 1, size=60)
    flawed = rng.random(60) < 0.5
    return {
        "base": {"hps": hps, "flawed": flawed},
        "adapted": {"hps": hps + rng.normal(0.5, 0.4, size=60), "flawed": flawed & (rng.random(60) < 0.6)},
    }


def test_table_holds_what_the_single_functions_say(conditions):
    prompts = np.repeat(np.arange(20), 3)
    table = comparison_table(conditions, "base", prompts, utility="hps", seed=5)
    base, adapted = conditions["base"], conditions["adapted"]
    expected = rate_difference(base["flawed"], adapted["flawed"], prompts, seed=5)
    row = table.loc["adapted"]
    assert (row["flawed_diff"], row["flawed_diff_low"], row["flawed_diff_high"]) == (
        expected.value,
        expected.low,
        expected.high,
    )
    won = win_rate(base["hps"], adapted["hps"], prompts, seed=5)
    assert (row["win_rate"], row["win_rate_low"], row["win_rate_high"]) == (won.value, won.low, won.high)
    assert row["flawed"] == adapted["flawed"].mean()
    assert list(table.index) == ["base", "adapted"]
    assert table["pairs"].tolist() == [60, 60]


def test_the_base_differs_from_itself_by_nothing(conditions):
    row = comparison_table(conditions, "base", utility="hps").loc["base"]
    assert row[["hps_diff", "hps_diff_low", "hps_diff_high"]].tolist() == [0, 0, 0]
    assert row["win_rate"] == 0.5


def test_without_a_utility_there_is_no_win_rate(conditions):
    assert "win_rate" not in comparison_table(conditions, "base").columns


def test_table_refusals_name_condition_and_measure(conditions):
    with pytest.raises(ValueError, match="the base 'bse' is no condition: name one of base, adapted"):
        comparison_table(conditions, "bse")
    with pytest.raises(ValueError, match="the utility 'eye' is no measure: name one of hps, flawed"):
        comparison_table(conditions, "base", utility="eye")
    short = conditions | {"short": {"hps": np.ones(3), "flawed": np.ones(3, dtype=bool)}}
    with pytest.raises(ValueError, match="condition 'short', measure 'hps', before and after have shapes"):
        comparison_table(short, "base")
    fewer = conditions | {"fewer": {"hps": np.ones(60)}}
    with pytest.raises(ValueError, match="condition 'fewer' has the measures hps, but 'base' has hps, flawed"):
        comparison_table(fewer, "base")
