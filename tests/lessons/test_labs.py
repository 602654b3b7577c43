"""hpslib.lessons.labs without a browser: turning a knob by its trait changes what is shown, and only that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpslib.adaptation.lora import add_lora
from hpslib.adaptation.sampling import generate
from hpslib.adaptation.selection import IDENTIFIER, select
from hpslib.lessons.labs import identifier_lab, selection_explorer

PROMPTS = ["a red critter", "<script>alert(1)</script>"]


def brightness(images: Any) -> dict[str, np.ndarray]:
    return {"light": np.array([np.asarray(image).mean() for image in images])}


@pytest.fixture
def adapted(tiny_pipe: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in add_lora(tiny_pipe, rank=2, seed=0):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return tiny_pipe


def lab(pipe: Any) -> Any:
    return identifier_lab(pipe, PROMPTS, [3, 4], brightness, steps=2, guidance_scale=2.0, adapter="hps")


def test_the_change_is_that_of_the_same_noise(adapted: Any) -> None:
    made = generate(adapted, PROMPTS, [3, 4], steps=2, guidance_scale=2.0, negative_prompt=IDENTIFIER)
    adapted.set_adapters(["hps"], [0.0])
    base = generate(adapted, PROMPTS, [3, 4], steps=2, guidance_scale=2.0)
    box = lab(adapted)
    change = np.mean([a.mean() - b.mean() for a, b in zip(made, base)])
    assert repr(box) == f"Mean change against the base at guidance 2: light {change:+.2f}." and abs(change) > 0.01
    view = box.children[-2].value
    assert "<script>" not in view and "for the prompt: &lt;script&gt;" in view and view.count("<img") == 2
    assert f"light {made[0].mean():.1f} ({made[0].mean() - base[0].mean():+.1f})" in view


def test_without_lora_and_identifier_nothing_changes_and_knobs_act(adapted: Any) -> None:
    box = lab(adapted)
    guidance, weight, negative, identifier = box.children[:4]
    shown = {box.children[-2].value}
    weight.value = 0.0
    shown.add(box.children[-2].value)
    negative.value = False
    assert box.told == "Mean change against the base at guidance 2: light +0.00."
    negative.value = True
    identifier.value = "ugly"
    shown.add(box.children[-2].value)
    guidance.value = 5.0
    shown.add(box.children[-2].value)
    assert len(shown) == 4 and "guidance 5" in box.told


def test_a_lab_without_its_lora_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^the pipeline has no LoRA called 'hps': call hpslib.adaptation.lora.load_lora"
    ):
        lab(tiny_pipe)
    with pytest.raises(ValueError, match=r"^there are 2 prompts but 1 seeds: hand over one"):
        identifier_lab(tiny_pipe, PROMPTS, [3], brightness, steps=1, guidance_scale=2.0)
    assert len(identifier_lab(tiny_pipe, PROMPTS, [3, 4], brightness, steps=1, guidance_scale=2.0).children) == 6


@pytest.fixture
def scored(rng: np.random.Generator) -> tuple[list[Image.Image], list[str], list[np.ndarray], np.ndarray]:
    sizes = rng.integers(2, 7, size=60)
    scores = [rng.normal(20, 1.5, size=n) for n in sizes]
    images = [Image.new("RGB", (4, 4), (k % 256, k // 256, 7)) for k in range(sizes.sum())]
    prompts = [f"group {g} & <b>" for g, n in enumerate(sizes) for _ in range(n)]
    return images, prompts, scores, rng.random(sizes.sum()) < 0.2


def test_the_explorer_says_what_the_rule_keeps(scored) -> None:
    images, prompts, scores, blurred = scored
    box = selection_explorer(images, prompts, scores, blurred=blurred)
    threshold, smallest, sharp = box.children[:3]
    sharp.value = False
    for value, least in ((2.0, 4), (1.2, 2), (3.5, 6)):
        threshold.value, smallest.value = value, least
        kept = select(scores, threshold=value, min_group=least)
        assert box.told.startswith(f"{len(kept.preferred)} preferred, {len(kept.non_preferred)} non-preferred of 60")
        assert box.told.endswith(f"{kept.too_small} too small, 0 blurred.")
    threshold.value, smallest.value, sharp.value = 1.2, 2, True
    start, without = 0, []
    for group in scores:
        without.append(group[~blurred[start : start + len(group)]])
        start += len(group)
    kept = select(without, threshold=1.2, min_group=2)
    assert box.told.startswith(f"{len(kept.preferred)} preferred, {len(kept.non_preferred)} non-preferred")
    assert f"{blurred.sum()} blurred." in box.told
    view = box.children[-2].value
    assert view.count("<img") == 8 and "<b>" not in view and "&lt;b&gt;" in view


def test_only_chosen_and_sharp_pictures_are_shown(scored) -> None:
    images, prompts, scores, blurred = scored
    opened: list[int] = []

    class Watched(list):
        def __getitem__(self, k):
            opened.append(k)
            return super().__getitem__(k)

    selection_explorer(Watched(images), prompts, scores, blurred=blurred, samples=1000)
    assert opened and not blurred[opened].any()


def test_nothing_chosen_is_said(scored) -> None:
    images, prompts, scores, _ = scored
    box = selection_explorer(images, prompts, [np.zeros(len(group)) for group in scores])
    assert box.told.startswith("0 preferred, 0 non-preferred of 60 groups (nothing to balance)")
    with pytest.raises(ValueError, match=r"^there are 1 images, 2 prompts, \d+ scores and \d+ blur marks: give one"):
        selection_explorer(images[:1], prompts[:2], scores)
