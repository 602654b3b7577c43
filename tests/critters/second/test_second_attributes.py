"""hpslib.critters.second.attributes: what is hard goes wrong more often, and qualities lie where they should."""

from __future__ import annotations

import numpy as np
import pytest

from hpslib.critters.attributes import ATTRIBUTES, FLAWS, with_flaws
from hpslib.critters.second.attributes import QUALITIES, Critter, flaw_rate, random_critter


def test_flaws_come_as_often_as_the_critter_is_hard() -> None:
    rng = np.random.default_rng(0)
    critters = [random_critter(rng) for _ in range(6_000)]
    flawed = np.array([bool(critter.flaws) for critter in critters])
    expected = np.array([flaw_rate(critter) for critter in critters])
    assert 0.40 < flawed.mean() < 0.52
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)):
        part = (expected >= low) & (expected < high)
        error = 4 * np.sqrt(0.25 / part.sum())
        assert flawed[part].mean() == pytest.approx(expected[part].mean(), abs=error)
    rates = [len(critter.flaws) for critter in critters if critter.flaws]
    assert np.mean(np.array(rates) == 2) == pytest.approx(0.2, abs=0.04)


def test_a_share_of_flaws_can_be_asked_for() -> None:
    rng = np.random.default_rng(1)
    assert not any(random_critter(rng, 0.0).flaws for _ in range(200))
    assert all(random_critter(rng, 1.0).flaws for _ in range(200))


def test_qualities_lie_in_the_unit_interval_around_what_is_typical() -> None:
    rng = np.random.default_rng(2)
    critters = [random_critter(rng) for _ in range(4_000)]
    table = np.array([critter.qualities for critter in critters])
    assert table.min() >= 0 and table.max() <= 1 and table.shape[1] == len(QUALITIES)
    spread = dict(zip(QUALITIES, table.std(axis=0)))
    assert min(spread["size"], spread["vividness"]) > 0.24 > max(spread["light"], spread["finish"]) > 0.15
    night = np.array([critter.scene == "night" for critter in critters])
    light = table[:, QUALITIES.index("light")]
    assert light[~night].mean() - light[night].mean() > 0.12
    assert Critter("red", "round", "beach", "hat", "happy").quality("placement") == 0.75


def test_every_attribute_and_flaw_is_drawn() -> None:
    rng = np.random.default_rng(3)
    critters = [random_critter(rng, 1.0) for _ in range(800)]
    for name, values in ATTRIBUTES.items():
        assert {getattr(critter, name) for critter in critters} == set(values)
    assert {flaw for critter in critters for flaw in critter.flaws} == set(FLAWS)


def test_an_unknown_flaw_is_refused_by_name() -> None:
    critter = Critter("red", "round", "beach", "hat", "happy")
    with pytest.raises(ValueError, match="unknown flaw 'beard': choose from limb_count"):
        with_flaws(critter, ("beard",), np.random.default_rng(0))
