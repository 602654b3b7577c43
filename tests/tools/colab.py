"""The lessons as a learner on Colab opens them: ``python tests/tools/colab.py build/colab/bin/python``.

The Python named is one with Colab's versions (``make colab`` makes it from ``tests/tools/colab/``). Each lesson lies
alone in an empty folder and begins with packages as Colab has them; its set-up cell clones this repository as committed
and calls the real pip. It prints what pip added and, to end with exit code 1, what it replaced or removed, and which
lesson failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from hpslib.lessons.execution import Execution, execute, read_notebook
from hpslib.lessons.setup_cell import setup_cell

ROOT = Path(__file__).parents[2]
#: Colab sets no offline mode. One thread, since this may run beside other work.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}


def installed(python: Path) -> dict[str, str]:
    """Every distribution of this Python with its version."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: row["version"] for row in json.loads(done.stdout)}


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[list[str], list[str]]:
    """What was added, and what was replaced or removed: one line each.

    >>> changes({"torch": "2.9.0", "six": "1.17"}, {"torch": "2.10.0", "ftfy": "6.3"})
    (['ftfy 6.3'], ['six 1.17 is removed', 'torch 2.9.0 is replaced by 2.10.0'])
    """
    added = [f"{name} {after[name]}" for name in sorted(after.keys() - before.keys())]
    lost = [f"{name} {before[name]} is removed" for name in before.keys() - after.keys()]
    lost += [
        f"{name} {before[name]} is replaced by {after[name]}"
        for name in before.keys() & after.keys()
        if before[name] != after[name]
    ]
    return added, sorted(lost)


def use_kernels_of(python: Path, folder: Path) -> None:
    """Let kernels be started by this Python; what ``PYTHONPATH`` and wheel folders would bring is kept from them."""
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(folder)
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("PYTHONPATH", "PIP_FIND_LINKS", "UV_FIND_LINKS", "VIRTUAL_ENV"):
        os.environ.pop(name, None)


def alone(lesson: Path, folder: Path, address: str) -> Path:
    """The lesson in an otherwise empty folder, its set-up cell with this address to clone."""
    notebook = read_notebook(lesson)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = setup_cell(address)
    nbformat.write(notebook, folder / lesson.name)
    return folder / lesson.name


def run(lesson: Path, python: Path, address: str, keep: Path | None) -> tuple[Execution, list[str], list[str]]:
    """Run one lesson, with what pip added and lost for it; what it added is gone afterwards."""
    before = installed(python)
    with tempfile.TemporaryDirectory(prefix="colab-") as folder:
        done = execute(alone(lesson, Path(folder), address), ENVIRONMENT)
    added, lost = changes(before, installed(python))
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        nbformat.write(done.notebook, keep / lesson.name)
    if added:
        names = [line.split()[0] for line in added]
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *names], check=True)
    return done, added, lost


def main() -> int:
    """One line for each lesson; 1 where something was replaced or a lesson failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="a Python that has Colab's packages")
    parser.add_argument("--lessons", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    parser.add_argument("--repository", default=ROOT.as_uri(), help="the address to clone")
    parser.add_argument("--keep", type=Path, help="a folder for the executed lessons")
    given = parser.parse_args()
    python, status = given.python.absolute(), 0
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        use_kernels_of(python, Path(folder))
        for lesson in given.lessons:
            done, added, lost = run(lesson, python, given.repository, given.keep)
            said = done.fault or "ok"
            print(f"{lesson.stem}: {said}, {done.seconds:.0f} s, pip added {', '.join(added) or 'nothing'}", flush=True)
            for line in lost:
                print(f"{lesson.stem}: {line}: loosen the bound in pyproject.toml.", flush=True)
            status |= bool(done.fault or lost)
            if lost:
                print("The lessons that follow did not run: make the environment anew.", flush=True)
                break
    return status


if __name__ == "__main__":
    sys.exit(main())
