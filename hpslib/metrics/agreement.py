"""Holds the numbers of a scorer against the choices and ranks of people, always with an interval.

Everything here takes ``scores`` (one list per group, one number per image, groups may differ in size) and ``choices``
(the index of the chosen image in each group). One rule decides every doubtful case, so that no scorer gains by being
vague:

* **Ties share.** Images tied at the top share the credit: the expected accuracy if ties were broken at random.
* **NaN abstains.** A group with any NaN score counts as tied throughout (chance credit), and is counted in
  ``abstained``.
* Infinities are ordinary values; two equal infinities tie.

A constant scorer and an all-NaN scorer therefore score exactly chance. Scores of different prompts are never compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from hpslib.metrics.intervals import Estimate, bootstrap_by_prompt

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike

__all__ = [
    "chance_top1",
    "constant_baseline",
    "count_abstained",
    "pairwise_accuracy",
    "pairwise_agreement",
    "pairwise_credit",
    "position_scores",
    "score_arrays",
    "top1_accuracy",
    "top1_credit",
]


def top1_credit(scores: Sequence[ArrayLike], choices: ArrayLike) -> np.ndarray:
    """Credit of each group for finding the chosen image: float64, shape (groups,), in [0, 1].

    1 / (number of images tied at the top) if the chosen one is among them, else 0; 1 / (number of images) on a NaN.
    Raises ``ValueError`` on empty input, unequal lengths, a group of one or a choice out of range.

    >>> top1_credit([[0.1, 0.9], [2.0, 2.0, 1.0], [float("nan"), 1.0]], [1, 0, 1])
    array([1. , 0.5, 0.5])
    """
    return np.array([_top1(group, chosen) for group, chosen in _checked(scores, choices)])


def _top1(group: np.ndarray, chosen: int) -> float:
    if np.isnan(group).any():
        return 1 / len(group)
    top = group == group.max()
    return float(top[chosen] / top.sum())


def pairwise_credit(scores: Sequence[ArrayLike], choices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Credit for ranking the chosen image above each other image of its group.

    Returns (credit, pairs), both of shape (groups,): the sum over the group's pairs of 1 (chosen above), 0.5 (tie, NaN
    in the group) or 0 (chosen below) as float64, and the number of pairs (images - 1) as int64. Pairs among the images
    that were not chosen say nothing and are left out. Raises ``ValueError`` as :func:`top1_credit` does.

    >>> pairwise_credit([[0.3, 0.2, 0.3], [1.0, 2.0]], [0, 0])
    (array([1.5, 0. ]), array([2, 1]))
    """
    groups = _checked(scores, choices)
    pairs = np.array([len(group) - 1 for group, _ in groups])
    return np.array([_pairwise(group, chosen) for group, chosen in groups]), pairs


def _pairwise(group: np.ndarray, chosen: int) -> float:
    if np.isnan(group).any():
        return 0.5 * (len(group) - 1)
    concordant, tied = group[chosen] > group, group[chosen] == group
    return float(concordant.sum() + 0.5 * (tied.sum() - 1))  # minus the tie of the chosen image with itself


def count_abstained(scores: Sequence[ArrayLike]) -> int:
    """Number of groups with at least one NaN score.

    >>> count_abstained([[1.0, 2.0], [float("nan"), 1.0]])
    1
    """
    return sum(bool(np.isnan(np.asarray(group, dtype=np.float64)).any()) for group in scores)


def top1_accuracy(
    scores: Sequence[ArrayLike],
    choices: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Share of groups in which the best-scored image is the chosen one (the paper's accuracy), in [0, 1].

    The interval is :func:`hpslib.metrics.intervals.bootstrap_by_prompt`: ``prompts`` holds one label per group, None
    makes every group its own prompt, and one prompt alone has no interval. A perfect score has an empty one: there
    prefer :func:`hpslib.metrics.intervals.wilson_interval`. Raises ``ValueError`` as :func:`top1_credit` does.

    >>> print(top1_accuracy([[1, 0], [0, 1], [1, 0], [1, 0]], [0, 0, 0, 0], seed=1).percent())
    75.0 % [25.0, 100.0]
    """
    credit = top1_credit(scores, choices)
    return bootstrap_by_prompt(credit, None, prompts, confidence, n_resamples, seed, count_abstained(scores))


def pairwise_accuracy(
    scores: Sequence[ArrayLike],
    choices: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
    average: Literal["macro", "micro"] = "macro",
) -> Estimate:
    """Share of (chosen, other) pairs that the scores order as people did, in [0, 1]; chance is 0.5.

    "macro" averages the share of each group (every choice weighs the same), "micro" pools all pairs (large groups weigh
    more); published tables differ in this, so say which. Interval and errors as in :func:`top1_accuracy`, and
    ``ValueError`` for another ``average``.

    >>> pairwise_accuracy([[3, 1, 2], [1, 2]], [0, 0]).value, pairwise_accuracy([[3, 1, 2], [1, 2]], [0, 0],
    ...     average="micro").value.__round__(3)
    (0.5, 0.667)
    """
    if average not in ("macro", "micro"):
        raise ValueError(f'average is {average!r}: choose "macro" or "micro".')
    credit, pairs = pairwise_credit(scores, choices)
    numerator, denominator = (credit / pairs, None) if average == "macro" else (credit, pairs)
    abstained = count_abstained(scores)
    return bootstrap_by_prompt(numerator, denominator, prompts, confidence, n_resamples, seed, abstained)


def chance_top1(sizes: ArrayLike) -> float:
    """Expected top-1 accuracy of guessing: the mean of 1 / (images in the group).

    Raises ``ValueError`` unless ``sizes`` are whole numbers from 2, one per group.

    >>> round(chance_top1([4] * 4737 + [3] * 166 + [2] * 97), 4)  # the test split of HPD v1
    0.2576
    """
    return float(np.mean(1 / _checked_sizes(sizes)))


def position_scores(sizes: ArrayLike, position: Literal["first", "last"] | int = "last") -> list[np.ndarray]:
    """Scores of somebody who always picks one position: 1.0 there, 0.0 elsewhere; ready for every function here.

    An int counts from 0; in groups too small to have that position all scores are NaN (an abstention). Raises
    ``ValueError`` for another position and for sizes as :func:`chance_top1` does.

    >>> position_scores([2, 3], 2)
    [array([nan, nan]), array([0., 0., 1.])]
    """
    if position not in ("first", "last") and not (isinstance(position, (int, np.integer)) and position >= 0):
        raise ValueError(f'position is {position!r}: choose "first", "last" or an index from 0.')
    rows = []
    for n in _checked_sizes(sizes):
        place = 0 if position == "first" else n - 1 if position == "last" else int(position)
        rows.append(np.eye(n)[place] if place < n else np.full(n, np.nan))
    return rows


def constant_baseline(
    sizes: ArrayLike,
    choices: ArrayLike,
    position: Literal["first", "last"] | int = "last",
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Top-1 accuracy of always choosing one position: a test for position bias in the data.

    A scorer must beat this, not only chance: always the last image gets 31.8 % on HPD v1's test split, where guessing
    gets 25.8 %. Groups too small for an int ``position`` are credited as chance and counted as abstained.

    >>> constant_baseline([2, 3, 4], [1, 2, 0]).value.__round__(3)
    0.667
    """
    return top1_accuracy(position_scores(sizes, position), choices, prompts, confidence, n_resamples, seed)


def score_arrays(groups: Sequence[ArrayLike], name: str) -> list[np.ndarray]:
    """Each group as a flat float64 array of at least two numbers.

    Raises ``ValueError``, naming ``name`` and the group, for anything else.
    """
    if len(groups) == 0:
        raise ValueError(f"{name} is empty: give at least one group.")
    arrays = []
    for i, group in enumerate(groups):
        try:
            array = np.asarray(group, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}[{i}] cannot be read as numbers ({error}): give one number per image.") from error
        if array.ndim != 1 or len(array) < 2:
            raise ValueError(f"{name}[{i}] has shape {array.shape}: give a flat list of 2 or more images.")
        arrays.append(array)
    return arrays


def _checked(scores: Sequence[ArrayLike], choices: ArrayLike) -> list[tuple[np.ndarray, int]]:
    groups, chosen = score_arrays(scores, "scores"), np.asarray(choices)
    if chosen.shape != (len(groups),):
        raise ValueError(f"scores has {len(groups)} groups but choices has shape {chosen.shape}: give one index each.")
    if chosen.dtype.kind not in "iu":
        raise ValueError(f"choices has dtype {chosen.dtype}: give whole numbers, indices from 0.")
    for i, (group, index) in enumerate(zip(groups, chosen)):
        if not 0 <= index < len(group):
            raise ValueError(f"choices[{i}] is {index}, but group {i} has images 0..{len(group) - 1}: correct it.")
    return list(zip(groups, chosen.tolist()))


def _checked_sizes(sizes: ArrayLike) -> np.ndarray:
    array = np.asarray(sizes)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iu" or array.min() < 2:
        raise ValueError("sizes is no list of the groups' sizes: give one whole number of 2 or more per group.")
    return array


def pairwise_agreement(
    scores: Sequence[ArrayLike],
    ranks: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    average: Literal["macro", "micro"] = "macro",
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Share of the pairs that people told apart which the scores order the same way, in [0, 1]; chance is 0.5.

    Pairs with equal human ranks are left out. Equal scores count half, and so does every pair of a group with a NaN
    score, as everywhere in :mod:`hpslib.metrics.agreement`: a constant scorer gets exactly 0.5. The released
    evaluations decide otherwise, which matters as soon as scores are rounded: HPSv2's ``inversion_score`` counts equal
    scores (and equal human ranks) as right, so a constant scorer gets 1.0; its ``calc_ImageReward`` counts equal scores
    as wrong. Without ties all three agree, and the value of one group is (1 + Kendall's tau) / 2.

    Args:
        scores: one list per group, one number per image, higher is better.
        ranks: likewise, 1 is the best (:func:`hpslib.data.rankings.ranks_of`).
        prompts: one label per group; the interval draws whole prompts (see :func:`top1_accuracy`).
        average: "macro" averages the shares of the groups (HPSv2's way), "micro" pools all pairs (ImageReward's:
            ``acc`` in its ``test.py`` divides two counts over the whole set).
        confidence, n_resamples, seed: of the bootstrap.

    ``n`` of the estimate counts the groups with at least one pair that people told apart, the only ones used. Raises
    ``ValueError`` when lengths differ, fewer than half of the groups have an image of rank 1 (ratings, where more is
    better, would turn the result round), a rank is no number, or no group has such a pair.

    >>> pairwise_agreement([[3.0, 2.0, 1.0], [0.5, 0.5]], [[1, 2, 2], [2, 1]]).value
    0.75
    """
    if average not in ("macro", "micro"):
        raise ValueError(f'average is {average!r}: choose "macro" or "micro".')
    given, orders = score_arrays(scores, "scores"), score_arrays(ranks, "ranks")
    if len(given) != len(orders):
        raise ValueError(f"scores has {len(given)} groups but ranks has {len(orders)}: give one list of ranks each.")
    if prompts is not None and len(prompts) != len(given):
        raise ValueError(f"prompts has {len(prompts)} labels for {len(given)} groups: give one for each.")
    for i, (values, order) in enumerate(zip(given, orders)):
        if len(values) != len(order):
            raise ValueError(
                f"scores[{i}] has {len(values)} images but ranks[{i}] has {len(order)}: give one rank each."
            )
        if np.isnan(order).any():
            raise ValueError(f"ranks[{i}] has a NaN: give every image a rank.")
        if order.min() < 1:
            raise ValueError(f"ranks[{i}] begins at {order.min():g}: give ranks from 1, the best.")
    begin = float(np.mean([order.min() == 1 for order in orders]))
    if begin < 0.5:  # not all: 51 of the 466 groups of ImageReward's test set have no image of rank 1
        raise ValueError(
            f"only {100 * begin:.0f} % of the groups have an image of rank 1: give ranks, 1 for the best; ratings, "
            'where more is better, become ranks by scipy.stats.rankdata(-ratings, method="min").'
        )
    counted = [_ordered_alike(values, order) for values, order in zip(given, orders)]
    used = [i for i, (_, pairs) in enumerate(counted) if pairs]
    if not used:
        raise ValueError(
            "people ranked all images of every group alike: give at least one group with a better and a worse image."
        )
    credit, pairs = (np.array([counted[i][part] for i in used], dtype=np.float64) for part in (0, 1))
    numerator, denominator = (credit / pairs, None) if average == "macro" else (credit, pairs)
    labels = None if prompts is None else [prompts[i] for i in used]
    abstained = count_abstained([given[i] for i in used])
    return bootstrap_by_prompt(numerator, denominator, labels, confidence, n_resamples, seed, abstained)


def _ordered_alike(scores: np.ndarray, ranks: np.ndarray) -> tuple[float, int]:
    """Credit and number of the pairs with different ranks."""
    i, j = np.triu_indices(len(ranks), k=1)
    people = np.sign(ranks[j] - ranks[i])  # 1 where i is the better one
    if np.isnan(scores).any():
        return 0.5 * np.count_nonzero(people), int(np.count_nonzero(people))
    # not a difference: of two infinities it would be NaN
    machine = (scores[i] > scores[j]).astype(int) - (scores[i] < scores[j])
    return float(np.sum(0.5 * (1 + people * machine)[people != 0])), int(np.count_nonzero(people))
