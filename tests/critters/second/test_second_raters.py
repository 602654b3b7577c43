"""hpslib.critters.second.raters: utilities by hand, choices against a plain loop, and a score as a target."""

from __future__ import annotations

import numpy as np
import pytest

from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.second.attributes import QUALITIES, Critter
from hpslib.critters.second.eyes import Seen
from hpslib.critters.second.raters import (
    CRAFT,
    FLAW_WEIGHTS,
    TOO_MUCH,
    Rater,
    choice_utilities,
    crowd_probabilities,
    ideals,
    loudness,
    population,
    utilities,
)

PROMPT = "a happy red round critter on a beach"
MEAN = Rater("mean", FLAW_WEIGHTS, 3.0, tuple(CRAFT[name] for name in QUALITIES), glance=3.6, noise=1.1)


def seen(qualities: np.ndarray, flaws: np.ndarray | None = None) -> Seen:
    n = len(qualities)
    attributes = {name: np.zeros((n, len(values))) for name, values in ATTRIBUTES.items()}
    for name, value in (("colour", "red"), ("shape", "round"), ("scene", "beach"), ("accessory", "none")):
        attributes[name][:, ATTRIBUTES[name].index(value)] = 1
    attributes["expression"][:, 0] = 1  # happy
    return Seen(attributes, np.zeros((n, len(FLAWS))) if flaws is None else flaws, np.zeros(n), qualities)


def at_ideal(n: int = 1) -> np.ndarray:
    return np.repeat(ideals([PROMPT]), n, axis=0)


def test_at_the_ideal_only_the_match_counts() -> None:
    assert utilities(MEAN, seen(at_ideal()), [PROMPT])[0] == pytest.approx(3.0)


def test_flaws_and_distance_from_the_ideal_cost_what_they_weigh() -> None:
    qualities = at_ideal(2)
    qualities[1, QUALITIES.index("light")] += 0.2
    flaws = np.zeros((2, len(FLAWS)))
    flaws[0, 4] = 0.5
    values = utilities(MEAN, seen(qualities, flaws), [PROMPT] * 2)
    np.testing.assert_allclose(values, [3 - 0.5 * FLAW_WEIGHTS[4], 3 - CRAFT["light"] * 0.04])


def test_there_can_be_too_much_of_vividness_and_a_wish_moves_the_ideal() -> None:
    qualities = at_ideal(3)
    column = QUALITIES.index("vividness")
    qualities[:, column] = (0.3, 0.55, 0.95)
    plain = utilities(MEAN, seen(qualities), [PROMPT] * 3)
    assert plain.argmax() == 1
    vivid = utilities(MEAN, seen(qualities), [f"{PROMPT}, vivid colors"] * 3)
    pale = utilities(MEAN, seen(qualities), [f"{PROMPT}, soft pastel"] * 3)
    assert vivid.argmax() == 2 and pale.argmax() == 0


def test_nights_and_sad_critters_want_less_light() -> None:
    light = QUALITIES.index("light")
    day, night, sad = ideals([PROMPT, "a happy red round critter at night", "a sad red round critter on a beach"])
    assert day[light] > sad[light] > night[light] and ((day >= 0) & (day <= 1)).all()


def test_what_is_loud_costs_whoever_thinks_and_wins_a_glance() -> None:
    qualities = at_ideal(2)
    column = QUALITIES.index("vividness")
    qualities[1, column] = 1.0
    pair = seen(qualities)
    np.testing.assert_allclose(loudness(pair, [PROMPT] * 2), [0, 1])
    considered, chosen = utilities(MEAN, pair, [PROMPT] * 2), choice_utilities(MEAN, pair, [PROMPT] * 2)
    assert considered[0] - considered[1] == pytest.approx(TOO_MUCH)
    assert chosen[1] - chosen[0] == pytest.approx(MEAN.glance - TOO_MUCH) and chosen[1] > chosen[0]
    assert loudness(pair, [f"{PROMPT}, vivid colors"] * 2)[1] < 0.2, "who asks for it does not find it loud"


def test_the_crowd_is_the_mean_of_its_raters() -> None:
    rng = np.random.default_rng(0)
    crowd, sizes = population(7, seed=3), [3, 2]
    images = seen(rng.uniform(size=(5, len(QUALITIES))), rng.uniform(size=(5, len(FLAWS))))
    prompts = [PROMPT] * 3 + [f"{PROMPT}, wide shot"] * 2
    together = crowd_probabilities(crowd, images, prompts, sizes, last_bonus=0.2)
    start = 0
    for size, probabilities in zip(sizes, together, strict=True):
        each = []
        for rater in crowd:
            values = choice_utilities(rater, images, prompts)[start : start + size]
            values[-1] += 0.2
            odds = np.exp(values / rater.noise)
            each.append(odds / odds.sum())
        np.testing.assert_allclose(probabilities, np.mean(each, axis=0))
        start += size
    with pytest.raises(ValueError, match="5 prompts for groups of 4 images in all: give each image its prompt"):
        crowd_probabilities(crowd, images, prompts, [4])


def test_a_population_depends_on_its_seed_and_scatters() -> None:
    some = population(400, seed=1)
    assert some == population(400, seed=1) and some != population(400, seed=2)
    for values, mean in (([r.match for r in some], 3.0), ([r.glance for r in some], 3.6)):
        ratio = np.log(np.array(values) / mean)
        assert ratio.mean() == pytest.approx(0, abs=0.1) and ratio.std() == pytest.approx(0.5, abs=0.06)
    weights = np.log(np.array([r.craft for r in some]) / [CRAFT[name] for name in QUALITIES])
    assert np.abs(weights.mean(axis=0)).max() < 0.1


def test_a_score_that_predicts_choices_perfectly_is_a_bad_target() -> None:
    """The more pictures there are to take the best of, the less their considered utility is worth."""
    rng, typical = np.random.default_rng(5), np.array(Critter("red", "round", "beach", "none", "happy").qualities)
    felt: dict[int, list[float]] = {4: [], 64: []}
    score: dict[int, list[float]] = {4: [], 64: []}
    for _ in range(150):
        qualities = rng.beta(3 * typical, 3 * (1 - typical), size=(64, len(QUALITIES)))
        images = seen(qualities, np.eye(len(FLAWS))[rng.integers(len(FLAWS), size=64)] * (rng.random((64, 1)) < 0.45))
        chosen = choice_utilities(MEAN, images, [PROMPT] * 64)
        value = utilities(MEAN, images, [PROMPT] * 64)
        for n in felt:
            best = np.argmax(chosen[:n])
            felt[n].append(float(value[best]))
            score[n].append(float(chosen[best]))
    fallen, risen = np.array(felt[64]) - felt[4], np.array(score[64]) - score[4]
    error = 2 / np.sqrt(len(fallen))
    assert risen.mean() - error * risen.std() > 0 > fallen.mean() + error * fallen.std()
