"""hpslib.runs.progress: bars on a terminal, lines elsewhere, and a time left that is true."""

from __future__ import annotations

import doctest
import sys
import threading
import time

import pytest

import hpslib.runs.progress as module
from hpslib.runs.progress import ProgressBar


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module._Lines, "_watch", lambda self, ended: None)  # the thread has a test of its own


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == "", "results go to stdout, nothing else does"
    return err.splitlines()


def test_without_a_terminal_a_line_after_seconds_and_then_every_minute(monkeypatch, capsys) -> None:
    clock, bar = Clock(monkeypatch), ProgressBar("step", None)
    for step in range(1, 301):
        clock.now += 0.5
        bar.note({"loss": 2.0 - step / 300, "lr": 1e-3, "logit_scale": 4.6}, step)
        if step % 100 == 0:
            bar.note({"validation_loss": 1.0, "validation_top1": 0.61}, step)
        bar(step, 4_041)
    bar.close()
    assert lines_of(capsys) == [
        "step 10 of 4,041, loss 1.967, 2.0 steps/s, 33.6 min left",
        "step 130 of 4,041, loss 1.567, accuracy 0.61, 2.0 steps/s, 32.6 min left",
        "step 250 of 4,041, loss 1.167, accuracy 0.61, 2.0 steps/s, 31.6 min left",
    ]


def test_what_was_done_before_is_no_speed(monkeypatch, capsys) -> None:
    clock, bar = Clock(monkeypatch), ProgressBar("step", None)
    for step in (1_001, 1_002, 1_003):
        clock.now += 3
        bar(step, 2_000)
    assert lines_of(capsys) == ["step 1,002 of 2,000, 3.0 s per step, 49.9 min left"]
    clock.now += 56
    bar(1_004, 2_000)
    assert lines_of(capsys) == [], "the minute is not over"
    clock.now += 4
    bar(1_005, 2_000)
    assert lines_of(capsys) == ["step 1,005 of 2,000, 16.5 s per step, 4.6 h left"]


def test_files_that_are_there_are_forgotten_after_minutes(monkeypatch, capsys) -> None:
    """Latents of an earlier run go by in no time; what is left takes two seconds each."""
    clock, bar = Clock(monkeypatch), ProgressBar("image", None)
    clock.now += 4
    for done in range(0, 1_000, 100):
        bar(done, 2_000)
    for done in range(1_000, 1_300):
        clock.now += 2
        bar(done, 2_000)
    assert lines_of(capsys)[-1].endswith("image 1,270 of 2,000, 2.0 s per image, 24.3 min left")


def test_the_last_piece_is_told_where_anything_was(monkeypatch, capsys) -> None:
    clock, bar = Clock(monkeypatch), ProgressBar("image", None)
    for done in (1, 2):
        clock.now += 1
        bar(done, 2)
    assert lines_of(capsys) == [], "over within seconds"
    for done in (1, 7, 9):
        clock.now += 2
        bar(done, 9)
    assert lines_of(capsys) == ["image 7 of 9, 3.0 images/s, 1 s left", "image 9 of 9, 2.0 images/s, 0 s left"]


def test_silence_is_broken_by_a_thread(monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "FIRST", 0.1)
    monkeypatch.setattr(module, "EVERY", 0.1)
    bar = ProgressBar("group", None)
    time.sleep(0.5)
    bar(10, 100)
    time.sleep(0.5)
    bar.close()
    told = lines_of(capsys)
    time.sleep(0.3)
    assert lines_of(capsys) == [], "closed"
    assert told[0] == "no group done after 0 s"
    assert told[-1].startswith("group 10 of 100, rate and time left not known yet, the last ") and told[-1].endswith(
        "ago"
    )


def test_the_thread_ends_with_the_work_and_with_the_bar() -> None:
    def threads() -> int:
        return sum(thread.name.endswith("(_watch)") for thread in threading.enumerate())

    def settled(count: int) -> bool:
        deadline = time.monotonic() + 10
        while threads() != count and time.monotonic() < deadline:
            time.sleep(0.01)
        return threads() == count

    before, bar = threads(), ProgressBar("step", None)
    bar(1, 3)
    assert settled(before + 1)
    bar(3, 3)
    assert settled(before), "the work is done"
    bar(1, 5)
    assert settled(before + 1), "the next work has begun"
    del bar
    assert settled(before), "nobody holds the bar any more"


def test_a_terminal_has_a_bar_with_the_same_values(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = ProgressBar("step", None)
    bar.note({"loss": 1.2345, "validation_top1": 0.5}, 3)
    bar(3, 10)
    time.sleep(0.2)
    bar(4, 10)
    bar.close()
    told = capsys.readouterr().err
    assert "4/10" in told and "loss 1.234, accuracy 0.50" in told.replace("1.235", "1.234")


def test_not_shown_is_silent(capsys) -> None:
    bar = ProgressBar("step", False)
    bar.note({"loss": 1.0}, 1)
    bar(1, 2)
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0
