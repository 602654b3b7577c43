"""Figures and their sentences: what is drawn is what was handed in, and both say the same."""

from __future__ import annotations

import io
import re
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from hpslib import plots
from hpslib.adaptation.selection import Selection
from hpslib.metrics.agreement import top1_accuracy
from hpslib.metrics.before_after import comparison_table
from hpslib.metrics.intervals import Estimate

NAN = float("nan")


@pytest.fixture(autouse=True)
def closed_figures():
    """Warnings (a missing letter, a clash of layout) are errors: a notebook would print them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with plt.rc_context():
            plots.theme()
            yield
    plt.close("all")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value, value - half, value + half, 500, 0.95)


def noise(rng, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def group(rng, prompt: str, n: int, chosen: int) -> dict:
    images = []
    for _ in range(n):
        file = io.BytesIO()
        noise(rng).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    return {"id": prompt, "prompt": prompt, "images": images, "human_preference": chosen}


def rendered(ax) -> np.ndarray:
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_small_images_are_shown_with_their_exact_pixels(rng):
    """At 1.92 inches and 100 dpi each of 64 pixels becomes a 3 x 3 block of the same colour."""
    image = noise(rng)
    canvas = rendered(plots.plot_images([image]))
    enlarged = np.asarray(image.resize((192, 192), Image.Resampling.NEAREST))
    middle = enlarged[3:-3, 3:-3]  # the edge may share a pixel with the background
    windows = np.lib.stride_tricks.sliding_window_view(canvas, middle.shape[:2], axis=(0, 1))
    difference = [
        np.abs(windows[y, x].transpose(1, 2, 0).astype(int) - middle).mean()
        for y in range(0, 40)
        for x in range(0, 40)
        if y < windows.shape[0] and x < windows.shape[1]
    ]
    assert min(difference) < 3


def test_images_keep_their_order_and_shape(rng):
    images = [noise(rng, (64, 64)), noise(rng, (64, 32)), noise(rng, (20, 40))]
    ax = plots.plot_images(images, columns=2)
    assert [shown.get_array().shape[:2] for shown in ax.images] == [(64, 64), (32, 64), (40, 20)]
    extents = [shown.get_extent() for shown in ax.images]
    ratios = [(right - left) / (bottom - top) for left, right, bottom, top in extents]
    assert ratios == pytest.approx([1, 2, 0.5])
    assert extents[1][0] > extents[0][1]  # beside
    assert extents[2][3] > extents[0][2]  # below


def test_large_images_are_not_shrunk_by_dropping_pixels(rng):
    ax = plots.plot_images([noise(rng, (64, 64)), noise(rng, (512, 512))])
    assert [shown.get_interpolation() for shown in ax.images] == ["nearest", "antialiased"]


def test_the_choice_is_marked_by_frame_and_word(rng):
    ax = plots.plot_images([noise(rng) for _ in range(5)], titles=list("abcde"), columns=2, chosen=[3])
    assert texts(ax) == ["a", "b", "c", "★ chosen, d", "e"]
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    left, right, _, top = ax.images[3].get_extent()
    assert {(f.get_x(), f.get_y(), f.get_width()) for f in frames} == {(left, top, right - left)}
    assert plots.say_images([noise(rng)] * 5, list("abcde"), [3]) == (
        "5 images of 64 x 64 pixels; chosen: image 3: a; b; c; d; e."
    )


def test_groups_show_prompts_images_and_choices(rng):
    rows = [group(rng, "a red critter", 4, 2), group(rng, "a sad critter", 2, 0)]
    ax = plots.plot_groups(rows)
    assert len(ax.images) == 6
    assert texts(ax) == ["a red critter", "★ chosen", "a sad critter", "★ chosen"]
    assert plots.say_groups(rows) == (
        '"a red critter": 4 images, image 2 chosen (from 0).\n"a sad critter": 2 images, image 0 chosen (from 0).'
    )


def test_odd_prompts_are_drawn_without_formulas_or_warnings(rng):
    ax = plots.plot_groups([group(rng, "costs $5 or $x^$ \\frac <b> 🦄 שלום عربى\n日本", 2, 0)])
    rendered(ax)
    assert "$5 or $x^$ \\frac <b>" in texts(ax)[0]
    assert "🦄" not in texts(ax)[0]


def test_long_prompts_end_in_an_ellipsis_but_are_said_in_full(rng):
    rows = [group(rng, "word " * 200, 2, 0)]
    heading = texts(plots.plot_groups(rows))[0]
    assert heading.endswith("…")
    assert heading.count("\n") == 2
    assert plots.say_groups(rows).count("word") == 200


def test_before_after_has_prompts_as_rows_and_conditions_as_columns(rng):
    base, adapted = [noise(rng), noise(rng)], [noise(rng), noise(rng)]
    ax = plots.plot_before_after(
        {"base": base, "adapted": adapted}, ["one", "two"], notes={"adapted": ["20.1", "20.2"]}
    )
    expected = [base[0], adapted[0], base[1], adapted[1]]
    for shown, image in zip(ax.images, expected):
        np.testing.assert_array_equal(shown.get_array(), np.asarray(image))
    assert texts(ax) == ["base", "adapted", "one", "20.1", "two", "20.2"]
    assert plots.say_before_after({"base": base, "adapted": adapted}, ["one", "two"]) == (
        'Columns: base, adapted. Rows, each with one noise for all columns: "one"; "two".'
    )


def test_pictures_refuse_with_a_sentence(rng):
    with pytest.raises(ValueError, match="there are 0 images for 4 columns"):
        plots.plot_images([])
    with pytest.raises(ValueError, match="titles has 1 entries for 2 images"):
        plots.plot_images([noise(rng)] * 2, titles=["one"])
    with pytest.raises(ValueError, match="there is no group to show"):
        plots.plot_groups([])
    with pytest.raises(ValueError, match="condition 'adapted' has 1 images for 2 prompts"):
        plots.plot_before_after({"base": [noise(rng)] * 2, "adapted": [noise(rng)]}, ["one", "two"])


# --- bars ------------------------------------------------------------------------------------------------------------


def test_positions_draw_shares_and_chance():
    ax = plots.plot_positions([20, 30, 50])
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.2, 0.3, 0.5])
    assert ax.get_legend_handles_labels()[1] == ["chance, 1/3"]
    assert "position 2 got 50.0 % [40.4, 59.6]; chance is 33.3 %." in plots.say_positions([20, 30, 50])


@pytest.mark.parametrize("counts", [[5], [0, 0]])
def test_positions_refuse_no_choice(counts):
    with pytest.raises(ValueError, match="must hold at least two positions and one choice"):
        plots.plot_positions(counts)


def test_accuracy_draws_bars_intervals_chance_and_quotes():
    ax = plots.plot_accuracy({"CLIP": estimate(0.3), "HPS": estimate(0.45)}, chance=0.26, quoted={"HPS": 0.435})
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.3, 0.45])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CLIP", "HPS"]
    ends = [line for collection in ax.collections for line in collection.get_segments()]
    assert [line[:, 0].tolist() for line in ends] == [pytest.approx([0.25, 0.35]), pytest.approx([0.4, 0.5])]
    (quote,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert (quote.get_xdata()[0], quote.get_ydata()[0]) == (0.435, 1)
    assert ax.get_legend_handles_labels()[1] == ["chance, 26.0 %", "quoted from the paper (other data)"]
    assert texts(ax) == ["30.0 %", "45.0 %"]


def test_accuracy_sentence():
    said = plots.say_accuracy({"CLIP": estimate(0.3), "HPS": estimate(0.45)}, 0.26, {"HPS": 0.435}, decimals=0)
    assert said == "CLIP 30 % [25, 35]; HPS 45 % [40, 50] (quoted from the paper: 43.5 %); chance 26 %."


def test_an_estimate_outside_its_interval_can_be_drawn():
    rendered(plots.plot_accuracy({"odd": Estimate(0.5, 0.6, 0.7, 10, 0.95)}))


def test_accuracy_refuses_quotes_without_a_bar_and_no_bar():
    with pytest.raises(ValueError, match="the quoted 'HPS' has no bar; the names are CLIP"):
        plots.plot_accuracy({"CLIP": estimate(0.3)}, quoted={"HPS": 0.435})
    with pytest.raises(ValueError, match="there is no estimate to show"):
        plots.say_accuracy({})


# --- distributions ---------------------------------------------------------------------------------------------------


def made_scores(rng, n=200):
    sizes = rng.integers(2, 5, n)
    return [rng.normal(20, 1, size) for size in sizes], rng.integers(0, sizes)


def test_scores_sentence_has_the_moments(rng):
    scores, choices = made_scores(rng)
    chosen = np.array([s[c] for s, c in zip(scores, choices)])
    said = plots.say_scores(scores, choices)
    assert f"chosen {chosen.mean():.2f} (sd {chosen.std():.2f}, 200 images)" in said
    assert f"{sum(map(len, scores)) - 200} images" in said
    ax = plots.plot_scores(scores, choices)
    means = [line.get_xdata()[0] for line in ax.lines]
    assert pytest.approx(chosen.mean()) in means


def test_margins_agree_with_top1_accuracy(rng):
    scores, choices = made_scores(rng)
    accuracy = top1_accuracy(scores, choices).value
    assert f"in {100 * accuracy:.1f} % of 200 groups" in plots.say_margins(scores, choices)
    ax = plots.plot_margins(scores, choices)
    right = sum(bar.get_height() for bar in ax.patches if bar.get_x() >= -1e-9)
    assert right == round(accuracy * 200)
    assert sum(bar.get_height() for bar in ax.patches) == 200


def test_groups_without_finite_scores_are_counted_not_hidden():
    said = plots.say_margins([[1.0, 0.0], [NAN, 1.0], [2.0, 1.0]], [0, 0, 0])
    assert said.endswith("; 1 groups with a score that is not finite are left out.")
    with pytest.raises(ValueError, match="every group holds a score that is not finite"):
        plots.plot_scores([[NAN, 1.0]], [0])


def test_constant_scores_can_be_drawn():
    rendered(plots.plot_margins([[1.0, 1.0]] * 4, [0, 1, 0, 1]))
    rendered(plots.plot_scores([[1.0, 1.0]] * 4, [0, 1, 0, 1]))
    assert "in 50.0 % of 4 groups" in plots.say_margins([[1.0, 1.0]] * 4, [0, 1, 0, 1])


# --- learning --------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="there are 0 losses and a window of 25"):
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
    with pytest.raises(ValueError, match="give one each, all counts above 0"):
        plots.plot_data_scaling(counts, [estimate(0.3), estimate(0.4)] if counts else [])


# --- effects, selection, conditions ----------------------------------------------------------------------------------


def test_flaw_effects_are_ordered_and_hollow_where_undecided():
    effects = {"mouth": estimate(-0.02), "smear": estimate(-0.9), "eyes": estimate(-0.4)}
    ax = plots.plot_flaw_effects(effects)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["smear", "eyes", "mouth"]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, False, True]
    assert plots.say_flaw_effects(effects) == (
        "smear -0.90 [-0.95, -0.85]; eyes -0.40 [-0.45, -0.35]; mouth -0.02 [-0.07, 0.03] (interval holds 0)."
    )
    low, high = ax.get_ylim()
    assert low > high  # strongest on top


def test_selection_draws_its_counts():
    selection = Selection(np.arange(5), np.arange(3), groups=20, too_small=4, neither=9)
    ax = plots.plot_selection(selection)
    assert [bar.get_width() for bar in ax.patches] == [5, 3, 9, 4]
    assert texts(ax) == ["5", "3", "9", "4"]
    assert "20 groups: 5 preferred and 3 non-preferred images" in plots.say_selection(selection)


def test_conditions_are_read_from_the_table(rng):
    base = rng.normal(20, 1, 50)
    conditions = {"base": {"hps": base}, "adapted": {"hps": base + rng.normal(1, 0.1, 50)}}
    table = comparison_table(conditions, "base", utility="hps")
    ax = plots.plot_conditions(table, "hps")
    points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert points == table["hps_diff"].tolist()
    assert "adapted 0.98" in plots.say_conditions(table, "hps") or "adapted 1.0" in plots.say_conditions(table, "hps")
    wins = plots.plot_conditions(table, "win_rate")
    assert [line.get_xdata()[0] for line in wins.lines if line.get_marker() == "o"] == [0.5, 1.0]
    assert plots.say_conditions(table, "win_rate").startswith("Win rate against the base: base 0.500 ")
    with pytest.raises(ValueError, match="the table has no measure 'clip'; it has hps, win_rate"):
        plots.plot_conditions(table, "clip")


# --- all -------------------------------------------------------------------------------------------------------------


def every_chart(rng) -> dict:
    scores, choices = made_scores(rng, 40)
    table = comparison_table({"base": {"hps": [1.0, 2.0]}, "new": {"hps": [2.0, 2.5]}}, "base")
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
        "conditions": lambda ax: plots.plot_conditions(table, "hps", ax=ax),
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
