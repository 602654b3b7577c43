"""The likelihood of Bradley & Terry (1952), kept as a list of the pairs that met, and its largest value.

A table of all pairs grows with the square of the models, although most of a large study's pairs never meet; what is
computed here grows with the pairs that did. Several weightings of the same pairs (the resamples of a bootstrap) are
fitted at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Pairs", "connected_parts", "most_likely", "pair_columns"]


class Pairs(NamedTuple):
    """Which of ``models`` models met: int64 (pairs,) each, ``first < second``, every pair once and in rising order."""

    first: np.ndarray
    second: np.ndarray
    models: int

    @property
    def won(self) -> np.ndarray:
        """The winner of each column of a table of weights (2 * pairs,): first over second, then second over first."""
        return np.concatenate([self.first, self.second])

    @property
    def lost(self) -> np.ndarray:
        """The loser of each of these columns."""
        return np.concatenate([self.second, self.first])


def pair_columns(won: np.ndarray, lost: np.ndarray, models: int) -> tuple[Pairs, np.ndarray]:
    """The pairs among rows of a winner and a loser, and the column (see :class:`Pairs`) that each row belongs to.

    >>> pairs, column = pair_columns(np.array([0, 2, 2]), np.array([2, 0, 1]), models=3)
    >>> pairs.first, pairs.second, column
    (array([0, 1]), array([2, 2]), array([0, 2, 3]))
    """
    keys, place = np.unique(np.minimum(won, lost) * models + np.maximum(won, lost), return_inverse=True)
    return Pairs(keys // models, keys % models, models), place + len(keys) * (won > lost)


def connected_parts(pairs: Pairs, weight: np.ndarray, connection: str) -> list[list[int]]:
    """Connected parts of the graph with an edge from winner to loser, one without wins first; empty if all is one.

    ``weight`` has shape (2 * pairs,), ``connection`` is ``"weak"`` or ``"strong"``.
    """
    from scipy.sparse import csgraph, csr_array

    won, lost = pairs.won[weight > 0], pairs.lost[weight > 0]
    graph = csr_array((np.ones(len(won)), (won, lost)), shape=(pairs.models, pairs.models))
    count, label = csgraph.connected_components(graph, directed=True, connection=connection)
    if count == 1:
        return []
    winners = set(label[won[label[won] != label[lost]]].tolist())
    order = sorted(range(count), key=lambda part: part in winners)
    return [np.flatnonzero(label == part).tolist() for part in order]


_DENSE = 200  # models: above, a step is found from the pairs alone
_CELLS = 2_000_000  # of all dense tables at once (16 MB)
_ROUNDS = 100


def most_likely(pairs: Pairs, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The strengths of the largest likelihood, mean 0: float64 (weightings, models).

    ``weight`` has shape (weightings, 2 * pairs), ``start`` (models,). Newton's method; a step that would lower the
    likelihood is halved, and the last step would raise the mean log-likelihood by less than 1e-20. Each weighting must
    have a largest value, which is so if :func:`connected_parts` finds one strong part. Raises ``ValueError`` where 100
    steps do not find it.
    """
    from scipy.sparse import csr_array

    weight = weight / weight.sum(axis=1, keepdims=True)
    ahead, behind = np.split(weight, 2, axis=1)
    signs, places = np.repeat([1.0, -1.0], len(pairs.first)), np.tile(np.arange(len(pairs.first)), 2)
    to_models = csr_array((signs, (pairs.won, places)), shape=(pairs.models, len(pairs.first)))
    strengths = np.tile(start, (len(weight), 1))
    win, loss = _log_chances(pairs, strengths)
    height = (ahead * win + behind * loss).sum(axis=1)
    for _ in range(_ROUNDS):
        chance, upset = np.exp(win), np.exp(loss)  # 1 - chance would lose the digits of a rare upset
        slope = (to_models @ (ahead * upset - behind * chance).T).T
        step = _newton_step(pairs, (ahead + behind) * chance * upset, slope)
        gain = (slope * step).sum(axis=1)
        factor = np.ones(len(weight))
        while True:
            moved = strengths + factor[:, None] * step
            win, loss = _log_chances(pairs, moved)
            risen = (ahead * win + behind * loss).sum(axis=1)
            lower = risen < height - 1e-13  # rounding apart
            if not lower.any():
                break
            factor[lower] /= 2
        strengths, height = moved, risen
        if (gain < 1e-20).all():
            return strengths - strengths.mean(axis=1, keepdims=True)
    raise ValueError(f"the strengths did not converge in {_ROUNDS} steps: pass a prior, such as 1.0.")


def _log_chances(pairs: Pairs, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the chance that the first of each pair wins, and that it loses: (weightings, pairs) each."""
    from scipy.special import log_expit

    gaps = strengths[:, pairs.first] - strengths[:, pairs.second]
    win = log_expit(gaps)
    return win, win - gaps


def _newton_step(pairs: Pairs, curvature: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Slope divided by curvature, (weightings, models). Only differences count: the mean of each row is 0."""
    step = np.zeros_like(slope)
    if pairs.models <= _DENSE:
        at_once = max(1, _CELLS // pairs.models**2)
        for k in range(0, len(slope), at_once):
            tables, right = _laplacians(pairs, curvature[k : k + at_once]), slope[k : k + at_once, 1:, None]
            step[k : k + at_once, 1:] = np.linalg.solve(tables[:, 1:, 1:], right)[:, :, 0]
    else:
        for k, (weights, right) in enumerate(zip(curvature, slope)):
            step[k] = _sparse_step(pairs, weights, right)
    return step - step.mean(axis=1, keepdims=True)


def _sparse_step(pairs: Pairs, curvature: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The same for one weighting by conjugate gradients, which multiply by the pairs and never make a table of them."""
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import LinearOperator, cg

    n = pairs.models
    rows = np.searchsorted(pairs.first, np.arange(n + 1))
    upper = csr_array((curvature, pairs.second, rows), shape=(n, n))
    lower = upper.T
    held = upper.sum(axis=0) + upper.sum(axis=1)
    laplacian = LinearOperator((n, n), matvec=lambda x: held * x - upper @ x - lower @ x, dtype=np.float64)
    # The slopes add up to 0 but for rounding, and with that no step would be the answer.
    step, unfinished = cg(laplacian, slope - slope.mean(), rtol=1e-8, maxiter=5 * n, M=diags_array(1 / held))
    if unfinished:  # chances so near 0 or 1 that the pairs pull with very different force
        step = np.append(0, np.linalg.solve(_laplacians(pairs, curvature[None])[0, 1:, 1:], slope[1:]))
    return step


def _laplacians(pairs: Pairs, curvature: np.ndarray) -> np.ndarray:
    """Minus the second derivatives of the log-likelihood: float64 (weightings, models, models)."""
    table = np.zeros((len(curvature), pairs.models, pairs.models))
    table[:, pairs.first, pairs.second] = table[:, pairs.second, pairs.first] = -curvature
    every = np.arange(pairs.models)
    table[:, every, every] = -table.sum(axis=2)
    return table
