"""hpslib.lessons.course on tiny notebooks: copies, report, headline table, stored outputs that do not change, faults
named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner
from waiting import wait

from hpslib.lessons.course import app, headline, normalise, tagged_figures, unclean_cells
from hpslib.lessons.execution import KERNEL_ENVIRONMENT, execute, read_notebook
from hpslib.lessons.page import report

runner = CliRunner()


def notebook(path: Path, *sources: str) -> Path:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": f"# {path.stem}\n\n[next](02_b.ipynb)"}]
    cells += [
        {"cell_type": "code", "metadata": {}, "execution_count": 9, "outputs": [], "source": source}
        for source in sources
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    return path


def texts(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(o.get("text", o.get("evalue", "")) for o in cell.outputs) for cell in cells if "outputs" in cell]


def test_run_writes_copies_a_report_and_the_headline_table(tmp_path: Path) -> None:
    say = (
        "import os\nfrom hpslib.lessons.course import headline\nheadline('{0}', '<b>48 %</b>')\nprint(os.getcwd(), {1})"
    )
    first = notebook(tmp_path / "n" / "01_a.ipynb", say.format("a top-1", "os.environ['OMP_NUM_THREADS']"))
    before = first.read_bytes()
    notebook(tmp_path / "n" / "02_b.ipynb", say.format("b", "1"), "1 / 0", "print('never')")
    result = runner.invoke(app, ["run", str(tmp_path / "n"), "--build", str(tmp_path / "build")])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "02_b.ipynb, cell 2 (from 0): ZeroDivisionError: division by zero"
    assert lines[0].startswith("01_a ") and lines[0].endswith(" ok") and " s  " in lines[0]
    assert lines[1].startswith("02_b ") and lines[1].endswith(" FAILED")
    assert lines[-2:] == ["a top-1  <b>48 %</b>", "b        <b>48 %</b>"]
    assert first.read_bytes() == before, "the notebook itself stays"
    assert texts(tmp_path / "build" / "notebooks" / "01_a.ipynb") == [f"{(tmp_path / 'n').resolve()} 2\n"]
    assert texts(tmp_path / "build" / "notebooks" / "02_b.ipynb")[1:] == ["division by zero", ""]
    page = (tmp_path / "build" / "report.html").read_text()
    assert '<section id="02_b"' in page and 'href="#02_b"' in page and 'href="02_b.ipynb' not in page
    assert "&lt;b&gt;48 %&lt;/b&gt;" in page and "<b>48 %</b></td>" not in page


def test_store_twice_changes_no_byte_and_leaves_unclean_notebooks_alone(tmp_path: Path) -> None:
    slider = "import ipywidgets\nipywidgets.IntSlider(value=3)"
    good = notebook(tmp_path / "01_a.ipynb", "print(1)\nprint({'b', 'a', 'c'})", slider, "import time; print('x')")
    loud = notebook(tmp_path / "02_b.ipynb", "import sys; sys.stderr.write('oh')")
    before = loud.read_bytes()
    result = runner.invoke(app, ["store", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "02_b.ipynb, cell 1 (from 0) writes to stderr: find and stop the cause."
    assert loud.read_bytes() == before
    once = good.read_bytes()
    loud.unlink()
    assert runner.invoke(app, ["store", str(tmp_path)]).exit_code == 0
    assert good.read_bytes() == once
    stored = json.loads(once)
    assert [cell["id"] for cell in stored["cells"]] == [f"cell-{k}" for k in range(4)]
    assert [cell["execution_count"] for cell in stored["cells"][1:]] == [1, 2, 3]
    assert sorted(stored["metadata"]) == ["kernelspec", "language_info"] and b"widget-view" not in once
    assert stored["cells"][2]["outputs"][0]["data"]["text/plain"] == ["IntSlider(value=3)"]


def test_each_cell_is_told_with_its_heading_and_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient

    limits: list[object] = []

    class Client(nbclient.NotebookClient):
        def __init__(self, *given: object, **more: object) -> None:
            limits.append(more["timeout"])
            super().__init__(*given, **more)

    monkeypatch.setattr(nbclient, "NotebookClient", Client)
    told: list[tuple[int, int, str]] = []
    done = execute(notebook(tmp_path / "01_a.ipynb", "1", "2"), progress=lambda *cell: told.append(cell))
    assert done.fault is None and limits == [None]
    assert told == [(0, 3, "01_a"), (1, 3, "01_a"), (2, 3, "01_a")]


def test_a_run_that_failed_says_so_on_top_of_its_report(tmp_path: Path) -> None:
    notebook(tmp_path / "n" / "01_a.ipynb", "raise ValueError('a <b>bold</b>\\n\\nfault & more')", "print('never')")
    (tmp_path / "n" / "02_b.ipynb").write_text("no notebook")
    notebook(tmp_path / "n" / "03_c.ipynb", "print('all the same')")
    result = runner.invoke(app, ["run", str(tmp_path / "n"), "--build", str(tmp_path / "build")])
    assert result.exit_code == 1
    page = (tmp_path / "build" / "report.html").read_text()
    body = page[page.index("<body") :]
    banner = body[body.index('role="alert"') : body.index("all the same")]
    assert body.index('role="alert"') < body.index('href="#01_a"'), "above the contents"
    assert "This run failed." in banner
    assert "<li>01_a.ipynb, cell 1 (from 0): ValueError: a &lt;b&gt;bold&lt;/b&gt; fault &amp; more <a" in banner
    assert 'href="#01_a--fault"' in banner and 'id="01_a--fault"><p class="fault">' in body
    assert "<li>02_b.ipynb could not be run: " in banner and "is not a notebook of format 4" in banner
    assert "all the same" in body, "the lessons after it ran"
    assert 'role="alert"' not in report({}, {})


def test_a_run_that_is_stopped_from_the_keyboard_leaves_its_report_and_no_kernel(tmp_path: Path) -> None:
    import psutil

    mark = tmp_path / "n" / "kernel"
    notebook(tmp_path / "n" / "01_a.ipynb", "print('done')")
    waiting = "import os, pathlib, time\npathlib.Path('kernel').write_text(str(os.getpid()))\ntime.sleep(600)"
    notebook(tmp_path / "n" / "02_b.ipynb", waiting)
    notebook(tmp_path / "n" / "03_c.ipynb", "print('never')")
    where = [str(tmp_path / "n"), "--build", str(tmp_path / "b")]
    command = [sys.executable, "-m", "hpslib.lessons.course", "run", *where]
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what was started in the background does not
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears)
    wait(
        lambda: run.poll() is not None or (mark.exists() and mark.read_text()), 120, "the second lesson does not begin"
    )
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    said, faults = run.communicate(timeout=120)
    expected = "02_b.ipynb was stopped from the keyboard, and the lessons after it did not run."
    assert run.returncode == 1 and faults.splitlines() == [expected] and said.startswith("01_a ")
    page = (tmp_path / "b" / "report.html").read_text()
    assert expected in page and 'id="01_a"' in page and "never" not in page
    assert not psutil.pid_exists(int(mark.read_text()))


def test_the_kernel_gets_the_fixed_environment_and_its_memory_is_measured(tmp_path: Path) -> None:
    code = f"import os, json; print(json.dumps([os.environ[k] for k in {list(KERNEL_ENVIRONMENT)}]))"
    done = execute(notebook(tmp_path / "01_a.ipynb", code), environment={"OMP_NUM_THREADS": "1"})
    values = json.loads(done.notebook.cells[1].outputs[0].text)
    assert dict(zip(KERNEL_ENVIRONMENT, values)) == KERNEL_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    assert done.fault is None
    if Path("/proc/self/status").exists():
        assert done.peak_mib is not None and 10 < done.peak_mib < 2000


def test_headlines_keep_their_order_and_the_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "h.json"
    monkeypatch.delenv("HPSLIB_HEADLINE", raising=False)
    headline("a", 1)
    monkeypatch.setenv("HPSLIB_HEADLINE", str(path))
    for name, value in (("b", "é"), ("a", 2), ("b", 3)):
        headline(name, value)
    assert list(json.loads(path.read_text()).items()) == [("b", "3"), ("a", "2")]
    assert os.listdir(path.parent) == ["h.json"] and capsys.readouterr().out == ""  # noqa: PTH208


@pytest.mark.parametrize("content", ["no json", "[]", '{"nbformat": 3}', '{"nbformat": 4, "nbformat_minor": 5}'])
def test_what_is_not_a_notebook_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.ipynb").write_text(content)
    with pytest.raises(
        ValueError, match=r"x\.ipynb is not a notebook of format 4 \(.*\): save it anew from JupyterLab\.$"
    ):
        read_notebook(tmp_path / "x.ipynb")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    result = runner.invoke(app, ["store", str(tmp_path)])
    assert (
        result.exit_code == 2
        and result.stderr == f"there is no notebook in {tmp_path}: run this in the project's folder.\n"
    )


def test_normalise_drops_what_differs_and_keeps_the_rest() -> None:
    page = nbformat.v4.new_notebook(
        metadata={"widgets": {}, "accelerator": "GPU", "language_info": {"name": "x", "version": "3"}}
    )
    page.cells = [nbformat.v4.new_code_cell("1", metadata={"tags": ["x"], "execution": {"iopub.busy": "now"}})]
    normalise(page)
    assert page.metadata.accelerator == "GPU" and page.metadata.language_info == {"name": "python"}
    assert "widgets" not in page.metadata and page.cells[0].metadata == {"tags": ["x"]}
    assert normalise(nbformat.from_dict(page)) == page


def test_unclean_cells_and_a_report_with_equal_ids() -> None:
    cells = [nbformat.v4.new_code_cell("1", id="same"), nbformat.v4.new_code_cell("2")]
    cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="all-is-well")]
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text="oh-no")]
    page = nbformat.v4.new_notebook(cells=cells)
    assert unclean_cells(page) == [1]
    text = report({"a": page, "b": page}, {})
    assert text.count("all-is-well") == text.count("oh-no") == 2


def test_a_tagged_figure_is_saved_beside_the_course_and_in_data(tmp_path: Path) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    path = notebook(tmp_path / "notebooks" / "01_a.ipynb", draw, "1")
    raw = json.loads(path.read_text())
    raw["cells"][1]["metadata"]["tags"] = ["figure:line"]
    raw["cells"][2]["metadata"]["tags"] = ["figure:none"]  # no image, no file
    path.write_text(json.dumps(raw))
    assert runner.invoke(app, ["run", str(path.parent), "--build", str(tmp_path / "build")]).exit_code == 0
    assert runner.invoke(app, ["store", str(path.parent)]).exit_code == 0
    assert (tmp_path / "build" / "figures" / "line.png").read_bytes()[:4] == b"\x89PNG"
    assert [f.name for f in (tmp_path / "data" / "figures").iterdir()] == ["line.png"]
    assert list(tagged_figures(read_notebook(path))) == ["line"]
