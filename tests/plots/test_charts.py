"""Charts of estimates and counts: what is drawn is what was handed in, and the sentence says the same."""

from __future__ import annotations

import numpy as np
import pytest
from figures import estimate, rendered, texts

from hpslib import plots
from hpslib.adaptation.selection import Selection
from hpslib.metrics.intervals import Estimate


def test_positions_draw_shares_and_chance():
    ax = plots.plot_positions([20, 30, 50])
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.2, 0.3, 0.5])
    assert ax.get_legend_handles_labels()[1] == ["chance, 1/3"]
    assert "position 2 got 50.0 % [40.4, 59.6]; chance is 33.3 %." in plots.say_positions([20, 30, 50])


@pytest.mark.parametrize("counts", [[5], [0, 0]])
def test_positions_refuse_no_choice(counts):
    with pytest.raises(
        ValueError, match=r"^the counts \[.*\] hold no choice between positions: give two or more, one above 0\.$"
    ):
        plots.plot_positions(counts)


def test_accuracy_draws_bars_intervals_and_chance():
    ax = plots.plot_accuracy({"CLIP": estimate(0.3), "HPS": estimate(0.45)}, chance=0.26)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.3, 0.45])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CLIP", "HPS"]
    ends = [line for collection in ax.collections for line in collection.get_segments()]
    assert [line[:, 0].tolist() for line in ends] == [pytest.approx([0.25, 0.35]), pytest.approx([0.4, 0.5])]
    assert ax.get_legend_handles_labels()[1] == ["chance, 26.0 %"]
    assert texts(ax) == ["30.0 % (+4.0)", "45.0 % (+19.0)", "ours\n(over chance)"]


def test_what_the_paper_measured_elsewhere_has_a_column_and_no_place_on_our_axis():
    estimates = {"CLIP": estimate(0.3), "HPS": estimate(0.45)}
    ax = plots.plot_accuracy(estimates, chance=0.3, quoted={"HPS": 0.435}, quoted_chance=0.261)
    assert texts(ax)[3:] == ["43.5 % (+17.4)", "paper, quoted\n(over its chance)"]
    assert 0.435 not in [x for line in ax.lines for x in line.get_xdata()]
    rendered(ax)
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert all(box.x1 <= ax.figure.bbox.x1 for box in boxes), "a column runs out of the figure"
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k]), "two numbers touch"


def test_accuracy_sentence():
    estimates, quoted = {"CLIP": estimate(0.3), "HPS": estimate(0.45)}, {"HPS": 0.435}
    said = plots.say_accuracy(estimates, 0.26, quoted, decimals=0)
    assert said == "CLIP 30 % [25, 35]; HPS 45 % [40, 50] (quoted from the paper: 43.5 %); chance 26 %."
    said = plots.say_accuracy(estimates, 0.3, quoted, 0.261, decimals=0)
    assert said.endswith("chance 30 % (quoted from the paper: 26.1 %).")


def test_an_estimate_outside_its_interval_can_be_drawn():
    rendered(plots.plot_accuracy({"odd": Estimate(0.5, 0.6, 0.7, 10, 0.95)}))


def test_accuracy_refuses_quotes_without_a_bar_and_no_bar():
    with pytest.raises(ValueError, match=r"^the quoted 'HPS' has no bar: use one of the names CLIP\.$"):
        plots.plot_accuracy({"CLIP": estimate(0.3)}, quoted={"HPS": 0.435})
    with pytest.raises(ValueError, match=r"^there is no estimate to show: give at least one name with its Estimate\.$"):
        plots.say_accuracy({})


def test_flaw_effects_are_ordered_and_hollow_where_undecided():
    effects = {"mouth": estimate(-0.02), "smear": estimate(-0.9), "eyes": estimate(-0.4)}
    ax = plots.plot_flaw_effects(effects)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["smear", "eyes", "mouth"]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, False, True]
    assert plots.say_flaw_effects(effects) == (
        "smear -0.90 [-0.95, -0.85]; eyes -0.40 [-0.45, -0.35]; mouth -0.02 [-0.07, 0.03] (interval includes 0)."
    )
    low, high = ax.get_ylim()
    assert low > high  # strongest on top


def test_selection_draws_its_counts():
    selection = Selection(np.arange(5), np.arange(3), groups=20, too_small=4, neither=9)
    ax = plots.plot_selection(selection)
    assert [bar.get_width() for bar in ax.patches] == [5, 3, 9, 4]
    assert texts(ax) == ["5", "3", "9", "4"]
    assert "20 groups: 5 preferred and 3 non-preferred images" in plots.say_selection(selection)
