"""What a critter of the second edition is: five attributes that captions name, flaws, and qualities without a name.

Flaws are there or not; qualities lie between 0 and 1 in every drawing. How often a critter is flawed depends on what it
is: a round one on a meadow nearly always turns out well, a triangular one with a balloon at night mostly does not, as
some prompts are harder than others for Stable Diffusion. So the scores of pictures of different prompts differ for
reasons that have nothing to do with a choice among pictures of one prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hpslib.critters import attributes as first
from hpslib.critters.attributes import ATTRIBUTES, FLAWS, with_flaws

__all__ = ["QUALITIES", "Critter", "flaw_rate", "random_critter"]

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


_EASE = 0.3


@dataclass(frozen=True)
class Critter(first.Critter):
    """What an image shows: attributes and flaws as in the first edition, and the qualities.

    ``qualities`` are numbers in [0, 1] in the order of :data:`QUALITIES`.
    """

    qualities: tuple[float, ...] = tuple(_TYPICAL[name] for name in QUALITIES)

    def quality(self, name: str) -> float:
        """One of :data:`QUALITIES`, in [0, 1]."""
        return self.qualities[QUALITIES.index(name)]


def flaw_rate(critter: Critter) -> float:
    """The chance that a drawing of this critter is flawed: a logistic function of how hard what it shows is.

    The difficulties of shape, scene and accessory are added up; 46 % of all drawings are flawed.

    >>> easy = Critter("red", "round", "meadow", "none", "happy")
    >>> hard = Critter("red", "triangular", "night", "balloon", "happy")
    >>> round(flaw_rate(easy), 2), round(flaw_rate(hard), 2)
    (0.08, 0.87)
    """
    total = _HARD[critter.shape] + _HARD[critter.scene] + _HARD[critter.accessory] - _EASE
    return 1 / (1 + math.exp(-total))


def _qualities(critter: Critter, rng: np.random.Generator) -> tuple[float, ...]:
    """Beta-distributed around what is typical; nights are darker, and hard shapes are finished less well."""
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
