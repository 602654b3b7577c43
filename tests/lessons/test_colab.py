"""tests/tools/colab.py, without a network: what it says of packages, and that Colab's own satisfy our bounds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tools.colab import alone, changes

from hpslib.lessons.setup_cell import setup_cell

ROOT = Path(__file__).parents[2]
RUNTIMES = sorted((ROOT / "tests" / "tools" / "colab").glob("*.txt"))
#: What Colab lacks, so that pip may bring it.
BROUGHT = {"krippendorff", "open-clip-torch", "torch-fidelity", "torchmetrics"}


def test_what_is_added_is_told_from_what_is_replaced_or_removed() -> None:
    before = {"torch": "2.9.0", "six": "1.17", "numpy": "2.0.2"}
    assert changes(before, before) == ([], [])
    assert changes(before, before | {"ftfy": "6.3", "Ab": "1"}) == (["Ab 1", "ftfy 6.3"], [])
    added, lost = changes(before, {"torch": "2.10.0", "numpy": "2.0.2"})
    assert (added, lost) == ([], ["six 1.17 is removed", "torch 2.9.0 is replaced by 2.10.0"])


def test_a_lesson_lies_alone_with_an_address_to_clone(tmp_path: Path) -> None:
    lesson = tmp_path / "1.ipynb"
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# One"), new_code_cell("old"), new_code_cell("kept")]), lesson
    )
    (tmp_path / "empty").mkdir()
    copy = nbformat.read(alone(lesson, tmp_path / "empty", "file:///course"), as_version=4)
    assert [cell.source for cell in copy.cells] == ["# One", setup_cell("file:///course"), "kept"]
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["1.ipynb"]


@pytest.mark.parametrize("path", RUNTIMES, ids=lambda path: path.stem)
def test_colabs_packages_satisfy_our_bounds(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    has = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {canonicalize_name(r.name): r for r in map(Requirement, project["dependencies"])}
    assert asked.keys() - has.keys() == BROUGHT
    assert [name for name in asked.keys() & has.keys() if not asked[name].specifier.contains(has[name])] == []


def test_the_makefile_takes_a_runtime_that_is_there() -> None:
    (name,) = re.findall(r"(?m)^RUNTIME \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert name in [path.stem for path in RUNTIMES]
