"""hpslib.metrics.comparison: oracles (scipy, the definition of tau-b), pairing, the noise ceiling, and the text of
errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hpslib.metrics.agreement import pairwise_accuracy, top1_accuracy
from hpslib.metrics.comparison import (
    agreement_table,
    agreement_with,
    noise_ceiling,
    paired_difference,
    vote_share_correlation,
)

NAN, INF = math.nan, math.inf
TWO = [[1.0, 2.0], [2.0, 1.0]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2303)


def make_groups(rng, n=200, levels=None):
    """Ragged groups of 2-4 scores (whole numbers below `levels`, so with ties, or normal ones) and random choices."""
    sizes = rng.integers(2, 5, size=n)
    scores = [rng.normal(size=s) if levels is None else rng.integers(levels, size=s).astype(float) for s in sizes]
    return scores, rng.integers(0, sizes)


def tau_b(x, y):
    """Kendall 1945, straight from the definition."""
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    norm = sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs)
    return sum(a * b for a, b in pairs) / math.sqrt(norm) if norm else 0.0


def test_vote_correlation_is_the_mean_tau_b(rng):
    scores, _ = make_groups(rng, n=60, levels=3)
    votes = [rng.integers(0, 3, size=len(s)) for s in scores]
    result = vote_share_correlation(scores, votes)
    assert result.value == pytest.approx(np.mean([tau_b(s, v) for s, v in zip(scores, votes)]))
    assert result.abstained == sum(len(set(s)) == 1 or len(set(v)) == 1 for s, v in zip(scores, votes)) > 0


def test_vote_correlation_reaches_its_ends_and_counts_the_mute_groups():
    votes = [[0, 1, 5], [3, 1], [2, 2], [1, 0]]
    same = vote_share_correlation([[-INF, 0.0, INF], [3, 1], [2, 1], [NAN, 1.0]], votes)
    assert (same.value, same.abstained) == (0.5, 2)  # two groups at 1, two at 0
    assert vote_share_correlation([[3, 2, 1], [1, 3]], votes[:2]).value == -1.0


def test_the_bootstrap_agrees_with_scipys_on_separate_rows(rng):
    credit = rng.integers(0, 2, size=300).astype(float)
    ours = paired_difference(credit, np.zeros(300), n_resamples=4000)
    theirs = stats.bootstrap((credit,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_a_pairing_sees_what_two_intervals_miss(rng):
    hard = rng.random(400)
    a = (hard < 0.55).astype(float)
    b = (hard < 0.50).astype(float)  # right only where A is right
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx(a.mean() - b.mean())
    assert difference.low > 0
    alone_a, alone_b = paired_difference(a, 0 * a), paired_difference(b, 0 * b)
    assert alone_b.high > alone_a.low
    mirrored = paired_difference(b, a)
    assert (mirrored.low, mirrored.high) == pytest.approx((-difference.high, -difference.low))


def test_no_difference_from_oneself(rng):
    a = rng.random(20)
    assert (paired_difference(a, a).low, paired_difference(a, a).high) == (0, 0)


def test_the_noise_ceiling_is_what_simulated_people_do(rng):
    p = rng.dirichlet([1.0, 1.0, 1.0], size=4000)
    first, second = ([int(rng.choice(3, p=row)) for row in p] for _ in range(2))
    ceiling = noise_ceiling(p, first)
    assert ceiling.best_guess == pytest.approx(p.max(axis=1).mean())
    assert ceiling.observed.low <= ceiling.best_guess <= ceiling.observed.high
    assert ceiling.second_draw == pytest.approx(np.mean(np.array(first) == second), abs=0.02)
    assert ceiling.second_draw < ceiling.best_guess


def test_the_noise_ceiling_of_certainty_and_of_a_coin():
    assert noise_ceiling([[0, 1.0], [1.0, 0]])[:2] == (1.0, 1.0)
    assert noise_ceiling([[0.25] * 4])[:2] == (0.25, 0.25)


def test_the_table_says_what_the_functions_say(rng):
    scores, choices = make_groups(rng)
    silent = [np.full(len(s), NAN) for s in scores]
    prompts = [i % 90 for i in range(200)]
    table = agreement_table({"normal": scores, "silent": silent}, choices, prompts, n_resamples=300, seed=5)
    assert table.index.tolist() == ["normal", "silent", "chance"]
    top1 = top1_accuracy(scores, choices, prompts, n_resamples=300, seed=5)
    micro = pairwise_accuracy(scores, choices, prompts, n_resamples=300, seed=5, average="micro")
    row = table.loc["normal"]
    assert (row.top1, row.top1_low, row.top1_high) == (top1.value, top1.low, top1.high)
    assert (row.pairwise_micro, row.pairwise_micro_low, row.pairwise_micro_high) == (micro.value, micro.low, micro.high)
    assert row.pairwise_macro == pairwise_accuracy(scores, choices).value
    assert table.abstained.tolist() == [0, 200, 0]
    assert (table.groups == 200).all()
    assert table.loc["silent", "top1"] == pytest.approx(table.loc["chance", "top1"])
    assert table.loc["chance", ["pairwise_macro", "pairwise_micro"]].tolist() == [0.5, 0.5]


def test_scorers_of_one_table_share_their_resamples_even_from_a_generator(rng):
    scores, choices = make_groups(rng)
    table = agreement_table({"a": scores, "b": scores}, choices, n_resamples=100, seed=rng)
    assert table.loc["a"].equals(table.loc["b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1, 0], [1]), r"credits have shapes \(2,\) and \(1,\): give one number per group"),
        (lambda: paired_difference([1, NAN], [1, 0]), r"a credit is not in \[0, 1\]"),
        (lambda: paired_difference([3, 0], [1, 0]), "divide the sums by the number of pairs"),
        (
            lambda: vote_share_correlation(TWO, [[1, 2]]),
            "scores and votes differ in groups or their sizes: give one count per score",
        ),
        (
            lambda: vote_share_correlation(TWO, [[1, 2], [-1, 2]]),
            r"votes\[1\] is \[-1.0, 2.0\]: give finite counts from 0",
        ),
        (lambda: noise_ceiling([[0.5, 0.6]]), r"probabilities\[0\] is \[0.5, 0.6\]: give numbers from 0 that sum to 1"),
        (lambda: noise_ceiling([[1.0, NAN]]), r"probabilities\[0\]"),
        (lambda: agreement_table({}, []), "scores is empty"),
        (
            lambda: agreement_table({"a": TWO, "b": [[1, 2, 3], [1, 2]]}, [0, 0]),
            "'a' and 'b' differ in groups or their sizes: score the same images",
        ),
        (lambda: agreement_table({"chance": TWO}, [0, 0]), "rename that scorer"),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- against a whole set ---------------------------------------------------------------------------------------------


def ranked(rng: np.random.Generator, groups: int = 30, size: int = 5):
    """A set of rankings without images, and scores that share something with them."""
    import datasets

    from hpslib.data.rankings import choice_from_ranks, ranked_features

    rows, scores = [], []
    for k in range(groups):
        truth = rng.normal(size=size)
        ranks = stats.rankdata(-truth, method="min").astype(int).tolist()
        scores.append(truth + rng.normal(0, 1, size=size))
        images = [{"bytes": None, "path": f"{k}_{j}.png"} for j in range(size)]
        row = {
            "id": str(k),
            "prompt": f"prompt {k % 20}",
            "images": images,
            "human_preference": choice_from_ranks(ranks),
        }
        rows.append({**row, "user_hash": "", "contain_name": False, "source": "x", "ranks": ranks})
    return datasets.Dataset.from_list(rows, features=ranked_features()), scores


def test_agreement_with_rankings_says_whose_average_it_is_and_correlates(rng):
    dataset, scores = ranked(rng)
    numbers, lines = agreement_with(np.concatenate(scores), dataset)
    ranks = [np.array(row) for row in dataset["ranks"]]
    assert numbers["kendall_corpus"][0] == pytest.approx(
        stats.kendalltau(np.concatenate(scores), -np.concatenate(ranks)).statistic
    )
    assert numbers["spearman_corpus"][0] == pytest.approx(
        stats.spearmanr(np.concatenate(scores), -np.concatenate(ranks)).statistic
    )
    within = np.mean([stats.kendalltau(one, -order).statistic for one, order in zip(scores, ranks)])
    assert numbers["kendall_within"][0] == pytest.approx(within)
    for name in ("kendall_within", "kendall_corpus", "spearman_corpus", "pairwise_macro"):
        value, low, high = numbers[name]
        assert low < value < high
    text = "\n".join(lines)
    assert "macro (every prompt counts the same, as HPSv2's authors count)" in text
    assert "micro (every pair counts the same, as ImageReward's authors count)" in text
    assert "Spearman's rho over all images of all prompts" in text


def test_micro_is_the_count_of_imagereward_s_test_script(rng):
    """Its ``acc`` adds up right and compared pairs over all prompts and divides once."""
    dataset, scores = ranked(rng)
    dataset = dataset.map(lambda row, k: {"ranks": row["ranks"] if k % 2 else [1, 2, 2, 2, 2]}, with_indices=True)
    right = total = 0
    for one, order in zip(scores, dataset["ranks"]):
        pairs = [(i, j) for i in range(5) for j in range(5) if order[i] < order[j]]
        total, right = total + len(pairs), right + sum(one[i] > one[j] for i, j in pairs)
    numbers, _ = agreement_with(np.concatenate(scores), dataset)
    assert numbers["pairwise_micro"][0] == pytest.approx(right / total) != numbers["pairwise_macro"][0]


def test_agreement_with_choices_has_no_correlation_and_nan_says_why(rng):
    dataset, scores = ranked(rng)
    numbers, _ = agreement_with(np.concatenate(scores), dataset.remove_columns("ranks"))
    assert "kendall_corpus" not in numbers and "top1" in numbers
    silent = np.concatenate(scores)
    silent[3] = np.nan
    numbers, lines = agreement_with(silent, dataset)
    assert "kendall_corpus" not in numbers
    assert lines[-1] == "No correlation: 1 groups have a score that is not a number."


def test_agreement_with_one_prompt_has_values_and_no_interval(rng):
    dataset, scores = ranked(rng, groups=1)
    numbers, lines = agreement_with(scores[0], dataset)
    assert np.isnan(numbers["top1"][1]) and numbers["pairwise_macro"][0] == numbers["pairwise_micro"][0]
    assert any("no interval: one prompt" in line for line in lines)
