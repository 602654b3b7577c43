"""Agreement with choices: oracles (sklearn, scipy), laws (permutation, ties), coverage, and the text of errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, roc_auc_score

from hpslib.metrics.agreement import (
    chance_top1,
    constant_baseline,
    count_abstained,
    pairwise_accuracy,
    pairwise_agreement,
    pairwise_credit,
    position_scores,
    top1_accuracy,
    top1_credit,
)

NAN, INF = math.nan, math.inf


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2303)


def make_groups(rng, n=200, levels=None):
    """Ragged groups of 2-4 scores (whole numbers below `levels`, so with ties, or normal ones) and random choices."""
    sizes = rng.integers(2, 5, size=n)
    scores = [rng.normal(size=s) if levels is None else rng.integers(levels, size=s).astype(float) for s in sizes]
    return scores, rng.integers(0, sizes)


# --- oracles ---------------------------------------------------------------------------------------------------------


def test_top1_equals_sklearn_accuracy_without_ties(rng):
    scores, choices = make_groups(rng)
    expected = accuracy_score(choices, [int(np.argmax(s)) for s in scores])
    assert top1_accuracy(scores, choices).value == pytest.approx(expected)


def test_top1_credit_is_the_mean_of_random_tie_breaking(rng):
    scores, choices = make_groups(rng, n=30, levels=2)
    broken = [[np.lexsort((rng.random(len(s)), s))[-1] == c for s, c in zip(scores, choices)] for _ in range(4000)]
    np.testing.assert_allclose(top1_credit(scores, choices), np.mean(broken, axis=0), atol=0.04)


def test_pairwise_share_is_the_auc_of_each_group(rng):
    scores, choices = make_groups(rng, levels=3)
    credit, pairs = pairwise_credit(scores, choices)
    auc = [roc_auc_score(np.arange(len(s)) == c, s) for s, c in zip(scores, choices)]
    np.testing.assert_allclose(credit / pairs, auc)
    assert pairs.tolist() == [len(s) - 1 for s in scores]
    assert pairwise_accuracy(scores, choices).value == pytest.approx(np.mean(auc))
    assert pairwise_accuracy(scores, choices, average="micro").value == pytest.approx(np.average(auc, weights=pairs))


def test_paper_chance_of_hpd_v1():
    assert chance_top1([4] * 4737 + [3] * 166 + [2] * 97) == pytest.approx(0.2576, abs=5e-5)


def test_pairwise_agreement_counts_the_pairs_that_people_told_apart():
    """Group 1 has 3 ordered pairs, 2 of them alike; group 2 one, alike; group 3 none: 5/6 by groups, 3/4 by pairs."""
    scores, ranks = [[3.0, 1.0, 2.0], [1.0, 2.0], [5.0, 6.0]], [[1, 2, 3], [2, 1], [1, 1]]
    macro, micro = (pairwise_agreement(scores, ranks, average=average) for average in ("macro", "micro"))
    assert (macro.value, macro.n) == (pytest.approx(5 / 6), 2) and (micro.value, micro.n) == (3 / 4, 2)
    silent = pairwise_agreement([[NAN, 1.0, 2.0], *scores[1:]], ranks, ["a", "b", "c"])
    assert (silent.value, silent.abstained) == (pytest.approx((0.5 + 1) / 2), 1)


def test_pairwise_agreement_is_kendalls_tau_without_ties(rng):
    scores = [rng.normal(size=n) for n in rng.integers(2, 7, size=40)]
    ranks = [rng.permutation(len(s)) + 1 for s in scores]
    tau = [stats.kendalltau(s, -r).statistic for s, r in zip(scores, ranks)]
    assert pairwise_agreement(scores, ranks).value == pytest.approx((1 + np.mean(tau)) / 2)


@pytest.mark.parametrize(
    ("ranks", "prompts", "message"),
    [
        ([[1, 2]], None, "scores has 2 groups but ranks has 1: give one list of ranks each"),
        ([[1, 2], [1, 2, 3]], None, r"scores\[1\] has 2 images but ranks\[1\] has 3: give one rank each"),
        ([[1, 2], [1, NAN]], None, r"ranks\[1\] has a NaN: give every image a rank"),
        ([[1, 1], [1, 1]], None, "people ranked all images of every group alike: give at least one group"),
        ([[1, 2], [2, 1]], ["a"], "prompts has 1 labels for 2 groups: give one for each"),
    ],
)
def test_pairwise_agreement_refuses(ranks, prompts, message):
    with pytest.raises(ValueError, match=message):
        pairwise_agreement([[1.0, 2.0], [2.0, 1.0]], ranks, prompts)


# --- the one rule: ties share, NaN abstains --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -3.5, NAN, INF, -INF])
def test_a_scorer_that_says_nothing_gets_exactly_chance(rng, value):
    scores, choices = make_groups(rng)
    mute = [np.full(len(s), value) for s in scores]
    top1 = top1_accuracy(mute, choices)
    assert top1.value == pytest.approx(chance_top1([len(s) for s in scores]), abs=1e-12)
    assert pairwise_accuracy(mute, choices).value == pairwise_accuracy(mute, choices, average="micro").value == 0.5
    assert top1.abstained == count_abstained(mute) == (len(scores) if math.isnan(value) else 0)


def test_one_nan_silences_the_whole_group_even_when_it_would_help():
    scores, choices = [[9.0, NAN, 0.0], [9.0, 1.0, 0.0], [NAN, 1.0, 0.0]], [0, 0, 0]
    np.testing.assert_allclose(top1_credit(scores, choices), [1 / 3, 1, 1 / 3])
    np.testing.assert_allclose(pairwise_credit(scores, choices)[0], [1, 2, 1])
    assert "(2 of 3 groups abstained)" in top1_accuracy(scores, choices).percent()


def test_infinities_are_ordinary_values():
    assert top1_credit([[INF, 1.0], [-INF, 1.0], [INF, INF, 0.0]], [0, 0, 1]).tolist() == [1, 0, 0.5]
    assert pairwise_credit([[INF, INF, -INF]], [0])[0].tolist() == [1.5]


def test_always_last_scores_how_often_the_last_is_chosen(rng):
    scores, choices = make_groups(rng)
    sizes = [len(s) for s in scores]
    share = np.mean([c == n - 1 for c, n in zip(choices, sizes)])
    assert constant_baseline(sizes, choices).value == pytest.approx(share)
    assert constant_baseline(sizes, choices, "first").value == pytest.approx(np.mean(choices == 0))
    assert constant_baseline(sizes, choices) == top1_accuracy(position_scores(sizes), choices)


def test_a_position_that_a_group_lacks_is_an_abstention():
    baseline = constant_baseline([2, 3, 4], [0, 2, 0], position=2)
    assert baseline.value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert baseline.abstained == 1


def test_index_order_never_breaks_ties():
    scores = [[1.0, 1.0, 0.0]] * 3
    np.testing.assert_allclose(top1_credit(scores, [0, 1, 2]), [0.5, 0.5, 0])


# --- laws ------------------------------------------------------------------------------------------------------------


def permuted(rng, scores, choices):
    orders = [rng.permutation(len(s)) for s in scores]
    moved = [int(np.flatnonzero(order == c)[0]) for order, c in zip(orders, choices)]
    return [s[order] for s, order in zip(scores, orders)], moved


@pytest.mark.parametrize("levels", [None, 2])
def test_permuting_images_with_their_choice_changes_nothing(rng, levels):
    scores, choices = make_groups(rng, levels=levels)
    scores[3][0] = NAN
    again, moved = permuted(rng, scores, choices)
    assert top1_accuracy(scores, choices) == top1_accuracy(again, moved)
    assert pairwise_accuracy(scores, choices, average="micro") == pairwise_accuracy(again, moved, average="micro")


def test_only_the_order_within_a_group_counts(rng):
    scores, choices = make_groups(rng)
    other = [np.exp(s) * 7 + rng.normal() * 100 for s in scores]  # another scale for every prompt
    assert top1_accuracy(scores, choices) == top1_accuracy(other, choices)
    assert pairwise_accuracy(scores, choices) == pairwise_accuracy(other, choices)


def test_reversed_scores_give_the_complement_of_pairwise(rng):
    scores, choices = make_groups(rng, levels=3)
    forward, backward = (pairwise_accuracy([sign * s for s in scores], choices).value for sign in (1, -1))
    assert forward + backward == pytest.approx(1)


def test_pairs_are_two_ways_alike():
    scores, choices = [[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]], [1, 1, 0]
    assert top1_accuracy(scores, choices) == pairwise_accuracy(scores, choices)


def test_arrays_and_lists_are_the_same_to_it():
    scores = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert top1_accuracy(scores, np.array([2, 2])) == top1_accuracy(scores.tolist(), [2, 2])


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_is_seeded_and_keeps_no_global_state(rng):
    scores, choices = make_groups(rng)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = top1_accuracy(scores, choices, seed=3)
    assert first == top1_accuracy(scores, choices, seed=3)
    assert first == top1_accuracy(scores, choices, seed=np.random.default_rng(3))
    assert first != top1_accuracy(scores, choices, seed=4)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_the_interval_does_not_depend_on_the_chunks(rng, monkeypatch):
    scores, choices = make_groups(rng, n=50)
    whole = top1_accuracy(scores, choices, n_resamples=500)
    monkeypatch.setattr("hpslib.metrics.intervals._CELLS", 1000)
    assert top1_accuracy(scores, choices, n_resamples=500) == whole


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng):
    inside = 0
    for _ in range(200):
        hits = (rng.random(150) < 0.4).astype(float)
        estimate = top1_accuracy(np.stack([hits, 1 - hits], axis=1), np.zeros(150, dtype=int), n_resamples=400)
        inside += estimate.low <= 0.4 <= estimate.high
    assert 0.89 <= inside / 200 <= 0.99


def test_repeated_prompts_need_the_bootstrap_by_prompt(rng):
    """30 prompts x 10 groups, right or wrong together: only the interval by prompt covers the truth."""
    by_prompt, by_row, widths = 0, 0, []
    prompts = np.repeat([f"prompt {i}" for i in range(30)], 10)
    for _ in range(60):
        hits = np.repeat(rng.random(30) < 0.5, 10).astype(float)
        scores, choices = np.stack([hits, 1 - hits], axis=1), np.zeros(300, dtype=int)
        wide = top1_accuracy(scores, choices, prompts, n_resamples=300)
        narrow = top1_accuracy(scores, choices, n_resamples=300)
        assert wide.value == narrow.value
        by_prompt += wide.low <= 0.5 <= wide.high
        by_row += narrow.low <= 0.5 <= narrow.high
        widths.append((wide.high - wide.low) / (narrow.high - narrow.low))
    assert np.mean(widths) == pytest.approx(math.sqrt(10), rel=0.1)
    assert by_prompt >= 52 > 40 > by_row


def test_micro_weighs_the_resampled_pairs_not_the_groups(rng):
    """Groups of 2 always right, groups of 4 always wrong: the pooled share is 1/4 however many of each are drawn."""
    scores, choices = [[1.0, 0.0], [0.0, 1.0, 1.0, 1.0]] * 50, [0, 0] * 50
    prompts = [i // 2 for i in range(100)]  # one of each kind in every prompt
    micro = pairwise_accuracy(scores, choices, prompts, average="micro")
    macro = pairwise_accuracy(scores, choices, prompts)
    assert (micro.value, micro.low, micro.high) == (0.25, 0.25, 0.25)
    assert (macro.value, macro.low, macro.high) == (0.5, 0.5, 0.5)


def test_the_denominator_is_resampled_with_its_numerator(rng):
    """A perfect scorer is perfect in every resample, however many pairs or groups that resample happens to hold."""
    scores, _ = make_groups(rng, n=60)
    choices, prompts = [int(np.argmax(s)) for s in scores], np.sort(rng.integers(0, 12, size=60))
    for estimate in (
        top1_accuracy(scores, choices, prompts, n_resamples=200),
        pairwise_accuracy(scores, choices, prompts, n_resamples=200, average="micro"),
    ):
        assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


# --- faults: the text of errors --------------------------------------------------------------------------------------

TWO = [[1.0, 2.0], [2.0, 1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top1_credit([], []), "scores is empty"),
        (lambda: top1_credit(TWO, [0]), r"scores has 2 groups but choices has shape \(1,\)"),
        (lambda: top1_credit(TWO, [0, 2]), r"choices\[1\] is 2, but group 1 has images 0\.\.1"),
        (lambda: top1_credit(TWO, [0, -1]), r"choices\[1\] is -1"),
        (lambda: top1_credit(TWO, [0.0, 1.0]), "whole numbers"),
        (lambda: top1_credit(TWO, [True, False]), "whole numbers"),
        (lambda: pairwise_credit([[1.0, 2.0], [1.0]], [0, 0]), r"scores\[1\] has shape \(1,\)"),
        (lambda: top1_credit([[[1.0], [2.0]]], [0]), r"scores\[0\] has shape \(2, 1\)"),
        (lambda: top1_credit([["a", "b"]], [0]), r"scores\[0\] cannot be read as numbers"),
        (lambda: top1_accuracy(TWO, [0, 0], prompts=["x"]), "prompts has 1 labels for 2 rows: give one for each"),
        (lambda: top1_accuracy(TWO, [0, 0], prompts=["x", NAN]), r"prompts\[1\] is nan: give every row the label"),
        (lambda: pairwise_agreement(TWO, [[5, 2], [4, 3]]), r"only 0 % of the groups .*rankdata\(-ratings, method="),
        (lambda: pairwise_agreement(TWO, [[0, 1], [1, 2]]), r"ranks\[0\] begins at 0: give ranks from 1, the best"),
        (lambda: pairwise_agreement(TWO, [[1.5, 2.5], [2, 3]]), r"only 0 % of the groups"),
        (lambda: top1_accuracy(TWO, [0, 0], confidence=95), "strictly between 0 and 1"),
        (lambda: top1_accuracy(TWO, [0, 0], n_resamples=0), "n_resamples is 0: give 1 or more"),
        (lambda: pairwise_accuracy(TWO, [0, 0], average="mean"), '"macro" or "micro"'),
        (lambda: chance_top1([4, 1]), "give one whole number of 2 or more per group"),
        (lambda: chance_top1([]), "sizes is no list of the groups' sizes"),
        (lambda: position_scores([2, 2], "middle"), '"first", "last" or an index'),
        (lambda: position_scores([2, 2], -1), '"first", "last" or an index'),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_some_groups_without_an_image_of_rank_1_are_a_releases_own():
    scores, ranks = [[2.0, 1.0]] * 10, [[1, 2]] * 9 + [[2, 5]]
    assert pairwise_agreement(scores, ranks).value == 1.0
