"""Which group should a person be asked about next? The one the model is least sure of, and no two alike in a batch.

A classifier says with probability p_k = softmax(logits)_k that image k of a group is chosen. Two measures of doubt:

    entropy = -sum p log p / log n          margin = p_best - p_second

Both lie in [0, 1] for every group size: a uniform guess over n images has the raw entropy log n, so dividing by it
(Pielou 1966) makes a group of two and one of four comparable; without, large groups would always seem least sure. The
margin of a uniform guess is 0 for every n. Asking by doubt is uncertainty sampling (Lewis & Gale 1994; by margin:
Scheffer et al. 2001).

The most doubtful groups are often near copies of each other. With `features`, a batch is spread out by greedy k-center
(Gonzalez 1985, used so by Sener & Savarese 2018) among the most doubtful candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Uncertainty", "next_groups", "uncertainty"]


class Uncertainty(NamedTuple):
    """float64 arrays (groups,) in [0, 1]: the entropy divided by log n (1 is least sure), and the margin (0 is)."""

    entropy: np.ndarray
    margin: np.ndarray


def uncertainty(logits: Any) -> Uncertainty:
    """Doubt of each group, from logits (groups, largest n) padded with -inf as `preference_loss.group_logits` does.

    `logits` is an array or a tensor. Raises ValueError, naming the group, for NaN, +inf or fewer than two images.

    >>> told = uncertainty([[0.0, 0.0, -np.inf], [np.log(2), 0.0, 0.0]])
    >>> told.entropy.round(3), told.margin.round(3)
    (array([1.   , 0.946]), array([0.  , 0.25]))
    """
    array = _array(logits, "logits")
    wrong = np.flatnonzero(np.isnan(array).any(axis=1) | np.isposinf(array).any(axis=1))
    if len(wrong):
        raise ValueError(f"group {wrong[0]} has a logit that is NaN or +inf; score its images again.")
    n = np.isfinite(array).sum(axis=1)
    if n.min() < 2:
        k = int(n.argmin())
        raise ValueError(f"group {k} has {n[k]} images above -inf (padding); a choice needs at least 2.")
    mass = np.exp(array - array.max(axis=1, keepdims=True))
    p = mass / mass.sum(axis=1, keepdims=True)
    surprise = -np.log(p, out=np.zeros_like(p), where=p > 0)  # p log p is 0 at p = 0
    best = np.sort(p, axis=1)
    return Uncertainty(np.clip((p * surprise).sum(axis=1) / np.log(n), 0, 1), best[:, -1] - best[:, -2])


def next_groups(
    logits: Any,
    asked: ArrayLike,
    count: int,
    seed: int | np.random.Generator,
    features: Any | None = None,
    by: Literal["entropy", "margin"] = "entropy",
    candidates: int | None = None,
) -> np.ndarray:
    """The next `count` groups to ask about: int64 row numbers, all different, none of `asked`.

    `logits` as in `uncertainty`; `asked` holds the row numbers of groups asked before. Without `features` the most
    uncertain come first; doubts equal to nine digits are broken at random by `seed`.

    With `features` (groups, d), the first is the most uncertain, and each further one is the group farthest (Euclidean)
    from those already in the batch, among the `candidates` most uncertain (default 4 * count; all, if fewer are left).
    Unit vectors, such as CLIP's of the prompts, are meant: their distance grows as the cosine falls. Equal distances go
    to the more uncertain. Raises ValueError when fewer than `count` groups are left, or an argument does not fit.

    >>> logits = [[0.0, 5.0], [0.0, 0.1], [0.0, 0.0], [0.0, 1.0]]
    >>> next_groups(logits, asked=[1], count=2, seed=0)
    array([2, 3])
    >>> next_groups(logits, [], 2, seed=0, features=[[0, 1], [1, 0], [1, 0], [1, 0.1]])
    array([2, 0])
    """
    if by not in ("entropy", "margin"):
        raise ValueError(f'by must be "entropy" or "margin", not {by!r}.')
    told = uncertainty(logits)
    doubt = np.round(told.entropy if by == "entropy" else -told.margin, 9)  # or rounding errors would break ties
    left = np.setdiff1d(np.arange(len(doubt)), _row_numbers(asked, len(doubt)))
    if not 1 <= count <= len(left):
        raise ValueError(f"count is {count}, but {len(left)} of {len(doubt)} groups are left; ask for 1 to that many.")
    luck = np.random.default_rng(seed).random(len(doubt))
    ranked = left[np.lexsort((luck[left], -doubt[left]))]
    if features is None:
        if candidates is not None:
            raise ValueError("candidates says among how many to spread a batch out; hand over features with it.")
        return ranked[:count]
    points = _array(features, "features")
    if len(points) != len(doubt) or not np.isfinite(points).all():
        raise ValueError(f"features must hold {len(doubt)} rows of finite numbers, got shape {points.shape}.")
    pool = 4 * count if candidates is None else candidates
    if pool < count:
        raise ValueError(f"candidates is {pool}, fewer than the {count} groups wanted; choose at least as many.")
    return _spread_out(ranked[:pool], points, count)


def _spread_out(ranked: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Greedy k-center from the first of `ranked`: the largest gap is at most twice the smallest possible one."""
    chosen = [0]
    nearest = np.linalg.norm(points[ranked] - points[ranked[0]], axis=1)
    nearest[0] = -np.inf
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points[ranked] - points[ranked[chosen[-1]]], axis=1))
        nearest[chosen[-1]] = -np.inf  # distance 0 would let a copy of it tie with itself
    return ranked[chosen]


def _array(values: Any, name: str) -> np.ndarray:
    """A float64 table, from a tensor of any device and precision too."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; give one row per group.")
    return array


def _row_numbers(asked: ArrayLike, count: int) -> np.ndarray:
    array = np.asarray(asked)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"asked must hold row numbers of groups, got dtype {array.dtype}; use np.flatnonzero on a mask."
        )
    if array.min() < 0 or array.max() >= count:
        raise ValueError(f"asked names group {array[(array < 0) | (array >= count)][0]}, but there are 0..{count - 1}.")
    return array
