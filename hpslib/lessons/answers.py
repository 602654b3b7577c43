"""How an exercise's check takes an answer of any kind, and says what is wrong with it in one sentence.

A check is a function under :func:`sentence`. It raises :class:`NotYet` with what is wrong, :class:`NotAttempted` where
the answer is still ``None``, and returns why the answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from hpslib.runs.files import one_line

__all__ = ["NotAttempted", "NotYet", "call", "count_of", "letters", "near", "number", "sentence", "shown"]

_Given = ParamSpec("_Given")


class NotAttempted(Exception):
    """The answer is still ``None``."""


class NotYet(Exception):
    """What is wrong with the answer, as a sentence for the learner."""


def sentence(check: Callable[_Given, str]) -> Callable[_Given, str]:
    """Turn a check into a function that answers with one sentence, whatever the answer is and whatever it raises."""

    @wraps(check)
    def spoken(*args: _Given.args, **kwargs: _Given.kwargs) -> str:
        try:
            return f"right: {check(*args, **kwargs)}"
        except NotAttempted:
            return "not attempted yet."
        except NotYet as mistake:
            return f"not yet: {mistake}"
        except Exception as error:  # the learner's own code, or an answer of a kind that nobody thought of
            return f"not yet: it stops with {type(error).__name__} ({one_line(error)[:120]}); look at that line again."

    return spoken


def number(answer: Any, low: float = -np.inf, high: float = np.inf, of: str = "a number") -> float:
    """The answer as one finite number within ``low`` and ``high``; ``of`` says in words what it should be.

    Raises ``NotAttempted`` for ``None`` and ``NotYet`` for text, truth values, several numbers, NaN and what is out of
    range.
    """
    if answer is None:
        raise NotAttempted
    if isinstance(answer, str | bool) or count_of(answer) != 1:
        raise NotYet(f"{of} is asked, not {shown(answer)}.")
    value = float(answer)
    if not np.isfinite(value) or not low <= value <= high:
        raise NotYet(f"{value:g} cannot be {of}.")
    return value


def count_of(answer: Any) -> int:
    """How many numbers an array, a tensor, a list or a number holds."""
    return int(answer.numel()) if hasattr(answer, "numel") else int(np.size(answer))


def call(function: Any, *args: Any) -> Any:
    """What the learner's function returns for copies of ``args``; a function that returns ``None`` is not attempted."""
    if function is None:
        raise NotAttempted
    if not callable(function):
        raise NotYet(f"a function is asked, not {shown(function)}: keep the line that starts with def.")
    value = function(*deepcopy(args))
    if value is None:
        raise NotAttempted
    return value


def near(value: float, right: float, within: float = 1e-4) -> bool:
    """Whether the value is within this share of the right one."""
    return abs(value - right) <= within * max(abs(right), 1e-9)


def letters(text: str) -> str:
    """The text's letters and digits in lower case, so that blanks and punctuation do not matter."""
    return re.sub(r"[\W_]", "", text.lower())


def shown(answer: Any) -> str:
    """The answer as Python writes it, on one line, at most 60 letters of it."""
    return one_line(repr(answer))[:60]
