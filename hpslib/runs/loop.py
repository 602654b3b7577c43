"""What every training loop does around a step, so that the loop itself can be read on one page.

A :class:`Loop` hands out the step numbers, from where a checkpoint stands to the last. Inside a step the trainer calls
:meth:`Loop.agree` with its share of the loss, before it moves the weights, and :meth:`Loop.record` after it has::

    for step in loop:
        ...                                  # fetch, forward, loss, backward
        agreed = loop.agree(share)           # the same number in every process; a checkpoint, if one is due
        optimizer.step()
        loop.record(agreed, lr=rate)         # to the losses and the log
    loop.finish()                            # the last checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpslib.runs.checkpoints import continue_from, save_checkpoint
from hpslib.runs.distributed import agreed_loss, micro_batches, restore_scaler, scaler_state

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

__all__ = ["Loop"]


class Loop:
    """The steps of one training run, in one process or several.

    Args:
        accelerator: the processes and the precision of the run.
        steps: how many steps the whole run has.
        lr: the learning rate, which the error about a loss that is no number names.
        settings: what must be equal for a run to go on from its checkpoint.
        state: what a checkpoint holds beside the settings and the losses; called at each save, in the main process.
        checkpoint: the file; ``None`` keeps nothing.
        save_every: steps between two checkpoints.
        log: receives a mapping of names to numbers and the step, counted from 1, in the main process.
        progress: receives the steps done and ``steps`` after each step, in every process.

    ``saved`` is what the checkpoint held, ``None`` where a run begins; the trainer puts its own part of it back.
    Raises ``ValueError`` when the checkpoint was made with other settings.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        steps: int,
        lr: float,
        settings: Mapping[str, Any],
        state: Callable[[], Mapping[str, Any]],
        checkpoint: str | Path | None = None,
        save_every: int = 200,
        log: Callable[[dict[str, float], int], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.accelerator, self.steps, self.lr = accelerator, steps, lr
        self.settings, self.state = settings, state
        self.checkpoint, self.save_every = checkpoint, save_every
        self.log, self.progress = log, progress
        self.saved = continue_from(checkpoint, settings)
        self.losses: list[float] = []
        if self.saved is not None:
            self.losses = self.saved["losses"]
            restore_scaler(accelerator, self.saved)
        self.began = len(self.losses)

    def __iter__(self) -> Iterator[int]:
        for step in range(self.began, self.steps):
            yield step
            if self.progress is not None:
                self.progress(step + 1, self.steps)

    def shares(self, batch: Tensor, micro_batch: int | None = None) -> Iterator[tuple[Tensor, float, bool]]:
        """This process's micro-batches of a batch: rows, the weight of their mean loss in the batch's, the last one?"""
        parts = micro_batches(batch, self.accelerator, micro_batch)
        for number, part in enumerate(parts, start=1):
            yield part, len(part) * self.accelerator.num_processes / len(batch), number == len(parts)

    def agree(self, share: Tensor) -> float:
        """The loss of this step, the same in every process, from each one's share of it.

        A checkpoint that is due is written now and not before: the weights it holds have given a finite loss. Raises
        ``RuntimeError`` when the loss is no number; the last checkpoint stays as it was.
        """
        step = len(self.losses)
        loss = agreed_loss(share, self.accelerator, step, self.lr)
        if step > self.began and step % self.save_every == 0:
            self._save()
        return loss

    def record(self, loss: float, **values: float) -> None:
        """Keep the loss of a step that is done, and log it with ``values``."""
        self.losses.append(loss)
        self.note(loss=loss, **values)

    def note(self, **values: float) -> None:
        """Log ``values`` at the step that was recorded last, in the main process."""
        if self.log is not None and self.accelerator.is_main_process:
            self.log(values, len(self.losses))

    def finish(self) -> None:
        """Write the last checkpoint, unless the run had been finished before."""
        if len(self.losses) > self.began:
            self._save()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        if self.accelerator.is_main_process:
            scaler = scaler_state(self.accelerator)
            save_checkpoint(self.checkpoint, settings=self.settings, losses=self.losses, scaler=scaler, **self.state())
        self.accelerator.wait_for_everyone()
