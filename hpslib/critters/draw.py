"""Draw critters: cartoon creatures whose every attribute and every flaw is known.

The miniature world needs images that are cheap (about a millisecond each), that a caption can describe, and that
sometimes go wrong in the way Stable Diffusion's do: an arm too many, an eye missing, a body that smears. The renderer
draws at four times the size with PIL and averages down, so edges are anti-aliased.

Nothing here is learned and nothing is random but the ``numpy.random.Generator`` handed in.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hpslib.critters.attributes import COLOURS, SCENES, Critter, random_critter

__all__ = ["SIZE", "draw", "fresh_drawings"]

SIZE = 64  # pixels; the autoencoder turns it into an 8 x 8 latent
_UP = 4  # supersampling

_Pen: TypeAlias = ImageDraw.ImageDraw
_Colour: TypeAlias = tuple[int, int, int]


def draw(critter: Critter, rng: np.random.Generator, flaw_rng: np.random.Generator | None = None) -> Image.Image:
    """Render one critter as a 64 x 64 RGB image; pose, size, place and light jitter with ``rng``.

    ``flaw_rng`` decides what is left to chance about the flaws (which arm is missing, which way the mouth slid). With a
    generator of its own, the same ``rng`` gives a sound and a flawed critter the same pose and the same light, and
    whatever differs between the two pictures is the flaw. Without one, flaws draw from ``rng`` too, as they did when
    the shipped data were made.

    >>> image = draw(Critter("red", "round", "beach", "hat", "happy"), np.random.default_rng(0))
    >>> image.size, image.mode
    ((64, 64), 'RGB')
    """
    flaw_rng = rng if flaw_rng is None else flaw_rng
    size = SIZE * _UP
    background = _scene(critter.scene, rng)
    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    _creature(layer, critter, dict(critter.detail), rng, flaw_rng)
    if "smear" in critter.flaws:
        layer = _smear(layer, flaw_rng)
    background.paste(layer, (0, 0), layer)
    image = background.reduce(_UP)
    pixels = np.asarray(image, dtype=np.float32)
    # Light and vividness differ from image to image as they do between photographs.
    vividness = rng.uniform(0.75, 1.1) if "washed_out" not in critter.flaws else rng.uniform(0.15, 0.3)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * vividness
    if "washed_out" in critter.flaws:
        pixels = 205 + (pixels - 205) * 0.45
    pixels = pixels * rng.uniform(0.92, 1.04)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def fresh_drawings(count: int, seed: int, flaw_rate: float = 0.5) -> tuple[np.ndarray, list[Critter]]:
    """Drawings no network has seen, drawn from ``seed``: uint8 (count, 64, 64, 3), and their critters."""
    rng = np.random.default_rng([seed, 777])
    critters = [random_critter(rng, flaw_rate) for _ in range(count)]
    return np.stack([np.asarray(draw(critter, rng)) for critter in critters]), critters


def _shade(colour: _Colour, factor: float) -> _Colour:
    r, g, b = (max(0, min(255, round(c * factor))) for c in colour)
    return r, g, b


def _ellipse(pen: _Pen, x: float, y: float, rx: float, ry: float, fill: _Colour) -> None:
    pen.ellipse([(x - rx) * _UP, (y - ry) * _UP, (x + rx) * _UP, (y + ry) * _UP], fill=fill)


def _box(pen: _Pen, x0: float, y0: float, x1: float, y1: float, fill: _Colour, radius: float = 0) -> None:
    pen.rounded_rectangle([x0 * _UP, y0 * _UP, x1 * _UP, y1 * _UP], radius=radius * _UP, fill=fill)


def _polygon(pen: _Pen, points: list[tuple[float, float]], fill: _Colour) -> None:
    pen.polygon([(x * _UP, y * _UP) for x, y in points], fill=fill)


def _scene(name: str, rng: np.random.Generator) -> Image.Image:
    sky, ground = SCENES[name]
    image = Image.new("RGB", (SIZE * _UP, SIZE * _UP), sky)
    pen = ImageDraw.Draw(image)
    horizon = 42 + rng.uniform(-3, 3)
    left = rng.random() < 0.5
    x = rng.uniform(7, 12) if left else rng.uniform(52, 57)
    other = 64 - x
    if name == "meadow":
        _ellipse(pen, x, 10, 5.5, 5.5, (247, 226, 130))
    elif name == "beach":
        _box(pen, 0, horizon - 12, 64, horizon + 1, (110, 172, 212))
    elif name == "night":
        _ellipse(pen, x, 10, 5, 5, (228, 226, 200))
        for star_x, star_y in ((other, 8), (other - 9 if left else other + 9, 15), (other, 22)):
            _ellipse(pen, star_x, star_y, 1.2, 1.2, (210, 210, 200))
    elif name == "snow":
        _polygon(pen, [(x, horizon - 24), (x - 8, horizon + 1), (x + 8, horizon + 1)], (84, 126, 112))
    elif name == "desert":
        _box(pen, x - 2.5, horizon - 20, x + 2.5, horizon + 1, (106, 146, 96), radius=2)
        _box(pen, x - 7, horizon - 14, x + 2, horizon - 10.5, (106, 146, 96), radius=1.5)
    elif name == "city":
        for k, height in enumerate((26, 16, 22, 14, 28)):
            _box(pen, k * 13 - 1, horizon - height, k * 13 + 10, horizon + 1, (158, 164, 184))
    _box(pen, 0, horizon, 64, 64, ground)
    return image


def _limb(pen: _Pen, x: float, y: float, angle: float, length: float, fill: _Colour, hand: float = 3.2) -> None:
    dx, dy, width = math.cos(angle), math.sin(angle), 5.0
    end = (x + dx * length, y + dy * length)
    pen.line([x * _UP, y * _UP, end[0] * _UP, end[1] * _UP], fill=fill, width=round(width * _UP))
    _ellipse(pen, x, y, width / 2, width / 2, fill)
    _ellipse(pen, *end, hand, hand, fill)


def _creature(
    layer: Image.Image,
    critter: Critter,
    detail: dict[str, str],
    rng: np.random.Generator,
    flaw_rng: np.random.Generator,
) -> None:
    pen = ImageDraw.Draw(layer)
    colour = COLOURS[critter.colour]
    dark = _shade(colour, 0.72)
    cx, cy, r = 32 + rng.uniform(-2, 2), 35 + rng.uniform(-1.5, 1.5), rng.uniform(12.8, 14.6)
    half_width = {"round": 1.0, "square": 0.92, "triangular": 0.8, "long": 0.74}[critter.shape] * r
    half_height = {"round": 1.0, "square": 0.92, "triangular": 0.95, "long": 1.2}[critter.shape] * r
    if critter.shape == "long":
        cy -= 2
    limb_count, detached = detail.get("limb_count"), detail.get("detached_limb")

    # Legs first, then arms, then the body over their roots.
    leg_x = [-0.5, 0.5]
    if limb_count == "three legs":
        leg_x = [-0.85, 0.0, 0.85]
    elif limb_count == "one leg":
        leg_x = [leg_x[flaw_rng.integers(2)]]
    loose_leg = flaw_rng.integers(len(leg_x)) if detached == "a detached leg" else -1
    if flaw_rng is rng:
        swings = [rng.uniform(-0.12, 0.12) for _ in leg_x]
    else:  # the pose of two legs, whatever the flaw makes of them
        left, right = rng.uniform(-0.12, 0.12, size=2)
        swings = [left if place < 0 else right if place > 0 else 0.0 for place in leg_x]
    for k, place in enumerate(leg_x):
        x, y = cx + place * half_width, cy + half_height * 0.86
        angle = math.pi / 2 + swings[k]
        if k == loose_leg:
            side = 1.0 if place > 0 else -1.0
            _limb(pen, x + side * 9.5, y + 2.5, angle, 6.5, dark, hand=3.4)
        else:
            _limb(pen, x, y, angle, 8.6, dark, hand=3.4)

    arms = [(side, rng.uniform(-0.75, 0.45)) for side in (-1.0, 1.0)]
    loose_arm = -1
    if limb_count == "one arm":
        arms = [arms[flaw_rng.integers(2)]]
    elif limb_count == "three arms":
        side = arms[flaw_rng.integers(2)][0]
        arms = [a for a in arms if a[0] != side]
        arms += [(side, -0.8), (side, 0.55)]
    if detached == "a detached arm":
        loose_arm = int(flaw_rng.integers(len(arms)))
    for k, (side, lift) in enumerate(arms):
        x, y = cx + side * half_width * 0.86, cy + 1.5
        angle = lift if side > 0 else math.pi - lift
        if k == loose_arm:
            x, y = x + side * 9.0 * math.cos(lift), y + 9.0 * math.sin(lift)
            _limb(pen, x, y, angle, 6.0, dark)
        else:
            _limb(pen, x, y, angle, 11.0, dark)

    face_y = cy
    if critter.shape == "round":
        _ellipse(pen, cx, cy, r, r, colour)
    elif critter.shape == "square":
        _box(pen, cx - half_width, cy - half_height, cx + half_width, cy + half_height, colour, radius=2.5)
    elif critter.shape == "long":
        _ellipse(pen, cx, cy, half_width, half_height, colour)
    else:
        bottom = cy + half_height
        _polygon(pen, [(cx, cy - 1.45 * r), (cx - 1.3 * r, bottom), (cx + 1.3 * r, bottom)], colour)
        face_y = cy + 2.5
    _face(pen, critter, detail, cx, face_y, r, rng, flaw_rng)
    _accessory(pen, critter, cx, cy, r, half_width, half_height, rng)


def _face(
    pen: _Pen,
    critter: Critter,
    detail: dict[str, str],
    cx: float,
    cy: float,
    r: float,
    rng: np.random.Generator,
    flaw_rng: np.random.Generator,
) -> None:
    eyes = detail.get("eyes")
    apart = 4.4 if critter.shape in ("triangular", "long") else 5.2
    places = [(-apart, 0.0, 3.4), (apart, 0.0, 3.4)]
    if eyes == "one eye":
        places = [places[flaw_rng.integers(2)]]
    elif eyes == "three eyes":
        places = [(-apart - 1.6, 0.0, 3.0), (0.0, -1.5, 3.0), (apart + 1.6, 0.0, 3.0)]
    elif eyes == "uneven eyes":
        k = flaw_rng.integers(2)
        places[k] = (places[k][0], -5.0 if flaw_rng.random() < 0.5 else 5.0, 4.6)
        places[1 - k] = (places[1 - k][0], 0.0, 2.4)
    eye_y = cy - 0.24 * r
    gaze = rng.uniform(-0.7, 0.7)
    for dx, dy, size in places:
        _ellipse(pen, cx + dx, eye_y + dy, size, size, (250, 250, 248))
        _ellipse(pen, cx + dx + gaze, eye_y + dy + 0.3, size * 0.52, size * 0.52, (44, 40, 52))

    mouth = detail.get("mouth")
    if mouth == "no mouth":
        return
    mx, my = cx, cy + 0.42 * r
    if mouth == "its mouth on its forehead":
        my = cy - 0.78 * r
    elif mouth == "its mouth out of place":
        mx, my = cx + (9.0 if flaw_rng.random() < 0.5 else -9.0), my + 2.0
    ink = (70, 32, 44)
    width = 5.4
    if critter.expression == "surprised":
        _ellipse(pen, mx, my + 0.8, 3.0, 3.8, ink)
        return
    box = [(mx - width) * _UP, (my - 4) * _UP, (mx + width) * _UP, (my + 4) * _UP]
    if critter.expression == "happy":
        pen.chord(box, 10, 170, fill=ink)
        if mouth is None:
            for side in (-1, 1):
                _ellipse(pen, cx + side * (width + 3.0), my, 1.9, 1.5, (240, 150, 160))
    else:
        shifted = [box[0], box[1] + 4 * _UP, box[2], box[3] + 4 * _UP]
        pen.arc(shifted, 195, 345, fill=ink, width=round(2.0 * _UP))
        _ellipse(pen, cx - 5.5, cy + 3.2, 1.7, 2.5, (150, 205, 240))


def _accessory(
    pen: _Pen,
    critter: Critter,
    cx: float,
    cy: float,
    r: float,
    half_width: float,
    half_height: float,
    rng: np.random.Generator,
) -> None:
    top = cy - (1.25 * r if critter.shape == "triangular" else half_height)
    if critter.accessory == "hat":
        _box(pen, cx - 8, top - 0.5, cx + 8, top + 2.2, (66, 60, 78), radius=1)
        _box(pen, cx - 5, top - 9, cx + 5, top + 1, (66, 60, 78), radius=1)
    elif critter.accessory == "crown":
        base, gold = top + 2, (236, 186, 66)
        teeth = [(-7.0, -8.0), (-3.5, -3.0), (0.0, -9.0), (3.5, -3.0), (7.0, -8.0)]
        _polygon(pen, [(cx - 7, base), *[(cx + x, base + y) for x, y in teeth], (cx + 7, base)], gold)
    elif critter.accessory == "balloon":
        side = 1 if rng.random() < 0.5 else -1
        x, y = cx + side * 22, cy - 21
        pen.line([x * _UP, y * _UP, (cx + side * half_width) * _UP, (cy + 2) * _UP], fill=(90, 84, 92), width=_UP)
        _ellipse(pen, x, y, 6.4, 7.2, (228, 110, 150))
    elif critter.accessory == "scarf":
        y = cy + half_height * 0.78
        w = half_width * (1.3 if critter.shape == "triangular" else 0.82)
        _box(pen, cx - w, y - 2.4, cx + w, y + 2.4, (64, 176, 170), radius=2)
        _box(pen, cx + w * 0.35, y, cx + w * 0.35 + 4.5, y + 8, (64, 176, 170), radius=1)


def _smear(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift the creature's rows along a wave and blur it: limbs and face run into each other."""
    pixels = np.asarray(layer)
    rows = np.arange(pixels.shape[0])
    period, phase = rng.uniform(60, 110), rng.uniform(0, 2 * math.pi)
    shift = np.round(5.5 * _UP * np.sin(2 * math.pi * rows / period + phase)).astype(int)
    columns = (np.arange(pixels.shape[1])[None, :] - shift[:, None]) % pixels.shape[1]
    wavy = Image.fromarray(pixels[rows[:, None], columns])
    # Blurred with premultiplied alpha (mode "RGBa"), or the transparent black would leave a dark halo.
    return wavy.convert("RGBa").filter(ImageFilter.GaussianBlur(1.4 * _UP)).convert("RGBA")
