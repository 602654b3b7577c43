"""The solution folded below each exercise runs, and the exercise's own check calls it right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hpslib.adaptation.selection import select
from hpslib.critters.attributes import FLAWS
from hpslib.critters.raters import choice_probabilities, population
from hpslib.lessons import checks
from hpslib.lessons import checks_adaptation as late

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
WORDS = [f"word{k}" for k in range(26)]
RATERS = population(30, seed=2)
GROUPS = [np.random.default_rng(seed).normal(0, 8, 4) for seed in range(60)]
TABLE = pd.DataFrame({"flawed": [0.47, 0.22, 0.19]}, index=["base", "adapted", "adapted + negative"])
CURVES = {"random": np.full((5, 9), [[0.3], [0.4], [0.42], [0.44], [0.45]]), "information": np.full((5, 9), 0.46)}
COUNTS = (0, 10, 20, 40, 60)


def model(scale: float) -> SimpleNamespace:
    return SimpleNamespace(model=SimpleNamespace(logit_scale=torch.tensor(scale)))


#: What the lesson's cells have made before its exercises.
KNOWN: dict[int, dict[str, Any]] = {
    1: {
        "np": np,
        "longest": " ".join(WORDS),
        "encode": lambda text: [WORDS.index(word) for word in text.split()],
        "decode": lambda ids: " ".join(WORDS[k] for k in ids),
        "FLAWS": FLAWS,
        "raters": RATERS,
        "choice_probabilities": choice_probabilities,
    },
    2: {"np": np},
    3: {"torch": torch, "clip": model(3.0), "trained": SimpleNamespace(clip=model(2.0))},
    4: {"table": TABLE, "groups": GROUPS, "temperature": 5.0, "select": select},
    5: {
        "counts": COUNTS,
        "curves": CURVES,
        "watched": {k: SimpleNamespace(vividness=np.full(9, v)) for k, v in (("base", 0.3), ("yours", 0.4))},
    },
}


def say(lesson: int, number: int, g: dict[str, Any]) -> str:
    """The sentence of the exercise's check for what the solution left in ``g``."""
    answers = {
        (1, 1): lambda: checks.check_tail(g["my_tail"], g["longest"], g["encode"], g["decode"]),
        (1, 2): lambda: checks.check_first(g["always_first"]),
        (1, 3): lambda: checks.check_aversion(g["my_rater"], g["my_probability"], RATERS, FLAWS.index("eyes")),
        (2, 1): lambda: checks.check_chance(g["my_chance"]),
        (2, 2): lambda: checks.check_credit(g["my_credit"]),
        (2, 3): lambda: checks.check_count(g["my_count"]),
        (3, 1): lambda: checks.check_loss(g["my_loss"]),
        (3, 2): lambda: checks.check_pair_loss(g["pair_loss"]),
        (3, 3): lambda: checks.check_direction(g["my_direction"], 3.0, 2.0),
        (4, 1): lambda: late.check_flaw_gain(g["answer_1"], 0.22, 0.19),
        (4, 2): lambda: late.check_selection(g["answer_2"], GROUPS, 5.0),
        (5, 1): lambda: late.check_colours(g["my_colours"], "simulated-vivid", np.full(9, 0.3), np.full(9, 0.4)),
        (5, 2): lambda: late.check_pairs_needed(g["my_pairs"]),
        (5, 3): lambda: late.check_votes_needed(
            g["my_votes"], COUNTS, *(CURVES[order].mean(1).tolist() for order in ("random", "information"))
        ),
    }
    return answers[lesson, number]()


def exercises(lesson: int) -> list[tuple[str, str]]:
    """(statement with hint, solution) of each exercise, in order."""
    (path,) = NOTEBOOKS.glob(f"0{lesson}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = text[text.index("## Exercises") : text.index("## Recap")]
    found = re.split(r"^\*\*\d · ", text, flags=re.MULTILINE)[1:]
    folded = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)\n```\n\n</details>", re.DOTALL)
    pairs = []
    for exercise in found:
        (solution,) = folded.findall(exercise)
        pairs.append((exercise[: exercise.index("<details><summary>Solution")], solution))
    return pairs


@pytest.mark.parametrize("lesson", KNOWN)
def test_each_exercise_has_a_hint_and_a_solution_that_its_check_calls_right(lesson: int) -> None:
    found = exercises(lesson)
    assert len(found) >= 2
    for number, (statement, solution) in enumerate(found, 1):
        assert "<details><summary>Hint</summary>" in statement
        hint = statement.split("<summary>Hint</summary>")[1]
        for line in solution.splitlines():
            assert len(line.strip()) < 15 or line.strip() not in hint, "the hint gives the answer"
        given = dict(KNOWN[lesson])
        exec(compile(solution, f"lesson {lesson}, exercise {number}", "exec"), given)
        said = say(lesson, number, given)
        assert said.startswith("right: "), f"lesson {lesson}, exercise {number}: {said}"
