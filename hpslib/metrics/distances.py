"""How far apart two sets of feature vectors are: the arithmetic of FID and KID, on arrays that are known to be sound.

Both are written so that what two comparisons share is computed once: FID from a factor of each set's covariance, KID
from the kernel of every pair of images. :mod:`hpslib.metrics.distributions` checks what comes in, and its tests hold
both against torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Gaussian", "KernelSums", "frechet", "gaussian", "kernel_sums", "squared_mmd", "subset_draws"]


# --- FID --------------------------------------------------------------------------------------------------------------


class Gaussian(NamedTuple):
    """A mean (D,), and a ``factor`` (rows, D) of the covariance: ``factor.T @ factor``, with min(N, D) rows."""

    mean: np.ndarray
    factor: np.ndarray


def gaussian(features: np.ndarray) -> Gaussian:
    """The Gaussian of float64 features (N, D): few images are their own factor, of many it is the Cholesky factor."""
    n, dimensions = features.shape
    mean = features.mean(axis=0)
    rows = (features - mean) / np.sqrt(n - 1)
    if n <= dimensions:
        return Gaussian(mean, rows)
    covariance = rows.T @ rows
    try:
        return Gaussian(mean, np.linalg.cholesky(covariance).T)
    except np.linalg.LinAlgError:  # a dimension that never varies, or follows from others
        variances, axes = np.linalg.eigh(covariance)
        return Gaussian(mean, np.sqrt(np.maximum(variances, 0))[:, None] * axes.T)


def frechet(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance (Dowson & Landau 1982), >= 0, for Gaussians of one dimension D.

    The trace of (cov_a cov_b)^½ is the sum of the singular values of factor_a factor_b': no root of a matrix is needed,
    nor the eigenvalues of one that is not symmetric.

    >>> round(frechet(gaussian(np.array([[0.0], [1.0], [2.0]])), gaussian(np.array([[3.0], [5.0], [7.0]]))), 9)
    17.0
    """
    from scipy.linalg import svdvals

    apart = ((first.mean - second.mean) ** 2).sum()
    spread = (first.factor**2).sum() + (second.factor**2).sum()
    common = svdvals(first.factor @ second.factor.T, overwrite_a=True, check_finite=False).sum()
    return max(float(apart + spread - 2 * common), 0.0)  # rounding may leave -1e-12 for equal sets


# --- KID --------------------------------------------------------------------------------------------------------------

#: Sums of the kernel over rows i (subsets, m) of one set with rows j (subsets, k) of another: float64 (subsets,).
KernelSums = Callable[[np.ndarray, np.ndarray], np.ndarray]

_TABLE = 16_000_000  # pairs of images whose kernel is kept (128 MB)
_CELLS = 2_000_000  # numbers in one block (16 MB)


def kernel_sums(features_a: np.ndarray, features_b: np.ndarray, pairs: int) -> KernelSums:
    """Sums of the kernel (x·y / D + 1)³ over subsets of float64 features (N, D) and (M, D).

    Where both are one array, and i and j the same rows of it, the pairs of an image with itself are left out.
    ``pairs`` is how many pairs of images will be asked for in all. Where that is no less than N * M, the kernel is
    computed once for all images and looked up afterwards, unless the table would be too large for the memory.
    """
    one_set = features_a is features_b
    if len(features_a) * len(features_b) > min(pairs, _TABLE):
        return lambda i, j: _computed(features_a, features_b, i, j, one_set)
    table = _kernel(features_a @ features_b.T, features_a.shape[1])
    if one_set:
        np.fill_diagonal(table, 0)
    return lambda i, j: _looked_up(table, i, j)


def _kernel(products: np.ndarray, dimensions: int) -> np.ndarray:
    base = products / dimensions + 1
    return base * base * base


def _looked_up(table: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Sums over a table's cells as products with zeros and ones, many times faster than fetching the cells."""
    sums, at_once = np.empty(len(i)), max(1, _CELLS // max(table.shape))
    for s in range(0, len(i), at_once):
        rows, columns = i[s : s + at_once], j[s : s + at_once]
        left, right = np.zeros((len(rows), table.shape[0])), np.zeros((len(rows), table.shape[1]))
        np.put_along_axis(left, rows, 1, axis=1)
        np.put_along_axis(right, columns, 1, axis=1)
        sums[s : s + at_once] = ((left @ table) * right).sum(axis=1)
    return sums


def _computed(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, one_set: bool) -> np.ndarray:
    """Sums from the features, no more than a block of them in memory."""
    (subsets, m), dimensions = i.shape, a.shape[1]
    rows = min(m, max(1, _CELLS // m))
    at_once, sums = max(1, _CELLS // (m * max(rows, dimensions))), np.zeros(subsets)
    for s in range(0, subsets, at_once):
        part = slice(s, s + at_once)
        right = b[j[part]]
        for start in range(0, m, rows):
            # The product of an array with itself takes half the time.
            left = right if one_set and rows == m else a[i[part, start : start + rows]]
            block = _kernel(left @ right.swapaxes(1, 2), dimensions)
            sums[part] += block.sum(axis=(1, 2))
            if one_set:
                sums[part] -= np.trace(block, offset=start, axis1=1, axis2=2)
    return sums


def subset_draws(n: int, m: int, subset_size: int, n_subsets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows of two sets of ``n`` and ``m`` images, without repetition: int64 (n_subsets, subset_size) each.

    The draws of torchmetrics' KernelInceptionDistance after ``torch.manual_seed(seed)``; torch's own state stays.

    >>> i, j = subset_draws(5, 9, subset_size=2, n_subsets=3, seed=0)
    >>> i.shape, bool(j.max() < 9)
    ((3, 2), True)
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = np.empty((2, n_subsets, subset_size), dtype=np.int64)
    for k in range(n_subsets):
        for side, count in enumerate((n, m)):
            drawn[side, k] = torch.randperm(count, generator=generator)[:subset_size]
    return drawn[0], drawn[1]


def squared_mmd(
    within_a: KernelSums, within_b: KernelSums, across: KernelSums, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """The unbiased squared MMD (Gretton et al. 2012, eq. 3) of each subset, float64 (subsets,).

    Row ``i[s]`` holds the images of subset s from the first set, ``j[s]`` as many from the second.
    """
    m = i.shape[1]
    return (within_a(i, i) + within_b(j, j)) / (m * (m - 1)) - 2 * across(i, j) / m**2
