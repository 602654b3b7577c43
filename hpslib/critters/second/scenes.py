"""Where critters stand: sky, ground, a landmark that gives the place away, and small things where finish allows."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hpslib.critters.attributes import SCENES
from hpslib.critters.second.attributes import Critter
from hpslib.critters.second.pen import SIZE, UP, Colour, Pen, blend, colour_at, shade

__all__ = ["scene"]

# What a sky and a ground clash with: sour colours that no place has.
_SOUR: tuple[Colour, Colour] = ((214, 120, 206), (176, 206, 60))


def scene(critter: Critter, rng: np.random.Generator) -> tuple[Image.Image, float]:
    """The empty place, :data:`UP` times the size, and the height of its horizon in pixels.

    Low ``harmony`` tints sky and ground with colours that go with nothing; high ``finish`` adds small things.
    """
    clash = 0.55 * max(0.0, 0.75 - critter.quality("harmony")) / 0.75
    sky, ground = (blend(own, sour, clash) for own, sour in zip(SCENES[critter.scene], _SOUR, strict=True))
    horizon = 86 + rng.uniform(-5, 5)
    image = Image.new("RGB", (SIZE * UP, SIZE * UP), sky)
    pen = Pen.on(image)
    left = rng.random() < 0.5
    x = rng.uniform(15, 23) if left else rng.uniform(105, 113)
    places = rng.uniform(size=(6, 2))
    _LANDMARKS[critter.scene](pen, x, SIZE - x, horizon, left)
    pen.box(0, horizon, SIZE, SIZE, ground)
    pen.box(0, horizon, SIZE, horizon + 2, shade(ground, 0.88))
    for dx, dy in places[: round(6 * critter.quality("finish"))]:
        _small_thing(pen, critter.scene, SIZE * dx, horizon + 8 + (SIZE - horizon - 14) * dy, ground)
    return image, horizon


def _meadow(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    pen.ellipse(x, 20, 15, 15, (250, 238, 190))
    pen.ellipse(x, 20, 11, 11, (250, 222, 110))


def _beach(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    pen.box(0, horizon - 24, SIZE, horizon + 2, (92, 160, 208))
    for row, start in ((-18, 6), (-11, 40), (-18, 74), (-11, 104)):
        pen.box(start, horizon + row, start + 18, horizon + row + 2, (190, 222, 240), radius=1)


def _night(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    pen.ellipse(x, 20, 11, 11, (238, 234, 206))
    pen.ellipse(x + (5 if left else -5), 17, 9, 9, colour_at(pen.image, 0, 0))
    for star_x, star_y in ((other, 14), (other + (18 if other < 64 else -18), 28), (other, 44), (64, 9)):
        pen.ellipse(star_x, star_y, 2, 2, (236, 234, 214))


def _snow(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    pen.box(x - 2.5, horizon - 8, x + 2.5, horizon + 2, (112, 86, 70))
    for up, wide in ((8, 17), (22, 14), (36, 10)):
        pen.polygon([(x, horizon - up - 22), (x - wide, horizon - up), (x + wide, horizon - up)], (72, 122, 104))
        pen.polygon([(x, horizon - up - 22), (x - 5, horizon - up - 14), (x + 5, horizon - up - 14)], (240, 244, 248))


def _desert(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    green = (98, 146, 92)
    pen.box(x - 5, horizon - 42, x + 5, horizon + 2, green, radius=5)
    pen.box(x - 15, horizon - 24, x, horizon - 17, green, radius=3)
    pen.box(x - 15, horizon - 34, x - 9, horizon - 18, green, radius=3)
    pen.box(x, horizon - 30, x + 15, horizon - 23, green, radius=3)
    pen.box(x + 9, horizon - 40, x + 15, horizon - 24, green, radius=3)


def _city(pen: Pen, x: float, other: float, horizon: float, left: bool) -> None:
    for k, height in enumerate((54, 34, 46, 30, 58)):
        wall = ((148, 154, 176), (166, 170, 190))[k % 2]
        pen.box(k * 26 - 1, horizon - height, k * 26 + 22, horizon + 2, wall)
        for row in range(int(height // 14)):
            for column in (4, 13):
                top = horizon - height + 6 + 14 * row
                pen.box(k * 26 + column, top, k * 26 + column + 5, top + 6, (244, 226, 158))


_LANDMARKS = {"meadow": _meadow, "beach": _beach, "night": _night, "snow": _snow, "desert": _desert, "city": _city}


def _small_thing(pen: Pen, name: str, x: float, y: float, ground: Colour) -> None:
    if name == "meadow":
        for dx, dy in ((-3, 0), (3, 0), (0, -3), (0, 3)):
            pen.ellipse(x + dx, y + dy, 2.2, 2.2, (250, 246, 240))
        pen.ellipse(x, y, 1.8, 1.8, (246, 200, 70))
    elif name in ("beach", "desert"):
        pen.ellipse(x, y, 4, 2, shade(ground, 0.82))
    elif name == "snow":
        pen.ellipse(x, y, 6, 2.2, (206, 216, 230))
    elif name == "night":
        pen.ellipse(x, y, 4, 2, shade(ground, 1.25))
    else:
        pen.box(x - 5, y, x + 5, y + 2, shade(ground, 1.18), radius=1)
