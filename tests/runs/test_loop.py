"""hpslib.runs.loop: what every training loop does around a step, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hpslib.runs.checkpoints import load_checkpoint
from hpslib.runs.distributed import local_accelerator
from hpslib.runs.loop import Loop


def loop_of(steps: int = 6, checkpoint: Path | None = None, **options: Any) -> Loop:
    settings = {"lr": 0.1} | options.pop("settings", {})
    state = options.pop("state", dict)
    accelerator = options.pop("accelerator", None) or local_accelerator("cpu")
    return Loop(accelerator, steps, 0.1, settings=settings, state=state, checkpoint=checkpoint, **options)


def run(loop: Loop, losses: list[float], upto: int = 100) -> None:
    for step in loop:
        loop.record(loop.agree(torch.tensor(losses[step])), lr=1.0 / (step + 1))
        if step + 1 == upto:
            return
    loop.finish()


LOSSES = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_steps_losses_log_and_progress_in_their_order() -> None:
    logged: list[Any] = []
    progressed: list[tuple[int, int]] = []
    loop = loop_of(3, log=lambda values, step: logged.append((step, values)), progress=lambda *a: progressed.append(a))
    run(loop, LOSSES)
    assert loop.losses == [6.0, 5.0, 4.0] and loop.began == 0 and loop.saved is None
    assert logged == [(k + 1, {"loss": 6.0 - k, "lr": 1.0 / (k + 1)}) for k in range(3)]
    assert progressed == [(1, 3), (2, 3), (3, 3)]


def test_only_the_main_process_logs_and_saves(tmp_path: Path) -> None:
    class Second:
        is_main_process, num_processes, process_index, scaler = False, 2, 1, None

        def reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
            assert how == "mean"
            return value

        def wait_for_everyone(self) -> None:
            waited.append(1)

    waited: list[int] = []
    loop = loop_of(2, tmp_path / "run.ckpt", accelerator=Second(), log=lambda *a: pytest.fail("not its task"))
    run(loop, LOSSES)
    assert waited == [1] and list(tmp_path.iterdir()) == [], "it waits for the one that writes"


def test_a_checkpoint_waits_for_the_loss_that_proves_its_weights(tmp_path: Path) -> None:
    path, weight = tmp_path / "run.ckpt", [0]
    seen: dict[int, list[float] | None] = {}

    loop = loop_of(5, path, save_every=2, state=lambda: {"weight": weight[0]})
    for step in loop:
        loss = loop.agree(torch.tensor(LOSSES[step]))
        saved = load_checkpoint(path)
        seen[step] = saved and saved["losses"]
        weight[0] += 1
        loop.record(loss)
    assert seen == {0: None, 1: None, 2: [6.0, 5.0], 3: [6.0, 5.0], 4: [6.0, 5.0, 4.0, 3.0]}
    loop.finish()
    saved = load_checkpoint(path)
    assert saved is not None and saved["losses"] == LOSSES[:5] and saved["weight"] == 5


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_its_checkpoint(tmp_path: Path, broken: float) -> None:
    loop = loop_of(6, tmp_path / "run.ckpt", save_every=2)
    with pytest.raises(
        RuntimeError, match=rf"the loss is {broken} at step 4: lower lr \(it is 0\.1\) and start again\."
    ):
        run(loop, [*LOSSES[:4], broken])
    saved = load_checkpoint(tmp_path / "run.ckpt")
    assert saved is not None and saved["losses"] == LOSSES[:2], "step 4 was due, and did not prove the weights"


def test_a_run_goes_on_where_it_was_and_a_finished_one_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    run(loop_of(6, path, save_every=2, state=lambda: {"weight": 7}), LOSSES, upto=5)
    steps: list[int] = []
    again = loop_of(6, path, save_every=2, progress=lambda done, total: steps.append(done))
    assert again.began == 4 and again.saved is not None and again.saved["weight"] == 7
    run(again, LOSSES)
    assert again.losses == LOSSES and steps == [5, 6]
    before = path.stat().st_mtime_ns
    run(loop_of(6, path), LOSSES)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"run\.ckpt was made with lr 0\.1, but now it is 0\.2"):
        loop_of(6, path, settings={"lr": 0.2})


def test_a_step_that_just_began_again_is_not_saved_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    run(loop_of(6, path, save_every=2), LOSSES, upto=3)
    before = path.stat().st_mtime_ns
    loop = loop_of(6, path, save_every=2)
    loop.agree(torch.tensor(4.0))  # step 2, where it began: what would be written is what lies there
    assert path.stat().st_mtime_ns == before


def test_shares_are_weighted_so_that_their_sum_is_the_mean_of_the_batch() -> None:
    class Half:
        num_processes, process_index, scaler = 2, 1, None

    values, total = torch.arange(7.0) ** 2, 0.0
    loop = loop_of(1, accelerator=Half())
    parts = list(loop.shares(torch.arange(7), micro_batch=2))
    assert [part.tolist() for part, *_ in parts] == [[1, 3], [5]] and [last for *_, last in parts] == [False, True]
    own = sum(weight * values[part].mean() for part, weight, _ in parts)
    Half.process_index = 0
    other = sum(weight * values[part].mean() for part, weight, _ in loop.shares(torch.arange(7), micro_batch=2))
    total = (own + other) / 2  # what reduce(..., "mean") does
    torch.testing.assert_close(total, values.mean())
