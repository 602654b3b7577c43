"""Simulated raters with a taste: utilities and votes as stated, tastes that differ, and errors."""

from __future__ import annotations

import doctest
from itertools import combinations

import numpy as np
import pytest
from scipy import special, stats

import hpslib.critters.tastes as module
from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.eyes import Seen
from hpslib.critters.raters import FLAW_WEIGHTS, POPULATION, utilities
from hpslib.critters.tastes import ORDINARY, TASTES, ask, random_tastes, taste_probabilities, taste_utilities

PROMPT = "a happy red ball shaped creature wearing a hat on a beach"


def test_doctests() -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0 and result.attempted >= 1


@pytest.fixture
def seen(rng: np.random.Generator) -> Seen:
    """400 pictures; flaws, moods and vividness scatter as they do within mini-SD's groups."""
    attributes = {name: rng.dirichlet(np.full(len(values), 0.3), 400) for name, values in ATTRIBUTES.items()}
    return Seen(attributes, rng.beta(0.15, 0.8, (400, len(FLAWS))), rng.normal(0.3, 0.013, 400))


def test_liking_adds_to_the_utility_of_the_crowds_formula(seen: Seen) -> None:
    smiles = next(taste for taste in TASTES if taste.likes)
    added = taste_utilities(smiles, seen, [PROMPT] * 400) - utilities(smiles.rater, seen, [PROMPT] * 400)
    np.testing.assert_allclose(added, 6.0 * seen.attributes["expression"][:, 0])
    plain = taste_utilities(TASTES[0], seen, [PROMPT] * 400)
    np.testing.assert_array_equal(plain, utilities(TASTES[0].rater, seen, [PROMPT] * 400))


def test_probabilities_are_the_softmax_of_each_group(seen: Seen) -> None:
    sizes = [2, 3, 395]
    parts = taste_probabilities(TASTES[3], seen, [PROMPT] * 400, sizes)
    assert [len(part) for part in parts] == sizes
    expected = special.softmax(taste_utilities(TASTES[3], seen, [PROMPT] * 400)[2:5] / POPULATION["noise"])
    np.testing.assert_allclose(parts[1], expected)
    with pytest.raises(ValueError, match="400 prompts for groups of 399 images: give each image its"):
        taste_probabilities(TASTES[3], seen, [PROMPT] * 400, [399])


def test_the_ten_are_named_simulated_told_apart_and_noisy_as_the_crowd() -> None:
    assert len(TASTES) == len({t.name for t in TASTES}) == len({t.told for t in TASTES}) == 10
    assert all(t.name.startswith("simulated-") and t.rater.noise == POPULATION["noise"] for t in (*TASTES, ORDINARY))
    assert ORDINARY.rater.flaws == FLAW_WEIGHTS and not ORDINARY.likes


def test_tastes_differ_from_the_crowd_and_from_each_other(seen: Seen) -> None:
    """Their favourites among four coincide less often than those of two ordinary raters with noise of their own."""
    sizes = [4] * 100
    chances = {t.name: taste_probabilities(t, seen, [PROMPT] * 400, sizes) for t in (*TASTES, ORDINARY)}

    def agreement(a: str, b: str) -> float:
        return float(np.mean([p @ q for p, q in zip(chances[a], chances[b])]))

    for first, second in combinations(chances, 2):
        assert agreement(first, second) < min(agreement(first, first), agreement(second, second)), (first, second)


def test_votes_follow_the_chances_and_the_seed_alone() -> None:
    p = [np.array([0.1, 0.6, 0.3])] * 3000
    votes = ask(p, seed=1)
    assert stats.chisquare(np.bincount(votes), 3000 * p[0]).pvalue > 1e-3
    np.testing.assert_array_equal(votes, ask(p, seed=1))
    assert votes.dtype == np.int64
    again = (votes == ask(p, seed=2)).mean()  # two days of one rater agree as sum p^2 says
    assert stats.binomtest(round(3000 * again), 3000, float(p[0] @ p[0])).pvalue > 1e-3


def test_raters_to_tune_on_are_others_and_reproducible() -> None:
    tuning = random_tastes(40, seed=11)
    assert tuning == random_tastes(40, seed=11) and tuning[:8] == random_tastes(8, seed=11)
    assert tuning != random_tastes(40, seed=12)
    assert not {t.rater.flaws for t in tuning} & {t.rater.flaws for t in TASTES}
    for k, taste in enumerate(tuning):
        liked = sum(weight < 0 for weight in taste.rater.flaws)
        assert (1 <= liked <= 2) == (k % 4 < 2) and bool(taste.likes) == (k % 4 == 2)
        assert (abs(taste.rater.vividness) >= 6) == (k % 4 == 3) and taste.rater.flaws[FLAWS.index("washed_out")] > 0
