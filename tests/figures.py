"""What the tests of figures share: images of noise, estimates and scores to draw, and a look at what was drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hpslib.metrics.intervals import Estimate


def estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value, value - half, value + half, 500, 0.95)


def noise(rng, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def rendered(ax) -> np.ndarray:
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def scores_and_choices(rng, n=200):
    sizes = rng.integers(2, 5, n)
    return [rng.normal(20, 1, size) for size in sizes], rng.integers(0, sizes)
