"""A little LoRA training shared by the tests of adaptation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpslib.adaptation.examples import Examples
from hpslib.adaptation.lora import add_lora
from hpslib.adaptation.training import train_lora

CAPTIONS = ["a red critter", "Weird image. a dog", "a red critter", "Weird image. a critter", "a dog", "on a beach"]
SETTINGS = {"batch_size": 4, "lr": 0.02, "weight_decay": 0.01}


@torch.inference_mode()
def output(pipe: Any, unet: Any = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 32, 16, generator=generator)
    return (unet or pipe.unet)(noisy, torch.tensor([10, 700]), states).sample.clone()


def train(pipe: Any, examples: Examples, seed: int = 0, steps: int = 3, **changes: Any) -> list[float]:
    parameters = add_lora(pipe, rank=2, seed=seed)
    return train_lora(pipe, parameters, examples, steps=steps, seed=seed, **{**SETTINGS, **changes})


def adapter(pipe: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in pipe.unet.state_dict().items() if ".lora_" in key}
