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
    with pytest.raises(ValueError, match=r"returned \(3,\) for 3 images: return \(images, dimensions\)"):
        extract_features(greys(3), lambda batch: torch.zeros(len(batch)))
    with pytest.raises(ValueError, match=r"returned \(1, 2\) for 3 images"):
        extract_features(greys(3), lambda batch: torch.zeros(1, 2))
    one_bad = torch.tensor([[0.0, 1.0], [2.0, float("inf")], [4.0, 5.0]])
    with pytest.raises(ValueError, match="NaN or infinity for image 1"):
        extract_features(greys(3), lambda batch: one_bad)
    with pytest.raises(ValueError, match="NaN or infinity for image 3"):
        extract_features(greys(5), lambda batch: 1 / (mean_colour(batch) - 3), 2)
    with pytest.raises(ValueError, match="images is empty"):
        extract_features([], mean_colour)
    with pytest.raises(ValueError, match="batch_size is 0: give 1 or more"):
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


@pytest.mark.parametrize(("n", "d"), [(30, 64), (64, 64), (65, 64), (500, 64)])
def test_fid_is_torchmetrics_own_number_for_few_images_too(rng, n, d):
    a, b = rng.normal(size=(n, d)), rng.normal(0.2, 1.5, size=(n + 9, d))
    metric = FrechetInceptionDistance(feature=as_extractor(d)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        assert fid(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)  # its root loses digits, ours does not


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


def test_kid_takes_a_hundred_subsets_of_a_hundred_unless_told(rng):
    a, b = rng.normal(size=(110, 3)), rng.normal(loc=0.3, size=(105, 3))
    assert kid(a, b) == kid(a, b, subset_size=100, n_subsets=100, seed=0) != kid(a, b, n_subsets=101)


def test_large_features_stay_within_float64(rng):
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(21, 3))
    assert np.isfinite(fid(a * 1e25, b * 1e25)) and np.isfinite(kid(a * 1e25, b * 1e25, 10, 3)).all()
    assert fid(a * 1e25, b * 1e25) == pytest.approx(fid(a, b) * 1e50)


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


# --- faults: the text of errors --------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(6, 2)
HOLED = np.where(X == 7, np.nan, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fid(X[:1], X), r"features_a has shape \(1, 2\): give .* at least 2 images"),
        (lambda: fid(X, X[:, 0]), r"features_b has shape \(6,\)"),
        (lambda: fid(X, HOLED), r"features_b\[3\] holds NaN or infinity"),
        (lambda: fid(X, X[:, :1]), "features_a has 2 dimensions and features_b 1: use one encoder"),
        (lambda: kid(HOLED, X, 2), r"features_a\[3\] holds NaN"),
        (
            lambda: fid([["a", "b"]] * 2, X),
            "features_a cannot be read as a table of numbers .*: give one row",
        ),
        (lambda: fid([[1.0], [1.0, 2.0]], X), "features_a cannot be read as a table of numbers"),
        (lambda: fid(X * 1e100, X), r"features_a\[5\] holds a number of size 1e\+101: check that image and the enc"),
        (lambda: fid(X, -X * 1e200), r"features_b\[5\] holds a number of size 1e\+201"),
        (lambda: kid(X * 1e60, X, 2), r"features_a\[5\] holds a number of size 1e\+61"),
        (lambda: kid(X, X[:5], 6), "subset_size is 6: give 2 to 5, the size of the smaller set"),
        (lambda: kid(X, X, 2, n_subsets=0), "n_subsets is 0: give 1 or more"),
        (lambda: inception_score(X + 1), r"class_probabilities\[0\] is below 0 or sums not to 1: apply softmax"),
        (lambda: inception_score([[2.0, -1.0], [0.5, 0.5]]), r"class_probabilities\[0\]"),
        (
            lambda: inception_score([[0.5, 0.5], [0.5, 0.5]], splits=2),
            "splits is 2: give 1 to 1, half the number of images",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()
