"""Figures made of images: what is drawn is what was handed in, and the sentence says the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from figures import noise, rendered, texts
from matplotlib.patches import Rectangle
from PIL import Image

from hpslib import plots


def group(rng, prompt: str, n: int, chosen: int) -> dict:
    images = []
    for _ in range(n):
        file = io.BytesIO()
        noise(rng).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    return {"id": prompt, "prompt": prompt, "images": images, "human_preference": chosen}


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


def test_grids_refuse_with_a_sentence(rng):
    with pytest.raises(ValueError, match="there are 0 images for 4 columns: give at least one of each"):
        plots.plot_images([])
    with pytest.raises(ValueError, match="titles has 1 entries for 2 images: give one each"):
        plots.plot_images([noise(rng)] * 2, titles=["one"])
    with pytest.raises(ValueError, match="there is no group to show: give at least one row"):
        plots.plot_groups([])
    with pytest.raises(ValueError, match="condition 'adapted' has 1 images for 2 prompts: give one each"):
        plots.plot_before_after({"base": [noise(rng)] * 2, "adapted": [noise(rng)]}, ["one", "two"])
