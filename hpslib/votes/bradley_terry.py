"""From "this one beat that one" to one strength per model, on a scale where differences are log odds.

Bradley & Terry (1952, Biometrika 39:324): model i beats model j with probability sigmoid(s_i - s_j), which is exp(s_i)
/ (exp(s_i) + exp(s_j)). The concave likelihood

    sum over comparisons of weight * (s_winner - log sum over both of exp(s))

is maximised by Newton's method in a trust region (``scipy.optimize``). Only differences count; strengths are reported
with mean 0.

A largest value exists if and only if the models cannot be split into two groups such that the one never won against the
other (Ford 1957, Hunter 2004). Models never compared, even by way of others, are refused. A model that lost always
would be infinitely weak: that is refused too, unless a ``prior`` is given. It adds, to every pair of models that was
compared, ``prior`` more comparisons that were tied; with 1.0, w wins and l losses give log((w + 0.5) / (l + 0.5)).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hpslib.metrics.intervals import (
    Estimate,
    checked_confidence,
    drawn_prompts,
    prompt_numbers,
    report_failed_resamples,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

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


def bradley_terry(wins: ArrayLike, prior: float = 0.0, names: Sequence[Hashable] | None = None) -> np.ndarray:
    """Strength of each model in log odds, float64 (models,), mean 0.

    ``wins[i, j]`` is how often model i beat model j, a tie counting half for each; the diagonal is 0. ``names`` only
    make errors readable. Raises ``ValueError`` for another shape, a number below 0, models that were never compared
    and, without a ``prior``, models that never won or never lost.

    >>> bradley_terry([[0, 8], [2, 0]]).round(3), round(math.log(8 / 2) / 2, 3)
    (array([ 0.693, -0.693]), 0.693)
    """
    table = np.asarray(wins, dtype=np.float64)
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise ValueError(f"wins has shape {table.shape}: give one row and one column for each of 2 or more models.")
    if not (np.isfinite(table) & (table >= 0)).all() or np.diagonal(table).any():
        raise ValueError(
            "wins holds no counts: give finite numbers from 0, zeros on the diagonal, half a win each for a tie."
        )
    labels = list(range(n)) if names is None else list(names)
    if len(labels) != n:
        raise ValueError(f"names has {len(labels)} entries for {n} models: give one each.")
    won, lost = np.nonzero(table)
    return _strengths(won, _incidence([won, lost], n), table[won, lost], prior, labels)


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
    names, tables = _tables(comparisons)
    return names, tables.sum(axis=0)


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
    names, tables = _tables(comparisons)
    k, n = len(tables), len(names)
    wins = tables.sum(axis=0)
    value, played = bradley_terry(wins, prior, names), np.rint((wins + wins.T).sum(axis=1)).astype(int)
    if k == 1:
        return dict(zip(names, _estimates(value, np.full((2, n), math.nan), played, confidence)))
    blocks = drawn_prompts(None, k, n_resamples, seed)[1]
    won, lost = np.nonzero(wins + wins.T)  # every compared pair both ways, or a prior could not reach it
    shown, strengths, refused = _incidence([won, lost], n), [], 0
    for drawn in chain.from_iterable(blocks):
        times = np.bincount(drawn, minlength=k)
        weight = (times @ tables.reshape(k, -1)).reshape(n, n)[won, lost] + prior / 2
        if _parts(won, shown, weight, "strong"):
            refused += 1
        else:
            strengths.append(_maximum(won, shown, weight, value))
    report_failed_resamples(
        refused,
        n_resamples,
        "leave a model without a win or a loss, where its strength is infinite",
        "pass prior=1.0, which is finite and pulls towards equal, or collect more prompts",
    )
    ends = np.quantile(strengths, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
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


def _tables(comparisons: Sequence[Sequence[Hashable]]) -> tuple[list[Hashable], np.ndarray]:
    """Names and one win matrix per prompt: float64 (prompts, models, models)."""
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
    tables = np.zeros((number.max() + 1, len(names), len(names)))
    for k, (a, b, outcome, _) in zip(number, comparisons):
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[str(outcome)]
        tables[k, model[a], model[b]] += share
        tables[k, model[b], model[a]] += 1 - share
    return names, tables


# --- the likelihood ---------------------------------------------------------------------------------------------------


def _incidence(members: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Which of the n models each comparison shows: bool (comparisons, n)."""
    shown = np.zeros((len(members[0]), n), dtype=bool)
    for index in members:
        shown[np.arange(len(index)), index] = True
    return shown


def _strengths(
    won: np.ndarray, shown: np.ndarray, weight: np.ndarray, prior: float, names: Sequence[Hashable]
) -> np.ndarray:
    """The maximum, or a refusal that names the models for which there is none."""
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior is {prior}: give a finite number of comparisons, 0 or more.")
    parts = _parts(won, shown, weight, "weak")
    if parts:
        members = " | ".join(", ".join(repr(names[i]) for i in part) for part in parts)
        raise ValueError(
            f"the models fall into {len(parts)} parts never compared with each other ({members}): compare some "
            "across the parts, or fit each part alone."
        )
    if prior:
        first, second = np.nonzero((shown.T.astype(int) @ shown) * (1 - np.eye(shown.shape[1], dtype=int)))
        won, shown = np.append(won, first), np.concatenate([shown, _incidence([first, second], shown.shape[1])])
        weight = np.append(weight, np.full(len(first), prior / 2))
    parts = _parts(won, shown, weight, "strong")
    if parts:
        losers = ", ".join(repr(names[i]) for i in parts[0])
        raise ValueError(
            f"{losers} never won against the other models, so the strengths are infinite: pass prior=1.0 (one tied "
            "comparison more for each pair), or collect more votes."
        )
    return _maximum(won, shown, weight, np.zeros(shown.shape[1]))


def _parts(won: np.ndarray, shown: np.ndarray, weight: np.ndarray, connection: str) -> list[list[int]]:
    """Connected parts of the graph with an edge from winner to loser, one without wins first; empty if all is one."""
    from scipy.sparse import csgraph

    beaten = np.zeros((shown.shape[1], shown.shape[1]))
    np.add.at(beaten, won, shown * weight[:, None])
    count, label = csgraph.connected_components(beaten > 0, directed=True, connection=connection)
    parts = [np.flatnonzero(label == part).tolist() for part in range(count)]
    parts.sort(key=lambda part: bool(np.delete(beaten[part], part, axis=1).any()))
    return [] if count == 1 else parts


def _maximum(won: np.ndarray, shown: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The strengths of the largest likelihood, mean 0; ``won`` names the winner of each row of ``shown``."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    weight = weight / weight.sum()
    wins = np.bincount(won, weight, shown.shape[1])

    def chances(free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        strengths = np.append(0.0, free)  # the first stays 0: only differences count
        logits = np.where(shown, strengths, -np.inf)
        return strengths, logsumexp(logits, axis=1), softmax(logits, axis=1)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        strengths, normaliser, p = chances(free)
        return float(weight @ normaliser - wins @ strengths), (weight @ p - wins)[1:]

    def curvature(free: np.ndarray) -> np.ndarray:
        p = chances(free)[2]
        return (np.diag(weight @ p) - p.T @ (weight[:, None] * p))[1:, 1:]

    fit = minimize(loss, (start - start[0])[1:], jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9})
    if not np.abs(fit.jac).max() < 1e-6:
        raise ValueError(f"the strengths did not converge ({fit.message}): pass a prior, such as 1.0.")
    # Far out the likelihood is flat to rounding before the slope is: one Newton step more costs nothing.
    strengths = np.append(0.0, fit.x - np.linalg.solve(curvature(fit.x), fit.jac))
    return strengths - strengths.mean()
