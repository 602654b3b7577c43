"""Simulated raters: who chooses in the miniature world, and why.

An image's utility for a rater is

    u = - sum_k w_k p(flaw k) + m * match + v * (vividness - 0.4) / 0.1

with the rater's own weights ``w``, ``m`` and ``v``; the rater chooses the image with the largest utility after
Gumbel noise, which is the same as choosing with probability softmax(u / noise) (McFadden, 1974). The expected
number of flaws counts rather than the chance of any flaw: the latter saturates.

These raters are simulated. They have no taste; they have parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from hpslib.critters.attributes import FLAWS
from hpslib.critters.captions import read_caption
from hpslib.critters.eyes import Seen

__all__ = [
    "FLAW_WEIGHTS",
    "POPULATION",
    "Rater",
    "choice_probabilities",
    "choose",
    "crowd_probabilities",
    "group_chances",
    "population",
    "utilities",
]

# Mean weights, chosen by hand: a wrong face costs more than a wrong arm, and two raters agree about as often as the
# paper's people did.
FLAW_WEIGHTS = (0.9, 1.0, 1.3, 1.2, 1.4, 1.2)
POPULATION = {"match": 2.0, "vividness": 0.25, "noise": 0.7}


@dataclass(frozen=True)
class Rater:
    """One simulated person: weights for the six flaws, for agreement with the prompt, for vivid colours."""

    name: str
    flaws: tuple[float, ...]
    match: float
    vividness: float
    noise: float


def population(count: int, seed: int, spread: float = 0.5) -> list[Rater]:
    """``count`` raters whose weights scatter log-normally (sigma ``spread``) around :data:`POPULATION`."""
    rng = np.random.default_rng(seed)
    raters = []
    for number in range(count):
        scale = np.exp(rng.normal(0, spread, len(FLAWS) + 2))
        flaws = tuple(float(w * s) for w, s in zip(FLAW_WEIGHTS, scale, strict=False))
        raters.append(
            Rater(
                name=f"simulated-{number:03d}",
                flaws=flaws,
                match=float(POPULATION["match"] * scale[-2]),
                vividness=float(POPULATION["vividness"] * scale[-1]),
                noise=float(POPULATION["noise"]),
            )
        )
    return raters


def utilities(rater: Rater, seen: Seen, prompts: Sequence[str]) -> np.ndarray:
    """(n,) utility of each image for the rater, before noise; ``prompts[i]`` belongs to image ``i``."""
    match = seen.match([read_caption(prompt) for prompt in prompts])
    return -seen.flaws @ np.asarray(rater.flaws) + rater.match * match + rater.vividness * (seen.vividness - 0.4) / 0.1


def choice_probabilities(utility: np.ndarray, noise: float) -> np.ndarray:
    """The rater's chance of choosing each image of one group: softmax(u / noise)."""
    return softmax((utility - utility.max()) / noise)  # the largest is 0: nothing overflows, whatever the noise


def crowd_probabilities(
    raters: Sequence[Rater], seen: Seen, prompts: Sequence[str], sizes: Sequence[int], last_bonus: float = 0.0
) -> list[np.ndarray]:
    """For each group, the chance of each image when a rater drawn at random from ``raters`` chooses.

    Images stand group by group, ``prompts[i]`` belongs to image ``i``; ``last_bonus`` is the utility of standing
    last. Whoever sees the images but not the rater cannot be right more often than the largest chance of a group, on
    average: that is the noise ceiling of a score (:func:`hpslib.metrics.comparison.noise_ceiling`).
    """
    match = seen.match([read_caption(prompt) for prompt in prompts])
    vivid = (seen.vividness - 0.4) / 0.1
    table = np.stack([-seen.flaws @ np.asarray(r.flaws) + r.match * match + r.vividness * vivid for r in raters])
    return group_chances(table, [r.noise for r in raters], sizes, last_bonus)


def group_chances(
    table: np.ndarray, noises: Sequence[float], sizes: Sequence[int], last_bonus: float
) -> list[np.ndarray]:
    """The mean over raters of softmax(u / noise) in each group; ``table`` (raters, images) holds the utilities u.

    Raises ``ValueError`` when ``sizes`` do not add up to the images.
    """
    if sum(sizes) != table.shape[1]:
        raise ValueError(
            f"{table.shape[1]} prompts for groups of {sum(sizes)} images in all: give each image its prompt."
        )
    ends = np.cumsum(sizes)
    table[:, ends - 1] += last_bonus
    table /= np.array(noises)[:, None]
    return [softmax(part, axis=1).mean(axis=0) for part in np.split(table, ends[:-1], axis=1)]


def choose(utility: np.ndarray, noise: float, rng: np.random.Generator) -> int:
    """One choice among the images of a group."""
    return int(rng.choice(len(utility), p=choice_probabilities(utility, noise)))
