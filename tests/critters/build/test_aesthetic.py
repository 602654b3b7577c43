"""The miniature aesthetic head: ratings without a prompt, ridge regression against scikit-learn, the file it writes."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch

from hpslib.critters.attributes import Critter, with_flaws
from hpslib.critters.build import aesthetic
from hpslib.critters.build.aesthetic import build_aesthetic_head, fit_ridge, r_squared, simulated_ratings
from hpslib.critters.draw import draw, fresh_drawings
from hpslib.data.images.lazy import to_images
from hpslib.scores.aesthetic import aesthetic_scores, load_aesthetic_head
from hpslib.scores.clip import Clip, encode_images


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """mini-CLIP with random weights: even these see colours."""
    from hpslib.critters.build.networks import MEAN, STD, build_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_clip().eval()
    return Clip(model, lambda texts: torch.zeros(len(texts), 32, dtype=torch.long), 64, 32, MEAN, STD, {})


def test_doctests() -> None:
    result = doctest.testmod(aesthetic)
    assert result.attempted >= 5 and result.failed == 0


def test_ratings_are_seeded_and_within_one_to_ten() -> None:
    images, critters = fresh_drawings(60, seed=5)
    ratings = simulated_ratings(images, critters, seed=3)
    assert ratings.shape == (60,) and ratings.min() >= 1 and ratings.max() <= 10
    np.testing.assert_array_equal(ratings, simulated_ratings(images, critters, seed=3))
    assert (ratings != simulated_ratings(images, critters, seed=4)).any()


def test_vivid_pictures_are_liked_better(rng: np.random.Generator) -> None:
    critter = Critter("red", "round", "meadow", "hat", "happy")
    vivid = np.stack([np.asarray(draw(critter, rng)) for _ in range(40)])
    grey = vivid.mean(axis=3, keepdims=True)
    pale = np.round(grey + (vivid - grey) * 0.3).astype(np.uint8)
    more, less = (simulated_ratings(images, [critter] * 40) for images in (vivid, pale))
    assert more.mean() > less.mean() + 1


def test_a_flaw_costs_what_it_is_said_to_cost(rng: np.random.Generator) -> None:
    sound = Critter("red", "round", "meadow", "hat", "happy")
    flawed = with_flaws(sound, ("eyes",), rng)
    images = np.stack([np.asarray(draw(sound, rng))] * 400)
    costs = simulated_ratings(images, [sound] * 400).mean() - simulated_ratings(images, [flawed] * 400).mean()
    assert costs == pytest.approx(aesthetic.FLAW, abs=0.02)  # the same picture and noise: only the dislike is left


def test_ratings_need_one_critter_per_image() -> None:
    with pytest.raises(ValueError, match="2 images but 1 critters: hand over one critter for each image"):
        simulated_ratings(np.zeros((2, 64, 64, 3), np.uint8), [Critter("red", "round", "beach", "hat", "happy")])


def test_ridge_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.linear_model import Ridge

    x, y = rng.normal(size=(80, 6)), rng.normal(size=80)
    weight, bias = fit_ridge(x, y, penalty=0.1)
    oracle = Ridge(alpha=0.1 * 80).fit(x, y)
    np.testing.assert_allclose(weight, oracle.coef_, rtol=1e-9)
    assert bias == pytest.approx(oracle.intercept_)


def test_ridge_moves_with_the_ratings_and_shrinks_with_the_penalty(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    (weight, bias), (moved, higher) = fit_ridge(x, y), fit_ridge(x, y + 3)
    np.testing.assert_allclose(weight, moved)
    assert higher == pytest.approx(bias + 3)
    assert np.linalg.norm(fit_ridge(x, y, penalty=10)[0]) < np.linalg.norm(weight)


@pytest.mark.parametrize(
    ("features", "ratings", "penalty", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), 1.0, r"features have shape \(3, 2\) and ratings \(2,\)"),
        (np.zeros(3), np.zeros(3), 1.0, r"give \(n, d\) and one rating per row"),
        (np.zeros((3, 2)), np.zeros(3), 0.0, "penalty is 0.0, but must be above 0"),
    ],
)
def test_ridge_refuses(features: np.ndarray, ratings: np.ndarray, penalty: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_ridge(features, ratings, penalty)


def test_r_squared_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.metrics import r2_score

    observed = rng.normal(size=30)
    predicted = observed + rng.normal(size=30)
    assert r_squared(predicted, observed) == pytest.approx(r2_score(observed, predicted))


def test_the_head_is_written_read_back_and_honest_about_its_fit(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "heads" / "aesthetic_head.safetensors"
    value = build_aesthetic_head(clip, path, seed=1, drawings=200)
    assert list(path.parent.iterdir()) == [path]  # nothing half-written stays
    head = load_aesthetic_head(path)
    images, critters = fresh_drawings(200, seed=10_001)
    features, ratings = encode_images(clip, to_images(images)), simulated_ratings(images, critters, 1)
    predicted = aesthetic_scores(head, features)
    assert head.weight.shape == (128,) and 0.1 < value < 1
    assert value == pytest.approx(r_squared(predicted[160:], ratings[160:]), abs=1e-3)
    assert r_squared(predicted[:160], ratings[:160]) > value  # the fitted part is always the easier one
