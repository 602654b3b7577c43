"""The creature itself: legs, arms, body, face and what it wears or holds, with whatever is wrong about them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hpslib.critters.attributes import COLOURS
from hpslib.critters.second.attributes import Critter
from hpslib.critters.second.pen import SIZE, Colour, Pen, shade

__all__ = ["Pose", "creature", "pose"]

_WIDE = {"round": 1.0, "square": 0.94, "triangular": 0.86, "long": 0.74}  # half width and height, in radii
_HIGH = {"round": 1.0, "square": 0.94, "triangular": 0.95, "long": 1.22}
_INK: Colour = (62, 34, 46)


class Pose(NamedTuple):
    """Where a critter stands and how it holds its limbs; nothing here depends on a flaw."""

    x: float
    y: float
    radius: float
    swings: tuple[float, float]  # legs, radians from straight down
    lifts: tuple[float, float]  # arms, radians below level
    gaze: float
    side: int  # of the balloon


def pose(critter: Critter, rng: np.random.Generator) -> Pose:
    """Drawn by ``rng``; ``size`` and ``placement`` of the critter decide how large it is and how far off the middle."""
    off = (1 - critter.quality("placement")) ** 1.5
    angle = rng.uniform(0, 2 * math.pi)
    radius = 18 + 14 * critter.quality("size")
    x = 64 + 34 * off * math.cos(angle) + rng.uniform(-2, 2)
    y = 72 + 22 * off * math.sin(angle) + rng.uniform(-2, 2) - (4 if critter.shape == "long" else 0)
    swings = (float(rng.uniform(-0.15, 0.15)), float(rng.uniform(-0.15, 0.15)))
    lifts = (float(rng.uniform(-0.75, 0.45)), float(rng.uniform(-0.75, 0.45)))
    return Pose(x, y, radius, swings, lifts, float(rng.uniform(-1, 1)), 1 if rng.random() < 0.5 else -1)


def creature(pen: Pen, critter: Critter, at: Pose, flaw_rng: np.random.Generator) -> None:
    """Draw it with ``pen``; ``flaw_rng`` decides what is left to chance about its flaws (which arm, which side)."""
    detail = dict(critter.detail)
    colour = COLOURS[critter.colour]
    _legs(pen, critter, detail, at, flaw_rng)
    _arms(pen, critter, detail, at, flaw_rng)
    _body(pen, critter, at, colour)
    _face(pen, critter, detail, at, flaw_rng)
    _accessory(pen, critter, at)


def _limb(pen: Pen, x: float, y: float, angle: float, length: float, thick: float, colour: Colour) -> None:
    end = (x + math.cos(angle) * length, y + math.sin(angle) * length)
    dark, ink = shade(colour, 0.78), shade(colour, 0.42)
    rim = pen.outline
    if rim:
        pen.line(x, y, *end, ink, thick + 2 * rim * 0.6)
        pen.ellipse(*end, thick * 0.72 + rim * 0.6, thick * 0.72 + rim * 0.6, ink)
    pen.line(x, y, *end, dark, thick)
    pen.ellipse(*end, thick * 0.72, thick * 0.72, dark)


def _legs(pen: Pen, critter: Critter, detail: dict[str, str], at: Pose, flaw_rng: np.random.Generator) -> None:
    count = detail.get("limb_count")
    places = [-0.5, 0.5]
    if count == "three legs":
        places = [-0.9, 0.0, 0.9]
    elif count == "one leg":
        places = [places[flaw_rng.integers(2)]]
    loose = int(flaw_rng.integers(len(places))) if detail.get("detached_limb") == "a detached leg" else -1
    r, colour = at.radius, COLOURS[critter.colour]
    for k, place in enumerate(places):
        swing = at.swings[0] if place < 0 else at.swings[1] if place > 0 else 0.0
        x, y = at.x + place * _WIDE[critter.shape] * r, at.y + _HIGH[critter.shape] * r * 0.84
        angle = math.pi / 2 - swing
        if k == loose:  # beside the body and below, with air between
            x += math.copysign(0.75 * r, place if place else 1.0)
            y += 0.42 * r
            x, y = min(max(x, 10), SIZE - 10), min(y, SIZE - 16)
            angle -= math.copysign(0.5, place)
        _limb(pen, x, y, angle, r * (0.42 if k == loose else 0.62), 0.36 * r, colour)


def _arms(pen: Pen, critter: Critter, detail: dict[str, str], at: Pose, flaw_rng: np.random.Generator) -> None:
    count = detail.get("limb_count")
    arms = [(-1.0, at.lifts[0]), (1.0, at.lifts[1])]
    if count == "one arm":
        arms = [arms[flaw_rng.integers(2)]]
    elif count == "three arms":
        side = arms[flaw_rng.integers(2)][0]
        arms = [arm for arm in arms if arm[0] != side]
        arms += [(side, -0.95), (side, 0.45)]
    loose = int(flaw_rng.integers(len(arms))) if detail.get("detached_limb") == "a detached arm" else -1
    r, colour = at.radius, COLOURS[critter.colour]
    for k, (side, lift) in enumerate(arms):
        x, y = at.x + side * _WIDE[critter.shape] * r * 0.84, at.y + 0.1 * r
        if k == loose:
            x, y = x + side * 0.78 * r * math.cos(lift), y + 0.78 * r * math.sin(lift) - 0.2 * r
            x = min(max(x, 0.6 * r), SIZE - 0.6 * r)
        angle = lift if side > 0 else math.pi - lift
        _limb(pen, x, y, angle, r * (0.46 if k == loose else 0.86), 0.33 * r, colour)


def _body(pen: Pen, critter: Critter, at: Pose, colour: Colour) -> None:
    r, ink = at.radius, shade(colour, 0.42)
    wide, high = _WIDE[critter.shape] * r, _HIGH[critter.shape] * r
    lit = critter.quality("finish") > 0.35
    glow, belly = shade(colour, 1.16), shade(colour, 1.09)
    if critter.shape in ("round", "long"):
        pen.ellipse(at.x, at.y, wide, high, colour, ink)
        if lit:
            pen.ellipse(at.x, at.y + 0.42 * high, 0.6 * wide, 0.42 * high, belly)
            pen.ellipse(at.x - 0.45 * wide, at.y - 0.6 * high, 0.22 * wide, 0.13 * high, glow)
    elif critter.shape == "square":
        pen.box(at.x - wide, at.y - high, at.x + wide, at.y + high, colour, 0.2 * r, ink)
        if lit:
            pen.box(at.x - 0.6 * wide, at.y + 0.1 * high, at.x + 0.6 * wide, at.y + 0.86 * high, belly, 0.2 * r)
            pen.box(at.x - 0.8 * wide, at.y - 0.84 * high, at.x - 0.3 * wide, at.y - 0.7 * high, glow, 0.06 * r)
    else:
        foot = at.y + high
        pen.polygon([(at.x, at.y - 1.5 * r), (at.x - 1.35 * r, foot), (at.x + 1.35 * r, foot)], colour, ink)
        if lit:
            pen.ellipse(at.x, at.y + 0.62 * r, 0.62 * r, 0.26 * r, belly)


def _face(pen: Pen, critter: Critter, detail: dict[str, str], at: Pose, flaw_rng: np.random.Generator) -> None:
    r = at.radius
    x, y = at.x, at.y + (0.2 * r if critter.shape == "triangular" else 0.0)
    apart = (0.33 if critter.shape in ("triangular", "long") else 0.4) * r
    places = [(-apart, 0.0, 0.25 * r), (apart, 0.0, 0.25 * r)]
    eyes = detail.get("eyes")
    if eyes == "one eye":
        places = [places[flaw_rng.integers(2)]]
    elif eyes == "three eyes":
        places = [(-1.5 * apart, 0.0, 0.23 * r), (0.0, -0.14 * r, 0.23 * r), (1.5 * apart, 0.0, 0.23 * r)]
    elif eyes == "uneven eyes":
        k = flaw_rng.integers(2)
        places[k] = (places[k][0], (-0.36 if flaw_rng.random() < 0.5 else 0.36) * r, 0.34 * r)
        places[1 - k] = (places[1 - k][0], 0.0, 0.15 * r)
    for dx, dy, size in places:
        ex, ey = x + dx, y - 0.26 * r + dy
        pen.ellipse(ex, ey, size, size, (252, 252, 250), _INK)
        pen.ellipse(ex + 0.05 * r * at.gaze, ey + 0.03 * r, size * 0.56, size * 0.56, (40, 36, 50))
        if critter.quality("finish") > 0.3:
            pen.ellipse(ex + 0.05 * r * at.gaze - size * 0.2, ey - size * 0.2, size * 0.2, size * 0.2, (255, 255, 255))
    mouth = detail.get("mouth")
    if mouth == "no mouth":
        return
    mx, my = x, y + 0.42 * r
    if mouth == "its mouth on its forehead":
        my = y - 0.8 * r
    elif mouth == "its mouth out of place":
        mx, my = x + (0.72 if flaw_rng.random() < 0.5 else -0.72) * r, my + 0.12 * r
    _mouth(pen, critter.expression, mx, my, r)
    if critter.expression == "happy":
        for side in (-1, 1):
            pen.ellipse(x + side * 0.62 * r, y + 0.22 * r, 0.14 * r, 0.1 * r, (240, 146, 156))
    elif critter.expression == "sad":
        pen.ellipse(x - apart, y + 0.24 * r, 0.11 * r, 0.17 * r, (140, 204, 246))


def _mouth(pen: Pen, expression: str, x: float, y: float, r: float) -> None:
    if expression == "surprised":
        pen.ellipse(x, y + 0.06 * r, 0.19 * r, 0.25 * r, _INK)
        pen.ellipse(x, y + 0.16 * r, 0.11 * r, 0.1 * r, (214, 96, 104))
        return
    wide, high = 0.4 * r, 0.32 * r
    if expression == "happy":
        pen.chord(x, y, wide, high, 8, 172, _INK)
        pen.ellipse(x, y + 0.2 * r, 0.18 * r, 0.07 * r, (214, 96, 104))
    else:
        pen.arc(x, y + high, wide, high, 197, 343, _INK, 0.14 * r)


def _accessory(pen: Pen, critter: Critter, at: Pose) -> None:
    r = at.radius
    wide, high = _WIDE[critter.shape] * r, _HIGH[critter.shape] * r
    top = at.y - (1.28 * r if critter.shape == "triangular" else high)
    if critter.accessory == "hat":
        felt, band = (66, 60, 84), (196, 70, 74)
        pen.box(at.x - 0.4 * r, top - 0.72 * r, at.x + 0.4 * r, top + 0.1 * r, felt, 0.08 * r)
        pen.box(at.x - 0.4 * r, top - 0.2 * r, at.x + 0.4 * r, top - 0.06 * r, band)
        pen.box(at.x - 0.66 * r, top - 0.06 * r, at.x + 0.66 * r, top + 0.14 * r, felt, 0.08 * r)
    elif critter.accessory == "crown":
        gold, base = (240, 190, 62), top + 0.14 * r
        teeth = [(-0.56, -0.66), (-0.28, -0.28), (0.0, -0.74), (0.28, -0.28), (0.56, -0.66)]
        rim = [(at.x + dx * r, base + dy * r) for dx, dy in teeth]
        pen.polygon([(at.x - 0.52 * r, base), *rim, (at.x + 0.52 * r, base)], gold, (150, 104, 20))
        pen.ellipse(at.x, base - 0.2 * r, 0.09 * r, 0.09 * r, (204, 60, 80))
    elif critter.accessory == "balloon":
        x, y = at.x + at.side * 1.7 * r, at.y - 1.55 * r
        x, y = min(max(x, 14), 114), max(y, 16)
        hand = (at.x + at.side * wide, at.y + 0.1 * r)
        pen.line(x, y + 12, *hand, (96, 88, 98), 1.3)
        pen.ellipse(x, y, 12.5, 14, (230, 104, 148), (146, 48, 90))
        pen.ellipse(x - 4, y - 5, 3, 3.6, (246, 176, 202))
    elif critter.accessory == "scarf":
        teal, y = (52, 168, 164), at.y + high * 0.78
        half = wide * (1.35 if critter.shape == "triangular" else 0.86)
        pen.box(at.x - half, y - 0.17 * r, at.x + half, y + 0.17 * r, teal, 0.14 * r, shade(teal, 0.55))
        x = at.x + half * 0.3
        pen.box(x, y + 0.02 * r, x + 0.34 * r, y + 0.62 * r, teal, 0.08 * r, shade(teal, 0.55))
