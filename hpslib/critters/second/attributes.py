"""What a critter of the second edition is: five attributes that captions name, flaws, and qualities without a name.

Flaws are there or not; qualities lie between 0 and 1 in every drawing. How often a critter is flawed depends on what it
is: a round one on a meadow nearly always turns out well, a triangular one with a balloon at night mostly does not, as
some prompts are harder than others for Stable Diffusion. So the scores of pictures of different prompts differ for
reasons that have nothing to do with a choice among pictures of one prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from hpslib.critters.attributes import ATTRIBUTES, COLOURS, FLAW_DETAILS, FLAWS, SCENES, SHAPES

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "FLAWS",
    "FLAW_DETAILS",
    "QUALITIES",
    "SCENES",
    "SHAPES",
    "Critter",
    "flaw_rate",
    "random_critter",
    "with_flaws",
]

#: What differs between two sound pictures of one prompt, each between 0 and 1. ``size`` and ``vividness`` catch the
#: eye; ``placement``, ``light``, ``harmony`` and ``finish`` are craft.
QUALITIES = ("size", "vividness", "placement", "light", "harmony", "finish")
_TYPICAL = {"size": 0.45, "vividness": 0.5, "placement": 0.75, "light": 0.7, "harmony": 0.75, "finish": 0.6}
# The sum of the parameters of each beta distribution: standard deviations of about 0.27 and 0.2.
_SURE = {"size": 2.5, "vividness": 2.5, "placement": 4.0, "light": 4.0, "harmony": 4.0, "finish": 4.0}
_TWO_FLAWS = 0.2  # of the flawed ones
_FLAW_ODDS = (0.24, 0.18, 0.18, 0.18, 0.18, 0.04)  # in the order of FLAWS; no single number gives the flawed away

# How hard each value is to draw: the sum goes through a logistic function (see flaw_rate).
_HARD = {
    "round": -1.0,
    "square": -0.3,
    "triangular": 0.9,
    "long": 0.4,
    "meadow": -0.7,
    "beach": -0.4,
    "snow": 0.0,
    "desert": 0.1,
    "city": 0.3,
    "night": 0.7,
    "none": -0.4,
    "hat": 0.0,
    "crown": 0.0,
    "scarf": -0.2,
    "balloon": 0.6,
}


@dataclass(frozen=True)
class Critter:
    """What an image shows: five captioned attributes, the flaws, and the qualities.

    ``flaws`` is a sorted tuple of names out of :data:`FLAWS`; ``detail`` has a pair for each that says how it shows,
    such as ``("limb_count", "three arms")``, for captions that do mention it. ``qualities`` are numbers in [0, 1] in
    the order of :data:`QUALITIES`.
    """

    colour: str
    shape: str
    scene: str
    accessory: str
    expression: str
    flaws: tuple[str, ...] = ()
    detail: tuple[tuple[str, str], ...] = ()
    qualities: tuple[float, ...] = field(default=tuple(_TYPICAL[name] for name in QUALITIES))

    def quality(self, name: str) -> float:
        """One of :data:`QUALITIES`, in [0, 1]."""
        return self.qualities[QUALITIES.index(name)]


def with_flaws(critter: Critter, flaws: tuple[str, ...], rng: np.random.Generator) -> Critter:
    """Return ``critter`` with exactly these flaws, each shown in a way drawn by ``rng``.

    Raises ``ValueError`` for a flaw that is not one of :data:`FLAWS`.
    """
    unknown = sorted(set(flaws) - set(FLAWS))
    if unknown:
        raise ValueError(f"unknown flaw {unknown[0]!r}: choose from {', '.join(FLAWS)}.")
    names = tuple(sorted(set(flaws)))
    detail = tuple((name, FLAW_DETAILS[name][rng.integers(len(FLAW_DETAILS[name]))]) for name in names)
    return replace(critter, flaws=names, detail=detail)


def flaw_rate(critter: Critter, ease: float = 0.3) -> float:
    """The chance that a drawing of this critter is flawed: a logistic function of how hard what it shows is.

    ``ease`` is subtracted from the difficulties of shape, scene and accessory before; at 0.3 about 44 % of all are.

    >>> easy = Critter("red", "round", "meadow", "none", "happy")
    >>> hard = Critter("red", "triangular", "night", "balloon", "happy")
    >>> round(flaw_rate(easy), 2), round(flaw_rate(hard), 2)
    (0.08, 0.87)
    """
    total = _HARD[critter.shape] + _HARD[critter.scene] + _HARD[critter.accessory] - ease
    return 1 / (1 + math.exp(-total))


def _qualities(critter: Critter, rng: np.random.Generator) -> tuple[float, ...]:
    """Beta-distributed around what is typical; nights are darker, and what is hard to draw is finished less well."""
    means = dict(_TYPICAL)
    if critter.scene == "night":
        means["light"] -= 0.2
    means["finish"] -= 0.08 * _HARD[critter.shape]
    return tuple(float(rng.beta(_SURE[name] * means[name], _SURE[name] * (1 - means[name]))) for name in QUALITIES)


def random_critter(rng: np.random.Generator, flaw_share: float | None = None) -> Critter:
    """Draw attributes uniformly, qualities around the typical ones, and perhaps one flaw (two in a fifth of the cases).

    ``flaw_share`` is the probability of a flaw, :func:`flaw_rate` of the critter where it is ``None``. A washed-out
    image is one flaw in twenty-five, so that no single number gives the flawed images away.
    """
    colour, shape, scene, accessory, expression = (values[rng.integers(len(values))] for values in ATTRIBUTES.values())
    critter = Critter(colour, shape, scene, accessory, expression)
    critter = replace(critter, qualities=_qualities(critter, rng))
    if rng.random() >= (flaw_rate(critter) if flaw_share is None else flaw_share):
        return critter
    count = 2 if rng.random() < _TWO_FLAWS else 1
    chosen = rng.choice(len(FLAWS), size=count, replace=False, p=_FLAW_ODDS)
    return with_flaws(critter, tuple(FLAWS[i] for i in chosen), rng)
