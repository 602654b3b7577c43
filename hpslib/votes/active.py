"""Which group should a person be asked about next? The one the model is least sure of, and no two alike in a batch.

A classifier says with probability p_k = softmax(logits)_k that image k of a group is chosen. Two measures of doubt:

    entropy = -sum p log p / log n          margin = p_best - p_second

Both lie in [0, 1] for every group size: a uniform guess over n images has the raw entropy log n, so dividing by it
(Pielou 1966) makes a group of two and one of four comparable; without, large groups would always seem least sure. The
margin of a uniform guess is 0 for every n. Asking by doubt is uncertainty sampling (Lewis & Gale 1994; by margin:
Scheffer et al. 2001).

The most doubtful groups are often near copies of each other. With ``features``, a batch is spread out by greedy
k-center (Gonzalez 1985, used so by Sener & Savarese 2018) among the most doubtful candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from hpslib.votes.personal import (
    Axes,
    Personal,
    Shown,
    padded,
    personal_scores,
    properties,
    train_personal,
    vote_losses,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Order", "Uncertainty", "informative_groups", "learning_curve", "next_groups", "uncertainty"]


Order = Literal["random", "entropy", "margin", "information"]  #: in which groups are asked about


class Uncertainty(NamedTuple):
    """float64 arrays (groups,) in [0, 1]: the entropy divided by log n (1 is least sure), and the margin (0 is)."""

    entropy: np.ndarray
    margin: np.ndarray


def uncertainty(logits: Any) -> Uncertainty:
    """Doubt of each group, from logits (groups, largest n) padded with -inf (:func:`hpslib.votes.personal.padded`).

    ``logits`` is an array or a tensor. Raises ``ValueError``, naming the group, for NaN, +inf or fewer than two images.

    >>> doubt = uncertainty([[0.0, 0.0, -np.inf], [np.log(2), 0.0, 0.0]])
    >>> doubt.entropy.round(3), doubt.margin.round(3)
    (array([1.   , 0.946]), array([0.  , 0.25]))
    """
    from scipy.special import softmax

    array = _array(logits, "logits")
    wrong = np.flatnonzero(np.isnan(array).any(axis=1) | np.isposinf(array).any(axis=1))
    if len(wrong):
        raise ValueError(f"group {wrong[0]} has a logit that is NaN or +inf: score its images again.")
    n = np.isfinite(array).sum(axis=1)
    if n.min() < 2:
        k = int(n.argmin())
        raise ValueError(f"group {k} has {n[k]} images above -inf (padding): give at least 2 to choose from.")
    p = softmax(array, axis=1)
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
    """The next ``count`` groups to ask about: int64 row numbers, all different, none of ``asked``.

    ``logits`` as in :func:`uncertainty`; ``asked`` holds the row numbers of groups asked before. Without ``features``
    the most uncertain come first; doubts equal to nine digits are broken at random by ``seed``.

    With ``features`` (groups, d), the first is the most uncertain, and each further one is the group farthest
    (Euclidean) from those already in the batch, among the ``candidates`` most uncertain (default 4 * count; all, if
    fewer are left). Unit vectors, such as CLIP's of the prompts, are meant: their distance grows as the cosine falls.
    Equal distances go to the more uncertain. Raises ``ValueError`` when fewer than ``count`` groups are left, or an
    argument does not fit.

    >>> logits = [[0.0, 5.0], [0.0, 0.1], [0.0, 0.0], [0.0, 1.0]]
    >>> next_groups(logits, asked=[1], count=2, seed=0)
    array([2, 3])
    >>> next_groups(logits, [], 2, seed=0, features=[[0, 1], [1, 0], [1, 0], [1, 0.1]])
    array([2, 0])
    """
    if by not in ("entropy", "margin"):
        raise ValueError(f'by is {by!r}: choose "entropy" or "margin".')
    entropy, margin = uncertainty(logits)
    doubt = np.round(entropy if by == "entropy" else -margin, 9)  # or rounding errors would break ties
    left = np.setdiff1d(np.arange(len(doubt)), _row_numbers(asked, len(doubt)))
    if not 1 <= count <= len(left):
        raise ValueError(f"count is {count}, but {len(left)} of {len(doubt)} groups are left: ask for 1 to that many.")
    luck = np.random.default_rng(seed).random(len(doubt))
    ranked = left[np.lexsort((luck[left], -doubt[left]))]
    if features is None:
        if candidates is not None:
            raise ValueError("candidates says among how many to spread a batch out: hand over features with it.")
        return ranked[:count]
    points = _array(features, "features")
    if len(points) != len(doubt) or not np.isfinite(points).all():
        raise ValueError(f"features has shape {points.shape} or NaN: give {len(doubt)} rows of finite numbers.")
    pool = 4 * count if candidates is None else candidates
    if pool < count:
        raise ValueError(f"candidates is {pool}, fewer than the {count} groups to ask about: choose at least as many.")
    return _spread_out(ranked[:pool], points, count)


def _spread_out(ranked: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Greedy k-center from the first of ``ranked``: the largest gap is at most twice the smallest possible one."""
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
        raise ValueError(f"{name} has shape {array.shape}: give one row per group.")
    return array


def _row_numbers(asked: ArrayLike, count: int) -> np.ndarray:
    array = np.asarray(asked)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"asked must hold row numbers of groups, got dtype {array.dtype}: use np.flatnonzero on a mask."
        )
    if array.min() < 0 or array.max() >= count:
        raise ValueError(
            f"asked names group {array[(array < 0) | (array >= count)][0]}: give numbers from 0 to {count - 1}."
        )
    return array


def informative_groups(
    personal: Personal, shown: Shown, asked: ArrayLike, count: int, ridge: float = 10.0
) -> np.ndarray:
    """The next ``count`` groups whose answers tell most about the weights: int64 row numbers, none of ``asked``.

    Greedy D-optimality: each group adds the most to log det(ridge * 1 + sum of Fisher informations), that of a choice
    being the covariance of the properties under the choice probabilities (McFadden 1974). ``ridge`` stands for what is
    known before any vote. Nothing is drawn: the same votes give the same groups. Raises ``ValueError`` when fewer than
    ``count`` groups are left.
    """
    taken = np.asarray(asked, dtype=np.int64)
    left = len(shown) - len(np.unique(taken))
    if not 1 <= count <= left:
        raise ValueError(f"count is {count}, but {left} of {len(shown)} groups are left: ask for 1 to that many.")
    x = padded(properties(personal.axes, shown), shown.sizes, 0.0)
    _, p = vote_losses(personal.weights, padded(shown.base, shown.sizes), x, np.zeros(len(shown), dtype=np.int64))
    mean = np.einsum("gn,gnd->gd", p, x)
    information = np.einsum("gn,gnd,gne->gde", p, x, x) - mean[:, :, None] * mean[:, None, :]
    known = ridge * np.eye(x.shape[2]) + information[taken].sum(0)
    free = np.ones(len(shown), dtype=bool)
    free[taken] = False
    chosen: list[int] = []
    for _ in range(count):
        # det(known + F) / det(known), of which only the logarithm is safe in many dimensions
        gain = np.linalg.slogdet(np.eye(len(known)) + np.linalg.solve(known, information))[1]
        best = int(np.where(free, gain, -np.inf).argmax())
        chosen.append(best)
        free[best] = False
        known = known + information[best]
    return np.array(chosen, dtype=np.int64)


def learning_curve(
    shown: Shown,
    choices: ArrayLike,
    axes: Axes,
    counts: Sequence[int],
    measure: Callable[[Personal], float],
    *,
    order: Order = "random",
    batch: int = 10,
    seed: int = 0,
) -> list[float]:
    """``measure`` of the personal score after each number of votes in ``counts`` (ascending, 0 is the population).

    ``choices`` holds what the person would say to each group of ``shown``; only those asked about are used. They are
    asked in random order, or in batches of those of which the score so far is least sure (by "entropy" or "margin", see
    :func:`hpslib.votes.active.next_groups`) or whose answers tell most ("information", :func:`informative_groups`).

    Raises ``ValueError`` for another order, counts that do not ascend or exceed the groups, and as
    :func:`hpslib.votes.personal.train_personal` does.
    """
    if order not in get_args(Order):
        raise ValueError(f"order is {order!r}: choose one of {', '.join(get_args(Order))}.")
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 0 or counts[-1] > len(shown):
        raise ValueError(f"counts is {list(counts)}: give ascending numbers of votes from 0 to {len(shown)}.")
    answers = np.asarray(choices, dtype=np.int64)
    drawn = np.random.default_rng(seed).permutation(len(shown))
    asked, measured = drawn[:0], []
    personal = train_personal(shown.subset([]), [], axes)
    for count in counts:
        while len(asked) < count:
            step = count - len(asked) if order == "random" else min(batch, count - len(asked))
            if order == "random":
                more = drawn[len(asked) : len(asked) + step]
            elif order == "information":
                more = informative_groups(personal, shown, asked, step)
            else:
                logits = padded(np.concatenate(personal_scores(personal, shown)), shown.sizes)
                more = next_groups(logits, asked, step, seed=np.random.default_rng([seed, len(asked)]), by=order)
            asked = np.concatenate([asked, more])
            personal = train_personal(shown.subset(asked), answers[asked], axes, seed=seed)
        measured.append(measure(personal))
    return measured
