"""Every computation of the full scale on ``cuda:0``, which need not be there: devices and types, not values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeAccelerator, fake_gpu
from PIL import Image

from hpslib.adaptation.evaluation import measure_images
from hpslib.adaptation.examples import encode_examples
from hpslib.adaptation.lora import add_lora
from hpslib.adaptation.sampling import generate
from hpslib.adaptation.training import train_lora
from hpslib.classifier import training as classifier
from hpslib.classifier import trunk
from hpslib.scores.aesthetic import AestheticHead
from hpslib.scores.scorers import Scorer, preference_scores

CAPTIONS = ["a red critter", "Weird image. a dog", "a cat", "Weird image. a critter"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake GPU is known to one thread: nothing is decoded ahead by another."""
    for module in (classifier, trunk):
        monkeypatch.setattr(module, "ahead", lambda make, items, depth=1: map(make, items))


def test_a_tensor_left_on_the_cpu_is_noticed(tiny_clip: Any) -> None:
    with fake_gpu(), pytest.raises(RuntimeError, match="same device"):
        tiny_clip.to("cuda:0").model.encode_image(torch.zeros(1, 3, 32, 32))


def test_scores(tiny_clip: Any, noise_images: list[Image.Image]) -> None:
    images, prompts = noise_images[:5], [f"text {k}" for k in range(5)]
    with fake_gpu():
        towers = tiny_clip.to("cuda:0")
        assert preference_scores(Scorer(towers, "crop", 100.0), images, prompts, batch_size=2).shape == (5,)
        head = AestheticHead(torch.zeros(towers.config["model_cfg"]["embed_dim"]), 5.0)
        found = measure_images(images, prompts, clip=towers, head=head, classifier=towers)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(("clip", "aesthetic", "hps"), (5,))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("make", [trunk.stream_trunk, trunk.cache_trunk], ids=["stream", "cache"])
def test_the_classifier(
    make: Any, precision: str, tiny_clip: Any, noise_images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier.copy, "deepcopy", lambda model: model)  # a copy would look at the content
    monkeypatch.setattr(trunk, "_rows", lambda starts, groups: torch.arange(3 * len(groups)))
    monkeypatch.setattr(trunk, "_sizes", lambda starts, groups: [3] * len(groups))
    with fake_gpu():
        towers = tiny_clip.to("cuda:0")
        made = make(towers, noise_images[:12], ["a", "b", "c", "d"], [3] * 4, [0, 1, 2, 0], image_blocks=1,
                    text_blocks=1)  # fmt: skip
        trained = classifier.train_classifier(
            towers, made, made, epochs=1, batch_size=2, lr=1e-3, weight_decay=0.1, evaluate_every=1,
            accelerator=FakeAccelerator(precision), micro_batch=1, gradient_checkpointing=False,
        )  # fmt: skip
    assert len(trained.losses) == 2 and trained.clip.device == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "fp16"), (torch.float16, "fp16")]
)
@pytest.mark.parametrize("keep_states", [True, False], ids=["states", "tokens"])
def test_the_adaptation(dtype: torch.dtype, precision: str, keep_states: bool, tiny_pipe: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    with fake_gpu():
        tiny_pipe.to("cuda:0", dtype)
        examples = encode_examples(tiny_pipe, pixels, CAPTIONS, keep_states=keep_states, batch_size=2)
        assert examples.latents.device == torch.device("cuda:0")
        losses = train_lora(
            tiny_pipe, add_lora(tiny_pipe, rank=2, seed=0), examples, steps=2, batch_size=4, lr=1e-3, weight_decay=0.0,
            accelerator=FakeAccelerator(precision), micro_batch=2, gradient_checkpointing=True,
            weights=torch.ones(4) / 4, caption_dropout=0.5,
        )  # fmt: skip
    assert len(losses) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_generation(dtype: torch.dtype, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_pipe.scheduler), "index_for_timestep", lambda *a, **k: 0)  # it looks the step up
    with fake_gpu():
        tiny_pipe.to("cuda:0", dtype)
        made = generate(
            tiny_pipe, ["a", "b", "c"], [1, 2, 3], steps=2, guidance_scale=3.0, negative_prompt="w", batch_size=2
        )
    assert made.shape == (3, 16, 16, 3)
