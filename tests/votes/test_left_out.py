"""hpslib.votes.left_out: every vote is predicted by a score that has not seen it."""

from __future__ import annotations

import numpy as np
import pytest

from hpslib.metrics.agreement import top1_accuracy
from hpslib.votes.left_out import left_out_scores
from hpslib.votes.personal import Personal, Shown, personal_scores, taste_axes, train_personal


@pytest.fixture
def shown(rng: np.random.Generator) -> Shown:
    sizes = np.full(60, 4)
    what, how = (rng.normal(size=(240, 6)) for _ in "ab")
    return Shown(rng.normal(size=240) * 0.3, what, how, sizes)


def test_the_fold_of_a_group_takes_no_part_in_its_score(shown: Shown) -> None:
    axes, few, choices = taste_axes(shown, 2), shown.subset(range(16)), np.arange(16) % 4
    scores = left_out_scores(few, choices, axes, folds=16)  # one group a fold
    for group in (0, 7, 15):
        others = np.delete(np.arange(16), group)
        alone = train_personal(few.subset(others), choices[others], axes, seed=0)
        np.testing.assert_allclose(scores[group], personal_scores(alone, few.subset([group]))[0])


def test_a_taste_shows_in_votes_that_were_left_out_and_noise_does_not(shown: Shown) -> None:
    axes = taste_axes(shown, 2)
    wanted = personal_scores(Personal(axes, np.array([3.0, 0, 0, 0, 0]), 1.0, 0, {}), shown)
    choices = np.array([int(group.argmax()) for group in wanted])
    assert top1_accuracy(left_out_scores(shown, choices, axes), choices).value > 0.8
    dice = np.random.default_rng(0).integers(0, 4, 60)
    on_itself = personal_scores(train_personal(shown, dice, axes), shown)
    left_out = top1_accuracy(left_out_scores(shown, dice, axes), dice)
    assert left_out.low < 0.25 < left_out.high and top1_accuracy(on_itself, dice).value >= left_out.value


def test_it_is_drawn_by_the_seed_alone(shown: Shown) -> None:
    axes, choices = taste_axes(shown, 2), np.arange(60) % 3
    one, same, other = (left_out_scores(shown, choices, axes, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same)) and not all(map(np.array_equal, one, other))


@pytest.mark.parametrize(("votes", "folds"), [(4, 2), (8, 2), (10, 1), (10, 11), (0, 5)])
def test_too_few_votes_are_refused(shown: Shown, votes: int, folds: int) -> None:
    with pytest.raises(ValueError, match=rf"^{votes} votes cannot be left out in {folds} folds: vote on ten groups"):
        left_out_scores(shown.subset(range(votes)), np.zeros(votes, dtype=int), taste_axes(shown, 2), folds=folds)


def test_two_folds_of_ten_votes_are_just_enough(shown: Shown) -> None:
    scores = left_out_scores(shown.subset(range(10)), np.arange(10) % 4, taste_axes(shown, 2), folds=2)
    assert [group.shape for group in scores] == [(4,)] * 10
