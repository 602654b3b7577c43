"""Other machines: the thread count that the notebooks can be told, and the targets that run the tests elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]


def nbval(folder: Path, threads: str | None, stored: str) -> subprocess.CompletedProcess[str]:
    """Strict nbval of a notebook that prints its threads, where ``stored`` is in the file."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    cell = new_code_cell(f"import os\nprint(*[os.environ[name] for name in {names}])", execution_count=1)
    cell.outputs = [new_output("stream", name="stdout", text=f"{stored}\n")]
    notebook = new_notebook(cells=[cell])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "threads.ipynb")
    env = {name: value for name, value in os.environ.items() if name != "HPSLIB_THREADS"}
    env |= {} if threads is None else {"HPSLIB_THREADS": threads}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
    ]
    command += ["-c", os.devnull, "--nbval", str(folder / "threads.ipynb")]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("threads", "stored"), [(None, "2 2 1"), ("1", "1 1 1"), ("4", "4 4 1")])
def test_the_notebooks_can_be_told_another_number_of_threads(tmp_path: Path, threads: str | None, stored: str) -> None:
    done = nbval(tmp_path, threads, stored)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("threads", ["0", "two", "-1", ""])
def test_what_is_no_number_of_threads_is_refused(tmp_path: Path, threads: str) -> None:
    done = nbval(tmp_path, threads, "")
    assert done.returncode != 0 and f"HPSLIB_THREADS is {threads!r}: give a whole number" in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_targets_run_the_tests_elsewhere() -> None:
    def plan(target: str) -> str:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert "--resolution lowest-direct" in plan("oldest") and "build/oldest/bin/python -m pytest tests" in plan(
        "oldest"
    )
    assert "--resolution highest" in plan("newest") and "nbval" not in plan("newest")
    portable = plan("portable")
    assert "ATEN_CPU_CAPABILITY=avx2" in portable and "HPSLIB_THREADS=2 HPSLIB_THREADS=4" in portable
    assert "hpslib.lessons.setup_cell write" in plan("badges")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_lab_opens_a_copy_that_git_does_not_see() -> None:
    command = ["make", "-n", "lab", "ARGS=--port 9000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "working_copy notebooks work" in done.stdout and "--notebook-dir=work" in done.stdout
    assert ("--allow-root" in done.stdout) == (os.getuid() == 0) and "--port 9000" in done.stdout
    names = ["work/01.ipynb", "notebooks/my_votes.sqlite", "my_votes.sqlite-wal", "hpslib-demo.html"]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if ignored.returncode != 128:  # not a git checkout
        assert ignored.stdout.split() == names


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_wrong_python_is_said_first_and_the_next_call_repairs_it(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text("")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name, line in (("old", "exit 1"), ("right", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)  # left by an earlier call with a wrong one
    shutil.copy(tmp_path / "old", tmp_path / ".venv" / "bin" / "python")

    def setup(python: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", "setup", f"PYTHON={tmp_path / python}"]
        env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)

    said = setup("old")
    assert said.returncode != 0
    remedy = "install one, or name it with make setup PYTHON=..."
    assert said.stdout.strip() == f"{tmp_path / 'old'} is no Python 3.11 to 3.14: {remedy}"
    setup("right")  # it ends where uv would be fetched
    fits = "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))"
    assert subprocess.run([tmp_path / ".venv" / "bin" / "python", "-c", fits]).returncode == 0
