"""hpslib.lessons.checks: right answers pass however they are written, each common mistake gets its own sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpslib.adaptation.selection import select
from hpslib.critters.attributes import FLAWS
from hpslib.critters.raters import population
from hpslib.lessons import checks
from hpslib.lessons import checks_adaptation as late
from hpslib.votes.designs import votes_needed

PROMPT = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
PROMPT += "eighteen soft light, children's book illustration"
WORDS = PROMPT.replace(",", " ,").replace("'", " '").split()
RATERS, EYES = population(20, seed=1), FLAWS.index("eyes")
WORST = int(np.argmax([rater.flaws[EYES] for rater in RATERS]))
STILL = 1 / (1 + np.exp(RATERS[WORST].flaws[EYES] / RATERS[WORST].noise))
GROUPS = [np.random.default_rng(seed).normal(0, 8, 4) for seed in range(60)]
COUNTS, RANDOM, BEST = (0, 10, 20, 40, 60), [0.3, 0.4, 0.45, 0.47, 0.48], [0.3, 0.42, 0.46, 0.49, 0.5]


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()] if text == PROMPT else list(range(len(WORDS)))


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[k] for k in ids) + " "


def tail(answer):
    return checks.check_tail(answer, PROMPT, lambda text: list(range(len(WORDS))), decode)


def aversion(index, probability=STILL):
    return checks.check_aversion(index, probability, RATERS, EYES)


def selection(answer):
    return late.check_selection(answer, GROUPS, temperature=5.0)


def votes(answer):
    return late.check_votes_needed(answer, COUNTS, RANDOM, BEST)


def gain(answer):
    return late.check_flaw_gain(answer, 0.22, 0.19)


def colours(answer, who="simulated-vivid"):
    return late.check_colours(answer, who, np.zeros(4), np.array([0.1, 0.2, -0.1, 0.3]))


def by_logsumexp(logits, choices):
    return (torch.logsumexp(logits, 1) - logits[range(len(logits)), choices]).mean()


def by_pairs(logits, choices):
    chosen = logits.gather(1, choices[:, None])
    against = torch.isfinite(logits).scatter(1, choices[:, None], False)
    return -torch.nn.functional.logsigmoid((chosen - logits)[against]).mean()


def credit(group, choice):
    if np.isnan(group).any():
        return 1 / len(group)
    top = group == group.max()
    return top[choice] / top.sum()


RIGHT = [
    (tail, "soft light, children's book illustration"),
    (tail, "Soft light , children 's book illustration "),
    (checks.check_first, lambda sizes: [np.eye(n)[0] for n in sizes]),
    (checks.check_first, lambda sizes: [[9] + [0] * (n - 1) for n in sizes]),
    (aversion, WORST),
    (aversion, np.int64(WORST)),
    (checks.check_chance, lambda sizes: np.mean(1 / sizes)),
    (checks.check_chance, lambda sizes: torch.tensor(1 / sizes).mean()),
    (checks.check_credit, credit),
    (checks.check_count, 8537),
    (checks.check_count, 8600.0),
    (checks.check_loss, by_logsumexp),
    (checks.check_loss, lambda logits, choices: -torch.log_softmax(logits, 1)[range(3), choices].mean()),
    (checks.check_pair_loss, by_pairs),
    (lambda answer: checks.check_direction(answer, 4.0, 3.0), "Smaller "),
    (gain, 0.03),
    (selection, select(GROUPS, threshold=3.0, temperature=5.0)),
    (late.check_pairs_needed, votes_needed(0.2)),
    (late.check_pairs_needed, 96),
    (votes, 40),
    (colours, True),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass_however_they_are_written(check, answer):
    assert check(answer).startswith("right: "), check(answer)


def unfinished(*_):
    return None


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
def test_an_empty_answer_is_not_attempted(check):
    assert check(None) == "not attempted yet."
    functions = (
        checks.check_first,
        checks.check_chance,
        checks.check_credit,
        checks.check_loss,
        checks.check_pair_loss,
    )
    if check in functions:
        assert check(unfinished) == "not attempted yet."


def broken(*_):
    raise ZeroDivisionError("division by zero")


ODD = [
    "a text",
    "",
    7j,
    [],
    [1, 2],
    {},
    object(),
    float("nan"),
    -3,
    np.zeros((2, 2)),
    True,
    len,
    broken,
    torch.zeros(3),
]


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
@pytest.mark.parametrize("answer", ODD, ids=lambda value: repr(value)[:12])
def test_no_answer_of_any_kind_ends_in_a_traceback_or_passes(check, answer):
    if check is colours and answer is True:
        return
    said = check(answer)
    assert said.startswith("not yet: ") and "\n" not in said and said.endswith((".", "again."))


WRONG = [
    (tail, decode(list(range(20, len(WORDS)))), "two places are taken"),
    (tail, decode(list(range(18))), "words that CLIP does read"),
    (tail, "soft", "not the words after the cut"),
    (checks.check_first, lambda sizes: [np.zeros(n) for n in sizes], "ties share the credit"),
    (checks.check_first, lambda sizes: [np.eye(n)[-1] for n in sizes], "belongs to image 1"),
    (checks.check_first, lambda sizes: np.eye(4)[0], "3 arrays"),
    (checks.check_first, lambda sizes: [np.eye(4)[0] for _ in sizes], "needs 2 scores"),
    (lambda answer: aversion(WORST, answer), 0, "no chance is exactly 0"),
    (lambda answer: aversion(WORST, answer), 1 - STILL, "sound"),
    (lambda answer: aversion(WORST, answer), 30, "a share between 0 and 1"),
    (aversion, int(np.argmin([rater.flaws[EYES] for rater in RATERS])), "19 raters mind"),
    (checks.check_chance, lambda sizes: 0.303, "same number"),
    (checks.check_chance, lambda sizes: len(sizes) / sizes.sum(), "counts images"),
    (checks.check_chance, 0.303, "a function is asked"),
    (checks.check_credit, lambda group, choice: float(group.argmax() == choice), "tied at the top share"),
    (checks.check_credit, lambda group, choice: 0.0 if np.isnan(group).any() else credit(group, choice), "NaN"),
    (checks.check_count, 9604, "±0.94"),
    (checks.check_count, 34149, "whole interval one point wide"),
    (checks.check_loss, torch.nn.functional.cross_entropy, "write it without"),
    (checks.check_loss, lambda logits, choices: torch.nn.functional.cross_entropy(logits, choices), "write it without"),
    (checks.check_loss, lambda logits, choices: -by_logsumexp(logits, choices), "sign"),
    (checks.check_loss, lambda logits, choices: 3 * by_logsumexp(logits, choices), "sum over the groups"),
    (checks.check_loss, lambda logits, choices: logits.sum(), "no finite number"),
    (checks.check_pair_loss, by_logsumexp, "n-way loss"),
    (checks.check_pair_loss, lambda logits, choices: -by_pairs(logits, choices), "sign"),
    (lambda answer: checks.check_direction(answer, 4.0, 3.0), "larger", "compare"),
    (gain, -0.03, "sign"),
    (gain, 3.0, "percent"),
    (gain, 0.03 / 0.22, "relative"),
    (selection, select([]), "0 groups"),
    (selection, select(GROUPS, threshold=2.0, temperature=5.0), "as it stands"),
    (selection, select(GROUPS, threshold=2.5, temperature=5.0), "keeps other pictures"),
    (selection, select(GROUPS, threshold=3.0), "temperature is missing"),
    (late.check_pairs_needed, votes_needed(0.4), "either"),
    (late.check_pairs_needed, 50, "too few"),
    (votes, 15, "answer with one of these"),
    (votes, 10, "not there yet"),
    (votes, 60, "well past it"),
    (colours, False, "look at the pictures"),
    (lambda answer: colours(answer, "simulated-pale"), True, 'set WHO = "simulated-vivid"'),
]


@pytest.mark.parametrize(("check", "answer", "why"), WRONG)
def test_each_common_mistake_is_told_apart(check, answer, why):
    said = check(answer)
    assert said.startswith("not yet: ") and why in said


def test_a_function_gets_copies_so_that_it_cannot_spoil_the_next_case():
    def spoils(group, choice):
        value = credit(group, choice)
        group[:] = 0
        return value

    assert checks.check_credit(spoils).startswith("right")


def test_no_order_that_reaches_it_is_said_and_not_called_wrong():
    assert "nothing can be right here" in late.check_votes_needed(40, COUNTS, [0.9] * 5, BEST)
