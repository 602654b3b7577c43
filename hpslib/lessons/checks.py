"""What the exercises of lessons 1 to 3 say to an answer: right and why, or what is wrong with it; never a traceback.

Each ``check_`` takes the learner's answer and what the lesson knows, and returns one sentence that starts with
``right:``, ``not yet:`` or ``not attempted``. Functions are tried on cases that the notebook does not show, so a copied
number or a lucky one does not pass, and the common mistakes are told apart. A correct answer may be written in any way:
numbers within rounding, texts by their letters. Lessons 4 and 5: :mod:`hpslib.lessons.checks_adaptation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpslib.lessons.answers import NotAttempted, NotYet, call, count_of, letters, near, number, sentence, shown

if TYPE_CHECKING:
    from hpslib.critters.raters import Rater

__all__ = [
    "check_aversion",
    "check_chance",
    "check_count",
    "check_credit",
    "check_direction",
    "check_first",
    "check_loss",
    "check_pair_loss",
    "check_tail",
]


# --- lesson 1 --------------------------------------------------------------------------------------------------------


@sentence
def check_tail(answer: Any, prompt: str, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> str:
    """The words of ``prompt`` that a context of 20 tokens cuts off; compared by letters, so spaces do not matter."""
    if answer is None:
        raise NotAttempted
    if not isinstance(answer, str):
        raise NotYet(f"a text is asked, not {shown(answer)}: decode turns tokens back into words.")
    ids, given = encode(prompt), letters(answer)
    if not given:
        raise NotYet("there is no word in it; the longest prompt does lose some.")
    if given == letters(decode(ids[18:])):
        return "eighteen tokens are left for words; all that follows is never read."
    if given == letters(decode(ids[20:])):
        raise NotYet("twenty is the whole context, and not all of it is for words: two places are taken already.")
    if given == letters(decode(ids[:18])) or given == letters(decode(ids[:20])):
        raise NotYet("these are words that CLIP does read; the others are asked.")
    raise NotYet("these are not the words after the cut: encode the prompt, and look at where its tokens end.")


@sentence
def check_first(function: Any) -> str:
    """``function(sizes)`` gives one array of scores a group, with the first image alone on top."""
    sizes = [2, 4, 3]
    scores = call(function, sizes)
    if not isinstance(scores, Sequence | np.ndarray) or len(scores) != len(sizes):
        raise NotYet(f"for {len(sizes)} groups it should return {len(sizes)} arrays, one a group.")
    for n, group in zip(sizes, scores):
        values = np.asarray(group, dtype=float)
        if values.shape != (n,):
            raise NotYet(f"a group of {n} images needs {n} scores; yours have the shape {values.shape}.")
        top = np.flatnonzero(values == values.max())
        if len(top) > 1:
            raise NotYet("several images share the top, and ties share the credit: put the first one alone on top.")
        if top[0] != 0:
            raise NotYet(f"in a group of {n} your highest score belongs to image {top[0]}, counted from 0.")
    return "the first image is alone on top, whatever the size of the group."


@sentence
def check_aversion(index: Any, probability: Any, raters: Sequence[Rater], flaw: int) -> str:
    """The rater who minds flaw number ``flaw`` most, and the chance that this rater still takes the flawed image."""
    if index is None or probability is None:
        raise NotAttempted
    chosen = number(index, 0, len(raters) - 1, f"an index into {len(raters)} raters")
    weights = [rater.flaws[flaw] for rater in raters]
    worst = raters[int(np.argmax(weights))]
    if chosen != int(chosen) or weights[int(chosen)] != max(weights):
        above = sum(weight > weights[int(chosen)] for weight in weights)
        raise NotYet(f"{above} raters mind wrong eyes more than this one.")
    value = number(probability, 0, 1, "a share between 0 and 1")
    still = 1 / (1 + np.exp(worst.flaws[flaw] / worst.noise))
    if value in (0, 1):
        raise NotYet("the rater is right, but the choice is a matter of chance, and no chance is exactly 0 or 1.")
    if near(value, 1 - still, 0.02):
        raise NotYet("this is the chance of taking the *sound* picture.")
    if near(value, 1 / (1 + np.exp(worst.flaws[flaw])), 0.02):
        raise NotYet("this forgets the rater's noise.")
    if not near(value, still, 0.02):
        raise NotYet(
            "the rater is right, the probability is not: the utilities of the two pictures differ by the weight."
        )
    return f"rater {int(chosen)} still takes it with probability {still:.2g}."


# --- lesson 2 --------------------------------------------------------------------------------------------------------


@sentence
def check_chance(function: Any) -> str:
    """``function(sizes)`` is the mean of 1/n over groups, on sizes that the notebook does not show."""
    value = number(call(function, np.array([2, 4, 4, 4])), 0, 1, "a share between 0 and 1")
    other = number(call(function, np.array([2, 2, 3])), 0, 1, "a share between 0 and 1")
    if near(value, other):
        raise NotYet("it gives the same number for groups of other sizes: use what is handed in.")
    if near(value, 4 / 14):
        raise NotYet("this counts images, so large groups weigh more: every group is one guess.")
    if not near(value, 1.25 / 4) or not near(other, 4 / 9):
        raise NotYet("for one group of 2 and three of 4 a guess is right in 31.25 %.")
    return "every group counts once, with its own chance."


@sentence
def check_credit(function: Any) -> str:
    """``function(group, choice)``: ties share, NaN abstains."""
    cases: list[tuple[list[float], int, float, str]] = [
        ([3.0, 1.0], 0, 1.0, "a clear favourite that was chosen earns 1"),
        ([3.0, 1.0], 1, 0.0, "a clear favourite that was not chosen earns 0"),
        ([2.0, 2.0, 1.0], 1, 1 / 2, "two images tied at the top share the credit"),
        ([2.0, 2.0, 1.0], 2, 0.0, "a tie at the top earns nothing for the image below it"),
        ([-1.0, -1.0, -1.0, -1.0], 3, 1 / 4, "four equal images share the credit"),
        ([float("nan"), 1.0, 0.0], 1, 1 / 3, "a group with a NaN gets the credit of guessing, whatever was chosen"),
        ([float("nan"), 1.0, 0.0], 0, 1 / 3, "a group with a NaN gets the credit of guessing, whatever was chosen"),
    ]
    for group, choice, right, rule in cases:
        value = number(call(function, np.array(group), choice), of="a credit")
        if not near(value, right):
            raise NotYet(f"{rule}; for {group} and choice {choice} yours gives {value:g}.")
    return "ties share, NaN abstains."


@sentence
def check_count(answer: Any) -> str:
    """How many groups make the 95 % interval around a third reach one point to either side."""
    n = number(answer, 1, of="a number of groups")
    half = 100 * 1.96 * np.sqrt((1 / 3) * (2 / 3) / n)
    if abs(half - 1) < 0.02:
        return f"{n:.0f} groups give ±{half:.2f} points, so 5,000 are not enough (±1.3)."
    if abs(half - 0.5) < 0.01:
        raise NotYet(f"{n:.0f} groups make the whole interval one point wide; ±1 is twice that.")
    if abs(half - 2) < 0.05:
        raise NotYet("this makes the whole interval four points wide; ±1 is half of that.")
    raise NotYet(f"{n:.0f} groups give ±{half:.2f} points.")


# --- lesson 3 --------------------------------------------------------------------------------------------------------


def _padded() -> tuple[Any, Any]:
    import torch

    rows = [[2.0, 0.5, -1.0, -np.inf], [0.3, 0.1, 1.4, -0.2], [-0.7, 1.1, -np.inf, -np.inf]]
    return torch.tensor(rows), torch.tensor([1, 2, 0])


def _loss(function: Any, forbidden: tuple[str, ...] = ()) -> float:
    logits, choices = _padded()
    value = call(function, logits, choices)
    names = _names(getattr(function, "__code__", None))
    for name in forbidden:
        if name in names:
            raise NotYet(f"{name} does it for you; write it without.")
    if count_of(value) != 1:
        raise NotYet("one number is asked, the mean over the groups.")
    if not np.isfinite(float(value)):
        raise NotYet("it gives no finite number: padding is -inf, and must not reach a sum or a difference.")
    return float(value)


def _names(code: Any) -> set[str]:
    if code is None:
        return set()
    inner = [const for const in code.co_consts if hasattr(const, "co_names")]
    return set(code.co_names).union(*map(_names, inner))


@sentence
def check_loss(function: Any) -> str:
    """``function(logits, choices)``: the mean cross-entropy of padded groups, without torch's own."""
    import torch

    value = _loss(function, ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss", "preference_loss"))
    logits, choices = _padded()
    right = torch.nn.functional.cross_entropy(logits, choices).item()
    if near(value, -right):
        raise NotYet("the sign is turned: a loss is small when the chosen picture is likely.")
    if near(value, 3 * right):
        raise NotYet("this is the sum over the groups; the mean is asked.")
    if not near(value, right):
        raise NotYet(f"three groups that the notebook does not show give {value:.3f} instead of {right:.3f}.")
    return "log of the sum, minus the chosen logit."


@sentence
def check_pair_loss(function: Any) -> str:
    """``function(logits, choices)``: the mean of -log sigmoid(chosen - other) over all pairs with the chosen image."""
    import torch

    value = _loss(function)
    logits, choices = _padded()
    groups = [row[torch.isfinite(row)] for row in logits]
    margins = [row[c] - torch.cat([row[:c], row[c + 1 :]]) for row, c in zip(groups, choices.tolist())]
    losses = [-torch.nn.functional.logsigmoid(margin) for margin in margins]
    right = torch.cat(losses).mean().item()
    mistakes = {
        -right: "the sign is turned: a loss is small when the chosen picture wins.",
        torch.cat(losses).sum().item(): "this is the sum over the pairs; the mean is asked.",
        torch.stack([loss.mean() for loss in losses]).mean().item(): "this averages within each group first; the mean "
        "over all pairs is asked.",
        torch.nn.functional.cross_entropy(logits, choices).item(): "this is the n-way loss; here every pair counts by "
        "itself.",
        torch.cat([*losses, torch.full((3,), np.log(2))]).mean().item(): "the chosen picture is compared with itself; "
        "leave that pair out.",
    }
    for wrong, reason in mistakes.items():
        if near(value, wrong):
            raise NotYet(reason)
    if not near(value, right):
        raise NotYet(f"three groups that the notebook does not show give {value:.3f} instead of {right:.3f}.")
    return "one term for every pair with the chosen picture."


@sentence
def check_direction(answer: Any, before: float, after: float) -> str:
    """Whether training made the factor ``exp(logit_scale)`` ``"smaller"`` or ``"larger"``; both are logarithms."""
    if answer is None:
        raise NotAttempted
    said = str(answer).strip().lower()
    if said not in ("smaller", "larger"):
        raise NotYet(f'"smaller" or "larger" is asked, not {shown(answer)}.')
    if said != ("larger" if after > before else "smaller"):
        raise NotYet("compare the two models' logit_scale.")
    return f"the factor went from {np.exp(before):.0f} to {np.exp(after):.0f}."
