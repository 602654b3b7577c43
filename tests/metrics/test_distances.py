"""The arithmetic of FID and KID: scipy's matrix root, sums written out, and the same numbers by every way to them."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.kid import poly_mmd

from hpslib.metrics import distances
from hpslib.metrics.distances import frechet, gaussian, kernel_sums, squared_mmd, subset_draws


def test_doctests() -> None:
    result = doctest.testmod(distances)
    assert result.failed == 0 and result.attempted >= 3


def with_root(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # a root of the symmetric product: scipy's of the plain one loses half the digits where a covariance is singular
    values, axes = np.linalg.eigh(cov_a)
    half = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
    root = sqrtm(half @ cov_b @ half).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root))


@pytest.mark.parametrize(("n", "m", "d"), [(9, 7, 20), (20, 20, 20), (8, 300, 24), (300, 8, 24), (21, 25, 20)])
def test_few_images_many_images_and_one_of_each_give_the_formula(
    rng: np.random.Generator, n: int, m: int, d: int
) -> None:
    a, b = rng.normal(size=(n, d)), rng.gamma(2.0, size=(m, d))
    first, second = gaussian(a), gaussian(b)
    assert first.factor.shape == (min(n, d), d) and second.factor.shape == (min(m, d), d)
    np.testing.assert_allclose(first.factor.T @ first.factor, np.cov(a, rowvar=False), atol=1e-12)
    np.testing.assert_allclose(second.mean, b.mean(axis=0))
    assert frechet(first, second) == pytest.approx(with_root(a, b), rel=1e-6)
    assert frechet(first, second) == pytest.approx(frechet(second, first), rel=1e-12)
    assert frechet(first, first) == pytest.approx(0, abs=1e-10)


def test_dimensions_that_never_vary_or_follow_from_others_are_no_trouble(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 200, 6))
    more = [np.zeros(6), np.eye(6)[0], np.ones(6)]  # a dead feature, a copy and a sum
    wide_a, wide_b = (np.hstack([x, x @ np.array(more).T]) for x in (a, b))
    assert frechet(gaussian(wide_a), gaussian(wide_b)) == pytest.approx(with_root(wide_a, wide_b), rel=1e-6)
    dead = [np.hstack([x, np.full((200, 3), 7.0)]) for x in (a, b)]
    assert frechet(*map(gaussian, dead)) == pytest.approx(frechet(gaussian(a), gaussian(b)), rel=1e-9)
    constant = gaussian(np.full((200, 6), 3.0))
    assert frechet(constant, gaussian(a)) == pytest.approx(((3 - a.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum())


# --- KID --------------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_torch_after_its_seed() -> None:
    i, j = subset_draws(30, 12, subset_size=5, n_subsets=4, seed=17)
    torch.manual_seed(17)
    for k in range(4):
        assert i[k].tolist() == torch.randperm(30)[:5].tolist() and j[k].tolist() == torch.randperm(12)[:5].tolist()


@pytest.mark.parametrize("pairs", [0, 10**9])
@pytest.mark.parametrize("cells", [1, 40, 2_000_000])
def test_tables_blocks_and_rows_of_blocks_give_the_distance_of_torchmetrics(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, pairs: int, cells: int
) -> None:
    monkeypatch.setattr(distances, "_CELLS", cells)
    a, b = rng.normal(size=(30, 4)), rng.normal(0.5, size=(20, 4))
    i, j = subset_draws(30, 20, subset_size=7, n_subsets=9, seed=1)
    found = squared_mmd(kernel_sums(a, a, pairs), kernel_sums(b, b, pairs), kernel_sums(a, b, pairs), i, j)
    expected = [float(poly_mmd(torch.from_numpy(a[s]), torch.from_numpy(b[t]))) for s, t in zip(i, j)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_kernel_is_kept_only_where_that_saves_work_and_fits_into_the_memory(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    real = distances._looked_up
    monkeypatch.setattr(distances, "_looked_up", lambda table, i, j: looked_up.append(table.size) or real(table, i, j))
    a, i = rng.normal(size=(10, 3)), np.arange(4)[None]
    sums = [kernel_sums(a, a, pairs)(i, i) for pairs in (99, 100)]
    assert looked_up == [100]
    monkeypatch.setattr(distances, "_TABLE", 99)
    sums.append(kernel_sums(a, a, 100)(i, i))
    assert looked_up == [100]
    np.testing.assert_allclose(sums, [sums[0]] * 3)
