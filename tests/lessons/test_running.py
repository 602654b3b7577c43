"""hpslib.lessons.running: which cell runs is said, on a terminal in one line, elsewhere in a line now and then."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import hpslib.lessons.running as module
from hpslib.lessons.running import CellProgress, headings


def test_cells_know_the_heading_above_them() -> None:
    new = nbformat.v4
    cells = [new.new_code_cell("# no heading"), new.new_markdown_cell("Text.\n\n## Train\nMore.")]
    cells += [new.new_code_cell("1"), new.new_markdown_cell("only text"), new.new_markdown_cell("# Next\n\n## Last")]
    cells += [new.new_markdown_cell("```python\n# no heading\n```\n#none")]
    assert headings(new.new_notebook(cells=cells)) == ["", "Train", "Train", "Train", "Last", "Last"]


def test_without_a_terminal_there_is_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(CellProgress, "_watch", lambda self: None)
    with CellProgress("03_train") as told:
        for cell in range(30):
            now[0] += 1
            told(cell, 41, "Train" if cell > 5 else "")
    assert capsys.readouterr().err.splitlines() == [
        "03_train: cell 10 of 41, Train",
        "03_train: cell 20 of 41, Train",
        "03_train: cell 30 of 41, Train",
    ]


def test_inside_a_long_cell_its_own_progress_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = tmp_path / "inside"
    monkeypatch.setattr(module, "EVERY", 0.5)
    with CellProgress("03_train", inside) as told:
        inside.write_text("about another cell")
        told(19, 41, "Train")
        assert not inside.exists()
        code = (
            "import time\nfrom hpslib.runs.progress import ProgressBar\nbar = ProgressBar('step')\n"
            "for step in (1, 2, 3):\n    time.sleep(0.7)\n    bar.note({'loss': 0.5}, step)\n    bar(step, 3)\n"
        )
        environment = {"HPSLIB_PROGRESS": str(inside), "PYTHONPATH": str(Path(module.__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == done.stderr == "", "no bar in the notebook's output"
        time.sleep(2.2)
    told_lines = capsys.readouterr().err.splitlines()
    assert told_lines[-1].startswith("03_train: cell 20 of 41, Train, for ")
    assert ": step 3 of 3, loss 0.500, " in told_lines[-1] and told_lines[-1].endswith(" left")


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with CellProgress("01_a") as told:
        told(0, 2, "One")
        told(1, 2, "Two")
    said = capsys.readouterr().err
    assert "\n" not in said and "01_a: cell 2 of 2, Two" in said and said.endswith("\r\033[K"), "and it is taken away"
