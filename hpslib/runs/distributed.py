"""One training loop for one CPU, one GPU or several processes, by way of Accelerate.

A batch is drawn for all processes together; each takes its share of it, in one or several micro-batches. Losses are
weighted so that the mean over processes of their sums is the mean over the whole batch: N processes take the step that
one process takes, and neither their number nor the size of the micro-batches changes the result beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "PRECISIONS",
    "agreed_loss",
    "ahead",
    "computing_dtype",
    "fast_dtype",
    "frozen_dtype",
    "gathered",
    "local_accelerator",
    "micro_batches",
    "restore_scaler",
    "scaler_state",
    "synchronised",
]

PRECISIONS = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}  # accelerate's names

T = TypeVar("T")
R = TypeVar("R")


def local_accelerator(device: str | torch.device) -> Accelerator:
    """What a notebook trains with: this process alone on ``device``, autocast of :func:`fast_dtype`.

    Under ``accelerate launch`` hand over an ``Accelerator`` of your own instead. Raises ``ValueError`` for another GPU
    than the first, which is the one that Accelerate takes.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = torch.device(device)
    if device.index:
        raise ValueError(f"{device} is not the first GPU: choose one with CUDA_VISIBLE_DEVICES and use 'cuda'.")
    precision = PRECISIONS[fast_dtype(device)]
    if AcceleratorState._shared_state:
        AcceleratorState._reset_state(reset_partial_state=True)  # or a notebook could not change between CPU and GPU
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


def micro_batches(batch: Tensor, accelerator: Accelerator, size: int | None = None) -> list[Tensor]:
    """This process's share of a batch (every N-th row), in as few parts of nearly equal length as have ``size`` rows
    at most; in one part if ``None``.

    Raises ``ValueError`` when a process would be left without a row.
    """
    processes = accelerator.num_processes
    if len(batch) < processes or (size is not None and size < 1):
        raise ValueError(
            f"a batch of {len(batch)} cannot be dealt out to {processes} process{'es' * (processes > 1)} in parts of "
            f"{len(batch) if size is None else size}: make batch_size larger, and parts of at least one."
        )
    mine = batch[accelerator.process_index :: processes]
    return list(mine.tensor_split(1 if size is None else -(-len(mine) // size)))


def synchronised(accelerator: Accelerator, model: Any, last: bool) -> AbstractContextManager[Any]:
    """Gradients are exchanged between the processes after the last micro-batch of a step only."""
    return nullcontext() if last else accelerator.no_sync(model)


def agreed_loss(share: Tensor, accelerator: Accelerator, step: int, lr: float) -> float:
    """The mean of the processes' shares of a step's loss: every one of them then goes on, or none.

    Raises ``RuntimeError`` when it is no number.
    """
    loss = accelerator.reduce(share, "mean").item()
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss} at step {step}: lower lr (it is {lr}) and start again.")
    return loss


def computing_dtype(accelerator: Accelerator) -> torch.dtype:
    """What ``mixed_precision`` computes in: float32 for "no"."""
    return next(dtype for dtype, name in PRECISIONS.items() if name == accelerator.mixed_precision)


def frozen_dtype(accelerator: Accelerator) -> torch.dtype:
    """What the weights that are not trained are kept in: bfloat16 where that is computed in, float32 otherwise.

    Under float16 the gradients are scaled, which wants float32 weights.
    """
    return torch.bfloat16 if computing_dtype(accelerator) == torch.bfloat16 else torch.float32


def fast_dtype(device: str | torch.device) -> torch.dtype:
    """float32 on a CPU, bfloat16 on a GPU that computes in it, float16 on an older one (T4, V100)."""
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def scaler_state(accelerator: Accelerator) -> dict[str, Any] | None:
    """The state of float16's gradient scaling, for a checkpoint; ``None`` where nothing is scaled."""
    return accelerator.scaler.state_dict() if accelerator.scaler is not None else None


def restore_scaler(accelerator: Accelerator, saved: Mapping[str, Any]) -> None:
    """Put back what :func:`scaler_state` gave to a checkpoint."""
    if accelerator.scaler is not None and saved.get("scaler"):
        accelerator.scaler.load_state_dict(saved["scaler"])


def gathered(share: Tensor, count: int, accelerator: Accelerator) -> Tensor:
    """Rows dealt out as ``rows[process_index::num_processes]``, back together in their order: (count, ...).

    Every process must have the same number of columns; shares may differ by one row.
    """
    processes = accelerator.num_processes
    if processes == 1:
        return share
    longest = -(-count // processes)
    padded = share.new_zeros((longest, *share.shape[1:]))
    padded[: len(share)] = share
    parts = accelerator.gather(padded.to(accelerator.device)).to(share.device).reshape(processes, longest, -1)
    return parts.transpose(0, 1).reshape(processes * longest, *share.shape[1:])[:count]


def ahead(make: Callable[[T], R], items: Iterable[T], depth: int = 1) -> Iterator[R]:
    """``map(make, items)``, computed ``depth`` items ahead in one thread, so that decoding overlaps with the GPU.

    ``depth=0`` computes each item when it is asked for, as on a CPU, where there is nothing to overlap with. An error
    in ``make`` is raised at its item.
    """
    if depth == 0:
        yield from map(make, items)
        return
    waiting: list[Any] = []
    with ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                waiting.append(thread.submit(make, item))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:  # the reader stopped early
                future.cancel()
