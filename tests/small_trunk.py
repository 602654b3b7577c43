"""Eight little groups and the trunk of a small CLIP over them, shared by the classifier's tests."""

from __future__ import annotations

import numpy as np
import torch

from hpslib.classifier.trunk import Trunk, cache_trunk
from hpslib.scores.clip import Clip

SIZES = [2, 4, 3, 2, 4, 3, 2, 4]
PROMPTS = ["a red dog", "a cat on grass", "nine hats", "rain", "an old boat", "a dog", "two cats", "a hat in the rain"]
CHOICES = [1, 0, 2, 0, 3, 1, 1, 2]


def trunk_of(clip: Clip, pictures, image_blocks: int = 1, text_blocks: int = 1, **changes) -> Trunk:
    given = {"images": pictures, "prompts": PROMPTS, "sizes": SIZES, "choices": CHOICES} | changes
    return cache_trunk(clip, **given, image_blocks=image_blocks, text_blocks=text_blocks, batch_size=5)


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=shape)), dim=-1)
