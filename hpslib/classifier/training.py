"""The human preference classifier: CLIP's two towers, tuned until they predict which image people choose.

The loss is that of :mod:`hpslib.classifier.loss`, what is tuned that of :mod:`hpslib.classifier.towers`. The same loop,
:func:`fit`, runs on one CPU, on one GPU, and under ``accelerate launch`` in several processes
(:mod:`hpslib.runs.distributed`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from hpslib.classifier.loss import preference_loss, top1
from hpslib.classifier.towers import TunedTowers, set_trainable
from hpslib.classifier.trunk import Stream, Trunk, evaluate_trunk
from hpslib.runs.distributed import ahead, computing_dtype, gathered, local_accelerator, synchronised
from hpslib.runs.files import digest
from hpslib.runs.loop import Loop
from hpslib.runs.memory import optimizer_bytes, rows_and_checkpointing
from hpslib.scores.clip import Clip, ClipModel
from hpslib.scores.pixels import PADDED

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Trained", "Tuning", "batch_order", "fit", "train_classifier", "warmed_cosine"]


@dataclass(frozen=True)
class Trained:
    """A trained classifier: the tuned model, the losses of every step, and (step, loss, top-1) on validation."""

    clip: Clip
    losses: list[float]
    validation: list[tuple[int, float, float]]
    best_step: int


@dataclass
class Tuning:
    """What the loop works on: the model, its tuned weights by name, and who moves them.

    ``best`` is (validation loss, step, weights on the CPU) of the best evaluation so far, ``history`` the (step, loss,
    top-1) of all.
    """

    model: ClipModel
    tuned: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    best: tuple[float, int, dict[str, Tensor]] | None = None
    history: list[tuple[int, float, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "tuned": {name: weight.detach() for name, weight in self.tuned.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "history": self.history,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave to a checkpoint."""
        self.model.load_state_dict(saved["tuned"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.best, self.history = saved["best"], saved["history"]


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Which rows each step sees, int64 (steps, batch_size): shuffled epochs one behind the other.

    It depends on ``seed`` alone, so that batches can be prepared ahead and a resumed run sees the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(count, generator=generator) for _ in range(-(-steps * batch_size // count))]
    return torch.cat(epochs)[: steps * batch_size].reshape(steps, batch_size)


def warmed_cosine(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step, counted from 0: a linear rise over ``warmup`` steps, half a cosine.

    >>> [round(warmed_cosine(step, 10, warmup=1), 3) for step in (0, 1, 5, 10)]
    [0.5, 0.976, 0.5, 0.0]
    """
    return min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


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
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Tune a copy of ``clip`` by :func:`fit`; keep the weights with the lowest validation loss (paper, section 4).

    Args:
        epochs: passes over ``train``; AdamW with ``weight_decay``, the rate of :func:`warmed_cosine`.
        batch_size: groups of a step, over all processes and micro-batches together.
        scale_lr: the rate of ``logit_scale``, ``lr`` if ``None``. AdamW moves a weight by about one rate a step, and
            the scale has far to come down; it never decays, as in open_clip. ``tune_scale=False`` leaves it alone.
        seed: of the data order; global random state is neither read nor written.
        loss: of padded logits (groups, n) and choices (groups,), a mean over groups.
        micro_batch: groups at once in each process; ``gradient_checkpointing`` computes activations again in the
            backward pass instead of keeping them. Both: less memory, the same result. ``None``: as the memory allows
            (:func:`hpslib.runs.memory.rows_and_checkpointing`).
        accelerator: the processes (default: this one alone, :func:`hpslib.runs.distributed.local_accelerator`).
        checkpoint: written after every ``save_every`` steps. A run that was killed goes on from it, with the same
            settings, base weights and images only, and ends with the same weights, on a CPU bit by bit.
        log, progress: see :class:`hpslib.runs.loop.Loop`; the log gets ``loss``, ``lr``, ``logit_scale``, and at
            evaluations ``validation_loss`` and ``validation_top1``.

    Raises ``ValueError`` for trunks cut at different blocks, too few groups for the processes or a checkpoint of other
    settings, and ``RuntimeError`` when the loss stops being a number (the last checkpoint stays as it was).
    """
    accelerator = accelerator or local_accelerator(clip.device)
    _check_sets(train, validation, accelerator)
    steps = max(1, round(epochs * len(train) / batch_size))
    model = copy.deepcopy(clip.model).to(accelerator.device).train()
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    settings |= {"warmup": warmup, "scale_lr": scale_lr, "tune_scale": tune_scale, "seed": seed}
    settings |= {"evaluate_every": evaluate_every, "precision": accelerator.mixed_precision}
    settings["loss"] = getattr(loss, "__qualname__", repr(loss))
    settings |= _settings_of_sets(clip, train, validation, complete=checkpoint is not None)
    blocks = (train.image_blocks, train.text_blocks)
    optimizer = _optimizer(model, blocks, lr, weight_decay, scale_lr, tune_scale)
    schedule = LambdaLR(optimizer, lambda step: warmed_cosine(step, steps, warmup))
    tuned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    tuning = Tuning(model, tuned, optimizer, schedule)
    loop = Loop(accelerator, steps, lr, settings, tuning.state, checkpoint, save_every, log, progress)
    if loop.saved is not None:
        tuning.restore(loop.saved)
    order = batch_order(len(train), batch_size, steps, seed)[loop.began :]
    towers = TunedTowers(model, *blocks)

    def trial(again: bool, rows: int) -> None:
        towers.gradient_checkpointing = again
        _trial(towers, train, loss, accelerator, rows)

    rows, towers.gradient_checkpointing = rows_and_checkpointing(
        trial,
        -(-batch_size // accelerator.num_processes),
        accelerator,
        rows=micro_batch,
        checkpointing=gradient_checkpointing,
        reserve=optimizer_bytes(tuned.values()),
    )
    fit(loop, tuning, towers, train, validation, order, loss, rows, evaluate_every)
    return _best(clip, tuning, loop)


def fit(
    loop: Loop,
    tuning: Tuning,
    towers: TunedTowers,
    train: Trunk | Stream,
    validation: Trunk | Stream,
    order: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    micro_batch: int | None = None,
    evaluate_every: int = 50,
) -> None:
    """The loop itself: fetch, forward, loss, backward, step; evaluated every so often, and the best weights kept.

    ``order`` holds the rows of the steps that are left (:func:`batch_order`), int64 (steps, batch_size), of which
    ``micro_batch`` at most go through the towers at once (default: a process's whole share). A step's loss is the mean
    over its groups, whatever the number of processes and micro-batches.
    """
    accelerator, scale = loop.accelerator, tuning.model.logit_scale
    towers, optimizer = accelerator.prepare(towers, tuning.optimizer)
    ahead_by = 2 if accelerator.device.type == "cuda" else 0
    rows = (part for batch in order for part, _, _ in loop.shares(batch, micro_batch))
    batches = ahead(train.batch, rows, ahead_by)
    for step in loop:
        optimizer.zero_grad(set_to_none=True)
        share = torch.zeros((), device=accelerator.device)
        for part, weight, last in loop.shares(order[step - loop.began], micro_batch):
            with synchronised(accelerator, towers, last):
                logits = towers(next(batches))
                value = weight * loss(logits, train.choices[part].to(logits.device))
                accelerator.backward(value)
            share += value.detach()
        agreed = loop.agree(share)
        rate = float(tuning.schedule.get_last_lr()[0])
        optimizer.step()
        tuning.schedule.step()
        with torch.no_grad():
            scale.clamp_(0, math.log(100))
        loop.record(agreed, lr=rate, logit_scale=float(scale.detach()))
        if (step + 1) % evaluate_every == 0 or step + 1 == loop.steps:
            held_out, accuracy = _evaluated(tuning.model, validation, loss, accelerator)
            loop.note(validation_loss=held_out, validation_top1=accuracy)
            tuning.history.append((step + 1, held_out, accuracy))
            if tuning.best is None or held_out < tuning.best[0] or math.isnan(tuning.best[0]):
                weights = {name: weight.detach().cpu().clone() for name, weight in tuning.tuned.items()}
                tuning.best = (held_out, step + 1, weights)


def _trial(
    towers: TunedTowers,
    train: Trunk | Stream,
    loss: Callable[[Tensor, Tensor], Tensor],
    accelerator: Accelerator,
    rows: int,
) -> None:
    """A forward and a backward pass of the largest groups, so many, which leaves no gradient behind."""
    largest = (train.starts[1:] - train.starts[:-1]).argsort(descending=True)
    groups = largest[torch.arange(rows) % min(rows, len(train))]
    try:
        with accelerator.autocast():
            logits = towers(train.batch(groups))
        loss(logits.float(), train.choices[groups].to(logits.device)).backward()
    finally:
        towers.zero_grad(set_to_none=True)


def _evaluated(
    model: ClipModel, validation: Trunk | Stream, loss: Callable[[Tensor, Tensor], Tensor], accelerator: Accelerator
) -> tuple[float, float]:
    """Loss and top-1 accuracy on the validation groups, each process having looked at its share of them."""
    mine = torch.arange(accelerator.process_index, len(validation), accelerator.num_processes)
    model.eval()
    share = evaluate_trunk(model, validation, groups=mine, dtype=computing_dtype(accelerator))
    model.train()
    logits = gathered(share, len(validation), accelerator)
    return loss(logits, validation.choices).item(), top1(logits, validation.choices)


def _best(clip: Clip, tuning: Tuning, loop: Loop) -> Trained:
    """The best weights in the model, after the last checkpoint; RuntimeError where no evaluation gave a number."""
    assert tuning.best is not None  # the last step is always evaluated
    held_out, step, weights = tuning.best
    if math.isnan(held_out):
        raise RuntimeError(f"no validation loss was a number: lower lr (it is {loop.lr}) and start again.")
    loop.finish()
    tuning.model.load_state_dict(weights, strict=False)
    padded = replace(clip, model=tuning.model.eval()).looking(PADDED)  # whatever the base: so it has been trained
    return Trained(padded, loop.losses, tuning.history, step)


def _optimizer(
    model: ClipModel, blocks: tuple[int, int], lr: float, weight_decay: float, scale_lr: float | None, tune_scale: bool
) -> torch.optim.Optimizer:
    """The last ``blocks`` of both towers made trainable, and AdamW over them, ``logit_scale`` in a group of its own."""
    set_trainable(model, *blocks)
    model.logit_scale.requires_grad_(tune_scale)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [weight for name, weight in named if name != "logit_scale"]}]
    if tune_scale:
        groups.append({"params": [model.logit_scale], "lr": lr if scale_lr is None else scale_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


def _check_sets(train: Trunk | Stream, validation: Trunk | Stream, accelerator: Accelerator) -> None:
    if (train.image_blocks, train.text_blocks) != (validation.image_blocks, validation.text_blocks):
        raise ValueError(
            "the training and validation trunks were cut at different blocks: cache both with the same settings."
        )
    processes = accelerator.num_processes
    if len(validation) < processes:
        raise ValueError(f"{len(validation)} validation groups for {processes} processes: keep more groups for them.")


def _settings_of_sets(clip: Clip, train: Trunk | Stream, validation: Trunk | Stream, complete: bool) -> dict[str, Any]:
    """What a checkpoint is compared by: sizes and choices, and where ``complete`` also data, weights and images."""
    settings: dict[str, Any] = {
        "groups": len(train),
        "choices": digest(train.choices),
        "blocks": [train.image_blocks, train.text_blocks],
    }
    if complete:  # seconds at ViT-L/14's size
        sets = (train, validation)
        settings["data"] = digest(*(part for s in sets for part in (s.tokens, s.starts, s.choices)))
        settings["base"] = digest(*clip.model.state_dict().values())
        settings["images"] = [s.image_digest() for s in sets]
    return settings
