"""A number with its interval: Wilson's for a share, the bootstrap by prompt for everything else.

Groups of one prompt are not independent, so every bootstrap draws whole prompts (:func:`drawn_prompts`). A single
prompt has a mean and no interval: both ends are then NaN, and the text of the estimate says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "Estimate",
    "bootstrap_by_prompt",
    "checked_confidence",
    "drawn_prompts",
    "prompt_numbers",
    "report_failed_resamples",
    "wilson_interval",
]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes: ``value``; ``low`` and ``high``, the ends of the interval, both NaN where there is one prompt only;
    ``n``, the number of groups behind it; ``confidence``, the nominal coverage in (0, 1); ``abstained``, the groups in
    which the scorer said nothing (credited as chance).

    >>> estimate = Estimate(0.435, 0.410, 0.461, n=5000, confidence=0.95)
    >>> print(estimate, "or", estimate.percent())
    0.435 [0.410, 0.461] or 43.5 % [41.0, 46.1]
    >>> print(Estimate(0.5, math.nan, math.nan, n=3, confidence=0.95))
    0.500 (no interval: one prompt)
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float
    abstained: int = 0

    def __str__(self) -> str:
        width = abs(self.high - self.low)
        # Two significant digits of the interval's width: more would pretend, fewer would hide it.
        decimals = min(max(1 - math.floor(math.log10(width)), 0), 8) if 0 < width < math.inf else 3
        return self._text(f"{self.value:.{decimals}f}", f"{self.low:.{decimals}f}, {self.high:.{decimals}f}")

    def percent(self, decimals: int = 1) -> str:
        """The estimate times 100, such as ``43.5 % [41.0, 46.1]``."""
        value, low, high = (f"{100 * x:.{decimals}f}" for x in (self.value, self.low, self.high))
        return self._text(f"{value} %", f"{low}, {high}")

    @property
    def has_interval(self) -> bool:
        """Whether both ends are numbers: False for a single prompt, over which nothing can be resampled."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def _text(self, value: str, ends: str) -> str:
        interval = f"[{ends}]" if self.has_interval else "(no interval: one prompt)"
        note = f" ({self.abstained} of {self.n} groups abstained)" if self.abstained else ""
        return f"{value} {interval}{note}"


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for ``successes`` out of ``n`` independent trials (Wilson 1927, JASA 22:209).

    With p = successes / n and z the normal quantile: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Unlike
    scipy's ``binomtest(...).proportion_ci(method="wilson")``, with which it agrees, it takes the fractional successes
    that ties produce (the interval is then slightly too wide). Raises ``ValueError`` unless 0 <= successes <= n and
    n >= 1.

    >>> print(wilson_interval(74, 100).percent())
    74.0 % [64.6, 81.6]
    """
    from scipy import stats

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: give 0 to n successes of n >= 1 trials.")
    p, z = successes / n, stats.norm.ppf(0.5 + checked_confidence(confidence) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
    return Estimate(p, float(low), float(high), int(n), confidence)


def bootstrap_by_prompt(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
    abstained: int = 0,
) -> Estimate:
    """The ratio sum(numerator) / sum(denominator) over groups, with the percentile bootstrap over ``prompts``.

    Efron & Tibshirani 1993, ch. 13; for clusters Davison & Hinkley 1997, section 3.8: whole prompts are drawn, with all
    their groups, because groups of one prompt are not independent. ``numerator`` and ``denominator`` have one number
    per group; without a ``denominator`` the value is the mean of ``numerator``. ``prompts`` holds one label per group,
    None makes every group its own prompt; where there is one prompt only, the ends of the interval are NaN. Resamples
    whose denominators add up to 0 have no ratio (:func:`report_failed_resamples`). Raises ``ValueError`` on unequal
    lengths, no group at all, a number that is not finite, a label that is missing, or too many such resamples.

    >>> bootstrap_by_prompt([1.0, 1.0], [1.0, 2.0], n_resamples=10).value.__round__(3)
    0.667
    >>> print(bootstrap_by_prompt([3.0, 4.0, 8.0], prompts=["a cat", "a cat", "a dog"]))
    5.0 [3.5, 8.0]
    """
    numerator = np.asarray(numerator)
    denominator = np.ones_like(numerator) if denominator is None else np.asarray(denominator)
    if numerator.ndim != 1 or numerator.shape != denominator.shape:
        raise ValueError(
            f"numerator has shape {numerator.shape} and denominator {denominator.shape}: give one number per group."
        )
    n = len(numerator)
    wrong = np.flatnonzero(~(np.isfinite(numerator) & np.isfinite(denominator)))
    if len(wrong):
        k = wrong[0]
        raise ValueError(f"group {k} (from 0) has {numerator[k]} / {denominator[k]}: give finite numbers.")
    if n == 0 or denominator.sum() == 0:
        raise ValueError(f"{n} groups have denominators that add up to 0: give at least one group that counts.")
    checked_confidence(confidence)
    value = float(numerator.sum() / denominator.sum())
    if not prompt_numbers(prompts, n).any():  # one prompt, which is the number 0
        return Estimate(value, math.nan, math.nan, n, confidence, abstained)
    number, blocks = drawn_prompts(prompts, n, n_resamples, seed)
    numerators, denominators = np.bincount(number, numerator), np.bincount(number, denominator)
    sums = [(numerators[drawn].sum(axis=1), denominators[drawn].sum(axis=1)) for drawn in blocks]
    above, below = (np.concatenate(parts) for parts in zip(*sums))
    report_failed_resamples(
        int((below == 0).sum()),
        n_resamples,
        "have 0 below the line of their ratio",
        "take a difference in place of a ratio, or give more prompts",
    )
    defined = below != 0
    low, high = np.quantile(above[defined] / below[defined], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), n, confidence, abstained)


_FAILED_SHARE = 0.05  # of the resamples: above it an interval from the others would no longer mean what it says


def report_failed_resamples(failed: int, resamples: int, fault: str, remedy: str) -> None:
    """Say how many resamples gave no value: a ``UserWarning`` for a few, ``ValueError`` for more than 5 % of them.

    The interval is made of the others. Those that fail are the extreme ones, so it is then slightly too narrow.
    ``fault`` goes on after "3 of 1000 resamples", ``remedy`` says what would help.
    """
    if failed > _FAILED_SHARE * resamples:
        raise ValueError(f"{failed} of {resamples} resamples {fault}: {remedy}.")
    if failed:
        text = f"{failed} of {resamples} resamples {fault}; the interval leaves them out and is slightly too narrow"
        warnings.warn(f"{text}: {remedy}.", stacklevel=3)


_CELLS = 4_000_000  # prompts drawn at once by the bootstrap (32 MB)


def prompt_numbers(prompts: Sequence[Hashable] | None, rows: int) -> np.ndarray:
    """The number of each row's prompt, int64 (rows,), counted from 0 in the order of appearance.

    ``prompts`` holds one label per row, None makes every row its own prompt. Raises ``ValueError`` on another number of
    labels, or a label that is missing (None or NaN, of which no two would be one prompt).

    >>> prompt_numbers(["a cat", "a dog", "a cat"], rows=3)
    array([0, 1, 0])
    """
    if prompts is None:
        return np.arange(rows)
    if len(prompts) != rows:
        raise ValueError(f"prompts has {len(prompts)} labels for {rows} rows: give one for each.")
    labels: dict[Hashable, int] = {}
    for row, label in enumerate(prompts):
        if _is_missing(label):
            raise ValueError(f"prompts[{row}] is {label}: give every row the label of its prompt.")
        labels.setdefault(label, len(labels))
    return np.array([labels[label] for label in prompts], dtype=np.int64)


def _is_missing(label: Hashable) -> bool:
    """None, NaN, and what pandas has for them (compared by name, for pandas is not needed here)."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)  # only NaN differs from itself


def drawn_prompts(
    prompts: Sequence[Hashable] | None, rows: int, n_resamples: int, seed: int | np.random.Generator
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The draws of every bootstrap here: whole prompts with replacement, as many as there are.

    ``prompts`` holds one label per row, None makes every row its own prompt. Returns the number of each row's prompt,
    int64 (rows,), counted from 0 in the order of appearance, and the draws: blocks of int64 (resamples, prompts), all
    together ``n_resamples`` long. Raises ``ValueError`` as :func:`prompt_numbers` does and on fewer than two prompts.

    >>> number, blocks = drawn_prompts(["a cat", "a dog", "a cat"], rows=3, n_resamples=4, seed=0)
    >>> number, [block.tolist() for block in blocks]
    (array([0, 1, 0]), [[[1, 1], [1, 0], [0, 0], [0, 0]]])
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: give 1 or more.")
    number = prompt_numbers(prompts, rows)
    k = int(number.max()) + 1 if rows else 0
    if k < 2:
        raise ValueError(f"an interval by prompt needs at least 2 different prompts, got {k}: give more prompts.")
    rng, step = np.random.default_rng(seed), max(1, _CELLS // k)
    starts = range(0, n_resamples, step)
    return number, (rng.integers(k, size=(min(step, n_resamples - start), k)) for start in starts)


def checked_confidence(confidence: float) -> float:
    """The confidence itself. Raises ``ValueError`` unless it lies strictly between 0 and 1.

    >>> checked_confidence(0.95)
    0.95
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a number strictly between 0 and 1.")
    return confidence
