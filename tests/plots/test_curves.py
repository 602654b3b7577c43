"""Figures of many numbers: what is drawn is what was handed in, and the sentence says the same."""

from __future__ import annotations

import numpy as np
import pytest
from figures import estimate, rendered, scores_and_choices

from hpslib import plots
from hpslib.metrics.agreement import top1_accuracy

NAN = float("nan")


def test_scores_sentence_has_the_moments(rng):
    scores, choices = scores_and_choices(rng)
    chosen = np.array([s[c] for s, c in zip(scores, choices)])
    said = plots.say_scores(scores, choices)
    assert f"chosen {chosen.mean():.2f} (sd {chosen.std():.2f}, 200 images)" in said
    assert f"{sum(map(len, scores)) - 200} images" in said
    ax = plots.plot_scores(scores, choices)
    means = [line.get_xdata()[0] for line in ax.lines]
    assert pytest.approx(chosen.mean()) in means


def test_margins_agree_with_top1_accuracy(rng):
    scores, choices = scores_and_choices(rng)
    accuracy = top1_accuracy(scores, choices).value
    assert f"in {100 * accuracy:.1f} % of 200 groups" in plots.say_margins(scores, choices)
    ax = plots.plot_margins(scores, choices)
    right = sum(bar.get_height() for bar in ax.patches if bar.get_x() >= -1e-9)
    assert right == round(accuracy * 200)
    assert sum(bar.get_height() for bar in ax.patches) == 200


def test_groups_without_finite_scores_are_counted_not_hidden():
    said = plots.say_margins([[1.0, 0.0], [NAN, 1.0], [2.0, 1.0]], [0, 0, 0])
    assert said.endswith("; 1 groups with a score that is not finite are left out.")
    with pytest.raises(ValueError, match="every group holds a score that is not finite: give at least one"):
        plots.plot_scores([[NAN, 1.0]], [0])


def test_constant_scores_can_be_drawn():
    rendered(plots.plot_margins([[1.0, 1.0]] * 4, [0, 1, 0, 1]))
    rendered(plots.plot_scores([[1.0, 1.0]] * 4, [0, 1, 0, 1]))
    assert "in 50.0 % of 4 groups" in plots.say_margins([[1.0, 1.0]] * 4, [0, 1, 0, 1])


def test_learning_curve_draws_the_running_mean(rng):
    losses = rng.normal(1.2, 0.1, 100).tolist()
    ax = plots.plot_learning_curve(losses, [(50, 1.3, 0.4), (100, 1.1, 0.45)], best_step=100, window=10)
    smooth = ax.lines[1]
    np.testing.assert_allclose(smooth.get_ydata(), np.convolve(losses, np.ones(10) / 10, "valid"))
    assert smooth.get_xdata()[[0, -1]].tolist() == [10, 100]
    assert ax.lines[2].get_ydata() == pytest.approx([1.3, 1.1])


def test_learning_curve_sentence_and_short_runs():
    said = plots.say_learning_curve([2.0, 1.0], [], window=25)
    assert said == "Training loss from 1.50 to 1.50 (means of 25) in 2 steps."
    rendered(plots.plot_learning_curve([2.0, 1.0], [], window=25))
    with pytest.raises(ValueError, match="there are 0 losses and a window of 25: give at least one of each"):
        plots.say_learning_curve([], [])


def test_data_scaling_draws_points_band_and_levels():
    ax = plots.plot_data_scaling([100, 1000], [estimate(0.3), estimate(0.4)], {"chance": 0.25, "people": 0.42})
    assert ax.lines[0].get_ydata() == pytest.approx([0.3, 0.4])
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "1,000"]
    assert {line.get_linestyle() for line in ax.lines[1:]} == {"--", ":"}
    said = plots.say_data_scaling([100, 1000], [estimate(0.3), estimate(0.4)], {"chance": 0.25})
    assert said == "From 100 choices 30.0 % [25.0, 35.0], from 1,000 choices 40.0 % [35.0, 45.0]; chance 25.0 %."


@pytest.mark.parametrize("counts", [[], [100], [0, 100]])
def test_data_scaling_refuses(counts):
    with pytest.raises(ValueError, match=r"\d counts and \d estimates: give one each, all counts above 0\.$"):
        plots.plot_data_scaling(counts, [estimate(0.3), estimate(0.4)] if counts else [])
