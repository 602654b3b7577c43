from __future__ import annotations

import numpy as np
import pytest

from hpslib.critters.draw import ATTRIBUTES
from hpslib.critters.eyes import Seen
from hpslib.critters.hpd import make_prompts
from hpslib.critters.raters import choice_probabilities, choose, crowd_probabilities, population, utilities

SIZES = [2, 4, 3]


@pytest.fixture
def seen(rng: np.random.Generator) -> Seen:
    n = sum(SIZES)
    attributes = {name: rng.dirichlet(np.ones(len(values)), n) for name, values in ATTRIBUTES.items()}
    return Seen(attributes, rng.random((n, 6)), rng.random(n))


PROMPTS = [prompt for prompt, size in zip(make_prompts(3, seed=1), SIZES) for _ in range(size)]


def test_the_crowd_is_the_mean_of_its_raters(seen: Seen) -> None:
    raters = population(5, seed=2)
    tables = [np.split(utilities(rater, seen, PROMPTS), np.cumsum(SIZES)[:-1]) for rater in raters]
    crowd = crowd_probabilities(raters, seen, PROMPTS, SIZES)
    for group, got in enumerate(crowd):
        each = [choice_probabilities(table[group], rater.noise) for table, rater in zip(tables, raters)]
        np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-9)


def test_the_last_place_gains_by_its_bonus(seen: Seen) -> None:
    raters = population(5, seed=2)
    plain, favoured = (crowd_probabilities(raters, seen, PROMPTS, SIZES, bonus) for bonus in (0.0, 0.5))
    for before, after in zip(plain, favoured):
        assert after[-1] > before[-1] and (after[:-1] < before[:-1]).all() and after.sum() == pytest.approx(1)


def test_prompts_that_do_not_fill_the_groups_are_refused(seen: Seen) -> None:
    with pytest.raises(ValueError, match=r"9 prompts for groups of 5 pictures.*: give each picture its prompt"):
        crowd_probabilities(population(1, seed=0), seen, PROMPTS, [2, 3])


def test_choices_follow_the_probabilities(rng: np.random.Generator) -> None:
    utility, noise = np.array([0.0, 1.0, -0.5]), 0.8
    votes = np.bincount([choose(utility, noise, rng) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(votes, choice_probabilities(utility, noise), atol=0.03)
    gumbel = (utility / noise + rng.gumbel(size=(20_000, 3))).argmax(1)  # McFadden: the same by Gumbel noise
    np.testing.assert_allclose(np.bincount(gumbel) / 20_000, choice_probabilities(utility, noise), atol=0.015)


def test_more_flaws_are_worth_less_and_a_better_match_more(seen: Seen) -> None:
    rater = population(1, seed=0)[0]
    worse = Seen(seen.attributes, seen.flaws + 0.1, seen.vividness)
    drop = utilities(rater, seen, PROMPTS) - utilities(rater, worse, PROMPTS)
    np.testing.assert_allclose(drop, 0.1 * sum(rater.flaws))
    assert population(3, seed=0) == population(3, seed=0) != population(3, seed=1)
