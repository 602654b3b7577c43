"""What a critter is: five attributes that captions name, and flaws, so that the truth about every drawing is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

__all__ = [
    "ACCESSORIES",
    "ATTRIBUTES",
    "COLOURS",
    "EXPRESSIONS",
    "FLAWS",
    "FLAW_DETAILS",
    "SCENES",
    "SHAPES",
    "Critter",
    "random_critter",
    "with_flaws",
]

COLOURS = {
    "red": (212, 74, 70),
    "orange": (238, 150, 62),
    "yellow": (243, 211, 82),
    "green": (66, 150, 84),
    "blue": (74, 112, 205),
    "purple": (150, 88, 184),
}
SHAPES = ("round", "square", "triangular", "long")
# scene -> (sky, ground); a landmark is added by hpslib.critters.draw
SCENES = {
    "meadow": ((186, 216, 240), (140, 196, 122)),
    "beach": ((200, 228, 244), (233, 214, 164)),
    "night": ((58, 62, 104), (78, 92, 96)),
    "snow": ((190, 202, 220), (238, 241, 246)),
    "desert": ((246, 208, 160), (214, 158, 104)),
    "city": ((190, 194, 208), (150, 150, 156)),
}
ACCESSORIES = ("none", "hat", "crown", "balloon", "scarf")
EXPRESSIONS = ("happy", "sad", "surprised")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "scene": tuple(SCENES),
    "accessory": ACCESSORIES,
    "expression": EXPRESSIONS,
}
# "washed_out" is a defect of the whole image and rare; the other five are about anatomy.
FLAWS = ("limb_count", "detached_limb", "eyes", "mouth", "smear", "washed_out")


@dataclass(frozen=True)
class Critter:
    """What an image shows: five captioned attributes and the flaws no caption need mention.

    ``flaws`` is a sorted tuple of names out of :data:`FLAWS`; ``detail`` has a pair for each that says how it shows,
    such as ``("limb_count", "three arms")``, for captions that do mention it.
    """

    colour: str
    shape: str
    scene: str
    accessory: str
    expression: str
    flaws: tuple[str, ...] = ()
    detail: tuple[tuple[str, str], ...] = ()


AnyCritter = TypeVar("AnyCritter", bound=Critter)

#: How each flaw can show. The text is what a caption that mentions it says.
FLAW_DETAILS: dict[str, tuple[str, ...]] = {
    "limb_count": ("three arms", "one arm", "three legs", "one leg"),
    "detached_limb": ("a detached arm", "a detached leg"),
    "eyes": ("one eye", "three eyes", "uneven eyes"),
    "mouth": ("its mouth on its forehead", "its mouth out of place", "no mouth"),
    "smear": ("a smeared body",),
    "washed_out": ("washed out colors",),
}


def with_flaws(critter: AnyCritter, flaws: tuple[str, ...], rng: np.random.Generator) -> AnyCritter:
    """Return ``critter`` with exactly these flaws, each shown in a way drawn by ``rng``.

    Raises ``ValueError`` for a flaw that is not one of :data:`FLAWS`.
    """
    unknown = sorted(set(flaws) - set(FLAWS))
    if unknown:
        raise ValueError(f"unknown flaw {unknown[0]!r}: choose from {', '.join(FLAWS)}.")
    names = tuple(sorted(set(flaws)))
    detail = tuple((name, FLAW_DETAILS[name][rng.integers(len(FLAW_DETAILS[name]))]) for name in names)
    return replace(critter, flaws=names, detail=detail)


def random_critter(rng: np.random.Generator, flaw_rate: float = 0.36) -> Critter:
    """Draw attributes uniformly and, with probability ``flaw_rate``, one flaw (two in a fifth of the cases).

    A washed-out image is one flaw in twenty-five, so that no single number gives the flawed images away.
    """
    colour, shape, scene, accessory, expression = (values[rng.integers(len(values))] for values in ATTRIBUTES.values())
    critter = Critter(colour, shape, scene, accessory, expression)
    if rng.random() >= flaw_rate:
        return critter
    weights = np.array([0.24, 0.18, 0.18, 0.18, 0.18, 0.04])
    count = 2 if rng.random() < 0.2 else 1
    chosen = rng.choice(len(FLAWS), size=count, replace=False, p=weights)
    return with_flaws(critter, tuple(FLAWS[i] for i in chosen), rng)
