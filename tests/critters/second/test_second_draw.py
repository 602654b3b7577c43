"""hpslib.critters.second's renderer: everything a critter says about itself is there to be seen, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hpslib.critters.attributes import ATTRIBUTES, FLAW_DETAILS
from hpslib.critters.second.attributes import QUALITIES, Critter
from hpslib.critters.second.body import creature, pose
from hpslib.critters.second.draw import draw, fresh_drawings
from hpslib.critters.second.pen import SIZE, UP, Pen, blend, colour_at, shade

SOUND = Critter("red", "round", "beach", "none", "happy")
WAYS = [(flaw, text) for flaw, texts in FLAW_DETAILS.items() for text in texts]


def flawed(flaw: str, text: str, base: Critter = SOUND) -> Critter:
    return replace(base, flaws=(flaw,), detail=((flaw, text),))


def with_quality(name: str, value: float, base: Critter = SOUND) -> Critter:
    values = list(base.qualities)
    values[QUALITIES.index(name)] = value
    return replace(base, qualities=tuple(values))


def pixels(critter: Critter, seed: int = 5) -> np.ndarray:
    return np.asarray(draw(critter, np.random.default_rng(seed), np.random.default_rng(99)), dtype=float)


def alone(critter: Critter, seed: int) -> np.ndarray:
    """Where the creature is, without the scene: bool (384, 384)."""
    layer = Image.new("RGBA", (SIZE * UP, SIZE * UP), (0, 0, 0, 0))
    at = pose(critter, np.random.default_rng(seed))
    creature(Pen.on(layer), critter, at, np.random.default_rng(seed))
    return np.asarray(layer)[..., 3] > 0


def test_a_picture_depends_on_its_generators_alone() -> None:
    critter = Critter("blue", "long", "night", "balloon", "sad")
    np.random.seed(1)  # noqa: NPY002  the global generator is what must not matter
    first = np.asarray(draw(critter, np.random.default_rng(7)))
    np.random.seed(2)  # noqa: NPY002
    again = np.asarray(draw(critter, np.random.default_rng(7)))
    other = np.asarray(draw(critter, np.random.default_rng(8)))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (128, 128, 3) and np.abs(first.astype(int) - other).max() > 20


@pytest.mark.parametrize(("flaw", "text"), WAYS)
def test_a_flaw_leaves_pose_place_and_light_alone_and_is_plain(flaw: str, text: str) -> None:
    sound = Critter("blue", "long", "snow", "none", "happy")
    for seed in range(6):
        before, after = pixels(sound, seed), pixels(flawed(flaw, text, sound), seed)
        changed = np.abs(before - after).max(axis=2)
        assert (changed > 30).sum() >= 40, "too small to be seen"
        if flaw == "washed_out":  # every pixel is paler, and none has moved
            assert np.corrcoef(before.mean(axis=2).ravel(), after.mean(axis=2).ravel())[0, 1] > 0.9
        else:
            assert not changed[:6].any() and not changed[122:, :8].any()
        if flaw in ("eyes", "mouth"):
            rows, columns = np.nonzero(changed)
            assert np.ptp(rows) < 62 and np.ptp(columns) < 62, "more than the face has changed"


@pytest.mark.parametrize("text", FLAW_DETAILS["detached_limb"])
def test_a_detached_limb_has_air_around_it(text: str) -> None:
    for seed in range(12):
        for shape in ATTRIBUTES["shape"]:
            sound = replace(SOUND, shape=shape)
            assert ndimage.label(alone(sound, seed))[1] == 1
            assert ndimage.label(alone(flawed("detached_limb", text, sound), seed))[1] == 2, (shape, seed)


def test_every_attribute_shows() -> None:
    for name, values in ATTRIBUTES.items():
        shown = [pixels(replace(SOUND, **{name: value}), 3) for value in values]
        for k, one in enumerate(shown):
            for two in shown[:k]:
                assert (np.abs(one - two).max(axis=2) > 40).sum() >= 40, f"{name}: two values look alike"


def saturation(image: np.ndarray) -> float:
    return float(((image.max(axis=2) - image.min(axis=2)) / np.maximum(image.max(axis=2), 1)).mean())


def edges(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image.mean(axis=2), axis=0)).mean())


def off_centre(critter: Critter) -> float:
    rows, columns = np.nonzero(alone(critter, 4))
    return float(np.hypot(rows.mean() / UP - 72, columns.mean() / UP - 64))


@pytest.mark.parametrize(
    ("name", "measure", "sign"),
    [
        ("size", lambda c: alone(c, 4).sum(), 1),
        ("vividness", lambda c: saturation(pixels(c)), 1),
        ("placement", off_centre, -1),
        ("light", lambda c: pixels(c).mean(), 1),
        ("finish", lambda c: edges(pixels(c)), 1),
        ("harmony", lambda c: np.abs(pixels(c) - pixels(with_quality("harmony", 1.0, c)))[:20].mean(), -1),
    ],
)
def test_more_of_a_quality_is_more_of_what_it_means(name: str, measure: Callable[[Critter], float], sign: int) -> None:
    values = [sign * measure(with_quality(name, value)) for value in (0.05, 0.35, 0.7)]
    assert values[0] < values[1] < values[2]


def test_fresh_drawings_come_with_their_truth() -> None:
    images, critters = fresh_drawings(5, seed=3, flaw_share=1.0)
    assert images.shape == (5, 128, 128, 3) and images.dtype == np.uint8 and all(c.flaws for c in critters)
    np.testing.assert_array_equal(images, fresh_drawings(5, seed=3, flaw_share=1.0)[0])


def test_the_pens_small_helpers() -> None:
    assert shade((100, 200, 250), 1.2) == (120, 240, 255)
    assert blend((0, 100, 200), (100, 0, 200), 0.25) == (25, 75, 200)
    image = Image.new("RGB", (SIZE * UP, SIZE * UP), (1, 2, 3))
    Pen.on(image).box(10, 10, 20, 20, (9, 8, 7))
    assert colour_at(image, 15, 15) == (9, 8, 7) and colour_at(image, 500, 500) == (1, 2, 3)
