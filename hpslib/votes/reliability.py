"""Do raters agree with each other and with themselves, and did they look at the images at all?

A score is held against the votes of people, so the votes must mean something. What may be compared with what: "image 2"
of one prompt has nothing to do with "image 2" of another, and a group of two is easier to agree on by luck than a group
of four. Kappa and alpha estimate luck from how often each answer was given over *all* items, which is right for answers
with a fixed meaning (before / after) and wrong for the index of an image. There the luck of two raters who guess is
1 / n in a group of n, and :func:`choice_agreement` corrects each group by its own.

Votes are a table with one row per item and one column per rater. An index names the image, not the place where it
stood; for places see :func:`hpslib.metrics.positions.position_bias`.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hpslib.metrics.agreement import chance_top1
from hpslib.metrics.intervals import (
    Estimate,
    bootstrap_by_prompt,
    checked_confidence,
    prompt_numbers,
    report_failed_resamples,
    wilson_interval,
)
from hpslib.metrics.positions import fitting_sizes, whole_numbers
from hpslib.votes.agreement_sums import Sums, alpha_sums, kappa_sums
from hpslib.votes.resamples import times_drawn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "AttentionCheck",
    "ChoiceAgreement",
    "SelfConsistency",
    "attention_check",
    "choice_agreement",
    "fleiss_kappa",
    "krippendorff_alpha",
    "self_consistency",
]


class ChoiceAgreement(NamedTuple):
    """Share of agreeing pairs of raters, what guessing gives, the share beyond luck; see :func:`choice_agreement`."""

    observed: Estimate
    chance: float
    corrected: Estimate


class SelfConsistency(NamedTuple):
    """Share of repeats answered alike, and the share that somebody who guesses reaches."""

    share: Estimate
    chance: float


class AttentionCheck(NamedTuple):
    """Checks passed and failed, and which failed (numbers from 0)."""

    passed: int
    failed: int
    which: tuple[int, ...]


# --- between raters ---------------------------------------------------------------------------------------------------


def fleiss_kappa(
    votes: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Fleiss' kappa: agreement of a fixed number of raters on answers with a fixed meaning; 1 is full, 0 is luck.

    kappa = (P - Pe) / (1 - Pe), where P is the mean over items of the share of agreeing pairs of raters and Pe the sum
    of squares of the answers' shares over all items (Fleiss 1971, Psychological Bulletin 76:378). Computed by
    ``statsmodels.stats.inter_rater``.

    ``votes`` has shape (items, raters), whole numbers from 0 and none missing. The interval is the percentile bootstrap
    over items, or over whole ``prompts`` (one label per item). Raises ``ValueError`` for fewer than two items or
    raters, a missing or negative vote, or when all votes are equal: then luck alone explains everything, 0 / 0.

    >>> print(fleiss_kappa([[0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]] * 5))
    0.56 [0.32, 0.78]
    """
    from statsmodels.stats import inter_rater

    answers = _answers(votes, "if it means no vote, use krippendorff_alpha(votes, missing=-1)")
    missing = int(np.isnan(answers).sum())
    if missing:
        raise ValueError(
            f"{missing} of {answers.size} votes are missing, but Fleiss' kappa needs all raters on every item: "
            "use krippendorff_alpha."
        )
    kept, labels = _pairable(answers, prompts)
    table = _counted(kept, "kappa")
    value = float(inter_rater.fleiss_kappa(table))
    return _bootstrapped(value, kappa_sums(table), "kappa", labels, confidence, n_resamples, seed)


def krippendorff_alpha(
    votes: ArrayLike,
    level: Literal["nominal", "ordinal"] = "nominal",
    missing: Literal[-1] | None = None,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Krippendorff's alpha: agreement on answers with a fixed meaning when raters skipped items; 1 is full, 0 luck.

    alpha = 1 - Do / De, the observed over the expected disagreement among the votes of one item (Krippendorff 2011,
    "Computing Krippendorff's alpha-reliability"; computed by the ``krippendorff`` package). "nominal" counts every
    difference alike, "ordinal" takes the numbers as ranks: 1 and 2 disagree less than 1 and 5.

    ``votes`` has shape (items, raters), whole numbers from 0; NaN means no vote, and so does -1 with ``missing=-1``.
    Items with fewer than two votes say nothing on agreement: they are left out, a warning counts them, and ``n`` is the
    rest. Interval and errors as in :func:`fleiss_kappa`, missing votes apart.

    >>> nan = float("nan")
    >>> krippendorff_alpha([[0, 0, nan], [1, 1, 1], [0, nan, 0], [1, 1, 0]] * 9).value.__round__(3)
    0.604
    """
    import krippendorff

    if level not in ("nominal", "ordinal"):
        raise ValueError(f'level is {level!r}: choose "nominal" or "ordinal".')
    if missing not in (None, -1):
        raise ValueError(f"missing is {missing!r}: choose None or -1 (NaN always means no vote).")
    answers = _answers(votes, "if it means no vote, pass missing=-1", minus_one_is_missing=missing == -1)
    kept, labels = _pairable(answers, prompts)
    table = _counted(kept, "alpha")
    value = float(krippendorff.alpha(value_counts=table, level_of_measurement=level))
    return _bootstrapped(value, alpha_sums(table, level), "alpha", labels, confidence, n_resamples, seed)


def choice_agreement(
    votes: ArrayLike,
    sizes: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> ChoiceAgreement:
    """How often two raters choose the same image of a group, and how much of that is more than luck.

    ``observed`` is the mean over groups of P_i, the share of agreeing pairs among the group's votes; it estimates the
    paper's person-person agreement and ``second_draw`` of :func:`hpslib.metrics.comparison.noise_ceiling`. ``chance``
    is the mean of 1 / n_i. ``corrected`` = sum(P_i - 1/n_i) / sum(1 - 1/n_i): 1 is full agreement, 0 is luck. With
    groups of one size this is the free-marginal kappa of Brennan & Prediger (1981) and Randolph (2005), defined even if
    all votes agree.

    ``votes`` has shape (groups, raters), the index of the chosen image or -1 or NaN for no vote; ``sizes`` has the
    number of images of each group. Groups with fewer than two votes are left out and a warning counts them. The
    intervals are :func:`hpslib.metrics.intervals.bootstrap_by_prompt`. Raises ``ValueError`` for fewer than two raters
    or groups, or a choice that its group does not have.

    >>> agreement = choice_agreement([[0, 0, 1], [3, 3, 3], [1, 1, -1]], sizes=[2, 4, 3])
    >>> [round(x, 3) for x in (agreement.observed.value, agreement.chance, agreement.corrected.value)]
    [0.778, 0.361, 0.652]
    """
    answers = _answers(votes, minus_one_is_missing=True)
    n = fitting_sizes(np.nan_to_num(answers).max(axis=1).astype(np.int64), sizes, "votes")
    kept, labels = _pairable(answers, prompts)
    n = n[(~np.isnan(answers)).sum(axis=1) >= 2]
    counts = np.stack([(kept == image).sum(axis=1) for image in range(n.max())], axis=1)
    cast = counts.sum(axis=1)
    share = (counts * (counts - 1)).sum(axis=1) / (cast * (cast - 1))
    if isinstance(seed, np.random.Generator):  # one number for both, or they would get different resamples
        seed = int(seed.integers(2**63))
    shared = (labels, confidence, n_resamples, seed)
    observed = bootstrap_by_prompt(share, None, *shared)
    return ChoiceAgreement(observed, chance_top1(n), bootstrap_by_prompt(share - 1 / n, 1 - 1 / n, *shared))


# --- within a rater ---------------------------------------------------------------------------------------------------


def self_consistency(
    first: ArrayLike, repeat: ArrayLike, sizes: ArrayLike | None = None, confidence: float = 0.95
) -> SelfConsistency:
    """Share of repeated groups in which one rater chose the same image again, with Wilson's interval (Wilson 1927).

    ``first`` and ``repeat`` hold the index of the chosen *image*, one per repeated group; if the repeat was mirrored,
    turn places into images before. ``sizes`` are the images of each group, None means pairs; ``chance`` is the mean of
    1 / size. On average over raters who choose independently, agreement with others cannot exceed this share. Raises
    ``ValueError`` on unequal lengths, no repeat at all or a choice out of range.

    >>> consistency = self_consistency([0, 1, 1, 0], [0, 1, 0, 0])
    >>> print(consistency.share.percent(), "where guessing gives", consistency.chance)
    75.0 % [30.1, 95.4] where guessing gives 0.5
    """
    a, b = whole_numbers(first, "first"), whole_numbers(repeat, "repeat")
    if len(a) != len(b):
        raise ValueError(f"first has {len(a)} choices but repeat has {len(b)}: give both answers to every repeat.")
    n = fitting_sizes(a, np.full(len(a), 2) if sizes is None else sizes, "first")
    fitting_sizes(b, n, "repeat")
    return SelfConsistency(wilson_interval(int((a == b).sum()), len(a), confidence), chance_top1(n))


def attention_check(choices: ArrayLike, expected: ArrayLike) -> AttentionCheck:
    """Hold a rater's answers to the checks against the only sensible ones.

    Both are indices from 0, one per check; an unanswered check is -1 in ``choices`` and has failed. Whoever guesses
    among n images passes 1 / n of them, so one passed check proves little. Raises ``ValueError`` on unequal lengths
    or none.

    >>> attention_check([0, 1, 1, -1], [0, 1, 0, 1])
    AttentionCheck(passed=2, failed=2, which=(2, 3))
    """
    given, right = whole_numbers(choices, "choices"), whole_numbers(expected, "expected")
    if len(given) != len(right):
        raise ValueError(f"choices has {len(given)} answers for {len(right)} checks: give one each, -1 for no answer.")
    if right.min() < 0 or given.min() < -1:
        raise ValueError("an index is negative: give expected from 0, and choices from 0 or -1 for no answer.")
    failed = np.flatnonzero(given != right)
    return AttentionCheck(len(given) - len(failed), len(failed), tuple(failed.tolist()))


# --- reading votes ----------------------------------------------------------------------------------------------------


def _answers(votes: ArrayLike, hint: str = "", minus_one_is_missing: bool = False) -> np.ndarray:
    """The votes as float64 (items, raters), NaN where there is none."""
    array = np.array(votes, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"votes has shape {array.shape}: give one row per item and one column per rater.")
    if array.shape[1] < 2:
        raise ValueError("votes has one rater only, who can agree with nobody: ask another, or use self_consistency.")
    if array.shape[0] < 2:
        raise ValueError("votes has one item only, over which nothing can be resampled: give at least two.")
    if minus_one_is_missing:
        array[array == -1] = np.nan
    elif (array == -1).any():
        raise ValueError(f"a vote is -1: if that means 'before', add 1 to all votes, and {hint}.")
    voted = array[~np.isnan(array)]
    wrong = voted[(voted < 0) | (voted != np.floor(voted)) | np.isinf(voted)]
    if len(wrong):
        raise ValueError(f"a vote is {wrong[0]:g}: give whole numbers from 0.")
    return array


def _pairable(answers: np.ndarray, prompts: Sequence[Hashable] | None) -> tuple[np.ndarray, list[Hashable] | None]:
    """The items with two votes or more, and their prompts; a warning counts the others."""
    if prompts is not None and len(prompts) != len(answers):
        raise ValueError(f"prompts has {len(prompts)} labels for {len(answers)} items: give one for each.")
    enough = (~np.isnan(answers)).sum(axis=1) >= 2
    if enough.sum() < 2:
        raise ValueError(f"{int(enough.sum())} of {len(enough)} items have two votes or more: collect more votes.")
    if not enough.all():
        few = f"{int((~enough).sum())} of {len(enough)} items have fewer than two votes and say nothing on agreement"
        warnings.warn(f"{few}: collect more votes, or report that they are left out.", stacklevel=3)
    return answers[enough], None if prompts is None else [label for label, ok in zip(prompts, enough) if ok]


def _counted(answers: np.ndarray, name: str) -> np.ndarray:
    """How often each answer was given to each item, int64 (items, answers in rising order)."""
    domain = np.unique(answers[~np.isnan(answers)])
    if len(domain) < 2:
        raise ValueError(
            f"all votes are {int(domain[0])}, so {name} is undefined (0 / 0): report the agreement itself, which is 1."
        )
    return (answers[:, :, None] == domain).sum(axis=1)


def _bootstrapped(
    value: float,
    sums: Sums,
    name: str,
    prompts: Sequence[Hashable] | None,
    confidence: float,
    n_resamples: int,
    seed: int | np.random.Generator,
) -> Estimate:
    """Percentile bootstrap of a statistic that no single ratio of sums over items could give."""
    from scipy.sparse import csr_array

    checked_confidence(confidence)
    items, columns = sums.terms.shape
    if not prompt_numbers(prompts, items).any():  # one prompt
        return Estimate(value, np.nan, np.nan, items, confidence)
    number, blocks = times_drawn(prompts, items, n_resamples, seed, columns)
    of_prompt = csr_array((np.ones(items), (number, np.arange(items)))) @ sums.terms
    values = []
    for times in blocks:
        resampled = times @ of_prompt
        values.append(sums.statistic(resampled[sums.defined(resampled)]))
    found = np.concatenate(values)
    report_failed_resamples(
        n_resamples - len(found),
        n_resamples,
        f"hold one answer only, where {name} is undefined",
        "collect more items that differ, or use choice_agreement",
    )
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), items, confidence)
