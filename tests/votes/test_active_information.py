"""Which groups to vote on: a brute-force statement of the design, laws, and the text of errors."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from scipy import special

from hpslib.votes.active import Order, informative_groups, learning_curve
from hpslib.votes.personal import Axes, Personal, Shown, personal_scores, properties, taste_axes, train_personal


@pytest.fixture
def shown(rng: np.random.Generator) -> Shown:
    sizes = rng.integers(2, 5, 60)
    return Shown(rng.normal(size=sizes.sum()), rng.normal(size=(sizes.sum(), 3)), rng.normal(size=(sizes.sum(), 3)), sizes)  # fmt: skip # noqa: E501


@pytest.fixture
def axes(shown: Shown) -> Axes:
    return taste_axes(shown, 3)


def information(personal: Personal, shown: Shown) -> list[np.ndarray]:
    """The covariance of the properties under the chances, group by group."""
    x = np.split(properties(personal.axes, shown), np.cumsum(shown.sizes)[:-1])
    chances = [special.softmax(scores) for scores in personal_scores(personal, shown)]
    return [np.cov(v.T, aweights=p, bias=True) for v, p in zip(x, chances)]


def test_groups_maximise_the_determinant_one_by_one(shown: Shown, axes: Axes, rng: np.random.Generator) -> None:
    personal = Personal(axes, rng.normal(size=7), 1.0, 0, {})
    each, asked = information(personal, shown), [3, 8]
    got = informative_groups(personal, shown, asked, 4, ridge=2.0)
    known = 2.0 * np.eye(7) + each[3] + each[8]
    for group in got:
        value = {k: np.linalg.det(known + each[k]) for k in range(60) if k not in asked}
        assert group == max(value, key=value.__getitem__)
        asked.append(group)
        known = known + each[group]


def test_groups_of_equal_pictures_are_asked_about_last(shown: Shown, axes: Axes) -> None:
    """Of these the score is least sure, and they teach nothing."""
    start = np.cumsum(shown.sizes) - shown.sizes
    for k in (4, 20):
        for values in (shown.base, shown.what, shown.how):
            values[start[k] : start[k] + shown.sizes[k]] = values[start[k]]
    personal = train_personal(shown.subset([]), [], axes)
    ranked = informative_groups(personal, shown, [], 60)
    assert set(ranked[-2:]) == {4, 20} and sorted(ranked) == list(range(60))


def test_no_more_groups_than_are_left(shown: Shown, axes: Axes) -> None:
    personal = train_personal(shown.subset([]), [], axes)
    with pytest.raises(ValueError, match=r"count is 3, but 2 of 60 groups are left: ask for 1 to that many\."):
        informative_groups(personal, shown, range(58), 3)


@pytest.mark.parametrize("order", get_args(Order))
def test_a_curve_begins_with_the_population_and_ends_with_all_votes(shown: Shown, axes: Axes, order: Order) -> None:
    rng = np.random.default_rng(1)
    choices = [int(rng.integers(n)) for n in shown.sizes]
    votes = learning_curve(shown, choices, axes, [0, 5, 17, 60], lambda p: p.votes, order=order, batch=8)
    assert votes == [0, 5, 17, 60]
    norms = learning_curve(
        shown, choices, axes, [0, 60], lambda p: float(np.linalg.norm(p.weights)), order=order, seed=2
    )
    assert norms[0] == 0
    alone = learning_curve(shown, choices, axes, [60], lambda p: float(np.linalg.norm(p.weights)), order=order, seed=2)
    assert alone[0] == norms[1]


@pytest.mark.parametrize("order", get_args(Order))
def test_only_answers_that_were_asked_for_count(shown: Shown, axes: Axes, order: Order) -> None:
    """Every answer is replaced in turn: the curve notices just those of the groups that were asked."""
    few, rng = shown.subset(range(24)), np.random.default_rng(3)
    choices = np.array([int(rng.integers(n)) for n in few.sizes])

    def curve(said: np.ndarray) -> list[float]:
        return learning_curve(few, said, axes, [12], lambda p: float(p.weights @ np.arange(7)), order=order, batch=12)

    whole, changed = curve(choices), 0
    for k in range(24):
        other = choices.copy()
        other[k] = (other[k] + 1) % few.sizes[k]
        changed += curve(other) != whole
    assert changed == 12


def test_orders_and_counts_that_make_no_sense_are_refused(shown: Shown, axes: Axes) -> None:
    with pytest.raises(ValueError, match=r"order is 'doubt': choose one of random, entropy, margin, information\."):
        learning_curve(shown, [0] * 60, axes, [10], lambda p: 0.0, order="doubt")  # type: ignore[arg-type]
    for counts in ([], [10, 5], [10, 10], [-1, 5], [61]):
        with pytest.raises(ValueError, match="give ascending numbers of votes from 0 to 60"):
            learning_curve(shown, [0] * 60, axes, counts, lambda p: 0.0)
