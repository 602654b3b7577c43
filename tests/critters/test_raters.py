"""hpslib.critters.raters: utilities with parameters, choices with Gumbel noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from hpslib.critters.attributes import ATTRIBUTES
from hpslib.critters.eyes import Seen
from hpslib.critters.hpd import make_prompts
from hpslib.critters.raters import (
    FLAW_WEIGHTS,
    POPULATION,
    Rater,
    choice_probabilities,
    choose,
    crowd_probabilities,
    population,
    utilities,
)

PROMPT = "a happy red ball shaped creature wearing a hat on a beach"
ASKED = {"colour": "red", "shape": "round", "scene": "beach", "accessory": "hat", "expression": "happy"}
RATER = Rater("one", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), match=2.0, vividness=0.5, noise=0.8)

SIZES = [2, 4, 3]
PROMPTS = [prompt for prompt, size in zip(make_prompts(3, seed=1), SIZES) for _ in range(size)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def crowd_seen(rng: np.random.Generator) -> Seen:
    n = sum(SIZES)
    attributes = {name: rng.dirichlet(np.ones(len(values)), n) for name, values in ATTRIBUTES.items()}
    return Seen(attributes, rng.random((n, 6)), rng.random(n))


def seen(flaws: np.ndarray, fits: list[float], vividness: list[float]) -> Seen:
    """Images in which every asked attribute has the probability ``fits[row]``."""
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


def test_each_prompt_belongs_to_its_image() -> None:
    both = seen(np.zeros((2, 6)), [1.0, 1.0], [0.4, 0.4])
    other = "a sad blue boxy critter wearing a scarf downtown"
    first, second = utilities(RATER, both, [PROMPT, other])
    assert first == pytest.approx(2.0) and second == pytest.approx(0.0)
    with pytest.raises(ValueError, match="1 prompts but 2 images: hand over one for each image"):
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
        assert stats.kstest((column - mean) / 0.5, "norm").pvalue > 1e-3
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
    for votes in (gumbel, chosen):
        counts = np.bincount(votes, minlength=4)
        assert stats.chisquare(counts, n * choice_probabilities(utility, noise)).pvalue > 1e-3
    # Power: the same counts are not those of a rater twice as noisy.
    assert stats.chisquare(counts, n * choice_probabilities(utility, 2 * noise)).pvalue < 1e-6


def test_a_choice_depends_on_its_generator_alone() -> None:
    utility = np.array([0.0, 0.1, 0.2])
    one, two = ([choose(utility, 1.0, np.random.default_rng(s)) for s in range(20)] for _ in range(2))
    assert one == two and set(one) == {0, 1, 2}
    assert isinstance(one[0], int)


def test_the_crowd_is_the_mean_of_its_raters(crowd_seen: Seen) -> None:
    raters = population(5, seed=2)
    tables = [np.split(utilities(rater, crowd_seen, PROMPTS), np.cumsum(SIZES)[:-1]) for rater in raters]
    crowd = crowd_probabilities(raters, crowd_seen, PROMPTS, SIZES)
    for group, got in enumerate(crowd):
        each = [choice_probabilities(table[group], rater.noise) for table, rater in zip(tables, raters)]
        np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-9)


def test_the_last_place_gains_by_its_bonus(crowd_seen: Seen) -> None:
    raters = population(5, seed=2)
    plain, favoured = (crowd_probabilities(raters, crowd_seen, PROMPTS, SIZES, bonus) for bonus in (0.0, 0.5))
    for before, after in zip(plain, favoured):
        assert after[-1] > before[-1] and (after[:-1] < before[:-1]).all() and after.sum() == pytest.approx(1)


def test_prompts_that_do_not_fill_the_groups_are_refused(crowd_seen: Seen) -> None:
    with pytest.raises(ValueError, match=r"9 prompts for groups of 5 images in all: give each image its prompt\.$"):
        crowd_probabilities(population(1, seed=0), crowd_seen, PROMPTS, [2, 3])


def test_more_flaws_are_worth_less_and_a_better_match_more(crowd_seen: Seen) -> None:
    rater = population(1, seed=0)[0]
    worse = Seen(crowd_seen.attributes, crowd_seen.flaws + 0.1, crowd_seen.vividness)
    drop = utilities(rater, crowd_seen, PROMPTS) - utilities(rater, worse, PROMPTS)
    np.testing.assert_allclose(drop, 0.1 * sum(rater.flaws))
    assert population(3, seed=0) == population(3, seed=0) != population(3, seed=1)
