"""hpslib.lessons.setup_cell: the cell where it will run, with a stand-in for pip, and what is written where."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from hpslib.lessons.setup_cell import app, badge, outdated, repository, setup_cell, with_badge, with_setup

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.com/owner/name"
COLAB = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/1.ipynb"
#: pip, as far as the cell needs it: it copies the package, and says what it was asked for.
PIP = """
import pathlib, shutil, sys
place = pathlib.Path(__file__).parents[1]
(place / "asked.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
shutil.copytree(pathlib.Path(sys.argv[-1]) / "hpslib", place / "hpslib")
"""
#: What a lesson does next: the package is the real one, the data are found, and the notebooks lie here.
NEXT = """
import os, sys
from hpslib.critters.assets import data_folder
installed = "site-packages" in sys.modules["hpslib"].__file__
print(os.path.isfile("1.ipynb"), (data_folder() / "manifest.json").read_text(), installed)
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a small course: package, data and a notebook, in a git repository."""
    folder = tmp_path_factory.mktemp("origin") / "course"
    for name in ("__init__.py", "critters/__init__.py", "critters/assets.py", "runs/__init__.py", "runs/files.py"):
        (folder / "hpslib" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "hpslib" / name, folder / "hpslib" / name)
    for name, text in (("notebooks/1.ipynb", "{}"), ("data/manifest.json", "{}"), ("pyproject.toml", "")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder.as_uri()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python of its own: without hpslib, and with the stand-in for pip."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(PIP)
    return venv / "bin" / "python"


def asked(python: Path) -> list[str]:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    file = site / "asked.txt"
    return file.read_text().splitlines() if file.exists() else []


def run(python: Path, folder: Path, *cells: str) -> subprocess.CompletedProcess[str]:
    """The cells one after another, as a kernel runs them: with the working folder first in the path of imports."""
    folder.mkdir(exist_ok=True)
    code = "\n".join(cells)
    return subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True)


def works(done: subprocess.CompletedProcess[str]) -> bool:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True {} True\n"  # nothing from the set-up
    return True


def test_in_an_empty_folder_and_after_a_restart(python: Path, tmp_path: Path, origin: str) -> None:
    cell = setup_cell(origin)
    assert works(run(python, tmp_path / "content", cell, NEXT))
    assert asked(python) == ["install --quiet .."]  # nothing is upgraded, nothing forced
    assert works(run(python, tmp_path / "content", cell, NEXT)), "a restart: the kernel is in the outer folder again"
    assert works(run(python, tmp_path / "content" / "hpslib" / "notebooks", cell, cell, NEXT))
    assert len(asked(python)) == 1


@pytest.mark.parametrize("address", [True, False])
def test_beside_a_clone_called_hpslib(python: Path, tmp_path: Path, origin: str, address: bool) -> None:
    content = tmp_path / "content"
    subprocess.run(["git", "clone", "--quiet", origin, content / "hpslib"], check=True)
    before = "try:\n    from hpslib import lessons\nexcept ImportError:\n    pass"  # leaves a mere folder as a module
    assert works(run(python, content, before, setup_cell("file:///nowhere" if address else None), NEXT))
    assert len(asked(python)) == 1


def test_in_the_notebooks_of_a_clone(python: Path, tmp_path: Path, origin: str) -> None:
    subprocess.run(["git", "clone", "--quiet", origin, tmp_path / "other"], check=True)
    assert works(run(python, tmp_path / "other" / "notebooks", setup_cell("file:///nowhere"), NEXT))
    assert len(asked(python)) == 1


def test_where_hpslib_is_installed_nothing_happens(tmp_path: Path) -> None:
    done = run(Path(sys.executable), tmp_path / "empty", setup_cell("file:///nowhere"), "import hpslib, os")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "empty").iterdir()) == []


def test_without_an_address_it_says_what_to_do(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path / "content", setup_cell(None))
    assert done.stderr.splitlines()[-1] == (
        "FileNotFoundError: the course is not here: clone its repository into the folder hpslib, run this again."
    )
    assert asked(python) == []


def test_a_clone_or_an_installation_that_fails_ends_the_cell(python: Path, tmp_path: Path, origin: str) -> None:
    done = run(python, tmp_path / "content", setup_cell((tmp_path / "nothing").as_uri()), NEXT)
    assert done.returncode == 1 and "CalledProcessError" in done.stderr and "True" not in done.stdout
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "pip" / "__main__.py").write_text("raise SystemExit(1)")
    assert "CalledProcessError" in run(python, tmp_path / "content", setup_cell(origin), NEXT).stderr
    (site / "pip" / "__main__.py").write_text(PIP)
    assert works(run(python, tmp_path / "content", setup_cell(origin), NEXT)), "and is run again"


@pytest.mark.parametrize("address", [None, ADDRESS, "https://example.org/" + "long/" * 20])
def test_the_cell_fits_the_house(address: str | None, tmp_path: Path) -> None:
    text = setup_cell(address)
    assert len(text.splitlines()) <= 15
    assert all(len(line) <= 120 or line.endswith("# noqa: E501") for line in text.splitlines())
    assert "upgrade" not in text and "torch==" not in text


@pytest.mark.parametrize(
    ("urls", "wanted"),
    [
        ("", None),
        ('[project.urls]\nHomepage = "https://a.b"', None),
        (f'[project.urls]\nRepository = "{ADDRESS}"', ADDRESS),
    ],
)
def test_the_address_is_a_setting(urls: str, wanted: str | None, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "a"\n{urls}\n')
    assert repository(tmp_path / "pyproject.toml") == wanted


@pytest.mark.parametrize("address", ["owner/name", 'https://a.b/"; x', "https://a.b/c d", ""])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[project]\n[project.urls]\nRepository = {json.dumps(address)}\n")
    with pytest.raises(ValueError, match=r"has the Repository .*: write it as https"):
        repository(tmp_path / "pyproject.toml")


@pytest.mark.parametrize("address", [ADDRESS, f"{ADDRESS}.git", f"{ADDRESS}/"])
def test_a_badge_leads_to_the_lesson(address: str) -> None:
    assert f"]({COLAB})" in str(badge(address, "1.ipynb"))


@pytest.mark.parametrize("address", [None, "https://example.org/owner/name", "https://github.com/owner"])
def test_no_badge_rather_than_a_dead_one(address: str | None) -> None:
    assert badge(address, "1.ipynb") is None


def test_a_badge_is_put_in_replaced_and_taken_out() -> None:
    bare = "# Title\n\nText.\n\n## Part\n\nMore.\n"
    line = badge(ADDRESS, "1.ipynb")
    full = with_badge(bare, line)
    assert full == f"# Title\n\n{line}\n\nText.\n\n## Part\n\nMore.\n"
    assert with_badge(full, line) == full and with_badge(full, None) == bare == with_badge(bare, None)
    assert with_badge("# Title\n\n[![Open in Colab](a)](b)\n\nText.", None) == "# Title\n\nText."


def course(folder: Path, *first: str) -> Path:
    """A project with one notebook, the README and no address."""
    (folder / "notebooks").mkdir()
    cells = [new_markdown_cell("# One\n\n[![Open in Colab](a)](https://dead/)\n\nText."), *map(new_code_cell, first)]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "1.ipynb")
    (folder / "README.md").write_text("# Course\n\nText.\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "a"\n')
    return folder


def test_write_brings_all_files_up_to_date_and_only_those(tmp_path: Path) -> None:
    project = course(
        tmp_path, 'import importlib.util\n\nif importlib.util.find_spec("hpslib") is None:\n    1', "kept = 1"
    )
    runner = CliRunner()
    assert runner.invoke(app, ["check", str(project)]).exit_code == 1
    done = runner.invoke(app, ["write", str(project)])
    assert (done.exit_code, done.stdout) == (0, f"wrote {project / 'notebooks' / '1.ipynb'}\n")
    notebook = nbformat.read(project / "notebooks" / "1.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == ["# One\n\nText.", setup_cell(None), "kept = 1"]
    assert runner.invoke(app, ["write", str(project)]).stdout == ""
    assert runner.invoke(app, ["check", str(project)]).exit_code == 0
    with (project / "pyproject.toml").open("a") as file:
        file.write(f'[project.urls]\nRepository = "{ADDRESS}"\n')
    assert [path.name for path in outdated(project)] == ["1.ipynb", "README.md"]
    runner.invoke(app, ["write", str(project)])
    assert COLAB in (project / "README.md").read_text() and outdated(project) == []
    notebook = nbformat.read(project / "notebooks" / "1.ipynb", as_version=4)
    assert COLAB in notebook.cells[0].source and ADDRESS in notebook.cells[1].source


def test_another_first_cell_is_not_written_over(tmp_path: Path) -> None:
    notebook = nbformat.read(course(tmp_path, "work = 1") / "notebooks" / "1.ipynb", as_version=4)
    with pytest.raises(ValueError, match=r"1\.ipynb begins with another code cell: put"):
        with_setup(notebook, "1.ipynb", None)
    shutil.rmtree(tmp_path / "notebooks")
    with pytest.raises(ValueError, match=r"there is no notebook in .*: run this in the project's folder"):
        outdated(tmp_path)


def test_the_lessons_and_the_readme_are_up_to_date() -> None:
    assert outdated(ROOT) == [], "run make badges"
