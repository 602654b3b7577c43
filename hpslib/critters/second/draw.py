"""Draw critters of the second edition: 128 x 128 pixels, about 2 ms each, everything about them known.

The renderer draws at three times the size with PIL and averages down, so edges are anti-aliased. Nothing here is
learned and nothing is random but the generators handed in.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from hpslib.critters.second.attributes import Critter, random_critter
from hpslib.critters.second.body import creature, pose
from hpslib.critters.second.pen import SIZE, UP, Pen, colour_at, shade
from hpslib.critters.second.scenes import scene

__all__ = ["draw", "fresh_drawings"]


def draw(critter: Critter, rng: np.random.Generator, flaw_rng: np.random.Generator | None = None) -> Image.Image:
    """Render one critter as a 128 x 128 RGB image; pose and place jitter with ``rng``, the rest is the critter's.

    ``flaw_rng`` decides what is left to chance about the flaws (which arm is missing, which way the mouth slid);
    without it, a generator of its own is drawn from ``rng``. The same ``rng`` gives a sound and a flawed critter the
    same pose, and whatever differs between the two pictures is the flaw.

    >>> image = draw(Critter("red", "round", "beach", "hat", "happy"), np.random.default_rng(0))
    >>> image.size, image.mode
    ((128, 128), 'RGB')
    """
    own = np.random.default_rng(rng.integers(2**63)) if flaw_rng is None else flaw_rng
    image, horizon = scene(critter, rng)
    at = pose(critter, rng)
    finish = critter.quality("finish")
    outline = 0.0 if finish < 0.35 else 0.6 + 1.2 * finish
    if finish > 0.2:
        ground = Pen.on(image)
        foot = max(horizon + 6, min(SIZE - 4, at.y + 1.62 * at.radius))
        ground.ellipse(at.x, foot, 1.15 * at.radius, 0.17 * at.radius, shade(colour_at(image, 0, foot), 0.8))
    if "smear" in critter.flaws:
        layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
        creature(Pen.on(layer, outline), critter, at, own)
        smeared = _smear(layer.convert("RGBa").reduce(UP), own)
        image = image.reduce(UP)
        image.paste(smeared, (0, 0), smeared)
    else:
        creature(Pen.on(image, outline), critter, at, own)
        image = image.reduce(UP)
    return _developed(image, critter)


def fresh_drawings(count: int, seed: int, flaw_share: float | None = 0.5) -> tuple[np.ndarray, list[Critter]]:
    """Drawings no network has seen, drawn from ``seed``: uint8 (count, 128, 128, 3), and their critters."""
    rng = np.random.default_rng([seed, 777, 1])  # three numbers: no picture of a bank, which has two
    critters = [random_critter(rng, flaw_share) for _ in range(count)]
    return np.stack([np.asarray(draw(critter, rng)) for critter in critters]), critters


def _developed(image: Image.Image, critter: Critter) -> Image.Image:
    """Light and vividness, as they differ from photograph to photograph: one linear map of the three channels."""
    washed = "washed_out" in critter.flaws
    vividness = 0.2 if washed else 0.45 + 1.0 * critter.quality("vividness")
    light = 0.62 + 0.43 * critter.quality("light")
    gain, veil = (0.4 * light, 125.0 * light) if washed else (light, 0.0)
    matrix = gain * (vividness * np.eye(3) + (1 - vividness) / 3)
    return image.convert("RGB", np.column_stack([matrix, np.full(3, veil)]).ravel().tolist())


def _smear(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift the creature's rows along a wave and blur it: limbs and face run into each other.

    ``layer`` has premultiplied alpha (mode "RGBa"), or the transparent black would leave a dark halo.
    """
    pixels = np.asarray(layer)
    rows = np.arange(SIZE)
    period, phase = rng.uniform(30, 55), rng.uniform(0, 2 * math.pi)
    shift = np.round(12 * np.sin(2 * math.pi * rows / period + phase)).astype(int)
    columns = np.clip(np.arange(SIZE)[None, :] - shift[:, None], 0, SIZE - 1)
    wavy = Image.fromarray(pixels[rows[:, None], columns], mode="RGBa")
    return wavy.filter(ImageFilter.GaussianBlur(2.4)).convert("RGBA")
