"""hpslib.critters.build.sharpness: soft edges are found whatever the grain, and grain is measured on its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hpslib.critters.build.sharpness import flat_noise, gradients, sharpness
from hpslib.critters.draw import fresh_drawings


@pytest.fixture(scope="module")
def drawings() -> np.ndarray:
    return fresh_drawings(40, seed=0, flaw_rate=0.0)[0]


def test_drawings_are_as_sharp_as_drawings(drawings: np.ndarray) -> None:
    found = sharpness(drawings, drawings)
    assert found["steepest"] == 1 and found["strong_edges"] == 1 and found["noise"] < 0.5


def test_blur_is_found_and_grain_does_not_hide_it(drawings: np.ndarray) -> None:
    soft = np.stack([np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(0.8))) for one in drawings])
    grain = np.random.default_rng(0).normal(0, 4, soft.shape[:3])[..., None]
    grainy = np.clip(soft + grain, 0, 255).astype(np.uint8)
    for images in (soft, grainy):
        found = sharpness(images, drawings)
        assert found["steepest"] < 0.85 and found["strong_edges"] < 0.9
    assert flat_noise(grainy) == pytest.approx(4, abs=0.6) and flat_noise(soft) < 0.5
    assert gradients(grainy).mean() > 0.95 * gradients(drawings).mean(), "the mean is fooled, as the docstring says"


def test_stars_do_not_count_as_noise() -> None:
    night = np.full((3, 64, 64, 3), 40, np.uint8)
    night[:, 4:8, 5:9] = 220
    assert flat_noise(night) == 0


def test_other_sizes_are_refused(drawings: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(32, 64, 3\) and drawings \(64, 64, 3\): compare equal sizes"):
        sharpness(drawings[:, :32], drawings)
