"""hpslib.votes.likelihood: held against scipy's own optimiser and networks that are known, dense and sparse alike."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit

import hpslib.votes.likelihood as module
from hpslib.votes.likelihood import Pairs, connected_parts, most_likely, pair_columns


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 2


def network(rng: np.random.Generator, models: int, count: int, weightings: int = 1) -> tuple[Pairs, np.ndarray]:
    """A ring, so that all is one part, and ``count`` more pairs; every pair won both ways."""
    ring = np.arange(models)
    won = np.append(ring, rng.integers(models, size=count))
    lost = np.append((ring + 1) % models, (won[models:] + rng.integers(1, models, size=count)) % models)
    pairs, _ = pair_columns(won, lost, models)
    return pairs, rng.integers(1, 9, size=(weightings, 2 * len(pairs.first))).astype(float)


def test_columns_count_a_pair_once_whoever_comes_first(rng: np.random.Generator) -> None:
    won, lost = rng.integers(6, size=(2, 400))
    won, lost = won[won != lost], lost[won != lost]
    pairs, column = pair_columns(won, lost, 6)
    assert (pairs.won[column] == won).all() and (pairs.lost[column] == lost).all()
    assert (pairs.first < pairs.second).all() and len(set(zip(pairs.first, pairs.second))) == len(pairs.first) == 15


def test_the_largest_value_is_the_one_scipy_climbs_to(rng: np.random.Generator) -> None:
    pairs, weight = network(rng, 7, 12)

    def loss(strengths: np.ndarray) -> float:
        return -float(weight[0] @ log_expit(strengths[pairs.won] - strengths[pairs.lost]))

    theirs = minimize(loss, np.zeros(7), tol=1e-12).x
    np.testing.assert_allclose(most_likely(pairs, weight, np.zeros(7))[0], theirs - theirs.mean(), atol=1e-6)


@pytest.mark.parametrize(("models", "count"), [(30, 60), (260, 3), (260, 2000), (3, 2)])
def test_every_models_wins_are_those_expected_from_pairs_alone_and_from_tables(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, models: int, count: int
) -> None:
    """The equations of the largest likelihood, to more digits than any interval shows; a ring alone is the hardest."""
    pairs, weight = network(rng, models, count)
    fits = []
    for dense in (2, 1000):
        monkeypatch.setattr(module, "_DENSE", dense)
        fits.append(most_likely(pairs, weight, np.zeros(models))[0])
        chance = 1 / (1 + np.exp(fits[-1][pairs.lost] - fits[-1][pairs.won]))
        met = np.tile(weight[0].reshape(2, -1).sum(axis=0), 2)
        expected, counted = (np.bincount(pairs.won, values, models) for values in (met * chance, weight[0]))
        np.testing.assert_allclose(expected, counted, atol=1e-9)
        assert fits[-1].mean() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(*fits, atol=1e-9)


def test_a_step_from_pairs_alone_needs_no_table(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, weight = network(rng, 40, 120)
    curvature, slope = weight[:, : len(pairs.first)] / 4, rng.normal(size=(1, 40))
    steps = []
    for dense in (1000, 2):
        monkeypatch.setattr(module, "_DENSE", dense)
        steps.append(module._newton_step(pairs, curvature, slope - slope.mean()))
        monkeypatch.setattr(module, "_laplacians", None)  # what is left when the search for a step does not end
    np.testing.assert_allclose(*steps, atol=1e-6)


def test_weightings_are_fitted_as_if_alone_wherever_they_start(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, weight = network(rng, 9, 10, weightings=20)
    weight[3] *= 1e6  # only shares count
    together = most_likely(pairs, weight, rng.normal(size=9))
    monkeypatch.setattr(module, "_CELLS", 1)  # one table at once
    np.testing.assert_allclose(most_likely(pairs, weight, np.zeros(9)), together, atol=1e-10)
    alone = np.concatenate([most_likely(pairs, one[None], np.zeros(9)) for one in weight])
    np.testing.assert_allclose(alone, together, atol=1e-10)


def test_steps_that_overshoot_are_halved() -> None:
    """From far off, where the curvature is next to nothing, Newton's own step leads away for ever."""
    pairs, _ = pair_columns(np.array([0]), np.array([1]), 2)
    fitted = most_likely(pairs, np.array([[3.0, 1.0]]), np.array([9.0, -9.0]))[0]
    assert fitted[0] - fitted[1] == pytest.approx(np.log(3))


@pytest.mark.parametrize("rare", [1e-3, 1e-9, 1e-12])
def test_a_rare_upset_keeps_its_digits(rare: float) -> None:
    pairs, _ = pair_columns(np.array([0]), np.array([1]), 2)
    first, second = most_likely(pairs, np.array([[1.0, rare]]), np.zeros(2))[0]
    assert first - second == pytest.approx(-np.log(rare), rel=1e-9)


def test_without_a_largest_value_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, _ = pair_columns(np.array([0]), np.array([1]), 2)
    monkeypatch.setattr(module, "_ROUNDS", 5)
    with pytest.raises(ValueError, match=r"^the strengths did not converge in 5 steps: pass a prior, such as 1\.0\.$"):
        most_likely(pairs, np.array([[1.0, 0.0]]), np.zeros(2))


def test_parts_come_with_those_that_never_won_first() -> None:
    won, lost = np.array([0, 1, 1, 2, 3]), np.array([1, 0, 2, 3, 2])  # 0 and 1 beat 2 and 3, never the other way
    pairs, column = pair_columns(won, lost, 5)
    weight = np.bincount(column, minlength=2 * len(pairs.first)).astype(float)
    assert connected_parts(pairs, weight, "strong")[-1] == [0, 1]
    assert sorted(connected_parts(pairs, weight, "strong")[:2]) == [[2, 3], [4]]
    assert sorted(connected_parts(pairs, weight, "weak")) == [[0, 1, 2, 3], [4]]
    whole = Pairs(pairs.first, pairs.second, 4)
    assert connected_parts(whole, weight, "weak") == []
