"""The demo: one page of HTML with the before/after pictures and a vote, which opens anywhere, without a network too."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from hpslib.critters.assets import asset, data_folder
from hpslib.lessons.page import fill
from hpslib.lessons.widgets import png_address
from hpslib.runs.files import written_whole

__all__ = ["demo_groups", "demo_page", "write_demo"]

_TEMPLATE = Path(__file__).with_name("demo.html")


def demo_groups(count: int = 10, seed: int = 4) -> list[dict[str, Any]]:
    """Groups of the shipped test set, drawn with ``seed`` and not picked: what the page asks about.

    Each has its ``prompt``, its ``images`` as data addresses, and the place that ``rater``, ``hps`` and ``clip`` take.
    Raises ``ValueError`` when ``count`` is below 1 or above what the set holds.
    """
    from hpslib.data.groups import split_groups
    from hpslib.data.preferences import load_images
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.scores.clip import load_clip
    from hpslib.scores.cosine import clip_scores

    dataset = read_hpd(asset("hpd_mini/test.parquet"))
    if not 1 <= count <= len(dataset):
        raise ValueError(f"{count} groups cannot be shown: ask for 1 to {len(dataset)}.")
    rows = np.random.default_rng(seed).choice(len(dataset), count, replace=False)
    groups = [dataset[int(row)] for row in rows]
    images = [load_images(group) for group in groups]
    flat = [image for group in images for image in group]
    prompts = [group["prompt"] for group, shown in zip(groups, images) for _ in shown]
    best = {}
    for name in ("hps", "clip"):  # the same formula in the tuned and in the untuned towers
        scores = split_groups(clip_scores(load_clip(asset(name)), flat, prompts), [len(group) for group in images])
        best[name] = [int(part.argmax()) for part in scores]
    return [
        {
            "prompt": group["prompt"],
            "images": [png_address(image) for image in shown],
            "rater": group["human_preference"],
            **{name: chosen[k] for name, chosen in best.items()},
        }
        for k, (group, shown) in enumerate(zip(groups, images))
    ]


def demo_page(groups: list[dict[str, Any]], figure: bytes) -> str:
    """The page as HTML; ``figure`` is the before/after picture, a PNG. Nothing in it is fetched from elsewhere."""
    chance = sum(1 / len(group["images"]) for group in groups)
    data = json.dumps({"groups": groups, "chance": chance}, ensure_ascii=True)
    for sign in "<>&":  # no text of a prompt can end the script that holds it
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    parts = {"figure": html.escape(png_address(figure)), "count": str(len(groups)), "data": data}
    return fill(_TEMPLATE, parts)


def write_demo(path: str | Path) -> Path:
    """Write the page, some hundred kilobytes, and return where it lies; an older one there is replaced.

    Raises ``OSError`` when it cannot be written, and what :func:`hpslib.critters.assets.asset` raises.
    """
    target = Path(path).expanduser().absolute()
    figure = (data_folder() / "figures" / "before_after.png").read_bytes()  # made by the course, so not in the manifest
    page = demo_page(demo_groups(), figure)
    with written_whole(target) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")
    return target
