"""Two laboratories as widgets: turn the knobs of the identifier trick, and those of the selection rule.

:func:`identifier_lab` makes the same images again, from the same noise, with another guidance scale, LoRA weight or
negative prompt, and says under each what that did to its scores. :func:`selection_explorer` shows what the paper's rule
keeps when its threshold, the group size or the blur filter change. Both work by traits alone, like
:mod:`hpslib.lessons.widgets`, and print as a sentence.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np

from hpslib.adaptation.selection import IDENTIFIER, Selection, select
from hpslib.lessons.widgets import Told, image_html

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["identifier_lab", "selection_explorer"]

_LINE = '<p role="status" aria-live="polite" class="tex2jax_ignore mathjax_ignore">{}</p>'


def identifier_lab(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    measure: Callable[[Sequence[Image.Image]], Mapping[str, np.ndarray]],
    *,
    steps: int,
    guidance_scale: float,
    adapter: str | None = None,
    width: int = 128,
) -> Told:
    """Sliders for guidance scale and LoRA weight, a box and a text for the identifier as negative prompt.

    ``pipe`` is a ``StableDiffusionPipeline``, ``adapter`` the name of the LoRA loaded into it (none: no such slider).
    ``measure`` takes the images and gives flat arrays by name, such as HPS and a simulated rater's utility. Under
    each image stands its value and the change to the same noise without LoRA and identifier at the same guidance
    scale, which is made once per guidance scale. Children: guidance, weight, box, text, line, images.

    Raises ``ValueError`` when the lengths differ or the adapter is not loaded.
    """
    from hpslib.adaptation.sampling import generate
    from hpslib.data.images.lazy import to_images

    if len(prompts) != len(seeds) or not prompts:
        raise ValueError(
            f"there are {len(prompts)} prompts but {len(seeds)} seeds: hand over one seed for each prompt."
        )
    if adapter is not None and adapter not in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(f"the pipeline has no LoRA called {adapter!r}: call hpslib.adaptation.lora.load_lora first.")
    lazily = {"continuous_update": False, "style": {"description_width": "initial"}}
    guidance = widgets.FloatSlider(guidance_scale, min=1.0, max=10.0, step=0.5, description="guidance scale", **lazily)
    weight = widgets.FloatSlider(1.0, min=0.0, max=1.5, step=0.25, description="LoRA weight", **lazily)
    negative = widgets.Checkbox(value=True, description="identifier as negative prompt", indent=False)
    identifier = widgets.Text(value=IDENTIFIER, description="identifier", continuous_update=False)
    line, view = widgets.HTML(), widgets.HTML()
    knobs = [guidance, *([weight] if adapter is not None else []), negative, identifier]
    box = Told([*knobs, line, view])
    plain: dict[float, Mapping[str, np.ndarray]] = {}

    def make(scale: float, text: str, share: float) -> list[Image.Image]:
        if adapter is not None:
            pipe.set_adapters([adapter], [share])
        pixels = generate(
            pipe, prompts, seeds, steps=steps, guidance_scale=scale, negative_prompt=text if scale > 1 else ""
        )
        return to_images(pixels)

    def show(_: Any = None) -> None:
        scale, text = guidance.value, identifier.value if negative.value else ""
        if scale not in plain:
            plain[scale] = measure(make(scale, "", 0.0))
        images = make(scale, text, weight.value)
        after, before = measure(images), plain[scale]
        change = {name: float(np.mean(values - before[name])) for name, values in after.items()}
        changes = ", ".join(f"{name} {value:+.2f}" for name, value in change.items())
        box.told = f"Mean change against the base at guidance {scale:g}: {changes}."
        line.value = _LINE.format(html.escape(box.told))
        view.value = _figures(
            images,
            [_under(k, after, before) for k in range(len(images))],
            [f"picture {k + 1} for the prompt: {prompt}" for k, prompt in enumerate(prompts)],
            width,
        )

    for knob in knobs:
        knob.observe(show, "value")
    show()
    return box


def _under(k: int, after: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {values[k]:.1f} ({values[k] - before[name][k]:+.1f})" for name, values in after.items())


def _figures(images: Sequence[Image.Image], notes: Sequence[str], alts: Sequence[str], width: int) -> str:
    figures = [
        f'<figure style="margin: 4px; width: {width}px">{image_html(image, alt, width)}'
        f"<figcaption>{html.escape(note)}</figcaption></figure>"
        for image, note, alt in zip(images, notes, alts, strict=True)
    ]
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>'


def selection_explorer(
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    scores: Sequence[np.ndarray],
    *,
    blurred: np.ndarray | None = None,
    temperature: float = 1.0,
    samples: int = 4,
    width: int = 96,
    seed: int = 0,
) -> Told:
    """Knobs for the threshold (the 2 of 2/n), the smallest group and the blur filter; counts, balance and samples.

    ``images`` and ``prompts`` (n,) are flat, ``scores`` one array a group as :func:`hpslib.adaptation.selection.select`
    takes them, ``blurred`` (n,) bool or ``None``. A few preferred and non-preferred images, drawn from ``seed``, are
    shown. Children: threshold, smallest group, blur filter, line, images. Raises ``ValueError`` when the lengths
    differ.
    """
    sizes = [len(group) for group in scores]
    flat = np.concatenate([np.asarray(group, dtype=np.float64) for group in scores]) if sizes else np.zeros(0)
    soft = np.zeros(len(flat), dtype=bool) if blurred is None else np.asarray(blurred, dtype=bool)
    if not len(images) == len(prompts) == len(flat) == len(soft) > 0:
        raise ValueError(
            f"there are {len(images)} images, {len(prompts)} prompts, {len(flat)} scores and {len(soft)} blur marks: "
            "give one of each for every image, and at least one."
        )
    owner = np.repeat(np.arange(len(sizes)), sizes)
    threshold = widgets.FloatSlider(2.0, min=1.1, max=4.0, step=0.1, description="threshold", continuous_update=False)
    smallest = widgets.IntSlider(4, min=2, max=max(4, *sizes), description="group of", continuous_update=False)
    sharp = widgets.Checkbox(value=True, description="leave blurred pictures out", indent=False)
    line, view = widgets.HTML(), widgets.HTML()
    box = Told([threshold, smallest, sharp, line, view])

    def show(_: Any = None) -> None:
        rows = np.flatnonzero(~soft) if sharp.value else np.arange(len(flat))
        counts = np.bincount(owner[rows], minlength=len(sizes))
        groups = np.split(flat[rows], np.cumsum(counts)[:-1])
        kept = select(groups, threshold=threshold.value, min_group=smallest.value, temperature=temperature)
        box.told = _tell_selection(kept, len(flat) - len(rows))
        line.value = _LINE.format(html.escape(box.told))
        view.value = "".join(
            f"<p>{name}</p>" + _some(images, prompts, rows[chosen], samples, width, seed)
            for name, chosen in (("preferred", kept.preferred), ("non-preferred", kept.non_preferred))
        )

    for knob in (threshold, smallest, sharp):
        knob.observe(show, "value")
    show()
    return box


def _tell_selection(kept: Selection, left_out: int) -> str:
    good, bad = len(kept.preferred), len(kept.non_preferred)
    share = f"{100 * good / (good + bad):.0f} % of them preferred" if good + bad else "nothing to balance"
    return (
        f"{good:,} preferred, {bad:,} non-preferred of {kept.groups:,} groups ({share}); {kept.too_small:,} too small, "
        f"{left_out:,} blurred."
    )


def _some(
    images: Sequence[Image.Image], prompts: Sequence[str], rows: np.ndarray, samples: int, width: int, seed: int
) -> str:
    drawn = np.sort(np.random.default_rng(seed).permutation(rows)[:samples])
    shown = [images[row] for row in drawn.tolist()]
    return _figures(shown, [prompts[row] for row in drawn], [f"for the prompt: {prompts[row]}" for row in drawn], width)
