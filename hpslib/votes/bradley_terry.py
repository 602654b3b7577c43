"""From "this one beat that one" to one strength per model, on a scale where differences are log odds.

Bradley & Terry (1952, Biometrika 39:324): model i beats model j with probability sigmoid(s_i - s_j). A choice among n
models is the first choice of Plackett (1975) and Luce (1959): i is chosen with probability exp(s_i) / sum of exp(s_j)
over the models shown. For n = 2 that is the same law, so one concave likelihood is maximised for both:

    sum over choices of weight * (s_chosen - log sum over shown of exp(s))

by Newton's method in a trust region (``scipy.optimize``). Only differences count; strengths are reported with mean 0.

A largest value exists if and only if the models cannot be split into two groups such that the one never won against the
other (Ford 1957, Hunter 2004). Models never compared, even by way of others, are refused. A model that lost always
would be infinitely weak: that is refused too, unless a ``prior`` is given. It adds, to every pair of models that was
compared, ``prior`` more comparisons that were tied; with 1.0, w wins and l losses give log((w + 0.5) / (l + 0.5)).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hpslib.metrics.intervals import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = [
    "Comparison",
    "bradley_terry",
    "first_choice_strengths",
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
    make errors readable. Raises ValueError for another shape, a number below 0, models that were never compared and,
    without a ``prior``, models that never won or never lost.

    >>> bradley_terry([[0, 8], [2, 0]]).round(3), round(math.log(8 / 2) / 2, 3)
    (array([ 0.693, -0.693]), 0.693)
    """
    table = np.asarray(wins, dtype=np.float64)
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise ValueError(f"wins has shape {table.shape}; give one row and one column for each of 2 or more models.")
    if not (np.isfinite(table) & (table >= 0)).all() or np.diagonal(table).any():
        raise ValueError("wins must be finite numbers from 0 with zeros on the diagonal, half a win each for a tie.")
    labels = list(range(n)) if names is None else list(names)
    if len(labels) != n:
        raise ValueError(f"names has {len(labels)} entries for {n} models; give one each.")
    won, lost = np.nonzero(table)
    return _strengths(won, _incidence([won, lost], n), table[won, lost], prior, labels)


def first_choice_strengths(
    choices: ArrayLike, models: Sequence[Sequence[Hashable]], prior: float = 0.0
) -> dict[Hashable, float]:
    """Strength of each model, mean 0, from choices of one image among those of n models.

    ``models[k]`` are the models shown in group k (groups may differ in size and members), ``choices[k]`` the index of
    the chosen one. Returns models in the order of first appearance. Raises ValueError as ``bradley_terry`` does, and
    for a model shown twice in a group or a choice out of range.

    >>> strengths = first_choice_strengths([0, 0, 1, 2], [["a", "b", "c"]] * 4)
    >>> {model: round(strength, 3) for model, strength in strengths.items()}
    {'a': 0.462, 'b': -0.231, 'c': -0.231}
    """
    chosen = np.asarray(choices)
    if chosen.shape != (len(models),) or len(models) == 0 or chosen.dtype.kind not in "iu":
        raise ValueError(f"choices must hold one whole number for each of the {len(models)} groups of models.")
    names = list(dict.fromkeys(model for group in models for model in group))
    number = {name: k for k, name in enumerate(names)}
    shown = np.zeros((len(models), len(names)), dtype=bool)
    for k, (group, choice) in enumerate(zip(models, chosen)):
        if len(group) < 2 or len(set(group)) < len(group):
            raise ValueError(f"models[{k}] is {list(group)}; a choice needs 2 or more different models.")
        if not 0 <= choice < len(group):
            raise ValueError(f"choices[{k}] is {choice}, but group {k} shows models 0..{len(group) - 1}.")
        shown[k, [number[model] for model in group]] = True
    won = np.array([number[group[choice]] for group, choice in zip(models, chosen)])
    patterns, times = np.unique(np.column_stack([won, shown]), axis=0, return_counts=True)
    strengths = _strengths(patterns[:, 0], patterns[:, 1:].astype(bool), times.astype(np.float64), prior, names)
    return dict(zip(names, strengths.tolist()))


def win_probabilities(strengths: ArrayLike) -> np.ndarray:
    """Chance that model i beats model j, sigmoid(s_i - s_j): float64 (models, models), 0.5 on the diagonal.

    >>> win_probabilities([np.log(3), 0.0]).round(2).tolist()
    [[0.5, 0.75], [0.25, 0.5]]
    """
    from scipy.special import expit

    array = np.asarray(strengths, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("strengths must be a flat list of finite numbers.")
    return expit(array[:, None] - array)


# --- from votes -------------------------------------------------------------------------------------------------------


def win_matrix(comparisons: Sequence[Sequence[Hashable]]) -> tuple[list[Hashable], np.ndarray]:
    """Count ``Comparison`` rows: the models in the order of first appearance, and ``wins`` as ``bradley_terry`` takes
    it.

    Raises ValueError, naming the row, for an outcome other than "a", "b" or "tie" or a model compared with itself.

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
    interval says how far a model stands from the mean of these models. Raises ValueError as ``bradley_terry`` does,
    also when it would refuse a resample: then a ``prior`` or more prompts are needed.

    >>> rows = [("x", "y", outcome, prompt) for prompt in range(20) for outcome in "aab"]
    >>> {model: round(estimate.value, 3) for model, estimate in strength_intervals(rows, n_resamples=10).items()}
    {'x': 0.347, 'y': -0.347}
    """
    if not 0 < confidence < 1 or n_resamples < 1:
        raise ValueError(f"confidence must lie in (0, 1) and n_resamples above 0, got {confidence} and {n_resamples}.")
    names, tables = _tables(comparisons)
    k, n = len(tables), len(names)
    if k < 2:
        raise ValueError("an interval by prompt needs at least 2 different prompts, got 1.")
    wins = tables.sum(axis=0)
    value = bradley_terry(wins, prior, names)
    won, lost = np.nonzero(wins + wins.T)  # every compared pair both ways, or a prior could not reach it
    shown, rng, drawn = _incidence([won, lost], n), np.random.default_rng(seed), np.empty((n_resamples, n))
    refused = 0
    for r in range(n_resamples):
        times = np.bincount(rng.integers(k, size=k), minlength=k)
        weight = (times @ tables.reshape(k, -1)).reshape(n, n)[won, lost] + prior / 2
        if _parts(won, shown, weight, "strong"):
            refused += 1
        else:
            drawn[r] = _maximum(won, shown, weight, value)
    if refused:
        raise ValueError(
            f"{refused} of {n_resamples} resamples leave a model without a win or a loss, where its strength is "
            "infinite; pass prior=1.0, which is finite and pulls towards equal, or collect more prompts."
        )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    played = np.rint((wins + wins.T).sum(axis=1)).astype(int)
    return {
        name: Estimate(float(value[i]), float(low[i]), float(high[i]), int(played[i]), confidence)
        for i, name in enumerate(names)
    }


def ranking_table(
    comparisons: Sequence[Sequence[Hashable]],
    prior: float = 0.0,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """The models from strongest to weakest, one row each, named by the index.

    Columns: ``strength``, ``strength_low``, ``strength_high`` (see ``strength_intervals``), ``beats_others`` (the
    predicted chance to beat another model of the table, drawn at random), then ``wins``, ``ties``, ``losses`` and
    ``comparisons`` as counted. Errors as in ``strength_intervals``.

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
        raise ValueError("comparisons is empty; give rows of model_a, model_b, outcome and prompt.")
    for row, (a, b, outcome, _) in enumerate(comparisons):
        if outcome not in ("a", "b", "tie"):
            raise ValueError(f'comparison {row} (from 0) has the outcome {outcome!r}; it must be "a", "b" or "tie".')
        if a == b:
            raise ValueError(f"comparison {row} (from 0) shows {a!r} against itself; name two different models.")
    names = list(dict.fromkeys(name for a, b, *_ in comparisons for name in (a, b)))
    model = {name: k for k, name in enumerate(names)}
    prompt = {label: k for k, label in enumerate(dict.fromkeys(row[3] for row in comparisons))}
    tables = np.zeros((len(prompt), len(names), len(names)))
    for a, b, outcome, label in comparisons:
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[str(outcome)]
        tables[prompt[label], model[a], model[b]] += share
        tables[prompt[label], model[b], model[a]] += 1 - share
    return names, tables


# --- the likelihood ---------------------------------------------------------------------------------------------------


def _incidence(members: Sequence[np.ndarray], n: int) -> np.ndarray:
    shown = np.zeros((len(members[0]), n), dtype=bool)
    for index in members:
        shown[np.arange(len(index)), index] = True
    return shown


def _strengths(
    won: np.ndarray, shown: np.ndarray, weight: np.ndarray, prior: float, names: Sequence[Hashable]
) -> np.ndarray:
    """The maximum, or a refusal that names the models for which there is none."""
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior must be a finite number of comparisons, 0 or more, got {prior}.")
    parts = _parts(won, shown, weight, "weak")
    if parts:
        told = " | ".join(", ".join(repr(names[i]) for i in part) for part in parts)
        raise ValueError(
            f"the models fall into {len(parts)} parts that were never compared with each other ({told}); compare some "
            "across the parts, or fit each part alone."
        )
    if prior:
        first, second = np.nonzero((shown.T.astype(int) @ shown) * (1 - np.eye(shown.shape[1], dtype=int)))
        won, shown = np.append(won, first), np.concatenate([shown, _incidence([first, second], shown.shape[1])])
        weight = np.append(weight, np.full(len(first), prior / 2))
    parts = _parts(won, shown, weight, "strong")
    if parts:
        told = ", ".join(repr(names[i]) for i in parts[0])
        raise ValueError(
            f"{told} never won against the other models, so the strengths are infinite; pass prior=1.0 (one tied "
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
    from scipy.optimize import minimize

    weight = weight / weight.sum()
    wins = np.bincount(won, weight, shown.shape[1])

    def chances(free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        strengths = np.append(0.0, free)  # the first stays 0: only differences count
        logits = np.where(shown, strengths, -np.inf)
        top = logits.max(axis=1, keepdims=True)
        mass = np.exp(logits - top)
        total = mass.sum(axis=1, keepdims=True)
        return strengths, (top + np.log(total))[:, 0], mass / total

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        strengths, normaliser, p = chances(free)
        return float(weight @ normaliser - wins @ strengths), (weight @ p - wins)[1:]

    def curvature(free: np.ndarray) -> np.ndarray:
        p = chances(free)[2]
        return (np.diag(weight @ p) - p.T @ (weight[:, None] * p))[1:, 1:]

    found = minimize(
        loss, (start - start[0])[1:], jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9}
    )
    if not np.abs(found.jac).max() < 1e-6:
        raise ValueError(f"the strengths did not converge ({found.message}); pass a prior, such as 1.0.")
    # Far out the likelihood is flat to rounding before the slope is: one Newton step more costs nothing.
    strengths = np.append(0.0, found.x - np.linalg.solve(curvature(found.x), found.jac))
    return strengths - strengths.mean()
