"""Teach a Stable Diffusion UNet with LoRA (paper, section 5): peft adapters, cached latents and text states.

The autoencoder and the text encoder are frozen, so every image and every caption is encoded once, not once a step.
The loss is the one the base model was trained with (epsilon or v-prediction, read from its scheduler).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpslib.resume import continue_from, save_checkpoint
from hpslib.selection import IDENTIFIER

__all__ = [
    "ATTENTION_PROJECTIONS",
    "Examples",
    "add_lora",
    "encode_examples",
    "load_lora",
    "mixture_weights",
    "remove_lora",
    "save_lora",
    "train_lora",
]

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers gives it


@dataclass(frozen=True)
class Examples:
    """Encoded training data: scaled ``latents`` (n, c, h, w); ``states`` (m, context, width) for the distinct
    captions; ``caption_rows`` (n,), each image's row of ``states``; ``dropped_rows`` (n,), the row used when
    the caption is dropped (the empty text, or the identifier alone for an identified caption); ``identified`` (n,)
    bool."""

    latents: Tensor
    states: Tensor
    caption_rows: Tensor
    dropped_rows: Tensor
    identified: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.inference_mode()
def encode_examples(
    pipe: Any, images: np.ndarray, captions: Sequence[str], *, identifier: str = IDENTIFIER, batch_size: int = 64
) -> Examples:
    """uint8 images (n, height, width, 3) and their captions -> :class:`Examples` on the pipeline's device."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images but {len(captions)} captions: hand over one caption for each image.")
    device, dtype = pipe.device, pipe.vae.dtype
    latents = []
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2).to(device, dtype) / 127.5 - 1
        latents.append(pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor)
    dropped = [identifier if caption.startswith(identifier) else "" for caption in captions]
    unique = list(dict.fromkeys([*captions, *dropped]))
    states = []
    for start in range(0, len(unique), batch_size):
        tokens = pipe.tokenizer(
            unique[start : start + batch_size], padding="max_length", max_length=pipe.tokenizer.model_max_length,
            truncation=True, return_tensors="pt",
        )  # fmt: skip
        states.append(pipe.text_encoder(tokens.input_ids.to(device))[0])
    place = {text: row for row, text in enumerate(unique)}
    rows = torch.tensor([place[text] for text in captions], device=device)
    without = torch.tensor([place[text] for text in dropped], device=device)
    marked = torch.tensor([text == identifier for text in dropped])
    return Examples(torch.cat(latents), torch.cat(states), rows, without, marked)


def add_lora(pipe: Any, *, rank: int, seed: int, name: str = "hps") -> list[torch.nn.Parameter]:
    """Put a fresh LoRA of ``rank`` (scale 1) on the UNet's attention projections; return its parameters.

    A starts random, B at zero, so the model is unchanged until it is trained (Hu et al., 2021). The base
    weights are frozen. The draw of A depends on ``seed`` alone. The LoRA is float32 even on a bfloat16 pipeline, where
    a small learning rate would otherwise be rounded away.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    pipe.unet.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(ATTENTION_PROJECTIONS), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng():  # peft draws from the global generator; it is put back as it was
        torch.manual_seed(seed)
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.unet.set_adapter(name)
    cast_training_params([pipe.unet], dtype=torch.float32)
    return [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]


def remove_lora(pipe: Any) -> None:
    """Take every LoRA off the pipeline: the base model is back, bit by bit."""
    pipe.unload_lora_weights()


def mixture_weights(counts: Sequence[int], shares: Sequence[float]) -> Tensor:
    """The chance of each image, source after source, when source k makes up ``shares[k]`` of what is drawn.

    >>> mixture_weights([2, 4], [0.5, 0.5]).tolist()
    [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]

    Raises ``ValueError`` when the two lists differ in length, a source is empty or the shares do not sum to 1.
    """
    if len(counts) != len(shares) or min(counts, default=0) < 1 or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ValueError(
            f"sources of {list(counts)} images and shares {list(shares)}: give one share for each source, at least one "
            "image in each, and shares that sum to 1."
        )
    return torch.cat([torch.full((count,), share / count) for count, share in zip(counts, shares, strict=True)])


def train_lora(
    pipe: Any,
    parameters: Sequence[torch.nn.Parameter],
    examples: Examples,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    caption_dropout: float = 0.0,
    identifier_alone: float | None = None,
    schedule: str = "constant",
    weights: Tensor | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train the adapter in place; return the loss of every step.

    AdamW; ``schedule`` is any name of ``diffusers.optimization.get_scheduler`` ("constant", as in the paper, or for
    short runs "cosine", which ends at zero and so averages out the last steps' noise). ``weights`` (n,) are the chances
    with which images are drawn (uniform when ``None``). ``caption_dropout`` replaces a caption by the empty text;
    ``identifier_alone`` (default: the same) replaces an identified caption by the identifier, which is what stands in
    the negative prompt. Noise, time steps and order are drawn on the CPU from ``seed``, step by step, so they do not
    depend on the device.

    With ``checkpoint``, the file is written after every ``save_every`` steps and at the end. A run that was killed and
    is started again goes on from it and ends with the same weights, on a CPU bit by bit; a finished one trains no more.

    Raises ``ValueError`` for another kind of model, ``weights`` of the wrong length or a checkpoint made with other
    settings, ``RuntimeError`` when the loss stops being a number (the last checkpoint stays as it was).
    """
    from diffusers.models.attention_processor import AttnProcessor
    from diffusers.optimization import get_scheduler

    scheduler = pipe.scheduler
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the scheduler predicts {prediction!r}: only 'epsilon' and 'v_prediction' models can be trained here."
        )
    alphas = scheduler.alphas_cumprod.to(examples.latents.device)
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, weight_decay=weight_decay)
    if weights is not None and len(weights) != len(examples):
        raise ValueError(f"{len(weights)} weights but {len(examples)} examples: hand over one weight for each image.")
    odds = torch.ones(len(examples)) if weights is None else weights.cpu()
    rates = get_scheduler(
        schedule, optimizer, num_warmup_steps=0 if schedule == "constant" else 10, num_training_steps=steps
    )
    alone = caption_dropout if identifier_alone is None else identifier_alone
    dropout = torch.where(examples.identified.cpu(), alone, caption_dropout)
    losses: list[float] = []
    settings = {
        "images": len(examples), "odds": float((odds.double() * torch.arange(len(odds))).sum()), "steps": steps,
        "weights": [list(p.shape) for p in parameters], "batch_size": batch_size, "lr": lr, "schedule": schedule,
        "weight_decay": weight_decay, "caption_dropout": caption_dropout, "identifier_alone": alone, "seed": seed,
    }  # fmt: skip
    saved = continue_from(checkpoint, settings)
    if saved is not None:
        for parameter, value in zip(parameters, saved["parameters"], strict=True):
            parameter.data.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        rates.load_state_dict(saved["rates"])
        losses = saved["losses"]
    processors = pipe.unet.attn_processors
    if examples.latents.device.type == "cpu":  # the fused kernel's backward pass is slow there: a quarter of a step
        pipe.unet.set_attn_processor(AttnProcessor())
    pipe.unet.train()
    for step in range(len(losses), steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        picks = torch.multinomial(odds, batch_size, replacement=True, generator=generator)
        clean = examples.latents[picks].float()
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        # One draw in each of batch_size equal slices of the time axis: the same expectation, less variance.
        spread = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
        time_steps = (spread * len(alphas)).long().to(clean.device)
        signal, sigma = (
            part[:, None, None, None] for part in (alphas[time_steps].sqrt(), (1 - alphas[time_steps]).sqrt())
        )
        target = noise if prediction == "epsilon" else signal * noise - sigma * clean
        drop = (torch.rand(batch_size, generator=generator) < dropout[picks]).to(clean.device)
        rows = torch.where(drop, examples.dropped_rows[picks], examples.caption_rows[picks])
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.device.type == "cuda"):
            predicted = pipe.unet(signal * clean + sigma * noise, time_steps, examples.states[rows]).sample
        loss = F.mse_loss(predicted.float(), target)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {step}: lower lr (it is {lr}) and start again.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rates.step()
        losses.append(loss.item())
        if checkpoint is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
            save_checkpoint(
                checkpoint, settings=settings, parameters=[p.detach().cpu() for p in parameters], losses=losses,
                optimizer=optimizer.state_dict(), rates=rates.state_dict(),
            )  # fmt: skip
        if progress is not None:
            progress(step + 1, steps)
    pipe.unet.eval()
    pipe.unet.set_attn_processor(processors)
    return losses


def save_lora(pipe: Any, folder: str | Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors`` in diffusers' standard format; returns its path."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    (adapter,) = pipe.unet.active_adapters()
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=adapter))
    target = Path(folder) / LORA_FILE
    partial = target.with_name(f".{LORA_FILE}")  # a killed run leaves the old file whole
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=weights, weight_name=partial.name, safe_serialization=True
    )
    partial.replace(target)
    return target


def load_lora(pipe: Any, folder: str | Path, *, name: str = "hps") -> None:
    """Load a folder written by :func:`save_lora` or by any diffusers LoRA script; refuse one that does not fit.

    diffusers itself only warns about keys that match no layer, and the images stay those of the base model. After an
    error the pipeline is as it was. Raises ``FileNotFoundError`` when the folder holds no LoRA file, ``ValueError``
    when a weight of it belongs to no layer of this UNet or has another shape, or when ``name`` is taken.
    """
    from diffusers.utils import logging

    path = Path(folder) / LORA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {LORA_FILE}: give the folder that save_lora wrote to.")
    if name in getattr(pipe.unet, "peft_config", {}):
        raise ValueError(
            f"the pipeline already has a LoRA called {name!r}: call remove_lora first or give another name."
        )
    source = {"weight_name": path.name, "local_files_only": True, "use_safetensors": True}
    stored, _ = pipe.lora_state_dict(str(folder), **source)
    wanted = sum(key.startswith("unet.") and not key.endswith("alpha") for key in stored)
    loaded = 0
    reason: Exception | None = None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that there is no LoRA for the text encoder, as is meant; we count below
    try:
        pipe.load_lora_weights(str(folder), adapter_name=name, **source)
        loaded = sum(f".{name}." in key and ".lora_" in key for key in pipe.unet.state_dict())
    except (ValueError, RuntimeError) as error:  # no layer matches; a shape differs
        reason = error
    finally:
        logging.set_verbosity(verbosity)
    if reason is None and 0 < loaded == wanted:
        return
    if set(getattr(pipe.unet, "peft_config", {})) <= {name}:
        remove_lora(pipe)
    else:
        pipe.delete_adapters(name)
    raise ValueError(
        f"{path} does not fit this UNet: {loaded} of its {wanted} LoRA weights belong to a layer. Check that it was "
        "trained for the same model."
    ) from reason
