"""Intervals from half-samples: the classic error of a mean, coverage, pairing by prompt, the table, and its errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from hpslib.metrics.distribution_intervals import bootstrap_distribution_metric, distribution_table, draw_rejected
from hpslib.metrics.distributions import FewSamplesWarning, fid, inception_score, kid


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1706)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mean_difference(a, b):
    return a.mean() - b.mean()


# --- intervals -------------------------------------------------------------------------------------------------------


def test_half_samples_give_the_classic_error_of_a_mean(rng):
    x = rng.normal(size=(400, 1))
    estimate = bootstrap_distribution_metric(np.mean, x, n_resamples=2000)
    error = 1.96 * x.std(ddof=1) / 20
    assert (estimate.value, estimate.n) == (x.mean(), 400)
    assert (estimate.low, estimate.high) == pytest.approx((x.mean() - error, x.mean() + error), abs=0.1 * error)


@pytest.mark.parametrize("n", [5, 7, 21])
def test_an_odd_number_of_rows_is_halved_fairly(rng, n):
    x = rng.normal(size=(n, 1))
    estimate = bootstrap_distribution_metric(np.mean, x, n_resamples=4000, confidence=0.6826)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(x.std(ddof=1) / np.sqrt(n), rel=0.15)


def test_no_row_is_repeated_and_half_of_them_is_seen():
    seen = []
    rows = np.arange(20.0)[:, None]
    bootstrap_distribution_metric(lambda x: seen.append(x.ravel()) or 0.0, rows, n_resamples=10)
    assert [len(x) for x in seen] == [20] + [10] * 10
    assert all(len(set(x)) == len(x) for x in seen)
    assert len({tuple(x) for x in seen}) > 5


def test_shared_labels_are_kept_together_and_separate_ones_are_not(rng):
    """a and b differ by a constant within each prompt: paired there is no doubt about the difference."""
    effect = rng.normal(size=(60, 1))
    a, b, labels = effect + 1, np.repeat(effect, 2, axis=0), [f"p{i}" for i in range(60)]
    doubled = [label for label in labels for _ in range(2)]
    paired = bootstrap_distribution_metric(mean_difference, a, b, prompts=(labels, doubled))
    apart = bootstrap_distribution_metric(mean_difference, a, b, prompts=(labels, None))
    assert (paired.low, paired.high) == pytest.approx((1, 1))
    assert apart.high - apart.low > 0.3
    assert paired.value == apart.value


def test_rows_of_one_prompt_widen_the_interval(rng):
    x = np.repeat(rng.normal(size=(40, 1)), 9, axis=0)
    labels = [i // 9 for i in range(360)]
    by_row = bootstrap_distribution_metric(np.mean, x, n_resamples=800)
    by_prompt = bootstrap_distribution_metric(np.mean, x, prompts=(labels,), n_resamples=800)
    assert (by_prompt.high - by_prompt.low) / (by_row.high - by_row.low) == pytest.approx(3, rel=0.15)


def test_fid_intervals_cover_what_the_repeating_bootstrap_misses():
    """E[FID] at N = 60 in 16 dimensions, from 300 draws: half-samples cover it, the percentile bootstrap does not."""
    rng = np.random.default_rng(7)

    def draw():
        return rng.normal(loc=0.3, size=(60, 16)), rng.normal(size=(60, 16))

    truth = np.mean([fid(*draw()) for _ in range(300)])
    half, percentile = 0, 0
    for trial in range(20):
        a, b = draw()
        estimate = bootstrap_distribution_metric(fid, a, b, n_resamples=30, seed=trial)
        half += estimate.low <= truth <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
        repeated = [fid(a[rng.integers(60, size=60)], b[rng.integers(60, size=60)]) for _ in range(20)]
        percentile += np.quantile(repeated, 0.025) <= truth <= np.quantile(repeated, 0.975)
    assert half >= 16
    assert percentile <= 3


def test_the_interval_is_seeded_and_silent_about_its_halves(rng):
    a, b = rng.normal(size=(2, 12, 8))  # halves of 6 rows are fewer than 8 dimensions, the whole is not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = bootstrap_distribution_metric(fid, a, b, n_resamples=10, seed=1)
        assert first == bootstrap_distribution_metric(fid, a, b, n_resamples=10, seed=np.random.default_rng(1))
        assert first != bootstrap_distribution_metric(fid, a, b, n_resamples=10, seed=2)


# --- chosen against rejected -----------------------------------------------------------------------------------------


def test_a_drawn_rejected_image_is_never_the_chosen_one_and_every_other_one_comes_up(rng):
    sizes = rng.integers(2, 5, size=3000)
    choices = rng.integers(0, sizes)
    drawn = draw_rejected(sizes, choices, seed=1)
    assert ((drawn >= 0) & (drawn < sizes) & (drawn != choices)).all()
    of_four = (drawn - choices)[sizes == 4] % 4
    np.testing.assert_allclose(np.bincount(of_four)[1:] / len(of_four), 1 / 3, atol=0.05)
    assert (draw_rejected(sizes, choices, seed=1) == drawn).all()


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def test_the_table_says_what_the_functions_say_and_finds_no_difference_where_none_is(rng):
    chosen, rejected, reference = rng.normal(size=(3, 120, 4))
    table = distribution_table(
        chosen, rejected, reference, softmax(chosen), softmax(rejected), subset_size=40, n_resamples=30
    )
    assert table.index.tolist() == ["IS", "FID", "KID"]
    assert table.loc["FID", "chosen"] == fid(chosen, reference)
    assert table.loc["IS", "rejected"] == inception_score(softmax(rejected))
    assert table.loc["KID", "chosen"] == kid(chosen, reference, 40, n_subsets=20)[0]
    np.testing.assert_allclose(table.difference, table.chosen - table.rejected)
    assert ((table.difference_low < 0) & (table.difference_high > 0)).all()
    assert (table.images == 120).all()
    difference = bootstrap_distribution_metric(
        lambda a, b, r: fid(a, r) - fid(b, r),
        *(chosen, rejected, reference),
        prompts=(range(120), range(120), None),
        n_resamples=30,
    )
    found = table.loc["FID", ["difference", "difference_low", "difference_high"]]
    assert found.tolist() == [difference.value, difference.low, difference.high]


def test_the_tables_kid_is_that_of_each_half_by_itself(rng):
    chosen, rejected, reference = rng.normal(size=(3, 61, 4))
    labels = [k // 2 for k in range(61)]
    table = distribution_table(chosen, rejected, reference, prompts=labels, subset_size=12, n_resamples=30, seed=3)
    for name, sets in (("chosen", chosen), ("rejected", rejected)):
        alone = bootstrap_distribution_metric(
            lambda x, r: kid(x, r, 12, n_subsets=20, seed=3)[0],
            *(sets, reference),
            prompts=(labels, None),
            n_resamples=30,
            seed=3,
        )
        found = table.loc["KID", [name, f"{name}_low", f"{name}_high"]]
        assert found.tolist() == pytest.approx([alone.value, alone.low, alone.high], rel=1e-9, abs=1e-12)


def test_the_table_finds_a_difference_that_is_there(rng):
    reference, chosen = rng.normal(size=(2, 120, 4))
    table = distribution_table(chosen, chosen + 0.8, reference, subset_size=40, n_resamples=20)
    assert table.index.tolist() == ["FID", "KID"]
    assert (table.difference_high < 0).all()


def test_the_table_widens_with_repeated_prompts(rng):
    chosen, rejected = (np.repeat(rng.normal(size=(30, 3)), 6, axis=0) for _ in range(2))
    reference = rng.normal(size=(180, 3))
    rows, prompts = (
        distribution_table(chosen, rejected, reference, prompts=labels, subset_size=20, n_resamples=40).loc["FID"]
        for labels in (None, [i // 6 for i in range(180)])
    )
    assert prompts.chosen_high - prompts.chosen_low > 1.3 * (rows.chosen_high - rows.chosen_low)


def test_the_table_warns_once(rng):
    a, b, reference = rng.normal(size=(3, 10, 12))
    with pytest.warns(FewSamplesWarning) as caught:
        distribution_table(a, b, reference, subset_size=4, n_resamples=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__


# --- faults: the text of errors --------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(6, 2)
HOLED = np.where(X == 7, np.nan, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_distribution_metric(fid, X[:3], X), "there are 3 prompts: give 4 or more"),
        (
            lambda: bootstrap_distribution_metric(np.mean, X, prompts=([0, 0, 0, 1, 1, 1],)),
            "there are 2 prompts: give 4 or more",
        ),
        (
            lambda: bootstrap_distribution_metric(np.mean, X, prompts=(range(5),)),
            r"prompts\[0\] does not fit array 0: give one",
        ),
        (
            lambda: bootstrap_distribution_metric(np.mean, X, prompts=("abcdef",)),
            r"prompts\[0\] does not fit array 0: give one",
        ),
        (lambda: bootstrap_distribution_metric(fid, X, X, prompts=(range(6),)), "1 entries for 2 arrays: give one"),
        (lambda: bootstrap_distribution_metric(np.mean, X, n_resamples=1), "n_resamples is 1: give 2 or more"),
        (lambda: bootstrap_distribution_metric(np.mean, X, confidence=1), "strictly between 0 and 1"),
        (
            lambda: bootstrap_distribution_metric(lambda a, b: kid(a, b, 5)[0], X, X),
            "half-sample of 3, 3 rows, subset_size is 5: give 2 to 3",
        ),
        (lambda: draw_rejected([2, 1], [0, 0]), "sizes or choices do not fit: give a size from 2"),
        (lambda: draw_rejected([2, 2], [0, 2]), "and a choice below it for each group"),
        (
            lambda: distribution_table(X, X[:4], X),
            "chosen has 6 rows and rejected 4: give one rejected image for each chosen one",
        ),
        (
            lambda: distribution_table(X, X, X, chosen_probabilities=X),
            "one set only: give them for both or for neither",
        ),
        (lambda: distribution_table(X, X, HOLED), r"reference\[3\] holds NaN"),
        (
            lambda: distribution_table(X, X + 1, np.vstack([X, X]), subset_size=4),
            "half-sample of 3, 3, 6 rows, subset_size is 4: give 2 to 3",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_group_gives_one_rejected_image_and_no_group_is_refused():
    assert draw_rejected([2], [0]).tolist() == [1]
    with pytest.raises(ValueError, match=r"^sizes or choices do not fit"):
        draw_rejected([], [])


def test_two_resamples_are_the_fewest(rng):
    rows = rng.normal(size=(20, 2))
    assert bootstrap_distribution_metric(lambda a: a.mean(), rows, n_resamples=2).n == 20
    with pytest.raises(ValueError, match=r"^n_resamples is 1: give 2 or more\.$"):
        bootstrap_distribution_metric(lambda a: a.mean(), rows, n_resamples=1)
