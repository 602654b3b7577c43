"""How the learning rate of a LoRA goes from the first step to the last: diffusers' schedules by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["SCHEDULES", "check_schedule", "learning_rates"]

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")

_WARMUP = 10  # steps, of all but the constant one


def check_schedule(schedule: str) -> None:
    """Raise ``ValueError`` for a schedule that is none of :data:`SCHEDULES`."""
    if schedule not in SCHEDULES:
        raise ValueError(f"the schedule {schedule!r} is unknown: use one of {', '.join(SCHEDULES)}.")


def learning_rates(schedule: str, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """What moves the optimiser's rates over ``steps`` (:func:`diffusers.optimization.get_scheduler`); all but
    "constant" begin with ten steps of linear warm-up. ``schedule`` has passed :func:`check_schedule`."""
    from diffusers.optimization import get_scheduler

    warmup = 0 if schedule == "constant" else _WARMUP
    return get_scheduler(schedule, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
