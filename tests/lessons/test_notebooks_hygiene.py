"""Every notebook in notebooks/: executed from top to bottom without noise, short cells, one title, readable length."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(rf"{re.escape(str(ROOT))}|/home/\w|/Users/\w|/root/|/tmp/|/opt/\w|[A-Z]:\\\\Users")


def prose(notebook: NotebookNode) -> str:
    """The markdown cells without fenced code."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"(?ms)^```.*?^```", "", text)


def words(notebook: NotebookNode) -> int:
    """Words a reader reads: without what is folded (hints, solutions, answers), tags, addresses and formulas."""
    unread = r"<details>.*?</details>|<[^>]*>|\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]*\$"
    text = re.sub(unread, " ", prose(notebook), flags=re.S)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def faults_of(notebook: NotebookNode) -> list[str]:
    """What is wrong with a notebook, one sentence each."""
    faults = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [(k, output) for k, cell in enumerate(code) for output in cell.outputs]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("execution counts are not 1..n, run make notebooks")
    faults += [f"code cell {k} ends in an error" for k, output in outputs if output.output_type == "error"]
    faults += [f"code cell {k} writes to stderr" for k, output in outputs if output.get("name") == "stderr"]
    if len(code) > 26:
        faults.append(f"{len(code)} code cells are more than 26")
    faults += [f"code cell {k} is over 15 lines" for k, c in enumerate(code) if len(c.source.strip().splitlines()) > 15]
    for k, cell in enumerate(code):
        imports = len(re.findall(r"(?m)^(?:import|from) ", cell.source))
        faults += [f"code cell {k} has {imports} lines of imports: import where it is used"] if imports > 8 else []
    levels = [len(marks) for marks in re.findall(r"(?m)^(#{1,6}) ", prose(notebook))]
    if levels.count(1) != 1 or levels[0] != 1:
        faults.append(f"{levels.count(1)} titles (#), there must be one, at the top")
    if any(below > above + 1 for above, below in pairwise(levels)):
        faults.append("a heading skips a level")
    if not 900 <= words(notebook) <= 1600:
        faults.append(f"{words(notebook)} words of text are not within 900..1600")
    place = MACHINE_PATH.search(
        json.dumps([{k: cell.get(k) for k in ("source", "outputs")} for cell in notebook.cells])
    )
    if place:
        faults.append(f"the path {place[0]!r} of a machine is in it")
    if re.search(r"\bat 0x[0-9a-f]{6}", json.dumps([output for _, output in outputs])):
        faults.append("a memory address is printed, it differs in every run")
    if "widgets" in notebook.metadata:
        faults.append("it holds widget state, run make notebooks")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    assert faults_of(nbformat.read(path, as_version=4)) == []


def test_the_folder_holds_lessons_small_enough_to_be_shown_and_nothing_else() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "notebooks").iterdir() if path.is_file()}
    votes = {name for name in sizes if ".sqlite" in name}  # a learner's own, which git does not see
    assert set(sizes) - votes == {path.name for path in NOTEBOOKS}
    assert {path.name: sizes[path.name] for path in NOTEBOOKS if sizes[path.name] > 600_000} == {}


def good() -> NotebookNode:
    cells = [new_markdown_cell("# Title\n\n## Part\n\n" + "word " * 1000 + "\n```\n# not a heading\n```")]
    cells += [new_code_cell("print(1)", execution_count=k, outputs=[]) for k in range(1, 4)]
    return new_notebook(cells=cells)


def test_a_good_notebook_has_no_fault() -> None:
    assert faults_of(good()) == []
    assert words(good()) == 1002


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda n: n.cells[2].update(execution_count=7), "execution counts"),
        (lambda n: n.cells[2].update(execution_count=None), "execution counts"),
        (
            lambda n: n.cells[2].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
            "cell 1 ends in",
        ),
        (lambda n: n.cells[3].outputs.append(new_output("stream", name="stderr", text="w")), "cell 2 writes to stderr"),
        (lambda n: n.cells.extend(new_code_cell("1", execution_count=k) for k in range(4, 28)), "27 code cells"),
        (lambda n: n.cells[1].update(source="1\n" * 16), "cell 0 is over 15 lines"),
        (lambda n: n.cells[1].update(source="import os\n" * 5 + "from os import path\n" * 4), "9 lines of imports"),
        (lambda n: n.cells.append(new_markdown_cell("# Another")), "2 titles"),
        (lambda n: n.cells.insert(0, new_markdown_cell("## Early")), "1 titles"),
        (lambda n: n.cells.append(new_markdown_cell("#### Deep")), "skips a level"),
        (lambda n: n.cells[0].update(source="# Title"), "1 words"),
        (lambda n: n.cells[0].update(source=n.cells[0].source + "word " * 600), "1602 words"),
        (lambda n: n.cells[1].update(source="open('/root/x')"), "the path '/root/'"),
        (lambda n: n.cells[1].outputs.append(new_output("stream", text=f"{ROOT}/x")), f"the path {str(ROOT)!r}"),
        (lambda n: n.cells[1].outputs.append(new_output("stream", text="<object at 0x7fa4cd7a>")), "memory address"),
        (lambda n: n.metadata.update(widgets={}), "widget state"),
    ],
)
def test_each_fault_is_found(spoil: Callable[[NotebookNode], None], fault: str) -> None:
    notebook = good()
    spoil(notebook)
    assert len(faults_of(notebook)) == 1 and fault in faults_of(notebook)[0]
