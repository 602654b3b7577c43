"""How many rows of a batch go through a model at once: as many as the memory holds, found by trying it.

The result of a step does not depend on it (:mod:`hpslib.runs.distributed`), its time does: on a large GPU forty images
at once take a twentieth of the time of one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["ENOUGH", "ON_CPU", "fitting_rows", "optimizer_bytes", "rows_and_checkpointing"]

ENOUGH = 16  # rows at once where keeping activations begins to be worth more than having more rows
ON_CPU = 32  # rows at once on a CPU, whose caches hold no more: mini-CLIP learns from 32 groups at once in 3/4 of the
# time of 128 and with less memory, mini-SD from 32 images in half the time of four times 8

_MARGIN = 0.05  # of a GPU's memory, for fragments and kernels' work space


def fitting_rows(trial: Callable[[int], object], most: int, accelerator: Accelerator, reserve: int = 0) -> int:
    """The most rows that fit: ``most``, or half of it, a quarter, ...; 0 where not even one does.

    Args:
        trial: a forward and a backward pass of so many rows. It is called, must leave nothing behind, and be as
            large as any that follows.
        most: the rows of a step in this process.
        accelerator: the processes, which all get the smallest number that one of them found.
        reserve: bytes that a step needs beside it on a GPU, such as the optimiser's state.

    On a GPU the trial runs out of memory or does not (:func:`accelerate.utils.find_executable_batch_size`). A CPU takes
    all rows without a trial: its memory runs out by a kill, not by an error.
    """
    from accelerate.utils import find_executable_batch_size

    device, rows = accelerator.device, most
    if device.type != "cuda":
        return most
    reserve += int(_MARGIN * torch.cuda.get_device_properties(device).total_memory)

    def smaller() -> int:
        nonlocal rows
        rows = -(-rows // 2) if rows > 1 else 0
        return rows

    def tried(count: int) -> int:
        held = torch.empty(reserve, dtype=torch.uint8, device=device)
        trial(count)
        del held
        return count

    try:
        rows = find_executable_batch_size(tried, starting_batch_size=most, reduce_batch_size_fn=smaller)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
    if accelerator.num_processes > 1:
        rows = int(accelerator.gather(torch.tensor([rows], device=device)).min())
    return rows


def rows_and_checkpointing(
    trial: Callable[[bool, int], object],
    most: int,
    accelerator: Accelerator,
    *,
    rows: int | None = None,
    checkpointing: bool | None = None,
    reserve: int = 0,
) -> tuple[int, bool]:
    """How many rows at once, and whether activations are computed again rather than kept; what is given stays so.

    ``trial`` receives whether it is to compute activations again, and the rows. Activations are kept where
    :data:`ENOUGH` rows fit so (or all): on an H200 computing them again made a step of 40 images a third longer, and
    one with 8 at once by 80 %. With ``rows`` given they are kept where so many fit. On a CPU there are at most
    :data:`ON_CPU`, unless more are given.

    Raises ``ValueError`` for rows below 1, ``RuntimeError`` when not even one row fits.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"micro_batch is {rows}: give a number from 1, or None for as many as the memory holds.")
    wanted = most if rows is None else min(rows, most)
    if rows is None and accelerator.device.type == "cpu":
        parts = max(1, -(-most // ON_CPU))  # of equal size
        wanted = -(-most // parts)
    if rows is not None and checkpointing is not None:
        return wanted, checkpointing
    fitting = 0
    for again in (False, True) if checkpointing is None else (checkpointing,):
        fitting = fitting_rows(partial(trial, again), wanted, accelerator, reserve)
        if fitting >= (wanted if rows is not None else min(wanted, ENOUGH)):
            return fitting, again
    if fitting == 0:
        raise RuntimeError("not even one image at a time fits into the memory: use a device that has more of it.")
    return (fitting if rows is None else wanted), again


def optimizer_bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    """What a step of AdamW needs beside the passes: two moments of each weight, and the gradients' exchange."""
    return 3 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
