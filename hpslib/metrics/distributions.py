"""Compares whole sets of images: Inception Score, FID and KID, computed from features made once.

``extract_features`` runs any encoder once; every number and every interval then comes from the feature arrays. Two
traps shape this module. FID and IS depend on the number of images (FID's excess falls like 1 / N: Chong & Forsyth 2020,
arXiv 1911.07023), so only sets of equal size may be compared. And the usual bootstrap repeats images, which raises FID
and KID by itself: see :mod:`hpslib.metrics.distribution_intervals` for intervals without.
"""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hpslib.metrics.distances import frechet, gaussian, kernel_sums, squared_mmd, subset_draws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from numpy.typing import ArrayLike
    from PIL.Image import Image

__all__ = [
    "FewSamplesWarning",
    "check_subsets",
    "extract_features",
    "fid",
    "finite_features",
    "inception_score",
    "kid",
    "warn_if_few",
]


class FewSamplesWarning(UserWarning):
    """FID from no more images than feature dimensions: its covariance is singular and its value far too high."""


def extract_features(
    images: Iterable[Image], encoder: Callable[[list[Image]], torch.Tensor], batch_size: int = 64
) -> np.ndarray:
    """Features of all images, float32 of shape (images, dimensions), in the order given.

    ``encoder`` takes a list of at most ``batch_size`` PIL images and returns a tensor (len(list), dimensions) on any
    device; it runs without gradients. Put it in evaluation mode first. Raises ``ValueError`` if there is no image, if
    the shape is wrong or if a feature is NaN or infinite (naming the image's index).

    >>> import torch
    >>> from PIL import Image
    >>> greys = [Image.new("L", (2, 2), value) for value in (0, 51, 255)]
    >>> extract_features(greys, lambda batch: torch.tensor([[im.getpixel((0, 0)) / 255] for im in batch]), 2).ravel()
    array([0. , 0.2, 1. ], dtype=float32)
    """
    import torch

    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give 1 or more.")
    rest, parts, done = iter(images), [], 0
    while batch := list(islice(rest, batch_size)):
        with torch.inference_mode():
            part = encoder(batch).detach().float().cpu().numpy()
        if part.ndim != 2 or len(part) != len(batch):
            raise ValueError(f"the encoder returned {part.shape} for {len(batch)} images: return (images, dimensions).")
        if not np.isfinite(part).all():
            bad = done + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise ValueError(f"the encoder returned NaN or infinity for image {bad}: check that image and the encoder.")
        parts.append(part)
        done += len(batch)
    if not parts:
        raise ValueError("images is empty: give at least one image.")
    return np.concatenate(parts)


def fid(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017), >= 0, lower is closer.

    |mean_a - mean_b|² + tr(cov_a + cov_b - 2 (cov_a cov_b)^½) in float64 (:func:`hpslib.metrics.distances.frechet`),
    symmetric in its arguments. "FID" proper means Inception-v3 features; with another encoder, name it. Inputs have
    shapes (N, D) and (M, D). Raises ``ValueError`` if N or M < 2, D differs or a value is not finite; warns
    (:class:`FewSamplesWarning`) if N or M <= D.
    Time grows with the cube of D, or of N where N is smaller: a millisecond at 96, seconds at 2048.

    >>> fid([[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]])
    9.0
    """
    a, b = _feature_pair(features_a, features_b)
    warn_if_few(min(len(a), len(b)), a.shape[1], stacklevel=3)
    return frechet(gaussian(a), gaussian(b))


def kid(
    features_a: ArrayLike, features_b: ArrayLike, subset_size: int = 100, n_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance of two feature sets (Bińkowski et al. 2018): (mean, standard deviation) over random subsets.

    The squared MMD with the kernel (x·y / D + 1)³, on the subsets that torchmetrics would draw. Unbiased at every set
    and subset size: around 0, so also below 0, for equal distributions. The standard deviation is that of single
    subsets, not an error of the mean. Shapes (N, D) and (M, D). Raises ``ValueError`` as :func:`fid` does, and if
    subset_size is not in 2..min(N, M) or n_subsets is below 1.

    >>> kid([[0.0], [1.0], [2.0]], [[0.0], [1.0], [2.0]], subset_size=3, n_subsets=1)[1]
    0.0
    """
    a, b = _feature_pair(features_a, features_b)
    check_subsets(subset_size, n_subsets, min(len(a), len(b)))
    pairs = n_subsets * subset_size**2
    kernels = (kernel_sums(a, a, pairs), kernel_sums(b, b, pairs), kernel_sums(a, b, pairs))
    values = squared_mmd(*kernels, *subset_draws(len(a), len(b), subset_size, n_subsets, seed))
    return float(values.mean()), float(values.std())


def check_subsets(subset_size: int, n_subsets: int, smaller: int) -> None:
    """Raise ``ValueError`` unless subsets of this size can be drawn from sets of which the smaller one is given."""
    if not 2 <= subset_size <= smaller:
        raise ValueError(f"subset_size is {subset_size}: give 2 to {smaller}, the size of the smaller set.")
    if n_subsets < 1:
        raise ValueError(f"n_subsets is {n_subsets}: give 1 or more.")


def inception_score(class_probabilities: ArrayLike, splits: int = 1, seed: int = 0) -> float:
    """Inception Score (Salimans et al. 2016) of class probabilities (N, C): in [1, C], higher is better.

    exp(mean KL(p(y|x) || p(y))), by torchmetrics: high if each image is of one clear class and all classes occur. The
    paper's usual ``splits=10`` averages over random tenths, which lowers the value; 1 uses all images and no
    randomness. Raises ``ValueError`` if N < 2, if rows are not >= 0 with sum 1 (within 1e-4), or if splits is not in
    1..N/2.

    >>> round(inception_score([[1, 0], [0, 1]]), 6), round(inception_score([[0.7, 0.3], [0.7, 0.3]]), 6)
    (2.0, 1.0)
    """
    import torch
    from torchmetrics.image.inception import InceptionScore

    p = finite_features(class_probabilities, "class_probabilities")
    wrong = np.flatnonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-4))
    if len(wrong):
        raise ValueError(f"class_probabilities[{wrong[0]}] is below 0 or sums not to 1: apply softmax to logits first.")
    if not 1 <= splits <= len(p) // 2:
        raise ValueError(f"splits is {splits}: give 1 to {len(p) // 2}, half the number of images.")
    # torchmetrics wants logits; the smallest normal number stands for 0, whose logarithm would turn into NaN.
    logits = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features")
        warnings.filterwarnings("ignore", r"std\(\)")  # of a single split; not used
        torch.default_generator.manual_seed(seed)
        metric = InceptionScore(feature=torch.nn.Identity(), splits=splits)
        metric.update(_tensor(logits))
        return float(metric.compute()[0])


_LARGEST = 1e30  # KID takes the sixth power of a feature, FID the fourth: beyond, both leave the range of float64


def finite_features(features: ArrayLike, name: str) -> np.ndarray:
    """The features as float64 (images, dimensions), of size up to 1e30.

    Raises ``ValueError``, naming ``name`` and the row, for another shape, a number that is not finite or a larger one,
    of which a linear algebra library may crash.

    >>> finite_features([[1, 2], [3, 4]], "features").shape
    (2, 2)
    """
    try:
        array = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, rows of different lengths
        raise ValueError(f"{name} cannot be read as a table of numbers ({error}): give one row per image.") from error
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        raise ValueError(f"{name} has shape {array.shape}: give (images, dimensions) with at least 2 images.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name}[{row}] holds NaN or infinity: remove that image from the set and say so.")
    large = np.abs(array).max(axis=1)
    if large.max() > _LARGEST:
        row = int(large.argmax())
        raise ValueError(f"{name}[{row}] holds a number of size {large[row]:.0e}: check that image and the encoder.")
    return array


def _feature_pair(features_a: ArrayLike, features_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = finite_features(features_a, "features_a"), finite_features(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a has {a.shape[1]} dimensions and features_b {b.shape[1]}: use one encoder.")
    return a, b


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def warn_if_few(n: int, dimensions: int, stacklevel: int) -> None:
    """Warn (:class:`FewSamplesWarning`) where the smaller set has no more images than dimensions."""
    if n <= dimensions:
        message = f"FID of {n} images in {dimensions} dimensions is far too high: use more images or fewer dimensions."
        warnings.warn(message, FewSamplesWarning, stacklevel=stacklevel)
