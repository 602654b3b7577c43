"""From scored images to training captions: which generated images are preferred, which are not (paper, section 5).

Within one prompt's n images, the softmax of 100 x cosine says how clearly one stands out. The best image is
*preferred* if its probability exceeds 2/n; the worst is *non-preferred* if its probability under the negated scores
exceeds 2/n. Both are decided independently. Non-preferred images keep their caption behind an identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

__all__ = ["IDENTIFIER", "Selection", "identified_caption", "is_blurry", "select"]

IDENTIFIER = "Weird image. "  # with the trailing space, as released


@dataclass(frozen=True)
class Selection:
    """Rows of the flat image list, and how many groups gave nothing.

    ``preferred`` and ``non_preferred`` are int64 arrays of image rows; ``too_small`` counts groups with fewer than
    ``min_group`` images, ``neither`` groups from which nothing was taken.
    """

    preferred: np.ndarray
    non_preferred: np.ndarray
    groups: int
    too_small: int
    neither: int

    def __str__(self) -> str:
        return (
            f"{self.groups} groups: {len(self.preferred)} preferred and {len(self.non_preferred)} non-preferred "
            f"images; {self.neither} groups gave neither, {self.too_small} were too small."
        )


def _softmax(values: np.ndarray) -> np.ndarray:
    exponent = np.exp(values - values.max())
    return exponent / exponent.sum()


def select(
    scores: Sequence[ArrayLike], *, threshold: float = 2.0, min_group: int = 4, temperature: float = 1.0
) -> Selection:
    """Apply the rule to one list of HPS values (100 x cosine) per group.

    ``threshold`` is the 2 of "2/n". ``temperature`` divides the scores; the paper uses them as they are (1.0).

    >>> select([[20.0, 21.0, 20.5, 25.0]], threshold=2.0)
    Selection(preferred=array([3]), non_preferred=array([0]), groups=1, too_small=0, neither=0)

    Raises ``ValueError`` for a score that is not a number, a threshold that every group would pass or a
    temperature not above 0.
    """
    if threshold <= 1:
        raise ValueError(
            f"threshold is {threshold}: at 1 or below every group passes, so choose more than 1 (the paper: 2)."
        )
    if temperature <= 0:
        raise ValueError(
            f"temperature is {temperature}: it divides the scores, so choose a number above 0 (the paper: 1)."
        )
    preferred, rejected, start, too_small, neither = [], [], 0, 0, 0
    for number, group in enumerate(scores):
        values = np.asarray(group, dtype=np.float64) / temperature
        if not np.isfinite(values).all():
            raise ValueError(f"group {number} holds a score that is not a number: score its images again.")
        n = len(values)
        if n < min_group:
            too_small += 1
        else:
            best, worst = int(values.argmax()), int(values.argmin())
            keep_best = _softmax(values)[best] > threshold / n
            keep_worst = _softmax(-values)[worst] > threshold / n
            if keep_best:
                preferred.append(start + best)
            if keep_worst:
                rejected.append(start + worst)
            neither += not (keep_best or keep_worst)
        start += n
    return Selection(
        np.array(preferred, dtype=np.int64), np.array(rejected, dtype=np.int64), len(scores), too_small, neither
    )


def identified_caption(caption: str, identifier: str = IDENTIFIER) -> str:
    """The caption of a non-preferred image.

    >>> identified_caption("a red critter")
    'Weird image. a red critter'
    """
    return identifier + caption


def is_blurry(image: Image.Image, threshold: float = 10.0) -> bool:
    """Whether neither neighbouring columns nor neighbouring rows ever differ by more than ``threshold`` grey levels.

    The released code measures the horizontal difference twice and with its sign; here both directions count,
    absolutely.

    >>> is_blurry(Image.new("RGB", (8, 8), "grey"))
    True
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    if min(grey.shape) < 2:
        raise ValueError(f"an image of {grey.shape[1]} x {grey.shape[0]} pixels has no neighbours to compare.")
    return bool(max(np.abs(np.diff(grey, axis=0)).max(), np.abs(np.diff(grey, axis=1)).max()) <= threshold)
