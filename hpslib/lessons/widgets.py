"""Small widgets of ipywidgets: look through groups, compare two images blindly, turn one knob.

They work by traits alone (no ``Output``, no ``interact``), so that a notebook that holds them can be compared strictly
and tested without a browser: set a trait or call ``button.click()``. Each prints as a sentence, which is also what
readers see where widgets do not run; for a figure there, use :func:`static_group`.

Prompts are text somebody else wrote: they are escaped before they become HTML. Images carry an ``alt`` text, the chosen
one the word "chosen", buttons and sliders work from the keyboard, and each slider bears its label as its name.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from hpslib.data.preferences import load_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from PIL import Image

__all__ = [
    "Comparison",
    "Told",
    "browse_groups",
    "compare",
    "image_html",
    "png_address",
    "score_slider",
    "static_group",
]

_TEXT_LIMIT = 110  # ipywidgets cuts the text form of a widget there


class _Names(anywidget.AnyWidget):
    """Unseen; it gives the sliders of its box their names and the arrow keys, which ipywidgets does not."""

    _esm = Path(__file__).with_name("names.js")


class Told(widgets.VBox):
    """A VBox that prints as the sentence in ``told``, not as the source of its children: the same on every run.

    Where it holds sliders, a last child that nobody sees gives them their names.
    """

    told = traitlets.Unicode("")

    def __init__(self, children: Sequence[widgets.Widget] = (), **traits: Any) -> None:
        if any(isinstance(child, widgets.IntSlider | widgets.FloatSlider) for child in children):
            children = [*children, _Names()]
        super().__init__(children, **traits)

    def __repr__(self) -> str:
        return self.told if len(self.told) <= _TEXT_LIMIT else self.told[: _TEXT_LIMIT - 1] + "…"


class Comparison(Told):
    """The widget of :func:`compare`.

    ``votes`` holds one number per pair voted on, in order: -1 for the pair's first image, +1 for its second.
    ``flipped`` says for each pair whether its second image stood on the left.
    """

    votes = traitlets.List(traitlets.Int())
    flipped = traitlets.List(traitlets.Bool())


def png_address(image: Image.Image | bytes) -> str:
    """An image, or the bytes of a PNG, as an address that holds it."""
    if not isinstance(image, bytes):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def image_html(image: Image.Image, alt: str, width: int = 192) -> str:
    """An ``<img>`` element with the image inside as PNG, ``width`` pixels wide; ``alt`` is escaped.

    Smaller images are enlarged with hard pixels, larger ones shrunk first. Raises ``ValueError`` when ``width`` is
    below 1.

    >>> from PIL import Image
    >>> image_html(Image.new("RGB", (2, 2)), 'a "red" <critter>')[:44]
    '<img alt="a &quot;red&quot; &lt;critter&gt;"'
    """
    if width < 1:
        raise ValueError(f"the width is {width}: give at least 1 pixel.")
    shown = image.convert("RGB")
    if shown.width > width:
        shown = shown.resize((width, max(1, round(shown.height * width / shown.width))))
    style = f"width: {width}px; max-width: 100%; image-rendering: pixelated"
    return f'<img alt="{html.escape(alt)}" src="{png_address(shown)}" style="{style}">'


def browse_groups(
    groups: Sequence[Mapping[str, Any]], start: int = 0, root: str | Path | None = None, width: int = 160
) -> Told:
    """A slider through preference groups, each shown with its prompt and images, the chosen one named so.

    ``groups`` is a preference dataset or a list of its rows, ``root`` the folder of image files, ``width`` that of an
    image in pixels. Only the group in view is decoded. The first two children are the slider and the HTML.

    Raises ``ValueError`` when there is no group or ``start`` is out of range, and what
    :func:`hpslib.data.preferences.load_images` raises for the first group; a later group that cannot be opened shows
    that message in its place.
    """
    count = len(groups)
    if count == 0:
        raise ValueError("there is no group to browse: give at least one row of a preference dataset.")
    if not 0 <= start < count:
        raise ValueError(f"there is no group {start} to start with: give a number from 0 to {count - 1}.")
    slider = widgets.IntSlider(start, 0, count - 1, description="group", continuous_update=False)
    view = widgets.HTML(_group_html(groups[start], root, width))
    box = Told([slider, view], told=_tell_group(groups[start], start, count))

    def show(change: dict[str, Any]) -> None:
        group = groups[change["new"]]
        try:
            view.value = _group_html(group, root, width)
        except (FileNotFoundError, ValueError) as error:
            view.value = f'<p role="alert">{html.escape(str(error))}</p>'
        box.told = _tell_group(group, change["new"], count)

    slider.observe(show, "value")
    return box


def _group_html(group: Mapping[str, Any], root: str | Path | None, width: int) -> str:
    figures = []
    chosen, images = group["human_preference"], load_images(group, root)
    for k, image in enumerate(images):
        mark = ", chosen" if k == chosen else ""
        frame = "outline: 4px solid #de8f05; outline-offset: -1px" if mark else ""
        caption = f"<b>image {k}, ★ chosen</b>" if mark else f"image {k}"
        element = image_html(image, f"image {k} of {len(images)}{mark}, for the prompt: {group['prompt']}", width)
        figures.append(
            f'<figure style="margin: 4px"><div style="{frame}">{element}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'{_prompt_html(group["prompt"])}<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>'


def _prompt_html(prompt: str) -> str:
    # dir="auto" lets right-to-left prompts run their own way; the classes keep MathJax off dollar signs.
    return f'<p dir="auto" class="tex2jax_ignore mathjax_ignore">{html.escape(prompt)}</p>'


def _tell_group(group: Mapping[str, Any], number: int, count: int) -> str:
    images, chosen = len(group["images"]), group["human_preference"]
    return f'Group {number} of 0 to {count - 1}, {images} images, image {chosen} chosen: "{group["prompt"]}"'


def static_group(group: Mapping[str, Any], root: str | Path | None = None) -> Axes:
    """The same group as a figure, for readers without widgets; see :func:`hpslib.plots.grids.plot_groups`."""
    from hpslib.plots.grids import plot_groups

    return plot_groups([group], root)


def compare(
    pairs: Sequence[tuple[Image.Image, Image.Image]],
    prompts: Sequence[str],
    on_vote: Callable[[list[int]], None] | None = None,
    seed: int | np.random.Generator | None = 0,
    width: int = 224,
) -> Comparison:
    """A blind vote: two images of one prompt, a button for each, and Undo.

    Which image of a pair stands on the left is drawn from ``seed`` (``None`` keeps the order, which is blind only if
    the pairs are already mixed). The widget's ``votes`` count back to the order of the pairs: -1 the first image, +1
    the second, as :func:`hpslib.metrics.before_after.majority_votes` takes them. ``on_vote`` is called with a copy of
    all votes after each vote and each Undo. Children: progress, images, buttons (left, right, Undo).

    Raises ``ValueError`` for no pair, a pair that is not two images, or not one prompt per pair.
    """
    if len(pairs) == 0 or len(pairs) != len(prompts):
        raise ValueError(
            f"there are {len(pairs)} pairs and {len(prompts)} prompts: give one prompt per pair, and at least one."
        )
    wrong = [k for k, pair in enumerate(pairs) if len(pair) != 2]
    if wrong:
        raise ValueError(f"pair {wrong[0]} holds {len(pairs[wrong[0]])} images: give 2 to compare.")
    coins = np.zeros(len(pairs)) if seed is None else np.random.default_rng(seed).integers(2, size=len(pairs))
    progress, view = widgets.HTML(), widgets.HTML()
    left = widgets.Button(description="Left is better", icon="arrow-left")
    right = widgets.Button(description="Right is better", icon="arrow-right")
    undo = widgets.Button(description="Undo", icon="undo", tooltip="Take the last vote back")
    box = Comparison([progress, view, widgets.HBox([left, right, undo])], flipped=[bool(coin) for coin in coins])

    def show() -> None:
        k, total = len(box.votes), len(pairs)
        done = k == total
        left.disabled = right.disabled = done
        undo.disabled = k == 0
        box.told = f"{k} of {total} pairs voted on." if k else f"{total} pair{'s' * (total > 1)} to vote on."
        progress.value = _status(f"Done: {total} of {total} pairs, thank you." if done else f"Pair {k + 1} of {total}")
        view.value = "" if done else _pair_html(pairs[k], box.flipped[k], prompts[k], width)

    def set_votes(votes: list[int]) -> None:
        box.votes = votes
        show()
        if on_vote is not None:
            on_vote(list(votes))

    def vote(side: int) -> None:  # -1 left, +1 right
        if len(box.votes) < len(pairs):
            set_votes([*box.votes, -side if box.flipped[len(box.votes)] else side])

    def take_back(_: widgets.Button) -> None:
        if box.votes:
            set_votes(box.votes[:-1])

    left.on_click(lambda _: vote(-1))
    right.on_click(lambda _: vote(+1))
    undo.on_click(take_back)
    show()
    return box


def _pair_html(pair: tuple[Image.Image, Image.Image], flipped: bool, prompt: str, width: int) -> str:
    ordered = (pair[1], pair[0]) if flipped else pair
    elements = [
        image_html(image, f"{side} image for the prompt: {prompt}", width)
        for side, image in zip(("left", "right"), ordered)
    ]
    return f'{_prompt_html(prompt)}<div style="display: flex; gap: 12px">{"".join(elements)}</div>'


def score_slider(
    say: Callable[[float], str], minimum: float, maximum: float, value: float, step: float = 0.1, name: str = "value"
) -> Told:
    """One knob: a slider and the sentence that ``say`` makes of its value.

    ``say`` must be pure (the same value, the same text); its text is shown as text, never as HTML. With whole
    ``minimum``, ``maximum``, ``value`` and ``step`` (ints) the slider is one of whole numbers. The first two children
    are the slider and the HTML. Raises ``ValueError`` unless ``minimum <= value <= maximum`` and ``step`` is above 0.

    >>> knob = score_slider(lambda margin: f"A margin of {margin} leaves 12 pairs.", 0, 10, 3, step=1, name="margin")
    >>> knob.children[0].value = 4
    >>> knob
    A margin of 4 leaves 12 pairs.
    """
    if not (minimum < maximum and minimum <= value <= maximum and step > 0):
        raise ValueError(
            f"the slider goes from {minimum} to {maximum}, starts at {value} and moves by {step}: give a minimum below "
            "the maximum, a value between and a step above 0."
        )
    whole = all(isinstance(number, int | np.integer) for number in (minimum, maximum, value, step))
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    slider = kind(value=value, min=minimum, max=maximum, step=step, description=name, continuous_update=False)
    text = say(value)
    label = widgets.HTML(_status(text))
    box = Told([slider, label], told=text)

    def show(change: dict[str, Any]) -> None:
        box.told = say(change["new"])
        label.value = _status(box.told)

    slider.observe(show, "value")
    return box


def _status(text: str) -> str:
    """A line that screen readers announce when it changes."""
    return f'<p role="status" aria-live="polite" class="tex2jax_ignore mathjax_ignore">{html.escape(text)}</p>'
