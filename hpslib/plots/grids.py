"""Figures made of images: grids, preference groups with the choice marked, before and after side by side.

What all figures have in common is said in :mod:`hpslib.plots`. Text is drawn in matplotlib's own font; ``$`` is no
formula, and letters it cannot draw become a diamond.
"""

from __future__ import annotations

import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.patches import Rectangle

from hpslib.data.preferences import load_images

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from PIL import Image

__all__ = [
    "FONT",
    "plot_before_after",
    "plot_groups",
    "plot_images",
    "say_before_after",
    "say_groups",
    "say_images",
]

FONT = "DejaVu Sans"  #: ships with matplotlib: the same letters, hence the same figure, on every machine
_LINE = 0.19  # inches per line of text
_FRAME = "#de8f05"  # orange of seaborn's "colorblind"


def plot_images(
    images: Sequence[Image.Image],
    titles: Sequence[str] | None = None,
    columns: int = 4,
    chosen: Collection[int] = (),
    inches: float = 1.92,
    ax: Axes | None = None,
) -> Axes:
    """Images in rows of ``columns``, each ``inches`` wide, pixels kept square when enlarged.

    ``titles`` stand below the images, one each; the indices in ``chosen`` get a frame and a star. At 1.92 inches and
    100 dpi a 64-pixel image is shown exactly three times as large. Raises ``ValueError`` on no image or unequal
    lengths.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"there are {len(images)} images for {columns} columns: give at least one of each.")
    notes = _one_each(titles, len(images), "titles")
    starts = range(0, len(images), columns)
    return _grid(
        [images[k : k + columns] for k in starts],
        [notes[k : k + columns] for k in starts],
        [{i - k for i in chosen} for k in starts],
        [""] * len(starts),
        inches,
        ax,
    )


def say_images(images: Sequence[Image.Image], titles: Sequence[str] | None = None, chosen: Collection[int] = ()) -> str:
    """How many images of which size, which are chosen, and their titles.

    >>> from PIL import Image
    >>> say_images([Image.new("RGB", (64, 64))] * 3, chosen=[1])
    '3 images of 64 x 64 pixels; chosen: image 1.'
    """
    sizes = sorted({image.size for image in images})
    text = f"{len(images)} images of {' and '.join(f'{w} x {h}' for w, h in sizes)} pixels"
    if len(chosen):
        text += f"; chosen: image {', '.join(str(i) for i in sorted(chosen))}"
    return text + (": " + "; ".join(titles) if titles is not None else "") + "."


def plot_groups(
    groups: Sequence[Mapping[str, Any]],
    root: str | Path | None = None,
    inches: float = 1.6,
    ax: Axes | None = None,
) -> Axes:
    """Preference groups, one row each: the prompt, then its images, the chosen one framed and starred.

    ``groups`` are rows of a preference dataset, ``root`` the folder of image files. Prompts over three lines end in an
    ellipsis; :func:`say_groups` has them in full. Raises ``ValueError`` when there is no group, and what
    :func:`hpslib.data.preferences.load_images` raises.
    """
    groups = list(groups)
    if not groups:
        raise ValueError("there is no group to show: give at least one row of a preference dataset.")
    rows = [load_images(group, root) for group in groups]
    notes = [[""] * len(row) for row in rows]
    chosen = [{int(group["human_preference"])} for group in groups]
    return _grid(rows, notes, chosen, [str(group["prompt"]) for group in groups], inches, ax)


def say_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """Each group's prompt, number of images and choice, one line each.

    >>> say_groups([{"prompt": "a red critter", "images": [{}, {}], "human_preference": 1}])
    '"a red critter": 2 images, image 1 chosen (from 0).'
    """
    return "\n".join(
        f'"{group["prompt"]}": {len(group["images"])} images, image {group["human_preference"]} chosen (from 0).'
        for group in groups
    )


def plot_before_after(
    conditions: Mapping[str, Sequence[Image.Image]],
    prompts: Sequence[str],
    notes: Mapping[str, Sequence[str]] | None = None,
    inches: float = 1.6,
    ax: Axes | None = None,
) -> Axes:
    """Columns are conditions, rows are prompts; the images of a row share prompt and noise.

    ``conditions`` maps a name to one image per prompt; ``notes`` may give some conditions a short text under each
    image, such as its score. Raises ``ValueError`` when a condition has not one image per prompt.
    """
    if not conditions or not prompts:
        raise ValueError("there is nothing to compare: give at least one condition and one prompt.")
    for name, images in conditions.items():
        if len(images) != len(prompts):
            raise ValueError(f"condition {name!r} has {len(images)} images for {len(prompts)} prompts: give one each.")
    captions = [_one_each((notes or {}).get(name), len(prompts), f"notes[{name!r}]") for name in conditions]
    rows = [list(row) for row in zip(*conditions.values())]
    marks: list[set[int]] = [set() for _ in rows]
    return _grid(rows, [list(row) for row in zip(*captions)], marks, list(prompts), inches, ax, list(conditions))


def say_before_after(conditions: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str]) -> str:
    """What stands in the columns and rows.

    >>> say_before_after({"base": [None], "adapted": [None]}, ["a red critter"])
    'Columns: base, adapted. Rows, each with one noise for all columns: "a red critter".'
    """
    quoted = "; ".join(f'"{prompt}"' for prompt in prompts)
    return f"Columns: {', '.join(conditions)}. Rows, each with one noise for all columns: {quoted}."


def _grid(
    rows: Sequence[Sequence[Image.Image]],
    notes: Sequence[Sequence[str]],
    chosen: Sequence[Collection[int]],
    headings: Sequence[str],
    inches: float,
    ax: Axes | None,
    columns: Sequence[str] = (),
) -> Axes:
    """Lay out images in one Axes whose unit is the inch, y pointing down."""
    gap, width = 0.14, max(len(row) for row in rows)
    total = width * (inches + gap) + gap
    y, places = 0.08, []
    column_lines = [_wrapped(name, inches, 2) for name in columns]
    y_columns, y = y, y + _LINE * max((len(lines) for lines in column_lines), default=0)
    for captions, marked, heading in zip(notes, chosen, headings):
        lines = _wrapped(heading, total - 2 * gap, 3)
        texts = [_with_star(note) if k in marked else note for k, note in enumerate(captions)]
        lines_below = [_wrapped(text, inches, 2) for text in texts]
        places.append((y, lines, lines_below))
        y += _LINE * (len(lines) + max(len(entry) for entry in lines_below)) + inches + 0.16
    if ax is None:
        ax = plt.figure(figsize=(total, y)).add_axes((0, 0, 1, 1))
    style: dict[str, Any] = {"fontsize": 9, "fontfamily": FONT, "color": "black", "va": "top", "parse_math": False}
    for k, lines in enumerate(column_lines):
        centre = gap + k * (inches + gap) + inches / 2
        ax.text(centre, y_columns, "\n".join(lines), ha="center", fontweight="bold", **style)
    for row, marked, (top, lines, lines_below) in zip(rows, chosen, places):
        ax.text(gap, top, "\n".join(lines), ha="left", **style)
        top += _LINE * len(lines) + 0.03
        for k, (image, entry) in enumerate(zip(row, lines_below)):
            left = gap + k * (inches + gap)
            _place(ax, image, left, top, inches)
            if k in marked:
                ax.add_patch(Rectangle((left, top), inches, inches, fill=False, edgecolor="black", linewidth=5))
                ax.add_patch(Rectangle((left, top), inches, inches, fill=False, edgecolor=_FRAME, linewidth=3))
            ax.text(left + inches / 2, top + inches + 0.05, "\n".join(entry), ha="center", **style)
    ax.set(xlim=(0, total), ylim=(y, 0), aspect="equal")
    ax.set_axis_off()
    return ax


def _place(ax: Axes, image: Image.Image, left: float, top: float, inches: float) -> None:
    """The whole image, undistorted, centred in its square."""
    width, height = (inches * side / max(image.size) for side in image.size)
    x, y = left + (inches - width) / 2, top + (inches - height) / 2
    enlarged = max(image.size) <= inches * ax.figure.dpi  # shrinking by dropping pixels would fake flaws
    ax.imshow(
        np.asarray(image.convert("RGB")),
        extent=(x, x + width, y + height, y),
        interpolation="nearest" if enlarged else "antialiased",
    )


def _with_star(note: str) -> str:
    return f"★ chosen, {note}" if note else "★ chosen"


def _wrapped(text: str, inches: float, max_lines: int) -> list[str]:
    """Text as lines that fit, letters without a glyph replaced: they would draw boxes and print warnings."""
    known = _glyphs()
    shown = "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    width = max(4, int(inches * 12.5))  # letters of 9 points per inch
    return textwrap.wrap(shown, width, max_lines=max_lines, placeholder=" …")


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(
        font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[FONT]))).get_charmap()
    )


def _one_each(texts: Sequence[str] | None, n: int, name: str) -> list[str]:
    if texts is not None and len(texts) != n:
        raise ValueError(f"{name} has {len(texts)} entries for {n} images: give one each.")
    return [""] * n if texts is None else [str(text) for text in texts]
