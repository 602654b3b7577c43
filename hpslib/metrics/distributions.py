"""Compares whole sets of images: Inception Score, FID and KID, computed by torchmetrics from features made once.

``extract_features`` runs any encoder once; every number and every interval then comes from the feature arrays. Two
traps shape this module. FID and IS depend on the number of images (FID's excess falls like 1 / N: Chong & Forsyth 2020,
arXiv 1911.07023), so only sets of equal size may be compared. And the usual bootstrap repeats images, which raises FID
and KID by itself, so that its interval can miss the very value it is for: intervals here come from half-samples.
"""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hpslib.metrics.intervals import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    import pandas as pd
    import torch
    from numpy.typing import ArrayLike
    from PIL.Image import Image

__all__ = [
    "FewSamplesWarning",
    "bootstrap_distribution_metric",
    "distribution_table",
    "draw_rejected",
    "extract_features",
    "fid",
    "inception_score",
    "kid",
]


class FewSamplesWarning(UserWarning):
    """FID from no more images than feature dimensions: its covariance is singular and its value far too high."""


def extract_features(
    images: Iterable[Image], encoder: Callable[[list[Image]], torch.Tensor], batch_size: int = 64
) -> np.ndarray:
    """Features of all images, float32 of shape (images, dimensions), in the order given.

    ``encoder`` takes a list of at most ``batch_size`` PIL images and returns a tensor (len(list), dimensions) on any
    device; it runs without gradients. Put it in evaluation mode first. Raises ValueError if there is no image, if the
    shape is wrong or if a feature is NaN or infinite (naming the image's index).

    >>> import torch
    >>> from PIL import Image
    >>> greys = [Image.new("L", (2, 2), value) for value in (0, 51, 255)]
    >>> extract_features(greys, lambda batch: torch.tensor([[im.getpixel((0, 0)) / 255] for im in batch]), 2).ravel()
    array([0. , 0.2, 1. ], dtype=float32)
    """
    import torch

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    rest, parts, done = iter(images), [], 0
    while batch := list(islice(rest, batch_size)):
        with torch.inference_mode():
            part = encoder(batch).detach().float().cpu().numpy()
        if part.ndim != 2 or len(part) != len(batch):
            raise ValueError(f"the encoder returned shape {part.shape} for {len(batch)} images, not (images, dims).")
        if not np.isfinite(part).all():
            bad = done + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise ValueError(f"the encoder returned NaN or infinity for image {bad}; check that image and the encoder.")
        parts.append(part)
        done += len(batch)
    if not parts:
        raise ValueError("images is empty; give at least one image.")
    return np.concatenate(parts)


def fid(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017), >= 0, lower is closer.

    |mean_a - mean_b|² + tr(cov_a + cov_b - 2 (cov_a cov_b)^½), by torchmetrics in float64, symmetric in its arguments.
    "FID" proper means Inception-v3 features; with another encoder, name it. Inputs have shapes (N, D) and (M, D).
    Raises ValueError if N or M < 2, D differs or a value is not finite; warns (``FewSamplesWarning``) if N or M <= D.
    Time grows with D³: milliseconds at D = 96, seconds at D = 2048.

    >>> fid([[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]])
    9.0
    """
    from torch.nn import Identity
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = _feature_pair(features_a, features_b)
    _warn_if_few(min(len(a), len(b)), a.shape[1], stacklevel=3)
    # FID ignores a common shift; torchmetrics sums raw squares, which would cancel badly far from the origin.
    centre = np.concatenate([a, b]).mean(axis=0)
    passthrough = Identity()
    passthrough.num_features = a.shape[1]  # spares torchmetrics its probe with a random image
    metric = FrechetInceptionDistance(feature=passthrough)
    metric.update(_tensor(a - centre), real=True)
    metric.update(_tensor(b - centre), real=False)
    return max(float(metric.compute()), 0.0)  # rounding may leave -1e-12 for equal sets


def kid(
    features_a: ArrayLike, features_b: ArrayLike, subset_size: int = 100, n_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance of two feature sets (Bińkowski et al. 2018): (mean, standard deviation) over random subsets.

    The squared MMD with the kernel (x·y / D + 1)³, by torchmetrics. Unbiased at every set and subset size: around 0, so
    also below 0, for equal distributions. The standard deviation is that of single subsets, not an error of the mean.
    Shapes (N, D) and (M, D). Raises ValueError as ``fid``, and if subset_size is not in 2..min(N, M).

    >>> kid([[0.0], [1.0], [2.0]], [[0.0], [1.0], [2.0]], subset_size=3, n_subsets=1)[1]
    0.0
    """
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = _feature_pair(features_a, features_b)
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise ValueError(f"subset_size is {subset_size}, but must lie in 2..{min(len(a), len(b))}, the smaller set.")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features")
        torch.default_generator.manual_seed(seed)  # torchmetrics draws from it; fork_rng puts the old state back
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=n_subsets, subset_size=subset_size)
        metric.update(_tensor(a), real=True)
        metric.update(_tensor(b), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def inception_score(class_probabilities: ArrayLike, splits: int = 1, seed: int = 0) -> float:
    """Inception Score (Salimans et al. 2016) of class probabilities (N, C): in [1, C], higher is better.

    exp(mean KL(p(y|x) || p(y))), by torchmetrics: high if each image is of one clear class and all classes occur. The
    paper's usual ``splits=10`` averages over random tenths, which lowers the value; 1 uses all images and no
    randomness. Raises ValueError if N < 2, if rows are not >= 0 with sum 1 (within 1e-4), or if splits is not in
    1..N/2.

    >>> round(inception_score([[1, 0], [0, 1]]), 6), round(inception_score([[0.7, 0.3], [0.7, 0.3]]), 6)
    (2.0, 1.0)
    """
    import torch
    from torchmetrics.image.inception import InceptionScore

    p = _features(class_probabilities, "class_probabilities")
    wrong = np.flatnonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-4))
    if len(wrong):
        raise ValueError(f"class_probabilities[{wrong[0]}] must be >= 0 and sum to 1; apply softmax to logits first.")
    if not 1 <= splits <= len(p) // 2:
        raise ValueError(f"splits must lie in 1..{len(p) // 2} for {len(p)} images, got {splits}.")
    # torchmetrics wants logits; the smallest normal number stands for 0, whose logarithm would turn into NaN.
    logits = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features")
        warnings.filterwarnings("ignore", r"std\(\)")  # of a single split; not used
        torch.default_generator.manual_seed(seed)
        metric = InceptionScore(feature=torch.nn.Identity(), splits=splits)
        metric.update(_tensor(logits))
        return float(metric.compute()[0])


def bootstrap_distribution_metric(
    fn: Callable[..., float],
    *arrays: ArrayLike,
    prompts: Sequence[Sequence[Hashable] | None] | None = None,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """``fn(*arrays)`` with an interval from random half-samples, for metrics that repeated images would bias.

    Each round keeps a random half of the prompts (without replacement, so no image is repeated) and evaluates ``fn`` on
    their rows. The spread of a statistic over half-samples estimates its spread over new samples of the full size (the
    delete-half jackknife: Shao & Wu 1989, Ann. Stat. 17:1176; Politis, Romano & Wolf 1999, ch. 2), with no factor, as
    (N/2) / (N - N/2) = 1. The half-samples' own bias is removed by centring: value - quantiles(round - mean(rounds)).
    So the interval speaks of what ``fn`` gives on average *at this number of images*, not of its limit for ever more
    images: compare sets of equal size. It tends to be wide, most for two sets of one distribution.

    Simulated with normal features, (N, D) = (60, 16), (100, 8) and, one distribution, (200, 4): nominal 95 % intervals
    covered E[FID] in 98, 96 and 99.5 % of 200 trials; the percentile bootstrap with repetition in 0, 60 and 75 % of 40.
    With only 60 rounds, four other settings gave 90 to 98 % of 60 to 100 trials: use 200 or more.

    ``prompts`` has one entry per array: its row labels, or None where rows are independent. Labels that several arrays
    share are kept or dropped together, which makes differences paired. ``n`` of the result counts the first array's
    rows. Raises ValueError on fewer than 4 prompts, labels of the wrong length or a failing ``fn`` (it sees half the
    rows).

    >>> rng = np.random.default_rng(0)
    >>> a, b, reference = rng.normal(size=(3, 200, 2))
    >>> estimate = bootstrap_distribution_metric(lambda a, b, r: fid(a, r) - fid(b, r), a, b, reference, n_resamples=50)
    >>> estimate.low < 0 < estimate.high
    True
    """
    full = [np.asarray(array) for array in arrays]
    value, rounds = _half_samples(lambda *rows: [float(fn(*rows))], full, prompts, n_resamples, seed)
    return _centred(value, rounds, len(full[0]), confidence)[0]


def draw_rejected(sizes: ArrayLike, choices: ArrayLike, seed: int | np.random.Generator = 0) -> np.ndarray:
    """One random image per group that was not chosen: int64 indices of shape (groups,).

    Gives the rejected images the number of the chosen ones, which FID and IS need. Raises ValueError on a group of one
    or a choice out of range.

    >>> draw_rejected([2, 2, 4], [0, 1, 3])[:2]
    array([1, 0])
    """
    n, chosen = np.asarray(sizes), np.asarray(choices)
    if n.ndim != 1 or n.shape != chosen.shape or len(n) == 0 or (n < 2).any() or ((chosen < 0) | (chosen >= n)).any():
        raise ValueError("sizes must be >= 2 and choices in 0..size-1, one of each per group.")
    return (chosen + np.random.default_rng(seed).integers(1, n)) % n  # 1..n-1 steps on never returns to the chosen one


def distribution_table(
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference: ArrayLike,
    chosen_probabilities: ArrayLike | None = None,
    rejected_probabilities: ArrayLike | None = None,
    prompts: Sequence[Hashable] | None = None,
    subset_size: int = 100,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Can set metrics tell chosen from rejected images? (paper: IS 16.27 / 16.23, FID 38.2 / 37.7: no.)

    ``chosen`` and ``rejected`` are features (N, D), row i of both from the same group, ``reference`` (M, D) of real
    images; class probabilities (N, C) add the row of the Inception Score. ``prompts`` labels the N groups (None: all
    different). One row per metric (``IS``, ``FID``, ``KID``); columns ``chosen``, ``rejected``, ``difference`` (chosen
    - rejected, paired by prompt), each followed by ``_low`` and ``_high``, then ``images`` (N). Intervals as in
    ``bootstrap_distribution_metric``.

    Raises ValueError if chosen and rejected differ in number (take one rejected image each: ``draw_rejected``) or if
    only one set has probabilities. ``subset_size`` (KID) must fit into half of each set; KID uses 20 subsets here.
    """
    import pandas as pd

    a, b, real = _features(chosen, "chosen"), _features(rejected, "rejected"), _features(reference, "reference")
    if len(a) != len(b):
        raise ValueError(f"chosen has {len(a)} rows and rejected {len(b)}, but FID and IS need equal numbers.")
    if (chosen_probabilities is None) != (rejected_probabilities is None):
        raise ValueError("give class probabilities for both chosen and rejected images, or for neither.")
    labels = range(len(a)) if prompts is None else prompts
    _warn_if_few(min(len(a), len(real)), a.shape[1], stacklevel=3)

    def mean_kid(x: np.ndarray, y: np.ndarray) -> float:
        return kid(x, y, subset_size, n_subsets=20, seed=seed)[0]

    measured: dict[str, tuple[Callable[..., float], list[np.ndarray]]] = {}
    if chosen_probabilities is not None and rejected_probabilities is not None:
        pair = [_features(chosen_probabilities, "chosen"), _features(rejected_probabilities, "rejected")]
        measured["IS"] = (inception_score, pair)
    measured |= {"FID": (fid, [a, b, real]), "KID": (mean_kid, [a, b, real])}
    rows = {}
    for name, (metric, sets) in measured.items():

        def both(x: np.ndarray, y: np.ndarray, *r: np.ndarray, metric: Callable[..., float] = metric) -> list[float]:
            first, second = metric(x, *r), metric(y, *r)
            return [first, second, first - second]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # said above, once
            value, rounds = _half_samples(both, sets, [labels, labels, None][: len(sets)], n_resamples, seed)
        row: dict[str, float | int] = {}
        for column, estimate in zip(("chosen", "rejected", "difference"), _centred(value, rounds, len(a), confidence)):
            row |= {column: estimate.value, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
        rows[name] = row | {"images": len(a)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _half_samples(
    fn: Callable[..., list[float]],
    arrays: list[np.ndarray],
    prompts: Sequence[Sequence[Hashable] | None] | None,
    n_resamples: int,
    seed: int | np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """``fn`` on all rows, shape (k,), and on ``n_resamples`` random halves of the prompts, shape (n_resamples, k)."""
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be at least 2, got {n_resamples}.")
    blocks = _prompt_codes(arrays, prompts)
    value = np.array(fn(*arrays))
    rng, rounds = np.random.default_rng(seed), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)  # said once, about the full sets
        for _ in range(n_resamples):
            rows = list(arrays)
            for count, members in blocks:
                kept = np.zeros(count, dtype=bool)
                # An odd number is rounded up or down by chance, so that on average one half is kept.
                kept[rng.permutation(count)[: (count + int(rng.integers(2))) // 2]] = True
                for i, codes in members.items():
                    rows[i] = arrays[i][kept[codes]]
            try:
                rounds.append(fn(*rows))
            except ValueError as error:
                sizes = ", ".join(str(len(r)) for r in rows)
                raise ValueError(f"the metric failed on a half-sample of {sizes} rows: {error}") from error
    return value, np.array(rounds)


def _prompt_codes(
    arrays: list[np.ndarray], prompts: Sequence[Sequence[Hashable] | None] | None
) -> list[tuple[int, dict[int, np.ndarray]]]:
    """Blocks drawn together: (number of prompts, {array's position: code of the prompt of each row})."""
    per_array = [None] * len(arrays) if prompts is None else list(prompts)
    if not arrays or len(per_array) != len(arrays):
        raise ValueError(f"prompts has {len(per_array)} entries for {len(arrays)} arrays; give one (or None) for each.")
    shared: dict[Hashable, int] = {}
    members: dict[int, np.ndarray] = {}
    blocks: list[tuple[int, dict[int, np.ndarray]]] = []
    for i, (array, labels) in enumerate(zip(arrays, per_array)):
        if labels is None:
            blocks.append((len(array), {i: np.arange(len(array))}))
            continue
        if isinstance(labels, str) or len(labels) != len(array):
            raise ValueError(f"prompts[{i}] must hold one label for each of the {len(array)} rows of array {i}.")
        members[i] = np.array([shared.setdefault(label, len(shared)) for label in labels])
    blocks += [(len(shared), members)] if members else []
    if min(count for count, _ in blocks) < 4:
        raise ValueError(f"half-samples need at least 4 prompts, got {min(count for count, _ in blocks)}.")
    return blocks


def _centred(value: np.ndarray, rounds: np.ndarray, n: int, confidence: float) -> list[Estimate]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}.")
    tails = np.quantile(rounds - rounds.mean(axis=0), [(1 + confidence) / 2, (1 - confidence) / 2], axis=0)
    low, high = value - tails
    return [Estimate(float(v), float(lo), float(hi), n, confidence) for v, lo, hi in zip(value, low, high)]


def _features(features: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        raise ValueError(f"{name} has shape {array.shape}; expected (images, dimensions) with at least 2 images.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name}[{row}] holds NaN or infinity; remove that image from the set and say so.")
    return array


def _feature_pair(features_a: ArrayLike, features_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _features(features_a, "features_a"), _features(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a has {a.shape[1]} dimensions and features_b {b.shape[1]}; use one encoder.")
    return a, b


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _warn_if_few(n: int, dimensions: int, stacklevel: int) -> None:
    if n <= dimensions:
        message = f"FID of {n} images in {dimensions} dimensions is far too high; use more images or fewer dimensions."
        warnings.warn(message, FewSamplesWarning, stacklevel=stacklevel)
