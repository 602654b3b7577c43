r"""Simulated raters of the second edition: who chooses, why, and what they would say on second thoughts.

The *considered* utility of an image for a rater is

    u = - sum_k w_k p(flaw k) + m * match - sum_q c_q (quality q - ideal_q(prompt))^2 - 3 * loudness

an ideal-point model (Coombs, 1950). The ideal depends on the prompt: its style words are wishes, a night may be dark, a
sad critter need not stand in the sun. Of size and vividness there can be too much, and that is what loudness measures
(below their ideals the squares hold, beyond them loudness). But people choose at a glance, and a glance likes what is
loud: a choice is drawn from

    softmax((u + g * loudness + last) / noise)

with a liking ``g`` whose median is 3.6, a little more than loudness costs, and a small one for the last place. So a
score that learns from choices also learns that loud is good, which nobody would say who looked twice. The expected
number of flaws counts rather than the chance of any flaw: the latter saturates. These raters are simulated. They have
no taste; they have parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpslib.critters.attributes import FLAWS
from hpslib.critters.captions import read_caption
from hpslib.critters.raters import group_chances
from hpslib.critters.second.attributes import QUALITIES
from hpslib.critters.second.captions import wishes
from hpslib.critters.second.eyes import Seen

__all__ = [
    "CRAFT",
    "FLAW_WEIGHTS",
    "LOUD",
    "POPULATION",
    "TOO_MUCH",
    "Rater",
    "choice_utilities",
    "crowd_probabilities",
    "ideals",
    "loudness",
    "population",
    "utilities",
]

# Median weights, chosen by hand: a wrong face costs more than a wrong arm.
FLAW_WEIGHTS = (2.1, 2.2, 2.7, 2.6, 3.4, 2.3)
CRAFT = {"size": 4.0, "vividness": 4.0, "placement": 2.0, "light": 3.0, "harmony": 2.5, "finish": 2.5}
POPULATION = {"match": 3.0, "glance": 3.6, "noise": 1.1}
TOO_MUCH = 3.0  # what a unit of loudness costs everybody who thinks
LOUD = ("size", "vividness")  # the qualities of which there can be too much
_LOUD = [QUALITIES.index(name) for name in LOUD]
_ROOM = 0.45  # between the typical ideal and the most there can be: a loudness of 1
_IDEAL = {"size": 0.5, "vividness": 0.55, "placement": 1.0, "light": 0.75, "harmony": 1.0, "finish": 0.8}
_WISH = {"size": 0.3, "vividness": 0.3, "placement": 0.0, "light": 0.3, "harmony": 0.0, "finish": 0.45}


@dataclass(frozen=True)
class Rater:
    """One simulated person: weights for flaws, match and craft; ``glance`` is the liking for what is loud."""

    name: str
    flaws: tuple[float, ...]
    match: float
    craft: tuple[float, ...]
    glance: float
    noise: float


def population(count: int, seed: int, spread: float = 0.5) -> list[Rater]:
    """``count`` raters whose weights scatter log-normally (sigma ``spread``) around the medians above."""
    rng = np.random.default_rng(seed)
    raters = []
    for number in range(count):
        scale = np.exp(rng.normal(0, spread, len(FLAWS) + len(QUALITIES) + 2))
        flaws, craft, (match, glance) = np.split(scale, [len(FLAWS), len(FLAWS) + len(QUALITIES)])
        raters.append(
            Rater(
                name=f"simulated-{number:03d}",
                flaws=tuple(float(w * s) for w, s in zip(FLAW_WEIGHTS, flaws, strict=True)),
                match=float(POPULATION["match"] * match),
                craft=tuple(float(CRAFT[name] * s) for name, s in zip(QUALITIES, craft, strict=True)),
                glance=float(POPULATION["glance"] * glance),
                noise=POPULATION["noise"],
            )
        )
    return raters


def ideals(prompts: Sequence[str]) -> np.ndarray:
    """(n, 6): how much of each quality the pictures of each prompt should have, in the order of ``QUALITIES``."""
    table = np.empty((len(prompts), len(QUALITIES)))
    for row, prompt in enumerate(prompts):
        asked = read_caption(prompt)
        ideal = dict(_IDEAL)
        if asked["scene"] == "night":
            ideal["light"] -= 0.25
        if asked["expression"] == "sad":
            ideal["light"] -= 0.15
            ideal["vividness"] -= 0.1
        for name, sign in wishes(prompt).items():
            ideal[name] += sign * _WISH[name]
        table[row] = [min(max(ideal[name], 0.0), 1.0) for name in QUALITIES]
    return table


def loudness(seen: Seen, prompts: Sequence[str]) -> np.ndarray:
    """(n,) how far size and vividness lie beyond what the prompt calls for: squares, 1 for each at its very most."""
    return _loudness(seen.qualities - ideals(prompts))


def _loudness(away: np.ndarray) -> np.ndarray:
    return ((np.maximum(away[:, _LOUD], 0) / _ROOM) ** 2).sum(axis=1)


def utilities(rater: Rater, seen: Seen, prompts: Sequence[str]) -> np.ndarray:
    """(n,) considered utility of each image for the rater; ``prompts[i]`` belongs to image ``i``."""
    return _tables([rater], seen, prompts)[0][0]


def choice_utilities(rater: Rater, seen: Seen, prompts: Sequence[str]) -> np.ndarray:
    """(n,) utility at a glance, which choices follow: the considered one, and the liking for what is loud."""
    return _tables([rater], seen, prompts)[1][0]


def _tables(raters: Sequence[Rater], seen: Seen, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Considered utilities and those at a glance, each (raters, n)."""
    flaws, craft = np.array([r.flaws for r in raters]), np.array([r.craft for r in raters])
    match, glance = np.array([[r.match] for r in raters]), np.array([[r.glance] for r in raters])
    fit = seen.match([read_caption(prompt) for prompt in prompts])
    away = seen.qualities - ideals(prompts)
    loud = _loudness(away)
    away[:, _LOUD] = np.minimum(away[:, _LOUD], 0)  # beyond the ideal loudness takes over
    considered = match * fit - flaws @ seen.flaws.T - craft @ (away**2).T - TOO_MUCH * loud
    return considered, considered + glance * loud


def crowd_probabilities(
    raters: Sequence[Rater], seen: Seen, prompts: Sequence[str], sizes: Sequence[int], last_bonus: float = 0.0
) -> list[np.ndarray]:
    """For each group, the chance of each image when a rater drawn at random from ``raters`` chooses.

    Arguments and errors as in :func:`hpslib.critters.raters.crowd_probabilities`.
    """
    _, table = _tables(raters, seen, prompts)
    return group_chances(table, [r.noise for r in raters], sizes, last_bonus)
