"""hpslib.runs.plan: pieces and steps are timed by doing some of them, and what is not known is not made up."""

from __future__ import annotations

import doctest
import json
import time
from pathlib import Path

import pytest
import torch

import hpslib.runs.plan as module
from hpslib.runs.distributed import local_accelerator
from hpslib.runs.loop import Loop
from hpslib.runs.plan import Measured, Stage, hours, peak_memory, plan_dict, plan_table, timed_pieces, timed_steps


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)


def test_pieces_are_doubled_until_they_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), list[int]()

    def work(count: int) -> None:
        calls.append(count)
        clock.now += 0.02 * count + (5.0 if len(calls) == 1 else 0.0)  # the first call loads kernels

    found = timed_pieces(work, 10_000)
    assert found.seconds_each == pytest.approx(0.02) and found.pieces == calls[-1] >= 50 and sum(calls) < 200
    calls.clear()
    assert timed_pieces(work, 3).pieces == 3 and max(calls) == 3, "no more than there is"
    calls.clear()
    assert timed_pieces(work, 1).seconds_each == pytest.approx(0.02) and calls == [1, 1]
    calls.clear()
    assert timed_pieces(work, 0) == Measured() and calls == []
    fast = timed_pieces(lambda count: None, 1_000)
    assert fast.pieces == 1_000 and fast.seconds_each == 0.0


def run_loop(steps: int, checkpoint: Path | None, clock: Clock, seconds: list[float], every: int = 0, **told) -> Loop:
    loop = Loop(local_accelerator("cpu"), steps, 0.1, {"a": 1}, dict, checkpoint, save_every=10**9, **told)
    for step in loop:
        loss = loop.agree(torch.tensor(1.0))
        clock.now += seconds[min(step, len(seconds) - 1)]
        loop.record(loss)
        if every and (step + 1) % every == 0:
            clock.now += 100
            loop.note(validation_loss=1.0)
    loop.finish()
    return loop


def test_steps_are_timed_after_a_warm_up_and_without_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timed_steps(lambda **told: run_loop(500, None, clock, [9.0, 8.0, 0.5], every=4, **told))
    assert found.seconds_each == pytest.approx(0.5) and (found.done, found.total) == (0, 500)
    assert found.pieces == 6, "three seconds of them"
    short = timed_steps(lambda **told: run_loop(2, None, clock, [3.0, 1.0], **told))
    assert short.seconds_each == pytest.approx(2.0), "of so few the first ones count"


def test_a_checkpoint_is_read_and_compared_but_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, path = Clock(monkeypatch), tmp_path / "run.ckpt"
    timed_steps(lambda **told: run_loop(3, path, clock, [1.0], **told))
    assert not path.exists(), "not even by a run that came to its end"
    from hpslib.runs.checkpoints import save_checkpoint

    save_checkpoint(path, settings={"a": 1}, losses=[1.0] * 7, scaler=None)
    before = path.read_bytes()
    found = timed_steps(lambda **told: run_loop(9, path, clock, [1.0], **told))
    assert (found.done, found.total) == (7, 9) and path.read_bytes() == before
    save_checkpoint(path, settings={"a": 1}, losses=[1.0] * 9, scaler=None)
    assert timed_steps(lambda **told: run_loop(9, path, clock, [1.0], **told)) == Measured()
    save_checkpoint(path, settings={"a": 2}, losses=[1.0], scaler=None)
    with pytest.raises(ValueError, match="was made with a 2, but now it is 1"):
        timed_steps(lambda **told: run_loop(9, path, clock, [1.0], **told))


def test_an_error_of_the_work_is_raised() -> None:
    def broken(**told) -> None:
        raise RuntimeError("the loss is nan")

    with pytest.raises(RuntimeError, match="the loss is nan"):
        timed_steps(broken)


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory()
    assert before is not None and 2**24 < before < 2**40
    block = bytearray(before + 2**25)  # more than there has ever been
    block[::4096] = b"x" * len(block[::4096])
    after = peak_memory()
    assert after is not None and after > before


def test_what_is_not_known_stays_unknown() -> None:
    known = Stage("encode", 7_200, "image", 0.5, 3 * 2**30, 10 * 2**20, done=800)
    unknown = Stage("train", 10_000, "step", remark="no GPU is here", bytes_written=None)
    uncounted = Stage("score", None, "image", 0.1, remark="no GPU is here")
    assert [hours(stage) for stage in (known, unknown, uncounted)] == [1.0, None, None]
    assert hours(Stage("x", 0, "step")) == 0.0
    lines = plan_table([known, unknown, uncounted], ["One process."]).splitlines()
    assert [part.strip() for part in lines[1].split("  ") if part.strip()] == [
        "encode", "7,200 images (800 are done)", "2 images/s", "60.0 min", "3.0 GiB", "10.0 MiB"
    ]  # fmt: skip
    assert [part.strip() for part in lines[2].split("  ") if part.strip()] == ["train", "10,000 steps", *"????"]
    assert lines[4:] == [
        "In all 60.0 min, without what is not known.", "train, score: no GPU is here.", "One process."
    ]  # fmt: skip
    assert "In all" not in plan_table([unknown])
    found = json.loads(json.dumps(plan_dict([known, unknown], ["n"])))
    assert found["hours"] is None and found["stages"][0]["hours"] == 1.0 and found["stages"][1]["seconds_each"] is None
    assert plan_dict([known])["hours"] == 1.0


def test_the_clock_is_a_real_one() -> None:
    found = timed_pieces(lambda count: time.sleep(0.02 * count), 1_000, seconds=0.2)
    assert found.seconds_each is not None and found.seconds_each >= 0.02 and found.pieces >= 2


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0
