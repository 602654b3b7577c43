"""Teach a Stable Diffusion UNet with LoRA (paper, section 5): peft adapters, trained from encoded examples.

The loss is the one the base model was trained with (epsilon or v-prediction, read from its scheduler). The same loop,
:func:`fit`, runs on one CPU, on one GPU, and under ``accelerate launch`` in several processes
(:mod:`hpslib.runs.distributed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hpslib.adaptation.examples import Examples
from hpslib.adaptation.latents import CachedLatents
from hpslib.adaptation.schedules import check_schedule, learning_rates
from hpslib.runs.distributed import local_accelerator, synchronised
from hpslib.runs.files import digest
from hpslib.runs.loop import Loop
from hpslib.runs.memory import optimizer_bytes, rows_and_checkpointing

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Draws", "Tuning", "draw_step", "fit", "noised", "train_lora"]


@dataclass(frozen=True)
class Tuning:
    """What the loop works on: the LoRA's weights, who moves them, and the chances of a step.

    ``odds`` (images,) are the chances with which images are drawn, ``dropout`` (images,) those of losing the caption.
    """

    parameters: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    rates: torch.optim.lr_scheduler.LRScheduler
    odds: Tensor
    dropout: Tensor

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "parameters": [parameter.detach().cpu() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "rates": self.rates.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave to a checkpoint."""
        for parameter, value in zip(self.parameters, saved["parameters"], strict=True):
            parameter.data.copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.rates.load_state_dict(saved["rates"])


class Draws(NamedTuple):
    """What chance decides in one step: image rows, noise, timesteps and which captions are dropped, a row an image."""

    rows: Tensor
    noise: Tensor
    timesteps: Tensor
    dropped: Tensor


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
    accelerator: Accelerator | None = None,
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train the adapter in place by :func:`fit`, with AdamW; return the loss of every step.

    Args:
        batch_size: images of a step, over all processes and micro-batches together.
        caption_dropout: the chance that a caption becomes the empty text; ``identifier_alone`` (default: the same) that
            an identified caption becomes the identifier, which is what stands in the negative prompt.
        schedule: diffusers' name of it (:data:`hpslib.adaptation.schedules.SCHEDULES`): "constant" as in the paper, or
            for short runs "cosine".
        weights: the chances with which images are drawn, (images,); uniform if ``None``.
        seed: of noise, timesteps and order, drawn on the CPU step by step, so that they do not depend on the device.
        micro_batch: images at once in each process; ``gradient_checkpointing`` computes activations again in the
            backward pass instead of keeping them. Both: less memory, the same result. ``None``: as the memory allows
            (:func:`hpslib.runs.memory.rows_and_checkpointing`).
        accelerator: the processes (default: this one alone, :func:`hpslib.runs.distributed.local_accelerator`).
        checkpoint: written after every ``save_every`` steps. A run that was killed goes on from it, with the same
            settings, base weights, captions and images only, and ends with the same weights, on a CPU bit by bit.
        log, progress: see :class:`hpslib.runs.loop.Loop`; the log gets ``loss`` and ``lr``.

    Raises ``ValueError`` for another kind of model, an unknown schedule, ``weights`` of the wrong length, a batch too
    small for the processes or a checkpoint of other settings, ``RuntimeError`` when the loss stops being a number (the
    last checkpoint stays as it was). Whatever ends it, the UNet is as ready to generate as before.
    """
    alone = caption_dropout if identifier_alone is None else identifier_alone
    _check_model(pipe, schedule)
    accelerator = accelerator or local_accelerator(pipe.device)
    odds = _odds(weights, len(examples))
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    settings |= {
        "schedule": schedule,
        "caption_dropout": caption_dropout,
        "identifier_alone": alone,
        "seed": seed,
        "odds": digest(odds),
    }
    settings |= {"weights": [list(p.shape) for p in parameters], "precision": accelerator.mixed_precision}
    settings |= _settings_of_data(pipe, examples, complete=checkpoint is not None)
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, weight_decay=weight_decay)
    dropout = torch.where(examples.identified.cpu(), alone, caption_dropout)
    tuning = Tuning(parameters, optimizer, learning_rates(schedule, optimizer, steps), odds, dropout)
    loop = Loop(accelerator, steps, lr, settings, tuning.state, checkpoint, save_every, log, progress)
    if loop.saved is not None:
        tuning.restore(loop.saved)
    with _in_training(pipe.unet, accelerator.device) as checkpointed:
        trial = partial(_trial, pipe, parameters, examples, accelerator, checkpointed)
        most, reserve = -(-batch_size // accelerator.num_processes), optimizer_bytes(parameters)
        rows, again = rows_and_checkpointing(
            trial, most, accelerator, rows=micro_batch, checkpointing=gradient_checkpointing, reserve=reserve
        )
        checkpointed(again)
        fit(loop, tuning, pipe, examples, batch_size, seed, rows)
    return loop.losses


def fit(
    loop: Loop,
    tuning: Tuning,
    pipe: Any,
    examples: Examples,
    batch_size: int,
    seed: int,
    micro_batch: int | None = None,
) -> None:
    """The loop itself: fetch, noise, forward, loss, backward, step.

    ``micro_batch`` images of a process's share go through the UNet at once (default: all of it). A step's loss is the
    mean over its images, whatever the number of processes and micro-batches.
    """
    accelerator = loop.accelerator
    device, prediction = accelerator.device, pipe.scheduler.config.prediction_type
    alphas = pipe.scheduler.alphas_cumprod.to(device)
    denoiser, optimizer = accelerator.prepare(_Denoiser(pipe.unet), tuning.optimizer)
    for step in loop:
        drawn = draw_step(tuning, batch_size, examples.latents.shape[1:], len(alphas), seed, step)
        optimizer.zero_grad(set_to_none=True)
        share = torch.zeros((), device=device)
        for part, weight, last in loop.shares(torch.arange(batch_size), micro_batch):
            clean = examples.latents[drawn.rows[part]].to(device).float()
            noise, timesteps = drawn.noise[part].to(device), drawn.timesteps[part].to(device)
            noisy, target = noised(clean, noise, alphas[timesteps], prediction)
            states = _text_states(pipe, examples, drawn.rows[part], drawn.dropped[part])
            with synchronised(accelerator, denoiser, last):
                predicted = denoiser(noisy, timesteps, states)
                value = weight * F.mse_loss(predicted.float(), target)
                accelerator.backward(value)
            share += value.detach()
        agreed = loop.agree(share)
        rate = float(tuning.rates.get_last_lr()[0])
        optimizer.step()
        tuning.rates.step()
        loop.record(agreed, lr=rate)
    if not all(torch.isfinite(parameter).all() for parameter in tuning.parameters):
        raise RuntimeError(
            f"the last step made weights that are no numbers: lower lr (it is {loop.lr}) and start again."
        )
    loop.finish()


def draw_step(
    tuning: Tuning, batch_size: int, latent_shape: Sequence[int], timesteps: int, seed: int, step: int
) -> Draws:
    """What chance decides in a step, from ``seed`` and ``step`` alone: a resumed run draws the same.

    The timesteps are one draw in each of ``batch_size`` equal slices of the time axis: the same expectation as
    independent ones, and less variance.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    rows = torch.multinomial(tuning.odds, batch_size, replacement=True, generator=generator)
    noise = torch.randn((batch_size, *latent_shape), generator=generator)
    spread = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    dropped = torch.rand(batch_size, generator=generator) < tuning.dropout[rows]
    return Draws(rows, noise, (spread * timesteps).long(), dropped)


def noised(clean: Tensor, noise: Tensor, alphas: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Noisy latents and what the UNet is to predict from them, both (n, channels, height, width) like ``clean``.

    ``alphas`` (n,) is the scheduler's cumulative product at each image's timestep. The noisy latent is
    sqrt(alpha) * clean + sqrt(1 - alpha) * noise (Ho et al., 2020, eq. 4); the target is the noise, or for
    "v_prediction" sqrt(alpha) * noise - sqrt(1 - alpha) * clean (Salimans & Ho, 2022).
    """
    signal, sigma = (root[:, None, None, None] for root in (alphas.sqrt(), (1 - alphas).sqrt()))
    target = noise if prediction == "epsilon" else signal * noise - sigma * clean
    return signal * clean + sigma * noise, target


@contextmanager
def _in_training(unet: Any, device: torch.device) -> Iterator[Callable[[bool], None]]:
    """The UNet set up for training, and after it, or after an error, as it was.

    Yields a function that has activations computed again in the backward pass, or kept.
    """
    from diffusers.models.attention_processor import AttnProcessor

    processors, training, checkpointing = unet.attn_processors, unet.training, unet.is_gradient_checkpointing
    if device.type == "cpu":  # the fused kernel's backward pass is slow there: a quarter of a step
        unet.set_attn_processor(AttnProcessor())
    unet.train()

    def checkpointed(again: bool) -> None:
        if again != unet.is_gradient_checkpointing:
            unet.enable_gradient_checkpointing() if again else unet.disable_gradient_checkpointing()

    try:
        yield checkpointed
    finally:
        checkpointed(checkpointing)
        unet.train(training)
        unet.set_attn_processor(processors)


def _trial(
    pipe: Any,
    parameters: Sequence[torch.nn.Parameter],
    examples: Examples,
    accelerator: Accelerator,
    checkpointed: Callable[[bool], None],
    again: bool,
    rows: int,
) -> None:
    """A forward and a backward pass of so many images, which leaves no gradient behind."""
    checkpointed(again)
    device, first = accelerator.device, torch.zeros(rows, dtype=torch.long)
    clean = examples.latents[first].to(device).float()
    states = _text_states(pipe, examples, first, first.bool())
    try:
        with accelerator.autocast():
            predicted = _Denoiser(pipe.unet)(clean, first.to(device), states)
            F.mse_loss(predicted.float(), clean).backward()
    finally:
        for parameter in parameters:
            parameter.grad = None


class _Denoiser(torch.nn.Module):
    """The UNet's forward pass as a module of its own, so that wrapping it for training leaves the pipeline alone."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, states).sample


def _text_states(pipe: Any, examples: Examples, rows: Tensor, dropped: Tensor) -> Tensor:
    """The text states of these images' captions, of the dropped caption where ``dropped`` is set."""
    place = examples.caption_rows.device
    texts = torch.where(dropped.to(place), examples.dropped_rows[rows], examples.caption_rows[rows])
    if examples.states is not None:
        return examples.states[texts]
    with torch.no_grad():
        return pipe.text_encoder(examples.tokens[texts.cpu()].to(pipe.device))[0]


def _check_model(pipe: Any, schedule: str) -> None:
    prediction = pipe.scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the scheduler predicts {prediction!r}: only 'epsilon' and 'v_prediction' models can be trained here."
        )
    check_schedule(schedule)


def _odds(weights: Tensor | None, count: int) -> Tensor:
    if weights is not None and len(weights) != count:
        raise ValueError(f"{len(weights)} weights but {count} examples: hand over one weight for each image.")
    return torch.ones(count) if weights is None else weights.cpu()


def _settings_of_data(pipe: Any, examples: Examples, complete: bool) -> dict[str, Any]:
    """What a checkpoint is compared by: their number, and where ``complete`` also captions, weights and images."""
    settings: dict[str, Any] = {"count": len(examples), "prediction": pipe.scheduler.config.prediction_type}
    if complete:  # seconds at SD's size
        settings["captions"] = digest(examples.tokens, examples.caption_rows, examples.dropped_rows)
        frozen = [p for p in pipe.unet.parameters() if not p.requires_grad]
        settings["base"] = digest(*frozen, *pipe.text_encoder.parameters())
        latents = examples.latents
        settings["images"] = latents.made_of if isinstance(latents, CachedLatents) else digest(latents)
    return settings
