"""The human preference classifier: CLIP's two towers, tuned until they predict which image people choose.

The loss is that of :mod:`hpslib.preference_loss`, what is tuned that of :mod:`hpslib.towers`. The same loop runs on one
CPU, on one GPU, and under ``accelerate launch`` in several processes (:mod:`hpslib.parallel`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpslib.clip import Clip
from hpslib.parallel import (
    agreed_loss,
    ahead,
    computing_dtype,
    gathered,
    local_accelerator,
    micro_batches,
    restore_scaler,
    scaler_state,
    synchronised,
)
from hpslib.preference_loss import preference_loss, top1
from hpslib.resume import continue_from, digest, save_checkpoint
from hpslib.towers import TunedTowers, set_trainable
from hpslib.trunk import Stream, Trunk, evaluate_trunk

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Trained", "batch_order", "train_classifier"]


@dataclass(frozen=True)
class Trained:
    """A trained classifier: the tuned model, the losses of every step, and (step, loss, top-1) on validation."""

    clip: Clip
    losses: list[float]
    validation: list[tuple[int, float, float]]
    best_step: int


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Which rows each step sees, int64 (steps, batch_size): shuffled epochs one behind the other.

    It depends on ``seed`` alone, so that batches can be prepared ahead and a resumed run sees the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(count, generator=generator) for _ in range(-(-steps * batch_size // count))]
    return torch.cat(epochs)[: steps * batch_size].reshape(steps, batch_size)


def train_classifier(
    clip: Clip,
    train: Trunk | Stream,
    validation: Trunk | Stream,
    *,
    epochs: float,
    batch_size: int,
    lr: float,
    weight_decay: float,
    scale_lr: float | None = None,
    warmup: int = 0,
    seed: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = preference_loss,
    tune_scale: bool = True,
    evaluate_every: int = 50,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    gradient_checkpointing: bool = False,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Tune a copy of ``clip`` from a trunk; keep the weights with the lowest validation loss.

    AdamW with a cosine schedule, ``logit_scale`` clamped to [0, ln 100] as in the paper's code. The data order is
    drawn from ``seed``; global random state is neither read nor written. ``loss`` may be any function of the padded
    logits and the choices that is a mean over groups; ``tune_scale=False`` leaves ``logit_scale`` as it is.
    ``scale_lr`` is its own learning rate (``lr`` when ``None``): it has to come down from what tells captions apart to
    what noisy choices warrant, AdamW moves a weight by about one rate a step, and until it is there the gradient is
    that of overconfidence. It never decays, as in open_clip's own training.

    ``batch_size`` groups make one step, whatever the number of processes of ``accelerator`` (default: this one, see
    :func:`hpslib.parallel.local_accelerator`) and the number of micro-batches, ``accumulation``. ``log`` receives
    ``{"loss", "lr", "logit_scale"}`` after each step and ``{"validation_loss", "validation_top1"}`` at evaluations, in
    the main process.

    With ``checkpoint``, the file is written after every ``save_every`` steps, once the step behind them has shown that
    their loss is a number, and at the end. A run that was killed and is started again goes on from it and ends with the
    same weights, on a CPU bit by bit; a finished one trains no more. It goes on with the same settings, base weights
    and pictures only (files by name).

    Raises ``ValueError`` when the trunks were cut at different blocks, a batch is too small for the processes, or the
    checkpoint was made with other settings, and ``RuntimeError`` when the loss stops being a number (the last
    checkpoint stays as it was).
    """
    if (train.image_blocks, train.text_blocks) != (validation.image_blocks, validation.text_blocks):
        raise ValueError(
            "the training and validation trunks were cut at different blocks: cache both with the same settings."
        )
    accelerator = accelerator or local_accelerator(clip.device)
    processes = accelerator.num_processes
    if len(validation) < processes:
        raise ValueError(f"{len(validation)} validation groups for {processes} processes: keep more groups for them.")
    model = copy.deepcopy(clip.model).to(accelerator.device).train()
    set_trainable(model, train.image_blocks, train.text_blocks)
    model.logit_scale.requires_grad_(tune_scale)  # type: ignore[operator,union-attr]
    tuned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rest = [p for name, p in tuned.items() if name != "logit_scale"]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if tune_scale:
        groups.append({"params": [model.logit_scale], "lr": lr if scale_lr is None else scale_lr, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    steps = max(1, round(epochs * len(train) / batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, k / steps)))
    )
    towers = TunedTowers(model, train.image_blocks, train.text_blocks, gradient_checkpointing)
    towers, stepper = accelerator.prepare(towers, optimizer)
    losses: list[float] = []
    history: list[tuple[int, float, float]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    settings = {
        "groups": len(train), "choices": int((train.choices * torch.arange(len(train))).sum()), "steps": steps,
        "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "scale_lr": scale_lr, "warmup": warmup,
        "seed": seed, "tune_scale": tune_scale, "evaluate_every": evaluate_every,
        "blocks": [train.image_blocks, train.text_blocks],
        "precision": accelerator.mixed_precision, "loss": getattr(loss, "__qualname__", repr(loss)),
    }  # fmt: skip
    if checkpoint is not None:  # seconds at ViT-L/14's size
        sets = (train, validation)
        settings["data"] = digest(*(part for s in sets for part in (s.tokens, s.starts, s.choices)))
        settings["base"] = digest(*clip.model.state_dict().values())
        settings["pictures"] = [s.pictures() for s in sets]
    saved = continue_from(checkpoint, settings)
    if saved is not None:
        model.load_state_dict(saved["tuned"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        losses, best, history = saved["losses"], saved["best"], saved["history"]
        restore_scaler(accelerator, saved)
    everyone = torch.arange(accelerator.process_index, len(validation), processes)
    began = len(losses)

    def save() -> None:
        if checkpoint is None:
            return
        if accelerator.is_main_process:
            save_checkpoint(
                checkpoint, settings=settings, tuned={k: v.detach() for k, v in tuned.items()}, losses=losses,
                optimizer=optimizer.state_dict(), schedule=schedule.state_dict(), best=best, history=history,
                scaler=scaler_state(accelerator),
            )  # fmt: skip
        accelerator.wait_for_everyone()

    order = batch_order(len(train), batch_size, steps, seed)[began:]
    parts = [micro_batches(batch, accelerator, accumulation) for batch in order]
    depth = 2 if accelerator.device.type == "cuda" else 0
    ready = ahead(train.batch, (part for step in parts for part in step), depth)
    for step, own in enumerate(parts, start=len(losses)):
        total = torch.zeros((), device=accelerator.device)
        stepper.zero_grad(set_to_none=True)
        for k, part in enumerate(own):
            with synchronised(accelerator, towers, last=k == len(own) - 1):
                logits = towers(next(ready))
                value = loss(logits, train.choices[part].to(logits.device)) * (len(part) * processes / batch_size)
                accelerator.backward(value)
            total += value.detach()
        agreed = agreed_loss(total, accelerator, step, lr)
        if step > began and step % save_every == 0:
            save()  # not before these weights have given a finite loss
        rate = float(schedule.get_last_lr()[0])
        stepper.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator,union-attr]
        losses.append(agreed)
        if log is not None and accelerator.is_main_process:
            log({"loss": losses[-1], "lr": rate, "logit_scale": float(model.logit_scale.detach())}, step + 1)  # type: ignore[operator]
        if (step + 1) % evaluate_every == 0 or step + 1 == steps:
            model.eval()
            share = evaluate_trunk(model, validation, groups=everyone, dtype=computing_dtype(accelerator))
            logits = gathered(share, len(validation), accelerator)
            model.train()
            held_out = loss(logits, validation.choices).item()
            history.append((step + 1, held_out, top1(logits, validation.choices)))
            if best is None or held_out < best[0] or math.isnan(best[0]):
                best = (held_out, step + 1, {k: v.detach().cpu().clone() for k, v in tuned.items()})
            if log is not None and accelerator.is_main_process:
                log({"validation_loss": held_out, "validation_top1": history[-1][2]}, step + 1)
        if progress is not None:
            progress(step + 1, steps)
    assert best is not None
    if math.isnan(best[0]):
        raise RuntimeError(f"no validation loss was a number: lower lr (it is {lr}) and start again.")
    if steps > began:
        save()
    model.load_state_dict(best[2], strict=False)
    return Trained(replace(clip, model=model.eval()), losses, history, best[1])
