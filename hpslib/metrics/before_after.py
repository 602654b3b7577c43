"""Before against after: the same prompts, the same noise, two models, and an interval on every difference.

Row i of ``before`` and of ``after`` belongs to one *pair*: two images made from one prompt and one initial noise, so
that only the model differs. Pairs of one prompt are not independent, hence every interval resamples whole prompts
(:func:`hpslib.metrics.intervals.bootstrap_by_prompt`); pairs of one prompt alone have a mean and no interval.

Two ways to judge a pair: by numbers (a utility, HPS, CLIP score, a flaw flag) or by the votes of people, as in the
paper's user study (100 prompts, 20 people, majority: adapted 74, original 22). Votes are +1 for the image after, -1 for
the one before, 0 for no preference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpslib.metrics.intervals import Estimate, bootstrap_by_prompt, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = [
    "Outcome",
    "comparison_table",
    "majority_votes",
    "mean_difference",
    "rate_difference",
    "relative_change",
    "simulated_votes",
    "win_rate",
]


@dataclass(frozen=True)
class Outcome:
    """Pairs won, lost and tied by the image after.

    >>> print(Outcome(wins=74, losses=22, ties=4))
    100 pairs: after wins 74, before wins 22, 4 ties; after wins 74.0 % [64.6, 81.6] of all.
    """

    wins: int
    losses: int
    ties: int

    @property
    def pairs(self) -> int:
        """All pairs, ties included."""
        return self.wins + self.losses + self.ties

    def of_all(self, confidence: float = 0.95) -> Estimate:
        """Wins among all pairs (the paper's 74 of 100), ties counting as not won, with Wilson's interval.

        Wilson takes the pairs for independent: one pair per prompt, as in the paper; else use :func:`win_rate`.
        """
        return wilson_interval(self.wins, self.pairs, confidence)

    def of_decided(self, confidence: float = 0.95) -> Estimate:
        """Wins among wins and losses (chance 0.5), with Wilson's interval. Raises ``ValueError`` if all are tied."""
        if self.wins + self.losses == 0:
            raise ValueError(f"all {self.ties} pairs are tied, none is decided: collect more votes.")
        return wilson_interval(self.wins, self.wins + self.losses, confidence)

    def __str__(self) -> str:
        return (
            f"{self.pairs} pairs: after wins {self.wins}, before wins {self.losses}, {self.ties} ties; after wins "
            f"{self.of_all().percent()} of all."
        )


def win_rate(
    before: ArrayLike,
    after: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    tie_margin: float = 0.0,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Share of pairs in which ``after`` exceeds ``before`` by more than ``tie_margin``, in [0, 1]; no effect is 0.5.

    ``before`` and ``after`` are flat arrays of one number per pair, larger is better; ``prompts`` holds one label per
    pair, None makes every pair its own prompt. Closer pairs are ties and count half; a pair with a NaN counts half too
    and is counted in ``abstained``. Raises ``ValueError`` on unequal lengths or a margin that is no number from 0.

    >>> print(win_rate([0, 0, 0, 1], [1, 1, 0, 0]).value)
    0.625
    """
    if not 0 <= tie_margin < np.inf:
        raise ValueError(f"tie_margin is {tie_margin}: give 0 or more, in the unit of before and after.")
    first, second = _pair(before, after)
    unknown = np.isnan(first) | np.isnan(second)
    won, lost = second > first + tie_margin, second < first - tie_margin  # both False for NaN
    credit = np.where(won, 1.0, np.where(lost, 0.0, 0.5))
    return bootstrap_by_prompt(credit, None, prompts, confidence, n_resamples, seed, int(unknown.sum()))


def mean_difference(
    before: ArrayLike,
    after: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Mean of ``after - before`` over the pairs, in the measure's own unit; above 0 is more after than before.

    Arguments as in :func:`win_rate`, but every number must be finite: a mean has no fair place for NaN
    (``ValueError``).

    >>> print(mean_difference([20.0, 21.0, 19.0], [20.5, 21.0, 20.0], seed=1))
    0.5 [0.0, 1.0]
    """
    first, second = _finite_pair(before, after)
    return bootstrap_by_prompt(second - first, None, prompts, confidence, n_resamples, seed)


def rate_difference(
    before: ArrayLike,
    after: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Share of True after minus share of True before, in [-1, 1]: by how many points a flaw rate rose or fell.

    Both arrays are bool, one per pair; anything else is refused (``ValueError``), since a probability is no rate.

    >>> rate_difference([True, True, False, True], [False, True, False, False]).value
    -0.5
    """
    return mean_difference(*_bool_pair(before, after), prompts, confidence, n_resamples, seed)


def relative_change(
    before: ArrayLike,
    after: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """(share of True after) / (share of True before) - 1: -0.25 means that a quarter of the flaws is gone.

    Bool arrays as in :func:`rate_difference`. The interval is the bootstrap of the ratio, not of its parts. Raises
    ``ValueError`` when before has fewer than 5 True, where a ratio says nothing; resamples without any are treated as
    :func:`hpslib.metrics.intervals.report_failed_resamples` says.

    >>> relative_change([True] * 8 + [False] * 2, [True] * 6 + [False] * 4).value
    -0.25
    """
    first, second = _bool_pair(before, after)
    if first.sum() < 5:
        raise ValueError(f"only {int(first.sum())} of {len(first)} are True before: use rate_difference on so few.")
    ratio = bootstrap_by_prompt(second, first, prompts, confidence, n_resamples, seed)
    return Estimate(ratio.value - 1, ratio.low - 1, ratio.high - 1, ratio.n, confidence)


def majority_votes(votes: ArrayLike) -> Outcome:
    """Decide every pair by the majority of its raters, as the paper's user study does.

    ``votes`` has shape (pairs, raters) with +1 (after), -1 (before) and 0 (no preference, or did not vote). A pair with
    as many votes for as against is a tie. Raises ``ValueError`` on another shape or value.

    >>> majority_votes([[1, 1, -1], [1, -1, 0], [-1, -1, -1]])
    Outcome(wins=1, losses=1, ties=1)
    """
    array = np.asarray(votes)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"votes has shape {array.shape}: give one row per pair and one column per rater.")
    if not np.isin(array, (-1, 0, 1)).all():
        wrong = array[~np.isin(array, (-1, 0, 1))].flat[0]
        raise ValueError(f"a vote is {wrong}: give +1 (after), -1 (before) or 0 (no preference).")
    balance = array.astype(np.int64).sum(axis=1)
    return Outcome(int((balance > 0).sum()), int((balance < 0).sum()), int((balance == 0).sum()))


def simulated_votes(
    utility_before: ArrayLike, utility_after: ArrayLike, noise: float, seed: int | np.random.Generator
) -> np.ndarray:
    """What simulated raters vote: int64 of -1 and +1, shape (pairs, raters).

    Both utilities have that shape, in utility units. Each rater picks the larger utility after Gumbel noise of scale
    ``noise``, drawn anew for each image, hence votes +1 with probability sigmoid((after - before) / noise) (McFadden
    1974; :mod:`hpslib.critters.raters`). Raises ``ValueError`` on unequal shapes, numbers that are not finite, or
    noise <= 0.

    >>> simulated_votes([[0.0, 0.0]], [[50.0, -50.0]], noise=0.8, seed=0)
    array([[ 1, -1]])
    """
    first, second = np.asarray(utility_before, dtype=np.float64), np.asarray(utility_after, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"utilities have shapes {first.shape} and {second.shape}: give (pairs, raters) for both.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a utility is not finite: score these images again.")
    if not 0 < noise < np.inf:
        raise ValueError(f"noise is {noise}: give a scale above 0.")
    rng = np.random.default_rng(seed)
    felt_before, felt_after = first + rng.gumbel(0, noise, first.shape), second + rng.gumbel(0, noise, first.shape)
    return np.where(felt_after > felt_before, 1, -1).astype(np.int64)


def comparison_table(
    conditions: Mapping[str, Mapping[str, ArrayLike]],
    base: str,
    prompts: Sequence[Hashable] | None = None,
    utility: str | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    tie_margin: float = 0.0,
) -> pd.DataFrame:
    """All conditions beside the base, by every measure: one row per condition, in the order given.

    ``conditions`` maps a name to its measures, each a flat array of one number per image; row i has the same prompt and
    noise in every condition. bools (flawed or not) become rates. Columns, for each measure ``m``: ``m`` (mean),
    ``m_diff`` (paired difference to the base) with ``m_diff_low`` and ``m_diff_high``; with ``utility``, the name of a
    measure, also ``win_rate``, ``win_rate_low`` and ``win_rate_high`` by it; last ``pairs``. The base's own difference
    is 0 and its win rate 0.5, by definition. Raises ``ValueError`` if the base is absent, measures differ, or a number
    is not finite.

    >>> table = comparison_table({"base": {"hps": [20.0, 21.0]}, "adapted": {"hps": [21.0, 21.5]}}, "base")
    >>> table.loc[:, ["hps", "hps_diff", "pairs"]]
               hps  hps_diff  pairs
    base     20.50      0.00      2
    adapted  21.25      0.75      2
    """
    import pandas as pd

    if base not in conditions:
        raise ValueError(f"the base {base!r} is no condition: name one of {', '.join(conditions)}.")
    reference = conditions[base]
    if utility is not None and utility not in reference:
        raise ValueError(f"the utility {utility!r} is no measure: name one of {', '.join(reference)}.")
    shared = (prompts, confidence, n_resamples, seed)
    rows = {}
    for name, measures in conditions.items():
        if list(measures) != list(reference):
            raise ValueError(
                f"condition {name!r} has the measures {', '.join(measures)}, but {base!r} has {', '.join(reference)}: "
                "measure all of them in the same way and order."
            )
        row: dict[str, float | int] = {}
        for measure, values in measures.items():
            try:
                change = mean_difference(reference[measure], values, *shared)
            except ValueError as error:
                raise ValueError(f"condition {name!r}, measure {measure!r}, {error}") from error
            row |= {measure: float(np.mean(np.asarray(values, dtype=np.float64))), f"{measure}_diff": change.value}
            row |= {f"{measure}_diff_low": change.low, f"{measure}_diff_high": change.high}
        if utility is not None:
            won = win_rate(reference[utility], measures[utility], prompts, tie_margin, confidence, n_resamples, seed)
            row |= {"win_rate": won.value, "win_rate_low": won.low, "win_rate_high": won.high}
        rows[name] = row | {"pairs": len(np.asarray(next(iter(measures.values()))))}
    return pd.DataFrame.from_dict(rows, orient="index")


def _pair(before: ArrayLike, after: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"before and after have shapes {first.shape} and {second.shape}: give one number per pair in each."
        )
    return first, second


def _finite_pair(before: ArrayLike, after: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = _pair(before, after)
    bad = np.flatnonzero(~(np.isfinite(first) & np.isfinite(second)))
    if len(bad):
        raise ValueError(
            f"pair {bad[0]} holds a number that is not finite (so do {len(bad)} of {len(first)}): score it again."
        )
    return first, second


def _bool_pair(before: ArrayLike, after: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    for name, values in (("before", before), ("after", after)):
        if np.asarray(values).dtype != bool:
            raise ValueError(f"{name} has dtype {np.asarray(values).dtype}: give True or False for each pair.")
    return _pair(before, after)
