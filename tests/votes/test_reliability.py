"""Agreement among raters and within one: oracles (published tables, sklearn, by hand), laws, and the text of errors."""

from __future__ import annotations

import doctest
import warnings
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

import hpslib.votes.reliability as module
from hpslib.metrics.comparison import noise_ceiling
from hpslib.metrics.positions import position_bias
from hpslib.votes.designs import paired_design
from hpslib.votes.reliability import (
    attention_check,
    choice_agreement,
    fleiss_kappa,
    krippendorff_alpha,
    self_consistency,
)

NAN = np.nan
# Fleiss (1971): 14 raters put 10 subjects into 5 categories, kappa 0.210 (as on the page "Fleiss' kappa" of Wikipedia).
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
# Krippendorff (2011), example C: four observers, twelve units, missing data; nominal 0.743, ordinal 0.815.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 6


def make_votes(rng: np.random.Generator, items: int = 60, raters: int = 5, faithful: float = 0.6) -> np.ndarray:
    """Every rater gives the item's own answer of 0..2 with chance `faithful`, otherwise any of the three."""
    truth, guess = rng.integers(3, size=(items, 1)), rng.integers(3, size=(items, raters))
    return np.where(rng.random((items, raters)) < faithful, truth, guess)


# --- kappa and alpha --------------------------------------------------------------------------------------------------


def test_kappa_of_fleiss_own_table(rng: np.random.Generator) -> None:
    votes = np.array([np.repeat(np.arange(5), row) for row in FLEISS])
    estimate = fleiss_kappa(rng.permuted(votes, axis=1), n_resamples=200)
    assert estimate.value == pytest.approx(0.210, abs=5e-4)
    assert estimate.low < 0.21 < estimate.high and estimate.n == 10


def test_kappa_is_its_formula(rng: np.random.Generator) -> None:
    votes = make_votes(rng)
    agree = np.mean([[a == b for a, b in combinations(row, 2)] for row in votes])
    expected = sum(np.mean(votes == answer) ** 2 for answer in range(3))
    assert fleiss_kappa(votes, n_resamples=50).value == pytest.approx((agree - expected) / (1 - expected))


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_krippendorffs_own_table(level: str, expected: float) -> None:
    with pytest.warns(
        UserWarning, match="1 of 12 items have fewer than two votes and say nothing on agreement: collect more"
    ):
        estimate = krippendorff_alpha(KRIPPENDORFF, level, n_resamples=200)
    assert estimate.value == pytest.approx(expected, abs=1e-3)
    assert estimate.low < estimate.value < estimate.high and estimate.n == 11


def test_two_raters_without_gaps_come_close_to_cohens_kappa(rng: np.random.Generator) -> None:
    votes = make_votes(rng, items=4000, raters=2)
    cohen = cohen_kappa_score(*votes.T)
    assert fleiss_kappa(votes, n_resamples=20).value == pytest.approx(cohen, abs=1e-3)
    assert krippendorff_alpha(votes, n_resamples=20).value == pytest.approx(cohen, abs=1e-3)


def test_minus_one_is_missing_only_when_said_so(rng: np.random.Generator) -> None:
    votes = make_votes(rng).astype(float)
    votes[rng.random(votes.shape) < 0.2] = NAN
    marked = np.where(np.isnan(votes), -1, votes).astype(int)
    assert krippendorff_alpha(marked, missing=-1, n_resamples=50) == krippendorff_alpha(votes, n_resamples=50)
    with pytest.raises(
        ValueError, match="if that means 'before', add 1 to all votes, and if it means no vote, pass missing"
    ):
        krippendorff_alpha(marked)
    with pytest.raises(ValueError, match=r"if it means no vote, use krippendorff_alpha\(votes, missing=-1\)"):
        fleiss_kappa(marked)


def test_raters_who_guess_agree_by_luck_only_and_equal_raters_fully(rng: np.random.Generator) -> None:
    guesses = rng.choice(3, p=[0.7, 0.2, 0.1], size=(3000, 4))
    same = np.repeat(rng.integers(3, size=(30, 1)), 4, axis=1)
    for measure in (fleiss_kappa, krippendorff_alpha):
        assert measure(guesses, n_resamples=20).value == pytest.approx(0, abs=0.03)
        assert str(measure(same, n_resamples=50)) == "1.000 [1.000, 1.000]"


@pytest.mark.parametrize("measure", [fleiss_kappa, krippendorff_alpha])
def test_neither_raters_order_nor_names_of_answers_matter(rng: np.random.Generator, measure) -> None:
    votes = make_votes(rng)
    estimate = measure(votes, n_resamples=50)
    assert measure(rng.permuted(votes, axis=1), n_resamples=50) == estimate
    assert measure(np.array([7, 3, 5])[votes], n_resamples=50).value == pytest.approx(estimate.value)


def test_ordinal_alpha_forgives_neighbours_and_nominal_does_not(rng: np.random.Generator) -> None:
    truth = rng.integers(1, 5, size=(80, 1))
    votes = truth + rng.integers(-1, 2, size=(80, 3))
    nominal, ordinal = (krippendorff_alpha(votes, level, n_resamples=20).value for level in ("nominal", "ordinal"))
    assert ordinal > nominal + 0.2
    shuffled = np.array([4, 0, 5, 2, 1, 3])[votes]  # new names keep nominal alpha and break the order
    assert krippendorff_alpha(shuffled, "nominal", n_resamples=20).value == pytest.approx(nominal)
    assert krippendorff_alpha(shuffled, "ordinal", n_resamples=20).value < ordinal - 0.2


def test_the_interval_covers_the_truth(rng: np.random.Generator) -> None:
    """Each answer is the item's own with chance 0.6, so two raters agree beyond luck with chance 0.36."""
    hits = 0
    for k in range(100):
        estimate = fleiss_kappa(make_votes(rng, items=100), n_resamples=200, seed=k)
        hits += estimate.low <= 0.36 <= estimate.high
    assert 0.87 <= hits / 100 <= 0.99


@pytest.mark.parametrize("measure", [fleiss_kappa, krippendorff_alpha])
def test_copies_of_an_item_under_one_prompt_do_not_narrow_the_interval(rng: np.random.Generator, measure) -> None:
    votes = make_votes(rng, items=30)
    once = measure(votes, n_resamples=100)
    four = measure(np.repeat(votes, 4, axis=0), prompts=np.repeat(np.arange(30), 4).tolist(), n_resamples=100)
    free = measure(np.repeat(votes, 4, axis=0), n_resamples=100)
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.02)
    assert free.high - free.low < 0.7 * (once.high - once.low)


def test_intervals_depend_on_the_seed_only(rng: np.random.Generator) -> None:
    votes = make_votes(rng)
    assert fleiss_kappa(votes, n_resamples=50, seed=1) == fleiss_kappa(votes, n_resamples=50, seed=1)
    assert fleiss_kappa(votes, n_resamples=50, seed=1) != fleiss_kappa(votes, n_resamples=50, seed=2)


def test_alpha_is_the_packages(rng: np.random.Generator) -> None:
    votes = make_votes(rng).astype(float)
    votes[:, 2:][rng.random((60, 3)) < 0.5] = NAN
    expected = krippendorff.alpha(votes.T, level_of_measurement="ordinal")
    assert krippendorff_alpha(votes, "ordinal", n_resamples=20).value == pytest.approx(expected)


# --- which image ------------------------------------------------------------------------------------------------------


def test_choice_agreement_is_the_share_of_agreeing_pairs_corrected_group_by_group(rng: np.random.Generator) -> None:
    sizes = rng.integers(2, 5, size=50)
    votes = rng.integers(0, sizes[:, None], size=(50, 6))
    votes[rng.random(votes.shape) < 0.3] = -1
    votes[:, :2] = np.abs(votes[:, :2])  # so that each group keeps two votes
    votes = np.minimum(votes, sizes[:, None] - 1)
    shares = np.array([np.mean([a == b for a, b in combinations(row[row >= 0], 2)]) for row in votes])
    told = choice_agreement(votes, sizes, n_resamples=50)
    assert told.observed.value == pytest.approx(shares.mean())
    assert told.chance == pytest.approx(np.mean(1 / sizes))
    assert told.corrected.value == pytest.approx((shares.mean() - told.chance) / (1 - told.chance))
    assert choice_agreement(np.where(votes < 0, NAN, votes), sizes, n_resamples=50) == told


def test_luck_is_removed_for_groups_of_different_sizes_where_kappa_is_misled(rng: np.random.Generator) -> None:
    """Raters who guess, in groups of 2 and of 4: kappa takes the sizes for agreement."""
    sizes = np.repeat([2, 4], 2000)
    votes = rng.integers(0, sizes[:, None], size=(4000, 4))
    told = choice_agreement(votes, sizes, n_resamples=100)
    assert told.corrected.low <= 0 <= told.corrected.high and told.observed.value == pytest.approx(3 / 8, abs=0.01)
    assert fleiss_kappa(votes, n_resamples=20).low > 0.05


def test_choice_agreement_estimates_the_second_draw_of_known_raters(rng: np.random.Generator) -> None:
    probabilities = [rng.dirichlet(np.ones(n)) for n in rng.integers(2, 5, size=1500)]
    votes = np.array([rng.choice(len(p), p=p, size=5) for p in probabilities])
    told = choice_agreement(votes, [len(p) for p in probabilities], n_resamples=50)
    assert told.observed.value == pytest.approx(noise_ceiling(probabilities).second_draw, abs=0.02)


def test_full_agreement_on_one_index_is_defined_here_and_refused_by_kappa() -> None:
    told = choice_agreement(np.zeros((5, 3), dtype=int), [2, 3, 4, 2, 2])
    assert told.observed.value == told.corrected.value == 1
    assert (told.corrected.low, told.corrected.high) == pytest.approx((1, 1))  # whatever sizes a resample holds
    for measure, name in ((fleiss_kappa, "kappa"), (krippendorff_alpha, "alpha")):
        with pytest.raises(
            ValueError, match=rf"all votes are 0, so {name} is undefined \(0 / 0\): report the agreement"
        ):
            measure(np.zeros((5, 3), dtype=int))


def test_groups_with_one_vote_are_counted_in_a_warning_and_leave_their_prompt(rng: np.random.Generator) -> None:
    votes, sizes, prompts = [[0, 1, 0], [1, -1, -1], [1, 1, -1]], [2, 4, 2], ["a", "b", "c"]
    with pytest.warns(UserWarning, match="1 of 3 items have fewer than two votes"):
        told = choice_agreement(votes, sizes, prompts, n_resamples=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert told == choice_agreement([votes[0], votes[2]], [2, 2], ["a", "c"], n_resamples=20)
    assert told.observed.n == 2 and told.chance == 0.5


def test_a_generator_gives_both_intervals_the_same_resamples(rng: np.random.Generator) -> None:
    votes = rng.integers(2, size=(40, 3))
    told = choice_agreement(votes, [2] * 40, seed=np.random.default_rng(8), n_resamples=50)
    assert told.corrected.low == pytest.approx(2 * told.observed.low - 1)


# --- one rater --------------------------------------------------------------------------------------------------------


def test_self_consistency_has_wilsons_interval_and_the_chance_of_its_sizes() -> None:
    first, repeat = [0, 1, 2, 3, 1, 0], [0, 1, 2, 0, 0, 0]
    told = self_consistency(first, repeat, [2, 2, 4, 4, 2, 3], confidence=0.9)
    theirs = stats.binomtest(4, 6).proportion_ci(0.9, method="wilson")
    assert (told.share.value, told.share.low, told.share.high) == pytest.approx((4 / 6, theirs.low, theirs.high))
    assert told.chance == pytest.approx((3 / 2 + 2 / 4 + 1 / 3) / 6)


def test_someone_who_always_takes_the_left_contradicts_every_mirrored_repeat() -> None:
    rows = paired_design([f"a cat {k}" for k in range(40)], range(40), repeats=0.25, seed=0)
    chosen = {row.id: ("before", "after").index(row.models[0]) for row in rows}
    repeats = [row for row in rows if row.kind == "repeat"]
    told = self_consistency([chosen[row.repeat_of] for row in repeats], [chosen[row.id] for row in repeats])
    assert told.share.value == 0 and told.share.high < told.chance
    assert position_bias([0] * len(rows), [2] * len(rows)).p_value < 1e-6


def test_checks_that_were_not_answered_have_failed() -> None:
    told = attention_check([1, 0, -1, 2], [1, 1, 0, 2])
    assert (told.passed, told.failed, told.which) == (2, 2, (1, 2))
    assert attention_check([0], [0]).which == ()


# --- refusals ---------------------------------------------------------------------------------------------------------

TWO = [[0, 1], [1, 1]]


def test_one_prompt_gives_agreement_without_an_interval() -> None:
    votes = [[0, 0, 1], [1, 1, 1], [0, 0, 0]]
    for told in (fleiss_kappa(votes, ["a"] * 3), choice_agreement(votes, [2, 2, 2], ["a"] * 3).observed):
        assert not told.has_interval and "no interval: one prompt" in str(told)
    assert fleiss_kappa(votes, ["a"] * 3).value == fleiss_kappa(votes * 9).value


def test_a_few_resamples_of_one_answer_are_left_out_and_counted(rng: np.random.Generator) -> None:
    votes = [[0, 0]] * 17 + [[1, 1]] * 3
    with pytest.warns(UserWarning, match=r"^\d+ of 400 resamples hold one answer only, where kappa .*; the int"):
        estimate = fleiss_kappa(votes, n_resamples=400)
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fleiss_kappa([0, 1]), r"votes has shape \(2,\): give one row per item and one column per rater"),
        (
            lambda: fleiss_kappa([[0], [1]]),
            "votes has one rater only, who can agree with nobody: ask another, or use self_consistency",
        ),
        (lambda: fleiss_kappa([[0, 1]]), "votes has one item only, over which nothing can be resampled"),
        (lambda: fleiss_kappa([[0, 0.5], [1, 1]]), "a vote is 0.5: give whole numbers from 0"),
        (lambda: fleiss_kappa([[0, -2], [1, 1]]), "a vote is -2: give whole numbers from 0"),
        (lambda: fleiss_kappa([[0, np.inf], [1, 1]]), "a vote is inf: give whole numbers from 0"),
        (lambda: fleiss_kappa([[0, NAN], [1, 1]]), "1 of 4 votes are missing, .*: use krippendorff_alpha"),
        (lambda: fleiss_kappa(TWO, ["a"]), "prompts has 1 labels for 2 items: give one for each"),
        (lambda: fleiss_kappa(TWO, ["a", NAN]), r"prompts\[1\] is nan: give every row the label of its prompt"),
        (lambda: fleiss_kappa(TWO, confidence=1.0), "confidence is 1.0: give a number strictly between 0 and 1"),
        (
            lambda: fleiss_kappa(TWO),
            r"\d+ of 2000 resamples hold one answer only, where kappa is undefined: collect more",
        ),
        (lambda: krippendorff_alpha([[0, NAN], [1, 1]]), "1 of 2 items have two votes or more: collect more votes"),
        (lambda: krippendorff_alpha(TWO, "interval"), 'level is \'interval\': choose "nominal" or "ordinal"'),
        (lambda: krippendorff_alpha(TWO, missing=9), "missing is 9: choose None or -1"),
        (lambda: choice_agreement([[0, 1], [1, 2]], [2, 2]), r"votes\[1\] is 2, but group 1 has images 0..1"),
        (
            lambda: choice_agreement(TWO, [2]),
            "sizes does not fit 2 groups: give one whole number of 2 or more",
        ),
        (lambda: choice_agreement(TWO, [2, 1]), "sizes does not fit 2 groups"),
        (lambda: self_consistency([0], [0, 1]), "first has 1 choices but repeat has 2: give both answers"),
        (
            lambda: self_consistency([], []),
            r"first has shape \(0,\) and dtype float64: give a flat list of whole numbers",
        ),
        (lambda: self_consistency([0], [2]), r"repeat\[0\] is 2, but group 0 has images 0..1"),
        (lambda: attention_check([0], [0, 1]), "choices has 1 answers for 2 checks: give one each, -1 for no answer"),
        (lambda: attention_check([0], [-1]), "an index is negative: give expected from 0"),
        (lambda: attention_check([True], [1]), "dtype bool: give a flat list of whole numbers"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
