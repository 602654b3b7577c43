"""Plans a study before anybody is asked: which images are shown, in which order and on which side, and how many votes.

A design is a list of ``Trial`` rows in the order in which a rater sees them. Every pair of models comes equally often,
each on the left as often as on the right, everything shuffled from one seed. Two kinds of extra rows tell how much the
answers are worth: *repeats* (the same two images again, sides swapped, so that somebody who only likes one side
contradicts themself) and *checks* (one image is plainly the right answer). Ids number the rows as shown, so that an id
does not betray its kind. For what comes back see :mod:`hpslib.votes.reliability`, :mod:`hpslib.metrics.before_after`
and :mod:`hpslib.votes.bradley_terry`.

How many votes: :func:`width_of` and :func:`votes_needed` by Wilson's interval (Wilson 1927), :func:`power` by the exact
binomial test.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from hpslib.metrics.intervals import wilson_interval

__all__ = ["Trial", "paired_design", "power", "round_robin_design", "votes_needed", "width_of"]


@dataclass(frozen=True)
class Trial:
    """One question of a study: images of one prompt and one noise seed, by two models, from left to right.

    Attributes: ``id``, unique, in the order shown; ``prompt``; ``seed``, of the images' initial noise, the same for
    all; ``models`` from left to right; ``kind``; ``repeat_of``, the id of the original (repeats only); ``expected``,
    the place in ``models`` of the right answer (checks only), see :func:`hpslib.votes.reliability.attention_check`.
    """

    id: str
    prompt: str
    seed: int
    models: tuple[str, ...]
    kind: Literal["trial", "repeat", "check"] = "trial"
    repeat_of: str | None = None
    expected: int | None = None


# --- designs ----------------------------------------------------------------------------------------------------------


def paired_design(
    prompts: Sequence[str],
    seeds: Sequence[int],
    repeats: float = 0.1,
    checks: Sequence[tuple[str, int, str, str]] = (),
    seed: int = 0,
    gap: int = 5,
    models: tuple[str, str] = ("before", "after"),
) -> list[Trial]:
    """Before against after with the same prompts and noise, as in the paper's user study: one trial per prompt row.

    The round robin of two models; arguments and errors as in :func:`round_robin_design`.

    >>> rows = paired_design(["a cat", "a dog", "a fox", "a hen"], [7, 8, 9, 10], repeats=0.25, gap=1)
    >>> sorted(row.kind for row in rows), sum(row.models[0] == "after" for row in rows if row.kind == "trial")
    (['repeat', 'trial', 'trial', 'trial', 'trial'], 2)
    """
    return round_robin_design(models, prompts, seeds, repeats, checks, seed, gap)


def round_robin_design(
    models: Sequence[str],
    prompts: Sequence[str],
    seeds: Sequence[int],
    repeats: float = 0.1,
    checks: Sequence[tuple[str, int, str, str]] = (),
    seed: int = 0,
    gap: int = 5,
    pairs_per_prompt: int | None = None,
) -> list[Trial]:
    """N models against each other: all pairs equally often, sides balanced, shuffled, repeats and checks mixed in.

    Args:
        models: two or more different names.
        prompts, seeds: row i is a prompt and the noise seed of all images made for it; no two rows alike.
        repeats: the share of trials to repeat once, rounded to a whole number.
        checks: (prompt, seed, right model, wrong model): images of which everybody who looks prefers the right one;
            the names need not be among ``models``.
        seed: of every random decision here.
        gap: the least number of trials between an original and its repeat. Originals are therefore never among the
            last ``gap`` trials.
        pairs_per_prompt: how many of the N (N - 1) / 2 pairs are shown for each prompt row; None shows all of them.

    Where a pair comes an odd number of times, its sides differ by one, and these ones are turned such that over all
    trials every model stands left as often as right, or once more or less.

    Raises ``ValueError`` when an argument does not fit, the pairs cannot come equally often, or the repeats have no
    room.

    >>> rows = round_robin_design(["a", "b", "c"], ["a cat", "a dog"], [1, 2], repeats=0)
    >>> len(rows), sorted(row.models for row in rows)[:2]
    (6, [('a', 'b'), ('a', 'c')])
    """
    _check_arguments(models, prompts, seeds, repeats, gap)
    rng = np.random.default_rng(seed)
    shown = _deal(len(models), len(prompts), pairs_per_prompt, rng)
    trials = [Trial("", prompts[row], int(seeds[row]), (models[left], models[right])) for row, left, right in shown]
    count, room = round(repeats * len(trials)), max(len(trials) - gap, 0)
    if count > room:
        raise ValueError(
            f"{count} repeats need as many trials with {gap} more behind them, but only {room} of {len(trials)} have "
            "that: lower repeats or gap."
        )
    originals = rng.permutation(room)[:count].tolist()
    mirrored = [replace(trials[k], models=trials[k].models[::-1], kind="repeat") for k in originals]
    # Trial k has the place k; what comes between two trials has a place between them.
    places = [*range(len(trials)), *(rng.uniform(k + gap, len(trials)) for k in originals)]
    stretch = len(trials) / max(len(checks), 1)  # one check in each of as many equal stretches
    places += [rng.uniform(k * stretch, (k + 1) * stretch) for k in range(len(checks))]
    rows = [*trials, *mirrored, *_check_rows(checks, rng)]
    order = np.argsort(places, kind="stable").tolist()
    ids = {k: f"{number:0{len(str(len(rows)))}d}" for number, k in enumerate(order)}
    source = dict(zip(range(len(trials), len(rows)), originals))
    return [replace(rows[k], id=ids[k], repeat_of=ids[source[k]] if k in source else None) for k in order]


def _check_arguments(
    models: Sequence[str], prompts: Sequence[str], seeds: Sequence[int], repeats: float, gap: int
) -> None:
    if len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(f"models is {', '.join(map(repr, models))}: give two or more different names.")
    if not len(prompts) == len(seeds) > 0:
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed for each of 1 or more prompts.")
    first: dict[tuple[str, int], int] = {}
    for row, (prompt, noise) in enumerate(zip(prompts, seeds)):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt {row} (from 0) is empty: remove it.")
        if first.setdefault((prompt, int(noise)), row) != row:
            raise ValueError(
                f"prompt {row} (from 0) repeats row {first[prompt, int(noise)]} with the same seed: use another seed, "
                "or repeats to ask again."
            )
    if not 0 <= repeats <= 1:
        raise ValueError(f"repeats is {repeats}: give a share from 0 to 1.")
    if gap < 1:
        raise ValueError(f"gap is {gap}, and a repeat right after its original tests memory: give 1 or more.")


def _deal(n: int, rows: int, per_row: int | None, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(prompt row, model on the left, model on the right) for all trials, shuffled."""
    seats = rng.permutation(n).tolist()
    # In a circle every model stands left of the next half: a tournament in which all win equally often, or within one.
    pairs = [(seats[i], seats[j]) if j - i <= n // 2 else (seats[j], seats[i]) for i, j in combinations(range(n), 2)]
    each = len(pairs) if per_row is None else per_row
    if not 1 <= each <= len(pairs):
        raise ValueError(f"pairs_per_prompt is {each}: give 1 to {len(pairs)} for {n} models.")
    if rows * each % len(pairs):
        raise ValueError(
            f"{rows} prompts with {each} of {len(pairs)} pairs each cannot show every pair equally often: give a "
            f"multiple of {len(pairs) // math.gcd(len(pairs), each)} prompts, or pairs_per_prompt=None for all pairs."
        )
    pairs = [pairs[k] for k in rng.permutation(len(pairs))]
    times = rows * each // len(pairs)
    swaps = [rng.permutation(times) >= (times + 1) // 2 for _ in pairs]
    dealt = []
    for turn, row in enumerate(np.repeat(rng.permutation(rows), each).tolist()):
        again, k = divmod(turn, len(pairs))
        dealt.append((row, *(pairs[k][::-1] if swaps[k][again] else pairs[k])))
    return [dealt[k] for k in rng.permutation(len(dealt))]


def _check_rows(checks: Sequence[tuple[str, int, str, str]], rng: np.random.Generator) -> list[Trial]:
    rows = []
    for k, (place, (prompt, noise, right, wrong)) in enumerate(zip(rng.permutation(len(checks)) % 2, checks)):
        if right == wrong:
            raise ValueError(f"check {k} (from 0) names {right!r} as right and as wrong: name two different models.")
        models = (wrong, right) if place else (right, wrong)
        rows.append(Trial("", prompt, int(noise), models, "check", expected=int(place)))
    return rows


# --- how many votes ---------------------------------------------------------------------------------------------------


def width_of(n: int, share: float = 0.5, confidence: float = 0.95) -> float:
    """Total width of Wilson's interval for an observed ``share`` of ``n`` votes, in (0, 1); widest at a share of 0.5.

    Raises ``ValueError`` for a share outside 0..1, and as :func:`hpslib.metrics.intervals.wilson_interval` does.

    >>> round(width_of(100, share=0.74), 3)
    0.17
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: give a number from 0 to 1.")
    interval = wilson_interval(share * n, n, confidence)
    return interval.high - interval.low


def votes_needed(width: float, share: float = 0.5, confidence: float = 0.95) -> int:
    """The least number of independent votes for which Wilson's interval at ``share`` is at most ``width`` wide.

    By bisection, which is exact: (width / 2z)² = (p(1-p) n + z²/4) / (n + z²)² falls with n for every p in [0, 1].
    The share is not known before; 0.5 is the worst case. Raises ``ValueError`` unless 0 < width < 1.

    >>> votes_needed(0.1), votes_needed(0.1, share=0.74)
    (381, 293)
    """
    if not 0 < width < 1:
        raise ValueError(f"width is {width}: give a number strictly between 0 and 1.")
    enough = 1
    while width_of(enough, share, confidence) > width:
        enough *= 2
    return bisect_left(range(enough + 1), True, lo=1, key=lambda n: width_of(n, share, confidence) <= width)


def power(share: float, n: int, alpha: float = 0.05) -> float:
    """Chance that ``n`` independent votes reveal a win rate of ``share``: that the exact two-sided test rejects 0.5.

    The sum of the binomial probabilities, at ``share``, of all counts whose p-value at 0.5 (``scipy.stats.binomtest``)
    is at most ``alpha``. At a share of 0.5 it is the false alarm rate, at most ``alpha``. It rises with n in a
    saw-tooth, because counts are whole. Raises ``ValueError`` for a share outside 0..1, n < 1 or alpha outside (0, 1).

    >>> round(power(0.6, 100), 3), round(power(0.6, 200), 3)
    (0.462, 0.787)
    """
    from scipy import stats

    if not 0 <= share <= 1 or n < 1 or not 0 < alpha < 1:
        raise ValueError(f"share {share}, n {n}, alpha {alpha}: give 0 to 1, 1 or more, and strictly between 0 and 1.")
    wins = np.arange(n + 1)
    p_values = np.minimum(1, 2 * stats.binom.cdf(np.minimum(wins, n - wins), n, 0.5))
    return float(stats.binom.pmf(wins, n, share)[p_values <= alpha].sum())
