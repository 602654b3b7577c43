"""A number with its interval: Wilson's for a share, the bootstrap by prompt for everything else."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "bootstrap_by_prompt", "wilson_interval"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes: ``value``; ``low`` and ``high``, the ends of the interval; ``n``, the number of groups behind it;
    ``confidence``, the nominal coverage in (0, 1); ``abstained``, the groups in which the scorer said nothing (credited
    as chance).

    >>> estimate = Estimate(0.435, 0.410, 0.461, n=5000, confidence=0.95)
    >>> print(estimate, "or", estimate.percent())
    0.435 [0.410, 0.461] or 43.5 % [41.0, 46.1]
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
        return f"{self.value:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]{self._note()}"

    def percent(self, decimals: int = 1) -> str:
        """The estimate times 100, such as ``43.5 % [41.0, 46.1]``."""
        value, low, high = (f"{100 * x:.{decimals}f}" for x in (self.value, self.low, self.high))
        return f"{value} % [{low}, {high}]{self._note()}"

    def _note(self) -> str:
        return f" ({self.abstained} of {self.n} groups abstained)" if self.abstained else ""


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for ``successes`` out of ``n`` independent trials (Wilson 1927, JASA 22:209).

    With p = successes / n and z the normal quantile: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Unlike
    scipy's ``binomtest(...).proportion_ci(method="wilson")``, with which it agrees, it takes the fractional successes
    that ties produce (the interval is then slightly too wide). Raises ValueError unless 0 <= successes <= n, n >= 1.

    >>> print(wilson_interval(74, 100).percent())
    74.0 % [64.6, 81.6]
    """
    from scipy import stats

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n with n >= 1, got {successes} of {n}.")
    p, z = successes / n, stats.norm.ppf(0.5 + _checked_confidence(confidence) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
    return Estimate(p, float(low), float(high), int(n), confidence)


def bootstrap_by_prompt(
    above: np.ndarray,
    below: np.ndarray,
    prompts: Sequence[Hashable] | None,
    confidence: float,
    n_resamples: int,
    seed: int | np.random.Generator,
    abstained: int = 0,
) -> Estimate:
    """The ratio sum(above) / sum(below) over groups, with a percentile interval from drawing whole prompts.

    ``above`` and ``below`` have shape (groups,). Interval and errors as in ``top1_accuracy``.

    >>> bootstrap_by_prompt(np.array([1.0, 1.0]), np.array([1.0, 2.0]), None, 0.95, 10, seed=0).value.__round__(3)
    0.667
    """
    _checked_confidence(confidence)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}.")
    if prompts is not None and len(prompts) != len(above):
        raise ValueError(f"prompts has {len(prompts)} entries for {len(above)} groups; give one per group.")
    labels: dict[Hashable, int] = {}
    codes = [labels.setdefault(prompt, len(labels)) for prompt in (range(len(above)) if prompts is None else prompts)]
    k = len(labels)
    if k < 2:
        raise ValueError("an interval by prompt needs at least 2 different prompts, got 1; use wilson_interval.")
    totals = np.bincount(codes, above, k), np.bincount(codes, below, k)
    rng, step, ratios = np.random.default_rng(seed), max(1, _CELLS // k), []
    for start in range(0, n_resamples, step):
        drawn = rng.integers(k, size=(min(step, n_resamples - start), k))
        ratios.append(totals[0][drawn].sum(axis=1) / totals[1][drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), len(above), confidence, abstained)


_CELLS = 4_000_000  # index cells held at once by the bootstrap (32 MB)


def _checked_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}.")
    return confidence
