"""The face of the package: every figure has its sentence, and draws into the axes it is given."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import estimate, noise, rendered, scores_and_choices
from PIL import Image

from hpslib import plots
from hpslib.adaptation.selection import Selection


def every_chart(rng) -> dict:
    scores, choices = scores_and_choices(rng, 40)
    return {
        "images": lambda ax: plots.plot_images([noise(np.random.default_rng(0))], ax=ax),
        "positions": lambda ax: plots.plot_positions([3, 4], ax=ax),
        "accuracy": lambda ax: plots.plot_accuracy({"a": estimate(0.4)}, chance=0.3, ax=ax),
        "scores": lambda ax: plots.plot_scores(scores, choices, ax=ax),
        "margins": lambda ax: plots.plot_margins(scores, choices, ax=ax),
        "learning_curve": lambda ax: plots.plot_learning_curve([1.0, 0.5], [(2, 0.7)], window=1, ax=ax),
        "data_scaling": lambda ax: plots.plot_data_scaling([10], [estimate(0.4)], ax=ax),
        "flaw_effects": lambda ax: plots.plot_flaw_effects({"a": estimate(0.4)}, ax=ax),
        "selection": lambda ax: plots.plot_selection(Selection(np.arange(1), np.arange(1), 2, 0, 0), ax=ax),
    }


@pytest.mark.parametrize("name", list(every_chart(np.random.default_rng(0))))
def test_charts_draw_into_the_axes_they_are_given_and_the_same_twice(rng, name):
    chart = every_chart(rng)[name]
    first, second = plt.figure(figsize=(5, 3)).add_subplot(), plt.figure(figsize=(5, 3)).add_subplot()
    before = plt.get_fignums()
    assert chart(first) is first
    assert chart(second) is second
    assert plt.get_fignums() == before
    np.testing.assert_array_equal(rendered(first), rendered(second))


def test_every_plot_has_its_sentence():
    drawn = {name.removeprefix("plot_") for name in plots.__all__ if name.startswith("plot_")}
    said = {name.removeprefix("say_") for name in plots.__all__ if name.startswith("say_")}
    assert drawn == said
    assert drawn == set(every_chart(np.random.default_rng(0))) | {"groups", "before_after"}


def test_sentences_hold_no_memory_address():
    assert not re.search("0x[0-9a-f]{6}", plots.say_images([Image.new("RGB", (4, 4))]))
