"""Runs the notebooks as a whole: the executed course with its report, and the outputs stored in the notebooks.

``python -m hpslib.lessons.course run`` executes copies and writes a report; ``python -m hpslib.lessons.course store``
executes in place (:mod:`hpslib.lessons.execution`).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpslib.lessons.execution import Execution, execute
from hpslib.lessons.page import report
from hpslib.lessons.running import CellProgress
from hpslib.runs.files import written_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["app", "headline", "normalise", "run", "store", "tagged_figures", "unclean_cells"]


def headline(name: str, value: object) -> None:
    """Hand one result to the table that ends ``make course``; prints nothing, and does nothing outside that run.

    ``value`` is the number as text (anything else is turned into text); a second value of the same ``name`` replaces
    the first.

    >>> headline("03 HPS top-1", "48.1 % [45.0, 51.2]")
    """
    place = os.environ.get("HPSLIB_HEADLINE")
    if place:
        path = Path(place)
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        _write(path, json.dumps(rows | {name: str(value)}, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Drop in place what differs from run to run or machine to machine: timings, widget ids and state, versions."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            # The view names a model by a random id; without its state only the text beside it can be shown anyway.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def unclean_cells(notebook: NotebookNode) -> list[int]:
    """Numbers (from 0) of the cells that ended in an error or wrote to stderr."""
    return [
        number
        for number, cell in enumerate(notebook.cells)
        if any(o.output_type == "error" or o.get("name") == "stderr" for o in cell.get("outputs", []))
    ]


def tagged_figures(notebook: NotebookNode) -> dict[str, bytes]:
    """The PNG of every cell tagged ``figure:<name>``: what the README shows, as the course made it."""
    figures = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            images = [o.data["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            if tag.startswith("figure:") and images:
                figures[tag.removeprefix("figure:")] = base64.b64decode(images[0])
    return figures


def _write_figures(notebook: NotebookNode, folder: Path) -> None:
    for name, png in tagged_figures(notebook).items():
        with written_whole(folder / f"{name}.png") as partial:
            partial.write_bytes(png)


def _notebooks_in(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        typer.echo(f"there is no notebook in {folder}: run this in the project's folder.", err=True)
        raise typer.Exit(2)
    return paths


def _line(path: Path, done: Execution, width: int) -> str:
    memory = "memory unknown" if done.peak_mib is None else f"{done.peak_mib:5.0f} MiB"
    return f"{path.stem:<{width}} {done.seconds:6.1f} s  {memory}  {'FAILED' if done.fault else 'ok'}"


def _end(faults: Sequence[str]) -> None:
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(1)


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
Folder = Annotated[Path, typer.Argument(help="Folder with the notebooks.")]


@app.command()
def run(
    folder: Folder = Path("notebooks"),
    build: Annotated[Path, typer.Option(help="Where copies, report and headlines go.")] = Path("build"),
) -> None:
    """Execute copies of all notebooks, write build/report.html and print the headline table.

    Where a cell fails, the report says so on its top, and the exit code is 1.
    """
    start, paths, executed, faults = time.perf_counter(), _notebooks_in(folder), {}, []
    width = max(len(path.stem) for path in paths)
    headlines: dict[str, str] = {}
    for path in paths:
        rows = build.resolve() / "headline" / f"{path.stem}.json"
        rows.unlink(missing_ok=True)
        inside = rows.with_suffix(".progress")  # how far the kernel is inside a cell
        try:
            with CellProgress(path.stem, inside) as told:
                done = execute(path, {"HPSLIB_HEADLINE": str(rows), "HPSLIB_PROGRESS": str(inside)}, told)
        except (ValueError, OSError, RuntimeError) as error:  # no notebook; no kernel
            faults.append(" ".join(f"{path.name} could not be run: {error}".split()))
            continue
        except KeyboardInterrupt:
            faults.append(f"{path.name} was stopped from the keyboard, and the lessons after it did not run.")
            break
        finally:
            inside.unlink(missing_ok=True)
        typer.echo(_line(path, done, width))
        sys.stdout.flush()
        executed[path.stem] = normalise(done.notebook)
        _write(build / "notebooks" / path.name, _text(done.notebook))
        _write_figures(executed[path.stem], build / "figures")
        headlines |= json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else {}
        faults += [done.fault] if done.fault else []
    _write(build / "report.html", report(executed, headlines, faults))
    typer.echo(f"{build / 'report.html'} after {(time.perf_counter() - start) / 60:.1f} minutes\n")
    for name, value in headlines.items():
        typer.echo(f"{name:<{max(map(len, headlines))}}  {value}")
    _end(faults)


@app.command()
def store(folder: Folder = Path("notebooks")) -> None:
    """Execute all notebooks in place and save their tagged figures; one that fails or writes to stderr stays, named."""
    faults, paths = [], _notebooks_in(folder)
    width = max(len(path.stem) for path in paths)
    for path in paths:
        with CellProgress(path.stem) as told:
            done = execute(path, progress=told)
        typer.echo(_line(path, done, width))
        unclean = unclean_cells(done.notebook)
        if done.fault:
            faults.append(done.fault)
        elif unclean:
            faults.append(f"{path.name}, cell {unclean[0]} (from 0) writes to stderr: find and stop the cause.")
        else:
            _write(path, _text(normalise(done.notebook)))
            _write_figures(done.notebook, folder.resolve().parent / "data" / "figures")
    _end(faults)


def _text(notebook: Any) -> str:
    import nbformat

    return nbformat.writes(notebook).rstrip("\n") + "\n"


if __name__ == "__main__":
    app()
