"""From "this one beat that one" to one strength per model, on a scale where differences are log odds.

Bradley & Terry (1952, Biometrika 39:324): model i beats model j with probability sigmoid(s_i - s_j), which is exp(s_i)
/ (exp(s_i) + exp(s_j)). The concave likelihood

    sum over comparisons of weight * (s_winner - log sum over both of exp(s))

is maximised by Newton's method over the pairs that met (:mod:`hpslib.votes.likelihood`): thousands of models take
seconds. Only differences count; strengths are reported with mean 0.

A largest value exists if and only if the models cannot be split into two groups such that the one never won against the
other (Ford 1957, Hunter 2004). Models never compared, even by way of others, are refused. A model that lost always
would be infinitely weak: that is refused too, unless a ``prior`` is given. It adds, to every pair of models that was
compared, ``prior`` more comparisons that were tied; with 1.0, w wins and l losses give log((w + 0.5) / (l + 0.5)).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hpslib.metrics.intervals import Estimate, checked_confidence, prompt_numbers, report_failed_resamples
from hpslib.votes.likelihood import Pairs, connected_parts, most_likely, pair_columns
from hpslib.votes.resamples import times_drawn

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_array, sparray

__all__ = [
    "Comparison",
    "bradley_terry",
    "ranking_table",
    "strength_intervals",
    "win_matrix",
    "win_probabilities",
]


class Comparison(NamedTuple):
    """One vote on two models' images of one prompt: who won, "a", "b" or "tie". A plain tuple will do."""

    model_a: str
    model_b: str
    outcome: Literal["a", "b", "tie"]
    prompt: Hashable


# --- strengths --------------------------------------------------------------------------------------------------------


def bradley_terry(wins: ArrayLike | sparray, prior: float = 0.0, names: Sequence[Hashable] | None = None) -> np.ndarray:
    """Strength of each model in log odds, float64 (models,), mean 0.

    ``wins[i, j]`` is how often model i beat model j, a tie counting half for each; the diagonal is 0. A sparse array of
    scipy says the same of many models in less memory: its cells are the pairs that met. ``names`` only make errors
    readable. Raises ``ValueError`` for another shape, a number below 0, models that were never compared and, without a
    ``prior``, models that never won or never lost.

    >>> bradley_terry([[0, 8], [2, 0]]).round(3), round(math.log(8 / 2) / 2, 3)
    (array([ 0.693, -0.693]), 0.693)
    """
    from scipy.sparse import coo_array, issparse

    table: Any = wins if issparse(wins) else np.asarray(wins, dtype=np.float64)
    shape = table.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        raise ValueError(f"wins has shape {shape}: give one row and one column for each of 2 or more models.")
    cells = coo_array(table, dtype=np.float64)
    won, lost = (index.astype(np.int64)[cells.data != 0] for index in (cells.row, cells.col))
    weight = cells.data[cells.data != 0]
    if not (np.isfinite(weight) & (weight > 0)).all() or (won == lost).any():
        raise ValueError(
            "wins holds no counts: give finite numbers from 0, zeros on the diagonal, half a win each for a tie."
        )
    labels = list(range(shape[0])) if names is None else list(names)
    if len(labels) != shape[0]:
        raise ValueError(f"names has {len(labels)} entries for {shape[0]} models: give one each.")
    pairs, column = pair_columns(won, lost, shape[0])
    return _strengths(pairs, np.bincount(column, weight, 2 * len(pairs.first)), prior, labels)


def _strengths(pairs: Pairs, weight: np.ndarray, prior: float, names: Sequence[Hashable]) -> np.ndarray:
    """The maximum, or a refusal that names the models for which there is none."""
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior is {prior}: give a finite number of comparisons, 0 or more.")
    parts = connected_parts(pairs, weight, "weak")
    if parts:
        members = " | ".join(", ".join(repr(names[i]) for i in part) for part in parts)
        raise ValueError(
            f"the models fall into {len(parts)} parts never compared with each other ({members}): compare some "
            "across the parts, or fit each part alone."
        )
    weight = weight + prior / 2
    parts = connected_parts(pairs, weight, "strong")
    if parts:
        losers = ", ".join(repr(names[i]) for i in parts[0])
        raise ValueError(
            f"{losers} never won against the other models, so the strengths are infinite: pass prior=1.0 (one tied "
            "comparison more for each pair), or collect more votes."
        )
    return most_likely(pairs, weight[None], np.zeros(pairs.models))[0]


def win_probabilities(strengths: ArrayLike) -> np.ndarray:
    """Chance that model i beats model j, sigmoid(s_i - s_j): float64 (models, models), 0.5 on the diagonal.

    Raises ``ValueError`` unless ``strengths`` is a flat list of finite numbers.

    >>> win_probabilities([np.log(3), 0.0]).round(2).tolist()
    [[0.5, 0.75], [0.25, 0.5]]
    """
    from scipy.special import expit

    array = np.asarray(strengths, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"strengths has shape {array.shape} or is not finite: give a flat list of finite numbers.")
    return expit(array[:, None] - array)


# --- from votes -------------------------------------------------------------------------------------------------------


def win_matrix(comparisons: Sequence[Sequence[Hashable]]) -> tuple[list[Hashable], np.ndarray]:
    """Count :class:`Comparison` rows: models in order of appearance, and ``wins`` as :func:`bradley_terry` takes it.

    Raises ``ValueError``, naming the row, for an outcome other than "a", "b" or "tie" or a model compared with itself.

    >>> win_matrix([("x", "y", "a", "a cat"), ("y", "x", "tie", "a dog")])
    (['x', 'y'], array([[0. , 1.5],
           [0.5, 0. ]]))
    """
    names, pairs, counts = _counts(comparisons)
    wins = np.zeros((len(names), len(names)))
    wins[pairs.won, pairs.lost] = counts.sum(axis=0)
    return names, wins


def strength_intervals(
    comparisons: Sequence[Sequence[Hashable]],
    prior: float = 0.0,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> dict[Hashable, Estimate]:
    """Strength of each model with its percentile bootstrap over prompts; ``n`` is the number of its comparisons.

    Whole prompts are drawn with all their comparisons, which are not independent. Each resample has mean 0, so an
    interval says how far a model stands from the mean of these models; one prompt alone gives none. Raises
    ``ValueError`` as :func:`bradley_terry` does. Resamples that it would refuse are treated as
    :func:`hpslib.metrics.intervals.report_failed_resamples` says: a few are left out and counted in a warning, more
    need a ``prior`` or more prompts.

    >>> rows = [("x", "y", outcome, prompt) for prompt in range(20) for outcome in "aab"]
    >>> {model: round(estimate.value, 3) for model, estimate in strength_intervals(rows, n_resamples=10).items()}
    {'x': 0.347, 'y': -0.347}
    """
    checked_confidence(confidence)
    names, pairs, counts = _counts(comparisons)
    k, n, weight = counts.shape[0], len(names), counts.sum(axis=0)
    value = _strengths(pairs, weight, prior, names)
    played = np.rint(np.bincount(pairs.won, weight, n) + np.bincount(pairs.lost, weight, n)).astype(int)
    if k == 1:
        return dict(zip(names, _estimates(value, np.full((2, n), math.nan), played, confidence)))
    strengths, refused = [], 0
    for times in times_drawn(None, k, n_resamples, seed, len(weight))[1]:
        drawn = times @ counts + prior / 2
        # Whether a resample has a largest value depends on who ever won: on the pattern alone, of which few differ.
        patterns, which = np.unique(drawn > 0, axis=0, return_inverse=True)
        sound = np.array([not connected_parts(pairs, pattern, "strong") for pattern in patterns])[which.ravel()]
        refused += int((~sound).sum())
        strengths.append(most_likely(pairs, drawn[sound], value))
    report_failed_resamples(
        refused,
        n_resamples,
        "leave a model without a win or a loss, where its strength is infinite",
        "pass prior=1.0, which is finite and pulls towards equal, or collect more prompts",
    )
    ends = np.quantile(np.concatenate(strengths), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return dict(zip(names, _estimates(value, ends, played, confidence)))


def _estimates(value: np.ndarray, ends: np.ndarray, played: np.ndarray, confidence: float) -> list[Estimate]:
    rows = zip(value.tolist(), *ends.tolist(), played.tolist())
    return [Estimate(one, low, high, n, confidence) for one, low, high, n in rows]


def ranking_table(
    comparisons: Sequence[Sequence[Hashable]],
    prior: float = 0.0,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """The models from strongest to weakest, one row each, named by the index.

    Columns: ``strength``, ``strength_low``, ``strength_high`` (see :func:`strength_intervals`), ``beats_others`` (the
    predicted chance to beat another model of the table, drawn at random), then ``wins``, ``ties``, ``losses`` and
    ``comparisons`` as counted. Errors as in :func:`strength_intervals`.

    >>> rows = [("x", "y", outcome, prompt) for prompt in range(20) for outcome in "aab"]
    >>> ranking_table(rows, n_resamples=10)[["beats_others", "wins", "ties", "losses"]].round(3)
       beats_others  wins  ties  losses
    x         0.667    40     0      20
    y         0.333    20     0      40
    """
    import pandas as pd

    estimates = strength_intervals(comparisons, prior, confidence, n_resamples, seed)
    chance = win_probabilities([estimate.value for estimate in estimates.values()])
    counts: dict[Hashable, dict[str, int]] = {name: {"wins": 0, "ties": 0, "losses": 0} for name in estimates}
    for a, b, outcome, _ in comparisons:
        counts[a][{"a": "wins", "b": "losses", "tie": "ties"}[str(outcome)]] += 1
        counts[b][{"a": "losses", "b": "wins", "tie": "ties"}[str(outcome)]] += 1
    rows = {
        name: {
            "strength": estimate.value,
            "strength_low": estimate.low,
            "strength_high": estimate.high,
            "beats_others": float((chance[i].sum() - 0.5) / (len(chance) - 1)),
            **counts[name],
            "comparisons": estimate.n,
        }
        for i, (name, estimate) in enumerate(estimates.items())
    }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("strength", ascending=False, kind="stable")


def _counts(comparisons: Sequence[Sequence[Hashable]]) -> tuple[list[Hashable], Pairs, csr_array]:
    """Names, the pairs that met, and how often which model won on each prompt: sparse (prompts, 2 * pairs)."""
    from scipy.sparse import csr_array

    if len(comparisons) == 0:
        raise ValueError("comparisons is empty: give rows of model_a, model_b, outcome and prompt.")
    for row, parts in enumerate(comparisons):
        if isinstance(parts, str) or not hasattr(parts, "__len__") or len(parts) != 4:
            raise ValueError(f"comparison {row} (from 0) is {parts!r}: give model_a, model_b, outcome and prompt.")
    number = prompt_numbers([row[3] for row in comparisons], len(comparisons))
    for row, (a, b, outcome, _) in enumerate(comparisons):
        if outcome not in ("a", "b", "tie"):
            raise ValueError(f'comparison {row} (from 0) has the outcome {outcome!r}: give "a", "b" or "tie".')
        if a == b:
            raise ValueError(f"comparison {row} (from 0) shows {a!r} against itself: name two different models.")
    names = list(dict.fromkeys(name for a, b, *_ in comparisons for name in (a, b)))
    model = {name: k for k, name in enumerate(names)}
    left, right = (np.array([model[row[side]] for row in comparisons], dtype=np.int64) for side in (0, 1))
    share = np.array([{"a": 1.0, "b": 0.0, "tie": 0.5}[str(row[2])] for row in comparisons])
    pairs, column = pair_columns(np.append(left, right), np.append(right, left), len(names))
    places = (np.tile(number, 2), column)
    counts = csr_array((np.append(share, 1 - share), places), shape=(number.max() + 1, 2 * len(pairs.first)))
    return names, pairs, counts
