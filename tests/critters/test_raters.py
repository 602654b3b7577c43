"""hpslib.critters.raters: utilities with parameters, choices with Gumbel noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from hpslib.critters.draw import ATTRIBUTES
from hpslib.critters.eyes import Seen
from hpslib.critters.raters import FLAW_WEIGHTS, POPULATION, Rater, choice_probabilities, choose, population, utilities

PROMPT = "a happy red ball shaped creature wearing a hat on a beach"
ASKED = {"colour": "red", "shape": "round", "scene": "beach", "accessory": "hat", "expression": "happy"}
RATER = Rater("one", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), match=2.0, vividness=0.5, noise=0.8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def seen(flaws: np.ndarray, fits: list[float], vividness: list[float]) -> Seen:
    """Pictures in which every asked attribute has the probability ``fits[row]``."""
    attributes = {}
    for name, values in ATTRIBUTES.items():
        table = np.repeat((1 - np.array(fits))[:, None] / (len(values) - 1), len(values), axis=1)
        table[:, values.index(ASKED[name])] = fits
        attributes[name] = table
    return Seen(attributes, flaws, np.array(vividness))


def test_utility_is_the_formula_of_the_module(rng: np.random.Generator) -> None:
    flaws = rng.random((3, 6))
    got = utilities(RATER, seen(flaws, [0.2, 0.9, 1.0], [0.1, 0.4, 0.7]), [PROMPT] * 3)
    expected = -(flaws * [1, 2, 3, 4, 5, 6]).sum(1) + 2.0 * np.array([0.2, 0.9, 1.0]) + 0.5 * np.array([-3, 0, 3])
    np.testing.assert_allclose(got, expected)


def test_each_prompt_belongs_to_its_picture() -> None:
    both = seen(np.zeros((2, 6)), [1.0, 1.0], [0.4, 0.4])
    other = "a sad blue boxy critter wearing a scarf downtown"
    first, second = utilities(RATER, both, [PROMPT, other])
    assert first == pytest.approx(2.0) and second == pytest.approx(0.0)
    with pytest.raises(ValueError, match="1 prompts but 2 pictures"):
        utilities(RATER, both, [PROMPT])
    with pytest.raises(ValueError, match="simulated raters only understand captions of the critters grammar"):
        utilities(RATER, both, [PROMPT, "a castle, oil on canvas"])


def test_a_population_is_reproducible_and_a_longer_one_begins_with_the_shorter() -> None:
    people = population(200, seed=3)
    assert people == population(200, seed=3) and people[:50] == population(50, seed=3)
    assert people != population(200, seed=4)
    assert len({rater.name for rater in people}) == 200 and people[7].name == "simulated-007"
    assert all(min(*rater.flaws, rater.match, rater.vividness) > 0 for rater in people)


def test_weights_scatter_log_normally_around_the_stated_mean() -> None:
    people = population(2000, seed=0, spread=0.5)
    logs = np.log([[*r.flaws, r.match, r.vividness] for r in people])
    middle = np.log([*FLAW_WEIGHTS, POPULATION["match"], POPULATION["vividness"]])
    for column, mean in zip(logs.T, middle, strict=True):
        assert stats.kstest(column, "norm", args=(mean, 0.5)).pvalue > 1e-3
    assert {r.noise for r in people} == {POPULATION["noise"]}
    (first, *others) = population(5, seed=0, spread=0.0)
    assert first.flaws == FLAW_WEIGHTS and all(replace(r, name=first.name) == first for r in others)


def test_choice_probabilities_are_the_softmax(rng: np.random.Generator) -> None:
    utility = rng.normal(0, 2, 4)
    expected = special.softmax(utility / 0.8)
    np.testing.assert_allclose(choice_probabilities(utility, 0.8), expected)
    np.testing.assert_allclose(choice_probabilities(utility + 100, 0.8), expected)  # only differences count
    np.testing.assert_allclose(choice_probabilities(utility * 1e4, 0.8).max(), 1.0)  # no overflow
    order = rng.permutation(4)
    np.testing.assert_allclose(choice_probabilities(utility[order], 0.8), expected[order])
    np.testing.assert_allclose(choice_probabilities(utility, 1e9), 0.25, atol=1e-6)


def test_choices_are_those_of_the_largest_utility_after_gumbel_noise(rng: np.random.Generator) -> None:
    utility, noise, n = np.array([0.0, 0.7, -0.5, 1.1]), 0.8, 4000
    gumbel = (utility + noise * rng.gumbel(size=(n, 4))).argmax(1)
    chosen = np.array([choose(utility, noise, rng) for _ in range(n)])
    for picks in (gumbel, chosen):
        counts = np.bincount(picks, minlength=4)
        assert stats.chisquare(counts, n * choice_probabilities(utility, noise)).pvalue > 1e-3
    # Power: the same counts are not those of a rater twice as noisy.
    assert stats.chisquare(counts, n * choice_probabilities(utility, 2 * noise)).pvalue < 1e-6


def test_a_choice_depends_on_its_generator_alone() -> None:
    utility = np.array([0.0, 0.1, 0.2])
    made = [[choose(utility, 1.0, np.random.default_rng(s)) for s in range(20)] for _ in range(2)]
    assert made[0] == made[1] and set(made[0]) == {0, 1, 2}
    assert isinstance(made[0][0], int)
