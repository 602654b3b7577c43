"""IS, FID and KID: oracles (scipy's matrix root, torchmetrics fed directly), laws, coverage, and the text of errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from hpslib.metrics.distributions import (
    FewSamplesWarning,
    bootstrap_distribution_metric,
    distribution_table,
    draw_rejected,
    extract_features,
    fid,
    inception_score,
    kid,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1706)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def as_extractor(dimensions):
    identity = torch.nn.Identity()
    identity.num_features = dimensions
    return identity


def mean_difference(a, b):
    return a.mean() - b.mean()


# --- features --------------------------------------------------------------------------------------------------------


def greys(n):
    return [Image.new("RGB", (4, 4), (i, i, i)) for i in range(n)]


def mean_colour(batch):
    return torch.stack([torch.tensor(np.asarray(image), dtype=torch.float32).mean(dim=(0, 1)) for image in batch])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_features_come_in_order_whatever_the_batch(batch_size):
    features = extract_features(iter(greys(7)), mean_colour, batch_size)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.repeat(np.arange(7.0)[:, None], 3, axis=1))


def test_no_batch_is_larger_than_asked_and_no_gradient_is_kept():
    seen = []

    def encoder(batch):
        seen.append((len(batch), torch.is_grad_enabled()))
        return torch.ones(len(batch), 2, requires_grad=True).half()

    assert extract_features(greys(5), encoder, 2).shape == (5, 2)
    assert seen == [(2, False), (2, False), (1, False)]


def test_the_encoders_faults_are_named():
    with pytest.raises(ValueError, match=r"shape \(3,\) for 3 images"):
        extract_features(greys(3), lambda batch: torch.zeros(len(batch)))
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 3 images"):
        extract_features(greys(3), lambda batch: torch.zeros(1, 2))
    with pytest.raises(ValueError, match="NaN or infinity for image 3"):
        extract_features(greys(5), lambda batch: 1 / (mean_colour(batch) - 3), 2)
    with pytest.raises(ValueError, match="images is empty"):
        extract_features([], mean_colour)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        extract_features(greys(1), mean_colour, 0)


# --- FID -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(50, 50, 3), (200, 80, 6), (400, 400, 24)])
def test_fid_equals_the_formula_with_scipys_root(rng, n, m, d):
    a = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    b = rng.normal(size=(m, d)) + rng.normal(size=d)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)


def test_fid_is_torchmetrics_own_number(rng):
    a, b = rng.normal(size=(60, 5)), rng.gamma(2.0, size=(70, 5))
    metric = FrechetInceptionDistance(feature=as_extractor(5)).set_dtype(torch.float64)
    for part in np.split(a, 3):
        metric.update(torch.from_numpy(part), real=True)
    metric.update(torch.from_numpy(b), real=False)
    assert fid(a, b) == pytest.approx(float(metric.compute()), rel=1e-10)


def test_fid_laws(rng):
    a, b = rng.normal(size=(100, 4)), rng.normal(loc=0.5, scale=2.0, size=(90, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    assert fid(a, a) >= 0
    assert fid(a, b) == pytest.approx(fid(b, a))
    assert fid(a[::-1], b) == pytest.approx(fid(a, b))
    assert fid(a @ turn, b @ turn) == pytest.approx(fid(a, b))
    assert fid(3 * a, 3 * b) == pytest.approx(9 * fid(a, b))
    assert fid(a, a + np.array([3.0, 0, 4.0, 0])) == pytest.approx(25)


def test_fid_far_from_the_origin_keeps_its_digits(rng):
    a, b = rng.normal(size=(2, 100, 4))
    assert fid(a + 1e6, b + 1e6) == pytest.approx(fid(a, b), rel=1e-6)


def test_float32_features_lose_nothing_but_their_own_rounding(rng):
    a, b = rng.normal(size=(2, 200, 4)).astype(np.float32)
    assert fid(a, b) == pytest.approx(fid(a.astype(np.float64), b.astype(np.float64)), rel=1e-12)
    assert fid(torch.from_numpy(a), torch.from_numpy(b)) == fid(a, b)


def test_fid_of_few_images_warns_in_one_sentence(rng):
    few, enough = rng.normal(size=(8, 8)), rng.normal(size=(9, 8))
    with pytest.warns(FewSamplesWarning, match="FID of 8 images in 8 dimensions is far too high") as caught:
        fid(few, enough)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid(enough, enough)


def test_fid_falls_with_the_number_of_images_so_sets_must_be_of_equal_size(rng):
    small, large = (np.mean([fid(*rng.normal(size=(2, n, 6))) for _ in range(20)]) for n in (50, 200))
    assert small / large == pytest.approx(4, rel=0.2)  # the excess falls like 1 / N


# --- KID -------------------------------------------------------------------------------------------------------------


def test_kid_is_torchmetrics_own_number(rng):
    a, b = rng.normal(size=(60, 5)), rng.normal(loc=0.3, size=(50, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=as_extractor(5), subsets=7, subset_size=20)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    torch.manual_seed(11)
    expected = metric.compute()
    assert kid(a, b, subset_size=20, n_subsets=7, seed=11) == pytest.approx([float(x) for x in expected], rel=1e-12)


def test_kid_of_everything_is_the_unbiased_estimator_written_out(rng):
    a, b = rng.normal(size=(30, 4)), rng.normal(loc=0.5, size=(30, 4))

    def kernel(x, y):
        return (x @ y.T / 4 + 1) ** 3

    off = ~np.eye(30, dtype=bool)
    expected = kernel(a, a)[off].mean() + kernel(b, b)[off].mean() - 2 * kernel(a, b).mean()
    assert kid(a, b, subset_size=30, n_subsets=1) == (pytest.approx(expected), 0.0)


def test_kid_is_zero_on_average_for_one_distribution_and_falls_below(rng):
    values = np.array([kid(*rng.normal(size=(2, 40, 4)), subset_size=40, n_subsets=1)[0] for _ in range(200)])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200)
    assert values.min() < 0
    assert kid(rng.normal(size=(40, 4)), rng.normal(loc=1.0, size=(40, 4)), 40, 1)[0] > values.max()


@pytest.mark.parametrize(
    "metric",
    [
        lambda x, seed: kid(x, x[::-1] * 2, subset_size=10, n_subsets=3, seed=seed),
        lambda x, seed: inception_score(np.exp(x) / np.exp(x).sum(1, keepdims=True), splits=5, seed=seed),
    ],
)
def test_seeds_decide_and_the_global_state_of_torch_stays(rng, metric):
    x = rng.normal(size=(40, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert metric(x, 1) == metric(x, 1)
    assert metric(x, 1) != metric(x, 2)
    assert torch.equal(torch.get_rng_state(), before)


# --- IS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_inception_score_reaches_its_ends(rng, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zeros in the probabilities and a single split are nothing to complain of
        assert inception_score(np.tile(np.eye(classes), (3, 1))) == pytest.approx(classes)
        assert inception_score(np.tile(rng.dirichlet(np.ones(classes)), (6, 1))) == pytest.approx(1)
        assert inception_score(np.tile(np.eye(classes)[0], (6, 1))) == pytest.approx(1)


def test_inception_score_is_the_formula(rng):
    p = rng.dirichlet(np.full(6, 0.3), size=50)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert inception_score(p) == pytest.approx(expected)
    assert inception_score(p[::-1]) == pytest.approx(expected)
    assert inception_score(p[:, ::-1]) == pytest.approx(expected)


def test_inception_score_is_torchmetrics_own_number(rng):
    logits = torch.from_numpy(rng.normal(size=(60, 5)) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = InceptionScore(feature=as_extractor(5), splits=10)
    metric.update(logits)
    torch.manual_seed(4)
    assert inception_score(logits.softmax(1), splits=10, seed=4) == pytest.approx(float(metric.compute()[0]), rel=1e-9)


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
        (lambda: fid(X[:1], X), r"features_a has shape \(1, 2\); .* at least 2 images"),
        (lambda: fid(X, X[:, 0]), r"features_b has shape \(6,\)"),
        (lambda: fid(X, HOLED), r"features_b\[3\] holds NaN or infinity"),
        (lambda: fid(X, X[:, :1]), "features_a has 2 dimensions and features_b 1; use one encoder"),
        (lambda: kid(HOLED, X, 2), r"features_a\[3\] holds NaN"),
        (lambda: kid(X, X[:5], 6), r"subset_size is 6, but must lie in 2\.\.5"),
        (lambda: inception_score(X + 1), r"class_probabilities\[0\] must be >= 0 and sum to 1; apply softmax"),
        (lambda: inception_score([[2.0, -1.0], [0.5, 0.5]]), r"class_probabilities\[0\]"),
        (lambda: inception_score([[0.5, 0.5], [0.5, 0.5]], splits=2), r"splits must lie in 1\.\.1 for 2 images, got 2"),
        (lambda: bootstrap_distribution_metric(fid, X[:3], X), "at least 4 prompts, got 3"),
        (lambda: bootstrap_distribution_metric(np.mean, X, prompts=([0, 0, 0, 1, 1, 1],)), "at least 4 prompts, got 2"),
        (lambda: bootstrap_distribution_metric(np.mean, X, prompts=(range(5),)), r"prompts\[0\] must hold one label"),
        (lambda: bootstrap_distribution_metric(np.mean, X, prompts=("abcdef",)), r"prompts\[0\] must hold one label"),
        (lambda: bootstrap_distribution_metric(fid, X, X, prompts=(range(6),)), "1 entries for 2 arrays"),
        (lambda: bootstrap_distribution_metric(np.mean, X, n_resamples=1), "n_resamples must be at least 2"),
        (lambda: bootstrap_distribution_metric(np.mean, X, confidence=1), "strictly between 0 and 1"),
        (
            lambda: bootstrap_distribution_metric(lambda a, b: kid(a, b, 5)[0], X, X),
            r"half-sample of 3, 3 rows: subset_size is 5, but must lie in 2\.\.3",
        ),
        (lambda: draw_rejected([2, 1], [0, 0]), "sizes must be >= 2"),
        (lambda: draw_rejected([2, 2], [0, 2]), r"choices in 0\.\.size-1"),
        (
            lambda: distribution_table(X, X[:4], X),
            "chosen has 6 rows and rejected 4, but FID and IS need equal numbers",
        ),
        (lambda: distribution_table(X, X, X, chosen_probabilities=X), "for both chosen and rejected images, or for ne"),
        (lambda: distribution_table(X, X, HOLED), r"reference\[3\] holds NaN"),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()
