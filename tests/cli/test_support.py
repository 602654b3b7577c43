"""hpslib.cli.support: faults as one sentence, numbers that are numbers, and JSON that is JSON."""

from __future__ import annotations

import json
import math

import pytest
import typer

from hpslib.cli.support import checked_numbers, one_sentence, tell


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (ValueError("x is 1: give 2."), 2, "x is 1: give 2."),
        (FileNotFoundError("f does not exist: name it."), 2, "f does not exist: name it."),
        (ValueError("one\ntwo"), 2, "one two"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply to be read: name another file."),
        (RuntimeError("CUDA out of memory. Tried"), 3, "the GPU's memory is full: choose a smaller --micro-batch"),
        (RuntimeError("the loss\n is nan"), 3, "the loss is nan"),
    ],
)
def test_a_fault_is_one_line_and_a_code(fault: Exception, code: int, told: str, capsys) -> None:
    with pytest.raises(typer.Exit) as ended, one_sentence():
        raise fault
    said = capsys.readouterr().err
    assert ended.value.exit_code == code and told in said and said.count("\n") == 1


def test_what_is_no_number_is_named_by_its_option() -> None:
    checked_numbers({"lr": 1e-9}, {"weight_decay": 0.0})
    for above, from_zero, told in (
        ({"lr": 0.0}, {}, "^--lr is 0.0: give a finite number above 0.$"),
        ({"lr": math.nan}, {}, "^--lr is nan: give a finite number above 0.$"),
        ({"lr": math.inf}, {}, "^--lr is inf: give a finite number above 0.$"),
        ({}, {"weight_decay": -0.1}, "^--weight-decay is -0.1: give a finite number from 0.$"),
        ({}, {"weight_decay": math.nan}, "^--weight-decay is nan: give a finite number from 0.$"),
    ):
        with pytest.raises(ValueError, match=told):
            checked_numbers(above, from_zero)


def test_an_interval_that_is_none_is_null(capsys) -> None:
    tell({"top1": [0.5, math.nan, math.inf], "deep": {"low": -math.inf}, "n": 3, "ok": True}, ["x"], as_json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found == {"top1": [0.5, None, None], "deep": {"low": None}, "n": 3, "ok": True}
    tell({}, ["one", "two"], as_json=False)
    tell({}, ["nothing"], as_json=False, main=False)
    assert capsys.readouterr().out == "one\ntwo\n"
