"""Are all places in a group chosen equally often? Counts and a chi-square test, and the checks of whole numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["PositionBias", "fitting_sizes", "position_bias", "whole_numbers"]


class PositionBias(NamedTuple):
    """Choices per position and chi-square p-values, by group size and over all sizes; see :func:`position_bias`."""

    counts: dict[int, list[int]]
    p_values: dict[int, float]
    p_value: float
    smallest_expected: float


def position_bias(chosen_positions: ArrayLike, sizes: ArrayLike) -> PositionBias:
    """Are all positions chosen equally often, as they should be if the places of the images were drawn at random?

    ``chosen_positions`` is the place (from 0) of each chosen image *as shown*, ``sizes`` the number of images of its
    group. Each size is tested by Pearson's chi-square against equal shares (``scipy.stats.chisquare``); ``p_value``
    adds the statistics and the degrees of freedom of all sizes. Chi-square is rough while ``smallest_expected`` is
    below 5 (Cochran 1954). Raises ``ValueError`` on unequal lengths, no choice at all or a position out of range.

    >>> bias = position_bias([1, 1, 1, 1, 1, 1, 1, 0, 1, 1], [2] * 10)
    >>> bias.counts, round(bias.p_value, 3), bias.smallest_expected
    ({2: [1, 9]}, 0.011, 5.0)
    """
    from scipy import stats

    places = whole_numbers(chosen_positions, "chosen_positions")
    n = fitting_sizes(places, sizes, "chosen_positions")
    counts = {int(size): np.bincount(places[n == size], minlength=size).tolist() for size in np.unique(n)}
    tests = {size: stats.chisquare(chosen) for size, chosen in counts.items()}
    total = sum(float(test.statistic) for test in tests.values())
    return PositionBias(
        counts,
        {size: float(test.pvalue) for size, test in tests.items()},
        float(stats.chi2.sf(total, sum(size - 1 for size in counts))),
        min(sum(chosen) / size for size, chosen in counts.items()),
    )


def whole_numbers(values: ArrayLike, name: str) -> np.ndarray:
    """The values as flat int64. Raises ``ValueError``, naming ``name``, where they are empty or no whole numbers.

    >>> whole_numbers([2, 0], "choices")
    array([2, 0])
    """
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}: give a flat list of whole numbers.")
    return array.astype(np.int64)


def fitting_sizes(choices: np.ndarray, sizes: ArrayLike, name: str) -> np.ndarray:
    """The sizes of the groups, int64, once every choice is known to be an image of its group.

    Raises ``ValueError``, naming ``name`` and the group, for a choice out of range, a group of one or unequal lengths.

    >>> fitting_sizes(np.array([1, 2]), [2, 4], "choices")
    array([2, 4])
    """
    n = whole_numbers(sizes, "sizes")
    if len(n) != len(choices) or n.min() < 2:
        raise ValueError(f"sizes does not fit {len(choices)} groups: give one whole number of 2 or more per group.")
    wrong = np.flatnonzero((choices < 0) | (choices >= n))
    if len(wrong):
        k = wrong[0]
        raise ValueError(f"{name}[{k}] is {choices[k]}, but group {k} has images 0..{n[k] - 1}: correct it.")
    return n
