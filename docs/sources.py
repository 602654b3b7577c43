"""Lay out the documentation's sources in one folder, from which Sphinx builds the pages: ``make docs``.

Nothing is written twice: lessons come from ``notebooks/`` with their stored outputs, the house from
``CONTRIBUTING.md``, the full scale from ``README.md``, and the library's pages from its modules' docstrings. Links are
kept as they work on the repository's own pages and turned here to where the files lie in the site.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from hpslib.lessons.figures import alternative

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hpslib"
LONG = 400  # letters of source: a longer constant is named without its value
SETUP = ["hide-input"]  # a tag of myst-nb: the code folds away, its output stays
BADGES = re.compile(r"^(\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\s*)+$", re.M)  # lines of images that lead elsewhere
HEADING = re.compile(r"^(#+) (.+)$", re.M)
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def assemble(target: Path) -> None:
    """Write every source of the site below ``target``, which is emptied first."""
    target = target.resolve()
    if target.exists() and ROOT / "build" not in target.parents:
        raise ValueError(f"{target} is there and would be emptied: name a new folder, or one below build/.")
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    for page in sorted((ROOT / "docs").glob("*.md")):
        (target / page.name).write_text(page.read_text(encoding="utf-8").replace("](../", "]("), encoding="utf-8")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        (target / name).write_text(text, encoding="utf-8")
    full_scale = section((ROOT / "README.md").read_text(encoding="utf-8"), "Full scale").replace("](docs/", "](")
    (target / "full_scale.md").write_text(full_scale, encoding="utf-8")
    for path in lessons():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (target / "notebooks" / path.name).write_text(json.dumps(for_reading(notebook)), encoding="utf-8")
    shutil.copytree(ROOT / "data" / "figures", target / "data" / "figures")
    write_library(target / "api")


def lessons() -> list[Path]:
    """The notebooks of the course, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def section(text: str, title: str) -> str:
    """A section of a Markdown file as a page of its own: its headings move up one level.

    Raises ``ValueError`` where there is no such section.
    """
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)
    if not found:
        raise ValueError(f"README.md has no section '{title}': name the one that docs/sources.py shall take.")
    return re.sub(r"^#(#+ )", r"\1", found[0], flags=re.M)


def for_reading(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook as a page: set-up code folds, badges go, and a figure's sentence tells it to those who cannot see."""
    heading, setting_up = "", True
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = BADGES.sub("", source)
            for level, heading in HEADING.findall(FENCED.sub("", source)):
                setting_up = setting_up and (level == "#" or heading == "Set-up")
        elif setting_up and cells and cells[-1]["cell_type"] == "code":  # one fold for all of it
            cells[-1]["source"] += f"\n\n\n{source}"
            cells[-1]["outputs"] += cell["outputs"]
            continue
        else:
            cell["source"] = source
            cell["metadata"] = {"mystnb": {"image": {"alt": alternative(notebook["cells"], number, heading)}}}
            if setting_up:
                cell["metadata"]["tags"] = SETUP
        cells.append(cell)
    notebook["cells"] = cells
    # The lexer ipython3 would leave cells that begin with a magic without colours.
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "python"}
    return notebook


def modules(room: Path) -> dict[str, Path]:
    """The modules of a room by their full names; faces without a word and the command line's entry are left out.

    So is the second edition of the world while the lessons show the first: readers would find two of everything.
    """
    found = {}
    for path in sorted(room.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.stat().st_size and not name.endswith("__main__") and "second" not in path.parts:
            found[name] = path
    return found


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, in Markdown.

    Raises ``ValueError`` where it has none.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{path} has no docstring: say in its first line what it holds.")
    return in_markdown(docstring.split("\n\n")[0])


def in_markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", r"\|")


def rooms() -> dict[str, str]:
    """The rooms in the order of the paper's story, each with its line in the table of ``hpslib/__init__.py``."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    return {name: in_markdown(line) for name, line in re.findall(r"^``(\w+)``\s+(.+)$", docstring, re.M)}


def write_library(folder: Path) -> None:
    """One page for the library, one for each room, one for each module."""
    folder.mkdir()
    lines = ["# The library, room by room", ""]
    lines += [
        "Lesson *n* opens room *n*; [the house](../CONTRIBUTING.md#the-house) says which room may import which.",
        "",
    ]
    lines += ["| Room | What lies there |", "|---|---|"]
    lines += [f"| [{name}]({name}.md) | {line} |" for name, line in rooms().items()]
    lines += ["", "```{toctree}", ":hidden:", "", *rooms(), "```", ""]
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")
    for room, line in rooms().items():
        inside = modules(PACKAGE / room)
        page = [f"# {room}", "", f"{line[0].upper()}{line[1:]}.", "", "| Module | What it holds |", "|---|---|"]
        page += [f"| [{name.split('.', 2)[-1]}]({name}.rst) | {summary(path)} |" for name, path in inside.items()]
        page += ["", "```{toctree}", ":hidden:", ""]
        page += [f"{name.split('.', 2)[-1]} <{name}>" for name in inside]
        (folder / f"{room}.md").write_text("\n".join([*page, "```", ""]), encoding="utf-8")
        for name, path in inside.items():
            (folder / f"{name}.rst").write_text(
                module_page(name, path, face=name == f"hpslib.{room}"), encoding="utf-8"
            )


def module_page(name: str, path: Path, face: bool = False) -> str:
    """What Sphinx reads about one module; a face hands on what other pages show, so it lists nothing."""
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", *["   :no-members:"] * face, ""]
    for constant, length in {} if face else constants(path).items():
        lines += [f".. autodata:: {name}.{constant}", *["   :no-value:"] * (length > LONG), ""]
    return "\n".join(lines)


def constants(path: Path) -> dict[str, int]:
    """The public constants of a module that have no words of their own, with the length of their source.

    Sphinx shows those with a docstring or a ``#:`` comment by itself, and passes over the others.
    """
    text = path.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    public: set[str] = set()
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name):
            continue
        if target.id == "__all__" and isinstance(node, ast.Assign):
            public = set(ast.literal_eval(node.value))
        own = lines[node.lineno - 1 : node.end_lineno]
        comment = lines[node.lineno - 2].startswith("#:") or any("  #: " in line for line in own)
        docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if (
            target.id in public and not (comment or docstring) and target.id != "app"
        ):  # an app is the command line's affair
            found[target.id] = len(ast.get_source_segment(text, node) or "")
    return found


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
