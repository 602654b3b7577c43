"""Which groups a person with a taste of their own should vote on, and what each order of asking is worth.

:func:`hpslib.active.next_groups` asks where the score is least sure of the answer. For a personal score that is often
the wrong question: a group of four equally good pictures leaves it most in doubt and teaches it nothing. What counts is
how much an answer tells about the *weights*. With the chances p of the score so far, a vote on a group of pictures with
the properties x brings the Fisher information

    F = sum_i p_i x_i x_i' - m m'          m = sum_i p_i x_i

and the next group is the one that makes det(ridge * 1 + sum of F asked so far) largest: D-optimal design, one group at
a time (Fedorov, 1972; for choices: Huber & Zwerina, 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from hpslib.active import next_groups
from hpslib.personal import Axes, Personal, Shown, padded, personal_scores, properties, train_personal, vote_losses

__all__ = ["Order", "informative_groups", "learning_curve"]

Order = Literal["random", "entropy", "margin", "information"]


def informative_groups(
    personal: Personal, shown: Shown, asked: ArrayLike, count: int, ridge: float = 10.0
) -> np.ndarray:
    """The next ``count`` groups whose answers tell most about the weights: int64 row numbers, none of ``asked``.

    ``ridge`` stands for what is known before any vote. Nothing is drawn: the same votes give the same groups. Raises
    ``ValueError`` when fewer than ``count`` groups are left.
    """
    taken = np.asarray(asked, dtype=np.int64)
    left = len(shown) - len(np.unique(taken))
    if not 1 <= count <= left:
        raise ValueError(f"count is {count}, but {left} of {len(shown)} groups are left; ask for 1 to that many.")
    x = padded(properties(personal.axes, shown), shown.sizes, 0.0)
    _, p = vote_losses(personal.weights, padded(shown.base, shown.sizes), x, np.zeros(len(shown), dtype=np.int64))
    mean = np.einsum("gn,gnd->gd", p, x)
    information = np.einsum("gn,gnd,gne->gde", p, x, x) - mean[:, :, None] * mean[:, None, :]
    known = ridge * np.eye(x.shape[2]) + information[taken].sum(0)
    free = np.ones(len(shown), dtype=bool)
    free[taken] = False
    chosen: list[int] = []
    for _ in range(count):
        # det(known + F) / det(known), of which only the logarithm is safe in many dimensions
        gain = np.linalg.slogdet(np.eye(len(known)) + np.linalg.solve(known, information))[1]
        best = int(np.where(free, gain, -np.inf).argmax())
        chosen.append(best)
        free[best] = False
        known = known + information[best]
    return np.array(chosen, dtype=np.int64)


def learning_curve(
    shown: Shown,
    choices: ArrayLike,
    axes: Axes,
    counts: Sequence[int],
    measure: Callable[[Personal], float],
    *,
    order: Order = "random",
    batch: int = 10,
    seed: int = 0,
) -> list[float]:
    """``measure`` of the personal score after each number of votes in ``counts`` (ascending, 0 is the population).

    ``choices`` holds what the person would say to each group of ``shown``; only those asked about are used. They are
    asked in random order, or in batches of those of which the score so far is least sure (by "entropy" or "margin", see
    :func:`hpslib.active.next_groups`) or whose answers tell most ("information", :func:`informative_groups`).

    Raises ``ValueError`` for another order, counts that do not ascend or exceed the groups, and as
    :func:`hpslib.personal.train_personal` does.
    """
    if order not in get_args(Order):
        raise ValueError(f"order is {order!r}: choose one of {', '.join(get_args(Order))}.")
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 0 or counts[-1] > len(shown):
        raise ValueError(f"counts is {list(counts)}: give ascending numbers of votes from 0 to {len(shown)}.")
    answers = np.asarray(choices, dtype=np.int64)
    drawn = np.random.default_rng(seed).permutation(len(shown))
    asked, figures = drawn[:0], []
    personal = train_personal(shown.subset([]), [], axes)
    for count in counts:
        while len(asked) < count:
            step = count - len(asked) if order == "random" else min(batch, count - len(asked))
            if order == "random":
                more = drawn[len(asked) : len(asked) + step]
            elif order == "information":
                more = informative_groups(personal, shown, asked, step)
            else:
                logits = padded(np.concatenate(personal_scores(personal, shown)), shown.sizes)
                more = next_groups(logits, asked, step, seed=np.random.default_rng([seed, len(asked)]), by=order)
            asked = np.concatenate([asked, more])
            personal = train_personal(shown.subset(asked), answers[asked], axes, seed=seed)
        figures.append(measure(personal))
    return figures
