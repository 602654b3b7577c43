"""The loop that the four trainings of the miniature world share, and the batches it sees.

Batch ``k`` is drawn from ``(seed, k)`` alone, and the loop writes a checkpoint now and then and continues from it: a
build that was stopped ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpslib.critters.build.networks import MEAN, STD
from hpslib.critters.build.optim import average_weights, set_rate
from hpslib.runs.checkpoints import load_checkpoint, save_checkpoint

__all__ = ["augment", "bank_pixels", "batch_rows", "generator_of", "normalise", "run_loop", "squares"]


def run_loop(
    name: str,
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    *,
    decay: float = 0.995,
    save_every: int = 500,
    log_every: int = 100,
) -> dict[str, Tensor]:
    """Optimise ``loss_of(step)`` for ``steps`` steps; return the averaged weights (also left in the checkpoint).

    ``loss_of`` gives the loss of a step and figures to print beside it; ``decay`` is that of the moving average. The
    checkpoint ``{name}.ckpt`` in ``folder`` is written every ``save_every`` steps, and a run goes on from it. Raises
    ``ValueError`` when the loss is no number, before the weights are touched.
    """
    path = folder / f"{name}.ckpt"
    average: dict[str, Tensor] = {}
    start = 0
    saved = load_checkpoint(path)
    if saved is not None:
        model.load_state_dict(saved["model"])
        place = next(model.parameters()).device  # a checkpoint is read into the processor's memory
        average, start = {key: value.to(place) for key, value in saved["average"].items()}, saved["step"]
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    began, seen = time.perf_counter(), start
    for step in range(start, steps):
        set_rate(optimizers, step, steps)
        loss, report = loss_of(step)
        if not torch.isfinite(loss):  # before the weights are touched: the last checkpoint stays good
            raise ValueError(f"the loss of {name} is {loss.item()} at step {step}: lower the learning rate.")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average_weights(average, model, min(decay, (step + 1) / (step + 10)))
        last = step + 1 == steps
        if (step + 1) % log_every == 0 or last:
            rate = (step + 1 - seen) / (time.perf_counter() - began)
            figures = "  ".join(f"{key} {value:.4f}" for key, value in report.items())
            print(f"{name} {step + 1}/{steps}  loss {loss.item():.4f}  {figures}  {rate:.2f} steps/s", flush=True)
        if (step + 1) % save_every == 0 or last:
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_checkpoint(path, model=model.state_dict(), average=average, step=step + 1, optimizers=states)
    return average


def batch_rows(seed: int, step: int, count: int, batch: int, odds: np.ndarray | None = None) -> np.ndarray:
    """Which of ``count`` rows a step sees, int64 (batch,), sorted: drawn from ``(seed, step)`` alone, by ``odds``."""
    rng = np.random.default_rng([seed, step])
    return np.sort(rng.integers(count, size=batch) if odds is None else rng.choice(count, size=batch, p=odds))


def bank_pixels(bank: np.ndarray, rows: np.ndarray, device: str = "cpu") -> Tensor:
    """Images of a bank as float32 (batch, 3, height, width) in [0, 1] on ``device``, channels last in memory."""
    return torch.from_numpy(bank[rows]).to(device).permute(0, 3, 1, 2).float().div(255)


def squares(pixels: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """A square of ``side`` pixels from each image of (n, c, height, width), at a place drawn by ``rng``."""
    lefts = rng.integers(pixels.shape[3] - side + 1, size=len(pixels))
    tops = rng.integers(pixels.shape[2] - side + 1, size=len(pixels))
    parts = [image[:, y : y + side, x : x + side] for image, x, y in zip(pixels, lefts, tops)]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def generator_of(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The random numbers of one step, from ``(seed, step)`` alone; another kind of device draws other ones."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images; soften and add noise by random amounts, as an autoencoder would.

    ``pixels`` and the result are (n, 3, height, width) in [0, 1].
    """
    n, device = len(pixels), pixels.device
    mirror = torch.rand(n, generator=generator, device=device) < 0.5
    pixels = torch.where(mirror[:, None, None, None], pixels.flip(3), pixels)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(n, 1, 1, 1, generator=generator, device=device) * 0.8
    noise = torch.randn(pixels.shape, generator=generator, device=device)
    noise = noise * torch.rand(n, 1, 1, 1, generator=generator, device=device) * 0.04
    return (pixels + amount * (soft - pixels) + noise).clamp(0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """[0, 1] -> the input of mini-CLIP."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std
