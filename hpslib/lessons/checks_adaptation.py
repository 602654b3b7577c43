"""What the exercises of lessons 4 and 5 say to an answer; how they say it is told in :mod:`hpslib.lessons.checks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpslib.lessons.answers import NotAttempted, NotYet, number, sentence, shown

if TYPE_CHECKING:
    from hpslib.adaptation.selection import Selection

__all__ = [
    "check_colours",
    "check_flaw_gain",
    "check_pairs_needed",
    "check_selection",
    "check_votes_needed",
]


# --- lesson 4 --------------------------------------------------------------------------------------------------------


@sentence
def check_flaw_gain(answer: Any, adapted: float, with_negative: float) -> str:
    """The difference of two shares of flawed images: adapted minus adapted with the negative prompt."""
    value, gain = number(answer, of="a difference of two shares"), adapted - with_negative
    if abs(value - gain) <= 1e-3:
        return f"{100 * gain:.1f} points of {100 * adapted:.1f}."
    if abs(value + gain) <= 1e-3:
        raise NotYet("the sign is turned: a positive number should say that the negative prompt helps.")
    if abs(value - 100 * gain) <= 0.1:
        raise NotYet("this is in percent; the table holds shares between 0 and 1.")
    if abs(value * adapted - gain) <= 1e-3:
        raise NotYet("this is the relative change; the difference is asked.")
    raise NotYet("the table has a row for each condition: take the two that differ in the negative prompt only.")


@sentence
def check_selection(answer: Any, groups: Sequence[np.ndarray], temperature: float) -> str:
    """The selection of ``groups`` with threshold 3, compared image by image."""
    from hpslib.adaptation.selection import Selection, select

    if answer is None:
        raise NotAttempted
    if not isinstance(answer, Selection):
        raise NotYet("the whole selection is asked, as select returns it.")
    if answer.groups != len(groups):
        raise NotYet(f"it was made from {answer.groups} groups; the pool has {len(groups)}.")
    usual, right = (select(groups, threshold=threshold, temperature=temperature) for threshold in (2.0, 3.0))
    if _same(answer, right):
        fewer = len(usual.preferred) - len(right.preferred)
        return f"{len(right.preferred)} preferred pictures, {fewer} fewer; 4/4 is 1, and a softmax stays below 1."
    if _same(answer, usual):
        raise NotYet("this is the rule as it stands, with threshold 2.")
    if _same(answer, select(groups, threshold=3.0)):
        raise NotYet("the temperature is missing: the softmax takes the classifier's logits.")
    raise NotYet(f"threshold 3 keeps other pictures; yours has {len(answer.preferred)} preferred ones.")


def _same(one: Selection, other: Selection) -> bool:
    sides = (one.preferred, other.preferred), (one.non_preferred, other.non_preferred)
    return all(np.array_equal(a, b) for a, b in sides)


# --- lesson 5 --------------------------------------------------------------------------------------------------------


@sentence
def check_colours(answer: Any, who: str, before: np.ndarray, after: np.ndarray) -> str:
    """Whether ``who``'s own model makes colours stronger, by the second eye's vividness (n,) of the same prompts."""
    if answer is None:
        raise NotAttempted
    if who != "simulated-vivid":
        raise NotYet(f'the model at hand is that of {who}: set WHO = "simulated-vivid" and run on from there.')
    if not isinstance(answer, bool | np.bool_):
        raise NotYet(f"True or False is asked, not {shown(answer)}.")
    change = float(np.mean(np.asarray(after) - np.asarray(before)))
    if bool(answer) != (change > 0):
        raise NotYet("look at the pictures again, or at the second eye's vividness.")
    return f"mean vividness, by the second eye, changed by {change:+.2f}."


@sentence
def check_pairs_needed(answer: Any) -> str:
    """How many pairs make an interval of 20 points, from end to end, around one half."""
    from hpslib.votes.designs import votes_needed

    n, right = number(answer, 1, of="a number of pairs"), votes_needed(0.2)
    if abs(n - right) <= 3:  # the textbook's formula without Wilson's correction gives 96.04
        return f"{right} pairs, if about half of them are won; fewer if nearly all are."
    if abs(n - votes_needed(0.4)) <= 2:
        raise NotYet("this gives 20 points to *either* side, 40 in all.")
    if abs(n - votes_needed(0.1)) <= 5:
        raise NotYet("this gives 5 points to either side, 10 in all.")
    raise NotYet(f"{n:.0f} is too {'few' if n < right else 'many'}.")


@sentence
def check_votes_needed(answer: Any, counts: Sequence[int], random: Sequence[float], best: Sequence[float]) -> str:
    """The first of ``counts`` at which the ``best`` order is as good as all the ``random`` votes."""
    n = number(answer, 0, of="a number of votes")
    enough = [count for count, value in zip(counts, best) if value >= random[-1]]
    if n not in counts:
        raise NotYet(f"the curves were measured after {', '.join(map(str, counts))} votes; answer with one of these.")
    if not enough:
        raise NotYet("no number of votes reaches it in this run, so nothing can be right here: try another rater.")
    if n != enough[0]:
        raise NotYet(f"after {n:.0f} votes the best order is {'not there yet' if n < enough[0] else 'well past it'}.")
    return f"{enough[0]} well-chosen votes are worth {counts[-1]} random ones, in this one run."
