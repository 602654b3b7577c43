"""The set-up cell that every lesson begins with, and the badges: both written from one address in ``pyproject.toml``.

``python -m hpslib.lessons.setup_cell write`` puts them into the notebooks and the README. The address is ``Repository``
below ``[project.urls]``; while there is none, there are no badges, and the cell asks for a clone instead of making one.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpslib.lessons.execution import read_notebook
from hpslib.runs.files import written_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["app", "badge", "check", "outdated", "repository", "setup_cell", "with_badge", "with_setup", "write"]

BRANCH = "main"

#: Run beside a clone, Python takes the clone's folder for a package (a namespace, which has no origin), so that the
#: question is not whether there is a spec. After a restart all is installed, but the kernel begins in the outer folder.
_CELL = """\
# Set-up, silent where all is there. On Colab it clones the course and installs it; torch and numpy stay as they are.
import importlib.util
import os
import subprocess
import sys

absent = getattr(importlib.util.find_spec("hpslib"), "origin", None) is None  # a mere folder of that name has none
if absent and not any(os.access(place, os.F_OK) for place in ("hpslib/notebooks", "../hpslib/__init__.py")):
    {fetch}
if os.access("hpslib/notebooks", os.F_OK):
    os.chdir("hpslib/notebooks")
if absent:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)
    importlib.invalidate_caches()
    sys.modules.pop("hpslib", None)"""
_CLONE = 'subprocess.run(["git", "clone", "-q", "--depth=1", "{address}", "hpslib"], check=True)'
_ASK = 'raise FileNotFoundError("the course is not here: clone its repository into the folder hpslib, run this again.")'
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n*")
_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"


def repository(pyproject: str | Path) -> str | None:
    """The address in ``[project.urls]`` of a ``pyproject.toml``, ``None`` where it names none.

    Raises ``ValueError`` when it is no address that git can clone.
    """
    project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    if address is not None and not re.fullmatch(r"(https|file)://[^\s\"'\\<>@]+|ssh://(git@)?[^\s\"'\\<>@]+", address):
        raise ValueError(
            f"{pyproject} has the Repository {address!r}: write it as https://<host>/<owner>/<name>, or leave it out."
        )
    return address


def setup_cell(address: str | None) -> str:
    """The text of the set-up cell, at most 15 lines: with an address it clones, without one it asks for a clone."""
    fetch = _ASK if address is None else _CLONE.format(address=address)
    return _CELL.format(fetch=fetch if len(fetch) <= 116 else f"{fetch}  # noqa: E501")


def badge(address: str | None, notebook: str) -> str | None:
    """The badge, in Markdown, that opens a notebook on Colab; ``None`` where the repository is not on GitHub."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(\.git)?/?", address or "")
    if match is None:
        return None
    place = f"https://colab.research.google.com/github/{match[1]}/{match[2]}/blob/{BRANCH}/notebooks/{notebook}"
    return f"[![Open in Colab]({_IMAGE})]({place})"


def with_badge(text: str, line: str | None) -> str:
    """A page in Markdown with this badge below its title, and no other; with none, where ``line`` is ``None``."""
    title, _, rest = _BADGE.sub("", text).partition("\n\n")
    return "\n\n".join(part for part in (title, line, rest) if part)


def with_setup(notebook: NotebookNode, name: str, address: str | None) -> NotebookNode:
    """The notebook, changed in place: its first cell has the badge, its first code cell is the set-up.

    Raises ``ValueError`` when its first code cell does something else, which would be lost.
    """
    code = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if code is None or 'find_spec("hpslib")' not in code.source:
        raise ValueError(f"{name} begins with another code cell: put the set-up cell before it.")
    code.source = setup_cell(address)
    notebook.cells[0].source = with_badge(notebook.cells[0].source, badge(address, name))
    return notebook


def _pages(root: Path) -> dict[Path, str]:
    """Every file that holds a badge or the set-up cell, and the text that it should have."""
    import nbformat

    address = repository(root / "pyproject.toml")
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"there is no notebook in {root / 'notebooks'}: run this in the project's folder.")
    pages = {}
    for path in notebooks:
        text = nbformat.writes(with_setup(read_notebook(path), path.name, address))
        pages[path] = text.rstrip("\n") + "\n"
    readme = root / "README.md"
    first = badge(address, notebooks[0].name)
    return pages | {readme: with_badge(readme.read_text(encoding="utf-8"), first)}


def outdated(root: Path) -> list[Path]:
    """The notebooks, and the README, that do not hold the set-up cell or the badge of today."""
    return [path for path, text in _pages(root).items() if path.read_text(encoding="utf-8") != text]


app = typer.Typer(no_args_is_help=True, add_completion=False)
Root = Annotated[Path, typer.Argument(help="The project's folder.")]


@app.command()
def write(root: Root = Path()) -> None:
    """Write the set-up cell and the badges into all notebooks and the README."""
    for path, text in _pages(root).items():
        if path.read_text(encoding="utf-8") != text:
            with written_whole(path) as partial:
                partial.write_text(text, encoding="utf-8", newline="\n")
            typer.echo(f"wrote {path}")


@app.command()
def check(root: Root = Path()) -> None:
    """Name the files that ``write`` would change; exit code 1 if there are any."""
    late = outdated(root)
    for path in late:
        typer.echo(f"{path} has an older set-up cell or badge: run make badges.", err=True)
    raise typer.Exit(1 if late else 0)


if __name__ == "__main__":
    app()
