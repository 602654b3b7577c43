"""What the four training loops of the miniature world share: optimiser, schedule, average.

The networks are tiny and the budget is an hour of two CPU cores, so sample efficiency decides. Muon
(Jordan et al., 2024: momentum orthogonalised by a Newton-Schulz iteration) learns markedly faster per sample
than AdamW on all of them; ``torch.optim.Muon`` takes 2-D weights in bfloat16 only, which these CPUs are slow at,
and none of the convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "average_weights", "optimizers", "set_rate"]


def _orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of ``matrix`` (rows, columns) towards 1 (quintic Newton-Schulz, float32)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions; a convolution kernel counts as (out, in * height * width)."""

    def __init__(self, parameters: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every weight that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                velocity = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                gradient = parameter.grad.add(velocity, alpha=group["momentum"])  # Nesterov
                update = _orthogonalise(gradient.flatten(1))
                scale = math.sqrt(max(1.0, update.shape[0] / update.shape[1]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)


def optimizers(
    model: nn.Module, muon_rate: float, adam_rate: float, exclude: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for the inner weights; AdamW for vectors, scalars and whatever ``exclude`` names."""
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for_muon = parameter.ndim >= 2 and not any(part in name for part in exclude)
            (inner if for_muon else rest).append(parameter)
    both: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=adam_rate, weight_decay=0.0, betas=(0.9, 0.98))]
    if inner:
        both.append(Muon(inner, lr=muon_rate))
    for optimizer in both:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return both


def set_rate(optimizers: list[torch.optim.Optimizer], step: int, total: int, warmup: int = 50) -> None:
    """The learning rates of a step, from 0: a linear rise over ``warmup`` steps; over the last 70 %, a line to zero."""
    factor = min(1.0, (step + 1) / warmup) * min(1.0, (total - step) / (0.7 * total))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


@torch.no_grad()
def average_weights(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights, in place; an empty dict starts it."""
    for name, value in model.state_dict().items():
        if name not in average or not value.is_floating_point():
            average[name] = value.clone()
        else:
            average[name].lerp_(value, 1 - decay)
