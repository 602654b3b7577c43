"""Position bias: the chi-square of each group size and of all, its level without bias, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpslib.metrics.positions import fitting_sizes, position_bias, whole_numbers


def test_position_bias_is_the_chi_square_of_each_size_and_of_all():
    positions, sizes = [0] * 30 + [1] * 18 + [0] * 5 + [1] * 9 + [2] * 16, [2] * 48 + [3] * 30
    bias = position_bias(positions, sizes)
    assert bias.counts == {2: [30, 18], 3: [5, 9, 16]} and bias.smallest_expected == 10
    two, three = stats.chisquare([30, 18]), stats.chisquare([5, 9, 16])
    assert bias.p_values == pytest.approx({2: two.pvalue, 3: three.pvalue})
    assert bias.p_value == pytest.approx(stats.chi2.sf(two.statistic + three.statistic, 3))
    # without bias, all sizes in one are a test of its stated level
    rng, alarms = np.random.default_rng(4), 0
    n = np.repeat([2, 3, 4], 40)
    for _ in range(300):
        alarms += position_bias(rng.integers(0, n), n).p_value <= 0.1
    assert 0.05 <= alarms / 300 <= 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: position_bias([2], [2]), r"chosen_positions\[0\] is 2, but group 0 has images 0..1: correct it"),
        (lambda: position_bias([0, -1], [2, 2]), r"chosen_positions\[1\] is -1"),
        (
            lambda: position_bias([0, 1], [2]),
            "sizes does not fit 2 groups: give one whole number of 2 or more",
        ),
        (lambda: fitting_sizes(np.array([0]), [1], "choices"), "sizes does not fit 1 groups"),
        (lambda: whole_numbers([], "choices"), r"choices has shape \(0,\) and dtype float64: give a flat list"),
        (lambda: whole_numbers([0.5], "choices"), r"choices has shape \(1,\) and dtype float64"),
        (lambda: whole_numbers([[1]], "choices"), r"choices has shape \(1, 1\)"),
        (lambda: whole_numbers([True], "choices"), "dtype bool"),
    ],
)
def test_errors_say_what_is_wrong_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_two_is_the_smallest_group_and_the_last_image_the_largest_choice():
    assert fitting_sizes(np.array([1, 0, 3]), [2, 2, 4], "choices").tolist() == [2, 2, 4]
