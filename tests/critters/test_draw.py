"""hpslib.critters.draw: a picture depends on its generator alone, and every flaw is really there to be seen."""

from __future__ import annotations

import doctest
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hpslib.critters import draw as module
from hpslib.critters.attributes import (
    ATTRIBUTES,
    COLOURS,
    FLAW_DETAILS,
    FLAWS,
    SCENES,
    Critter,
    random_critter,
    with_flaws,
)
from hpslib.critters.draw import draw, fresh_drawings

SOUND = Critter("red", "round", "beach", "none", "happy")


def flawed(flaw: str, text: str, base: Critter = SOUND) -> Critter:
    return replace(base, flaws=(flaw,), detail=((flaw, text),))


def creature(critter: Critter, seed: int) -> np.ndarray:
    """The creature alone, four times the size, without anti-aliasing: colours can be counted."""
    layer = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    module._creature(layer, critter, dict(critter.detail), np.random.default_rng(seed), np.random.default_rng(seed))
    return np.asarray(layer)


def pieces(mask: np.ndarray) -> int:
    return ndimage.label(mask)[1]


def of_colour(layer: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (layer[..., :3] == colour).all(-1) & (layer[..., 3] == 255)


def test_doctests() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 2 and result.failed == 0


def test_a_picture_depends_on_its_generator_alone() -> None:
    critter = Critter("blue", "long", "night", "balloon", "sad")
    np.random.seed(1)  # noqa: NPY002  the global generator is what must not matter
    first = np.asarray(draw(critter, np.random.default_rng(7)))
    np.random.seed(2)  # noqa: NPY002
    again = np.asarray(draw(critter, np.random.default_rng(7)))
    other = np.asarray(draw(critter, np.random.default_rng(8)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).max() > 20


@pytest.mark.parametrize(("flaw", "text"), [(flaw, text) for flaw in FLAW_DETAILS for text in FLAW_DETAILS[flaw]])
def test_with_a_generator_of_its_own_a_flaw_leaves_pose_place_and_light_alone(flaw: str, text: str) -> None:
    accessory = "none" if flaw == "smear" else "balloon"  # a smeared balloon reaches the upper edge
    sound = Critter("blue", "long", "snow", accessory, "happy")
    flawed = replace(sound, flaws=(flaw,), detail=((flaw, text),))
    for seed in range(20):
        before, after = (
            np.asarray(draw(c, np.random.default_rng(seed), np.random.default_rng(99))) for c in (sound, flawed)
        )
        differs = (before != after).any(axis=2)
        assert differs.any()
        if flaw == "washed_out":  # every pixel is paler, and none has moved
            same = np.corrcoef(before.mean(axis=2).ravel(), after.mean(axis=2).ravel())[0, 1]
            assert same > 0.9
        elif flaw == "smear":  # its blur reaches further than any limb
            assert not differs[:4].any()
        else:  # the scene's top rows and both lower corners, which no limb reaches, are the same to the last bit
            assert not differs[:4].any() and not differs[60:, :4].any() and not differs[60:, -4:].any()
        if flaw in ("eyes", "mouth"):
            rows, columns = np.nonzero(differs)
            assert np.ptp(rows) < 26 and np.ptp(columns) < 30, "more than the face has changed"


def test_without_one_flaws_draw_from_the_same_generator_as_when_the_shipped_data_were_made() -> None:
    digest = hashlib.sha256(fresh_drawings(200, seed=7, flaw_rate=0.9)[0].tobytes()).hexdigest()
    assert digest.startswith("db9ac3c79050182b")


def test_every_attribute_shows() -> None:
    for name, values in ATTRIBUTES.items():
        pictures = [np.asarray(draw(replace(SOUND, **{name: v}), np.random.default_rng(3)), dtype=int) for v in values]
        for k, one in enumerate(pictures):
            for two in pictures[:k]:
                assert (np.abs(one - two).max(-1) > 40).sum() >= 8, f"{name}: two values look alike"


@pytest.mark.parametrize(("flaw", "text"), [(flaw, text) for flaw, texts in FLAW_DETAILS.items() for text in texts])
def test_every_way_of_every_flaw_changes_the_picture(flaw: str, text: str) -> None:
    for seed in range(4):
        sound = np.asarray(draw(SOUND, np.random.default_rng(seed)), dtype=int)
        wrong = np.asarray(draw(flawed(flaw, text), np.random.default_rng(seed)), dtype=int)
        assert (np.abs(sound - wrong).max(-1) > 30).sum() >= 10


@pytest.mark.parametrize(
    ("text", "limbs"), [(None, 4), ("three arms", 5), ("one arm", 3), ("three legs", 5), ("one leg", 3)]
)
def test_limbs_can_be_counted(text: str | None, limbs: int) -> None:
    critter = SOUND if text is None else flawed("limb_count", text)
    dark = module._shade(COLOURS["red"], 0.72)
    y, x = np.mgrid[-11:12, -11:12]
    for seed in range(20):
        # Limbs that share a root touch there; what is thicker than a limb is its hand or foot.
        hands = ndimage.binary_erosion(of_colour(creature(critter, seed), dark), y**2 + x**2 <= 11**2)
        assert pieces(ndimage.binary_dilation(hands, iterations=3)) == limbs


@pytest.mark.parametrize("text", FLAW_DETAILS["detached_limb"])
def test_a_detached_limb_touches_nothing(text: str) -> None:
    for seed in range(20):
        assert pieces(creature(SOUND, seed)[..., 3] > 0) == 1
        assert pieces(creature(flawed("detached_limb", text), seed)[..., 3] > 0) == 2


@pytest.mark.parametrize(("text", "eyes"), [(None, 2), ("one eye", 1), ("three eyes", 3), ("uneven eyes", 2)])
def test_eyes_can_be_counted(text: str | None, eyes: int) -> None:
    critter = SOUND if text is None else flawed("eyes", text)
    for seed in range(10):
        white = of_colour(creature(critter, seed), (250, 250, 248))
        areas = np.bincount(ndimage.label(white)[0].ravel())[1:]
        areas = sorted(areas[areas > 10])  # the pupil can cut off a pixel of the rim
        assert len(areas) == eyes
        if eyes == 2:
            small, large = areas
            assert (large > 2 * small) == (text == "uneven eyes")


def test_the_mouth_is_where_the_flaw_says() -> None:
    ink = (70, 32, 44)
    for seed in range(10):
        y, x = np.nonzero(of_colour(creature(SOUND, seed), ink))
        assert not of_colour(creature(flawed("mouth", "no mouth"), seed), ink).any()
        above, _ = np.nonzero(of_colour(creature(flawed("mouth", "its mouth on its forehead"), seed), ink))
        _, aside = np.nonzero(of_colour(creature(flawed("mouth", "its mouth out of place"), seed), ink))
        assert above.mean() < y.mean() - 40 and abs(aside.mean() - x.mean()) > 25


def test_a_washed_out_picture_is_pale() -> None:
    def saturation(critter: Critter, seed: int) -> float:
        return float(np.ptp(np.asarray(draw(critter, np.random.default_rng(seed)), dtype=int), axis=-1).mean())

    pale = [saturation(flawed("washed_out", "washed out colors"), seed) for seed in range(10)]
    vivid = [saturation(SOUND, seed) for seed in range(10)]
    assert max(pale) < 0.5 * min(vivid)


def test_random_critters_keep_to_the_stated_rates() -> None:
    rng = np.random.default_rng(0)
    critters = [random_critter(rng, 0.36) for _ in range(6000)]
    wrong = [c for c in critters if c.flaws]
    assert abs(len(wrong) / 6000 - 0.36) < 0.025
    assert abs(np.mean([len(c.flaws) == 2 for c in wrong]) - 0.2) < 0.04
    alone = [c.flaws[0] for c in wrong if len(c.flaws) == 1]
    assert abs(alone.count("washed_out") / len(alone) - 0.04) < 0.02
    assert abs(alone.count("limb_count") / len(alone) - 0.24) < 0.04
    for name, values in ATTRIBUTES.items():
        counts = [sum(getattr(c, name) == value for c in critters) for value in values]
        assert max(counts) < 1.2 * min(counts), name
    assert set(SCENES) == {c.scene for c in critters}
    assert not any(random_critter(rng, 0.0).flaws for _ in range(100))
    assert all(random_critter(rng, 1.0).flaws for _ in range(100))


def test_with_flaws_sorts_and_describes_and_forgets_the_old_ones() -> None:
    rng = np.random.default_rng(0)
    critter = with_flaws(flawed("mouth", "no mouth"), ("smear", "eyes", "smear"), rng)
    assert critter.flaws == ("eyes", "smear")
    assert [name for name, _ in critter.detail] == ["eyes", "smear"]
    assert dict(critter.detail)["eyes"] in FLAW_DETAILS["eyes"]
    assert with_flaws(critter, (), rng) == replace(SOUND)
    shown = {dict(with_flaws(SOUND, ("eyes",), rng).detail)["eyes"] for _ in range(60)}
    assert shown == set(FLAW_DETAILS["eyes"])


def test_an_unknown_flaw_is_named() -> None:
    with pytest.raises(ValueError, match=r"^unknown flaw 'tail': choose from limb_count, .*, washed_out\.$"):
        with_flaws(SOUND, ("tail",), np.random.default_rng(0))
    assert len(FLAWS) == 6
