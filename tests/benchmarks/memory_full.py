"""Peak memory of full-scale training, computed without a GPU: ``python tests/benchmarks/memory_full.py``.

Two training steps of the real shapes run on tensors that have a shape but no content (torch's FakeTensorMode), while a
dispatch mode adds up the bytes of the storages that are alive. That counts weights, gradients, optimiser state and
activations to the byte, but not the CUDA context (about 0.5 GiB), the kernels' work space or fragmentation: allow 15 %
and 1 GiB more. Computed, not measured. ``hpslib.lessons.preflight.GPU_GIB`` rests on these figures.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpslib.classifier.loss import preference_loss
from hpslib.classifier.towers import Batch, TunedTowers, set_trainable
from hpslib.lessons.scale import full
from hpslib.scores.released import VIT_L14

SD_V14 = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip


VAE_SD_V14 = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip


class Alive(TorchDispatchMode):
    """Bytes of all storages that operations made or used and that still exist; ``peak`` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def count(self, *values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage not in self.known:
                    self.known.add(storage)
                    size = storage.nbytes()
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.forget, size)

    def forget(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.count(made)
        return made


def peak_gib(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> float:
    """GiB alive at the worst moment of two training steps (AdamW's state appears in the first)."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        alive.count(list(model.parameters()), list(model.buffers()))
        for _ in range(2):
            loss().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return alive.peak / 2**30


def classifier(
    groups: int, checkpointing: bool, image_blocks: int = full.image_blocks, text_blocks: int = full.text_blocks
) -> float:
    """ViT-L/14 with so many tuned blocks, ``groups`` prompts of four images in one micro-batch, bfloat16 autocast."""
    from open_clip.model import CLIP

    model = CLIP(**VIT_L14, quick_gelu=True).train()
    set_trainable(model, image_blocks, text_blocks)
    towers = TunedTowers(model, image_blocks, text_blocks, checkpointing)
    batch = Batch(torch.zeros(4 * groups, 3, 224, 224), None, torch.zeros(groups, 77, dtype=torch.int64), [4] * groups)
    choices = torch.zeros(groups, dtype=torch.int64)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = towers(batch)
        return preference_loss(logits.float(), choices)

    return peak_gib(towers, loss)


def lora(images: int, checkpointing: bool) -> float:
    """SD v1.4's UNet in bfloat16 with the paper's LoRA in float32, ``images`` of 512 pixels in one micro-batch."""
    from diffusers import UNet2DConditionModel
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    from hpslib.adaptation.lora import ATTENTION_PROJECTIONS

    unet = UNet2DConditionModel(**SD_V14).to(torch.bfloat16).train().requires_grad_(False)
    rank, layers = full.lora_rank, list(ATTENTION_PROJECTIONS)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
    cast_training_params([unet], dtype=torch.float32)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    given = (torch.zeros(images, 4, 64, 64), torch.zeros(images, dtype=torch.int64), torch.zeros(images, 77, 768))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(*given).sample
        return torch.nn.functional.mse_loss(predicted.float(), given[0])

    return peak_gib(unet, loss)


def autoencoder(images: int, decode: bool) -> float:
    """SD v1.4's autoencoder in bfloat16 on ``images`` of 512 pixels: before the training, or at the end of sampling."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**VAE_SD_V14).to(torch.bfloat16).eval().requires_grad_(False)
    shape = (images, 4, 64, 64) if decode else (images, 3, 512, 512)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive, torch.no_grad():
        alive.count(list(vae.parameters()))
        given = torch.zeros(shape, dtype=torch.bfloat16)
        _ = vae.decode(given).sample if decode else vae.encode(given).latent_dist.mean
    return alive.peak / 2**30


def main() -> None:
    jobs: list[tuple[str, Callable[..., float], Any]] = [
        ("ViT-L/14 classifier, 5 prompts", classifier, (5, False)),
        ("ViT-L/14 classifier, 5 prompts, checkpointing", classifier, (5, True)),
        ("ViT-L/14 classifier, lesson 3's 20 + 7 blocks, 5 prompts", classifier, (5, False, 20, 7)),
        ("ViT-L/14 classifier, lesson 3's 20 + 7 blocks, 1 prompt, checkpointing", classifier, (1, True, 20, 7)),
        ("SD v1.4 LoRA, 1 image", lora, (1, False)),
        ("SD v1.4 LoRA, 1 image, checkpointing", lora, (1, True)),
        ("SD v1.4 LoRA, 4 images, checkpointing", lora, (4, True)),
        ("SD v1.4 autoencoder, 8 images encoded", autoencoder, (8, False)),
        ("SD v1.4 autoencoder, 8 images decoded", autoencoder, (8, True)),
    ]
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of a cast that is meant
    for name, job, arguments in jobs:
        print(f"{name}: {job(*arguments):.1f} GiB (computed)", flush=True)


if __name__ == "__main__":
    main()
