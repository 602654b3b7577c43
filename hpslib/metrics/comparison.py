"""Puts scorers side by side: against each other on the same groups, against vote shares, and against the noise ceiling.

Scores, choices and the rule for ties and NaN are those of :mod:`hpslib.metrics.agreement`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hpslib.metrics.agreement import (
    chance_top1,
    count_abstained,
    pairwise_accuracy,
    pairwise_agreement,
    score_arrays,
    top1_accuracy,
)
from hpslib.metrics.correlation import corpus_correlation
from hpslib.metrics.intervals import Estimate, bootstrap_by_prompt

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = [
    "AVERAGES",
    "NoiseCeiling",
    "agreement_table",
    "agreement_with",
    "noise_ceiling",
    "paired_difference",
    "vote_share_correlation",
]


#: The two ways to average pairs, and whose they are: published tables differ in this.
AVERAGES: dict[Literal["macro", "micro"], str] = {
    "macro": "every prompt counts the same, as HPSv2's authors count",
    "micro": "every pair counts the same, as ImageReward's authors count",
}


class NoiseCeiling(NamedTuple):
    """What any scorer could reach in a world whose choice probabilities are known; see :func:`noise_ceiling`."""

    best_guess: float
    second_draw: float
    observed: Estimate | None


def paired_difference(
    credit_a: ArrayLike,
    credit_b: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Mean of ``credit_a - credit_b`` over the same groups, in [-1, 1], with the bootstrap by prompt.

    The pairing removes what makes a group easy or hard for both, so this is far sharper than comparing two separate
    intervals. The credits are per group, from :func:`hpslib.metrics.agreement.top1_credit` or ``pairwise_credit``
    (divide by the pairs: macro). An interval that excludes 0 says A is better (above) or worse (below). Raises
    ``ValueError`` on unequal lengths or NaN.

    >>> print(paired_difference([1, 1, 0, 1], [0, 1, 0, 1], seed=1))
    0.25 [0.00, 0.75]
    """
    a, b = _checked_credits(credit_a, credit_b)
    return bootstrap_by_prompt(a - b, None, prompts, confidence, n_resamples, seed)


def vote_share_correlation(
    scores: Sequence[ArrayLike],
    votes: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """Mean over the groups of Kendall's tau-b between scores and vote counts (``scipy.stats.kendalltau``), in [-1, 1].

    ``votes`` has the form of ``scores``: how often each image was chosen, finite and >= 0. Where tau is undefined
    (scores or votes constant, or a NaN score) the group contributes 0, its chance value, and is counted in
    ``abstained``. Raises ``ValueError`` where scores and votes differ in shape or a count is negative or not finite.

    >>> vote_share_correlation([[1, 2, 3], [3, 1]], [[0, 1, 5], [0, 2]]).value
    0.0
    """
    from scipy import stats

    groups, counts = score_arrays(scores, "scores"), score_arrays(votes, "votes")
    if [len(g) for g in groups] != [len(c) for c in counts]:
        raise ValueError("scores and votes differ in groups or their sizes: give one count per score.")
    for i, count in enumerate(counts):
        if not (np.isfinite(count) & (count >= 0)).all():
            raise ValueError(f"votes[{i}] is {count.tolist()}: give finite counts from 0.")
    defined = [not np.isnan(g).any() and len(set(g)) > 1 and len(set(c)) > 1 for g, c in zip(groups, counts)]
    tau = np.array([stats.kendalltau(g, c).statistic if ok else 0.0 for g, c, ok in zip(groups, counts, defined)])
    return bootstrap_by_prompt(tau, None, prompts, confidence, n_resamples, seed, defined.count(False))


def noise_ceiling(probabilities: Sequence[ArrayLike], choices: ArrayLike | None = None) -> NoiseCeiling:
    """What is reachable when the probability p of each choice is known, which only a simulated world allows.

    ``best_guess`` is the mean of max p: the expected top-1 accuracy of always naming the likeliest image, which no
    scorer can beat on average. ``second_draw`` is the mean of the sum of p²: how often a second, independent choice
    from the same p repeats the first (the human line). With ``choices``, ``observed`` is the top-1 accuracy of the
    likeliest image on them. Raises ``ValueError`` unless every group's p are >= 0 and sum to 1 (within 1e-6).

    >>> noise_ceiling([[0.5, 0.5], [1.0, 0.0]])
    NoiseCeiling(best_guess=0.75, second_draw=0.75, observed=None)
    """
    groups = score_arrays(probabilities, "probabilities")
    for i, p in enumerate(groups):
        if not ((p >= 0).all() and abs(p.sum() - 1) <= 1e-6):
            raise ValueError(f"probabilities[{i}] is {p.tolist()}: give numbers from 0 that sum to 1.")
    best, second = np.mean([p.max() for p in groups]), np.mean([(p**2).sum() for p in groups])
    return NoiseCeiling(float(best), float(second), None if choices is None else top1_accuracy(groups, choices))


def agreement_table(
    scores: Mapping[str, Sequence[ArrayLike]],
    choices: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """All the accuracies of several scorers side by side: one row per name, and last the line of chance.

    Columns: ``top1``, ``pairwise_macro``, ``pairwise_micro``, each followed by its ``_low`` and ``_high`` (shares in
    [0, 1]), then ``abstained`` and ``groups``. Chance is exact, so its interval is empty. All scorers see the same
    resamples. Raises ``ValueError`` if ``scores`` is empty or the scorers disagree on the sizes of the groups.

    >>> agreement_table({"clip": [[1, 0], [0, 1]]}, [0, 0]).loc[:, ["top1", "pairwise_macro", "abstained"]]
            top1  pairwise_macro  abstained
    clip     0.5             0.5          0
    chance   0.5             0.5          0
    """
    import pandas as pd

    if not scores:
        raise ValueError("scores is empty: give at least one name and its scores.")
    if "chance" in scores:
        raise ValueError('the name "chance" is taken by the line of chance: rename that scorer.')
    sizes = {
        name: [len(group) for group in score_arrays(groups, f"scores[{name!r}]")] for name, groups in scores.items()
    }
    first = next(iter(sizes))
    for name in sizes:
        if sizes[name] != sizes[first]:
            raise ValueError(f"scorers {first!r} and {name!r} differ in groups or their sizes: score the same images.")
    if isinstance(seed, np.random.Generator):  # one number for all, or each scorer would get other resamples
        seed = int(seed.integers(2**63))
    rows = {}
    for name, groups in scores.items():
        shared = (groups, choices, prompts, confidence, n_resamples, seed)
        micro = pairwise_accuracy(*shared, average="micro")
        rows[name] = _row(top1_accuracy(*shared), pairwise_accuracy(*shared), micro)
    chance, half = chance_top1(sizes[first]), Estimate(0.5, 0.5, 0.5, len(sizes[first]), confidence)
    rows["chance"] = _row(Estimate(chance, chance, chance, half.n, confidence), half, half)
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(top1: Estimate, macro: Estimate, micro: Estimate) -> dict[str, float | int]:
    named = {"top1": top1, "pairwise_macro": macro, "pairwise_micro": micro}
    row: dict[str, float | int] = {}
    for name, estimate in named.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row | {"abstained": top1.abstained, "groups": top1.n}


def _checked_credits(credit_a: ArrayLike, credit_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(credit_a, dtype=np.float64), np.asarray(credit_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(f"credits have shapes {a.shape} and {b.shape}: give one number per group in each.")
    if not (((a >= 0) & (a <= 1)).all() and ((b >= 0) & (b <= 1)).all()):
        raise ValueError("a credit is not in [0, 1]: for pairwise credits divide the sums by the number of pairs.")
    return a, b


def agreement_with(scores: Sequence[float], dataset: Any) -> tuple[dict[str, Any], list[str]]:
    """Hold flat scores against a set's choices or rankings: numbers for JSON, sentences for people.

    ``scores`` has one number per image of ``dataset``, group after group. Top-1 is over the groups with one best image,
    pairwise accuracy over the pairs that people did not call level, averaged per prompt (macro) and pooled (micro),
    since publications use both. Where people ranked more than two images of some group, Kendall's tau follows within
    each prompt, then tau and rho over all images at once (:func:`hpslib.metrics.correlation.corpus_correlation`).

    Raises ``ValueError`` as :func:`hpslib.metrics.agreement.pairwise_agreement` does.
    """
    from hpslib.data.groups import split_groups
    from hpslib.data.preferences import TIED
    from hpslib.data.rankings import ranks_of

    ranks, prompts = ranks_of(dataset), list(dataset["prompt"])
    groups = split_groups(np.asarray(scores), [len(group) for group in ranks])
    choices = list(dataset["human_preference"])
    clear = [row for row, choice in enumerate(choices) if choice != TIED]
    numbers: dict[str, Any] = {"tied_groups": len(choices) - len(clear)}
    lines = [f"{numbers['tied_groups']:,} groups whose best images are tied count in pairs only."] * (
        len(clear) < len(choices)
    )
    if clear:
        top1 = top1_accuracy([groups[k] for k in clear], [choices[k] for k in clear], [prompts[k] for k in clear])
        chance = chance_top1([len(groups[k]) for k in clear])
        numbers |= {"top1": [top1.value, top1.low, top1.high], "chance": chance}
        lines.append(f"Top-1 {top1.percent()}, chance {100 * chance:.1f} %.")
    for average in AVERAGES:
        pairs = pairwise_agreement(groups, ranks, prompts, average)
        numbers[f"pairwise_{average}"] = [pairs.value, pairs.low, pairs.high]
        lines.append(f"Pairwise accuracy, {average} ({AVERAGES[average]}): {pairs.percent()}.")
    if any(len(set(group.tolist())) > 2 for group in ranks):
        more_numbers, more_lines = _correlations(groups, ranks, prompts)
        numbers, lines = numbers | more_numbers, lines + more_lines
    return numbers, lines


def _correlations(
    groups: Sequence[np.ndarray], ranks: Sequence[np.ndarray], prompts: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Within each prompt and over the whole corpus, as numbers and as sentences."""
    silent = count_abstained(groups)
    if silent:
        return {}, [f"No correlation: {silent:,} groups have a score that is not a number."]
    people = [1.0 - order for order in ranks]  # higher is better, as for scores
    counts = [order.max() - order for order in ranks]
    within = vote_share_correlation(groups, counts, prompts)
    numbers: dict[str, Any] = {"kendall_within": [within.value, within.low, within.high]}
    lines = [f"Kendall's tau within a prompt, averaged: {within}."]
    measures: dict[Literal["kendall", "spearman"], str] = {"kendall": "Kendall's tau", "spearman": "Spearman's rho"}
    for measure, name in measures.items():
        try:
            over = corpus_correlation(groups, people, prompts, measure)
        except ValueError as error:
            lines.append(f"{name} over all images: none, for {error}")
            continue
        numbers[f"{measure}_corpus"] = [over.value, over.low, over.high]
        lines.append(f"{name} over all images of all prompts, as TIFA's authors count: {over}.")
    return numbers, lines
