"""From scored images to training captions: which generated images are preferred, which are not (paper, section 5).

Within one prompt's n images, the softmax of 100 x cosine says how clearly one stands out. The best image is
*preferred* if its probability exceeds 2/n; the worst is *non-preferred* if its probability under the negated scores
exceeds 2/n. Both are decided independently. Non-preferred images keep their caption behind an identifier.

The released code has faults that are not repeated here: it scores with GELU where the weights want QuickGELU; its blur
test measures the horizontal difference twice, with its sign, and never the vertical one; and it finds images by their
place in a list, which is right only while the list is complete and in order. Here results carry ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IDENTIFIER", "Chosen", "Selection", "choose", "identified_caption", "is_blurry", "select"]

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


@dataclass(frozen=True)
class Chosen:
    """``rows``: one row per chosen image with ``id`` (of its group), ``image`` (its place there), ``prompt``,
    ``caption`` (with the identifier where it is not preferred), ``preferred`` (bool) and ``score``; and the counts."""

    rows: pd.DataFrame
    counts: Selection
    blurred: int
    left_out: int

    def __str__(self) -> str:
        return (
            f"{self.counts} {self.blurred} images were blurred and left out before; {self.left_out} non-preferred "
            f"images were left out by lot, {int((~self.rows.preferred).sum())} kept."
        )


def choose(
    prompts: Mapping[str, str],
    scores: Mapping[tuple[str, int], float],
    *,
    threshold: float = 2.0,
    min_group: int = 4,
    temperature: float = 1.0,
    blurred: Collection[tuple[str, int]] = (),
    negative_share: float = 0.5,
    seed: int = 0,
    identifier: str = IDENTIFIER,
) -> Chosen:
    """Apply :func:`select` to scores that are keyed by (group id, image): the order they come in plays no part.

    ``prompts`` maps group ids to their text. Blurred images leave before groups are counted against ``min_group``, as
    in the paper. Of the non-preferred images a share is kept, drawn from ``seed``: the authors used half of theirs,
    since "using all negative samples will lead to worse results".

    >>> scores = {("a", k): value for k, value in enumerate([20.0, 21.0, 20.5, 25.0])}
    >>> choose({"a": "a dog"}, scores, negative_share=1.0).rows.caption.tolist()
    ['a dog', 'Weird image. a dog']

    Raises ``ValueError`` for a score of an unknown id, a share outside 0 to 1, and as :func:`select` does.
    """
    import pandas as pd

    if not 0 <= negative_share <= 1:
        raise ValueError(f"negative_share is {negative_share}: give a share from 0 to 1 (the paper: 0.5).")
    unknown = next((name for name, _ in scores if name not in prompts), None)
    if unknown is not None:
        raise ValueError(f"there are scores for the id {unknown!r}, which has no prompt: score this very pool again.")
    out = set(blurred)
    keys = [key for key in sorted(scores) if key not in out]
    groups: dict[str, list[tuple[str, int]]] = {}
    for key in keys:
        groups.setdefault(key[0], []).append(key)
    values = [[scores[key] for key in group] for group in groups.values()]
    counts = select(values, threshold=threshold, min_group=min_group, temperature=temperature)
    flat = [key for group in groups.values() for key in group]
    lot = np.random.default_rng(seed).permutation(len(counts.non_preferred))
    kept = np.sort(lot[: round(negative_share * len(lot))])
    rows = [
        {"id": name, "image": image, "prompt": prompts[name], "preferred": good, "score": scores[name, image],
         "caption": prompts[name] if good else identified_caption(prompts[name], identifier)}
        for good, places in ((True, counts.preferred), (False, counts.non_preferred[kept]))
        for name, image in (flat[place] for place in places)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["id", "image", "prompt", "caption", "preferred", "score"])
    table = table.astype({"image": "int64", "preferred": bool, "score": "float64"})
    return Chosen(table, counts, len(scores) - len(keys), len(lot) - len(kept))


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
