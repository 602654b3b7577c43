"""What ``make docs`` builds the site from: every page is there, every link leads somewhere, nothing asks a server."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from stored_lessons import slug

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sources = load("sources")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "source"
    sources.assemble(folder)
    return folder


def prose(path: Path) -> str:
    """The Markdown of a page, code left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    return {slug(heading.replace("`", "")) for heading in re.findall(r"^#+ (.+)$", path_text(path), re.M)}


def path_text(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


def dead_links(folder: Path) -> list[str]:
    dead = []
    for page in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            place, _, anchor = link.partition("#")
            if ":" in place:
                continue
            target = (page.parent / place).resolve() if place else page
            if not target.is_file() or (anchor and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(folder)}: {link}")
    return dead


def test_every_link_among_pages_leads_somewhere(site: Path) -> None:
    assert dead_links(site) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n[b](b.md) [c](a.md#c) [fine](a.md#a) [out](https://example.org)\n")
    assert dead_links(tmp_path) == ["a.md: b.md", "a.md: a.md#c"]


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(p.name for p in ROOT.glob("docs/*.md"))]
)
def test_links_work_in_the_repository_too(page: str) -> None:
    path = ROOT / page if (ROOT / page).is_file() else ROOT / "docs" / page
    built = re.compile(r"^(api/|full_scale\.md)")  # pages that only the site has
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        place = link.partition("#")[0]
        if place and ":" not in place and not (path.parent.name == "docs" and built.match(place)):
            assert (path.parent / place).exists(), link


def test_every_module_has_a_page_and_every_page_a_place_in_the_contents(site: Path) -> None:
    pages = {
        str(path.relative_to(site).with_suffix("")) for s in ("md", "rst", "ipynb") for path in site.rglob(f"*.{s}")
    }
    listed = set()
    for page in site.rglob("*.md"):
        for toctree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in toctree.splitlines():
                if line and not line.startswith(":"):
                    place = re.sub(r".*<(.+)>", r"\1", line)
                    listed.add(str((page.parent / place).relative_to(site)))
    assert pages - listed == {"index"} and listed <= pages
    named = {page.removeprefix("api/") for page in pages if page.startswith("api/hpslib.")}
    for path in (ROOT / "hpslib").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.stat().st_size and name != "hpslib" and not name.endswith("__main__"):
            assert (name in named) == ("second" not in path.parts)  # the world that the lessons show has its page alone


def test_rooms_are_those_of_the_library() -> None:
    folders = {path.parent.name for path in (ROOT / "hpslib").glob("*/__init__.py")}
    assert set(sources.rooms()) == folders
    assert list(sources.rooms())[:3] == ["data", "metrics", "scores"]


@pytest.mark.parametrize("path", sources.lessons(), ids=lambda path: path.stem)
def test_a_lesson_reads_as_a_page(path: Path) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    page = sources.for_reading(json.loads(path.read_text(encoding="utf-8")))
    pictures = [o for c in stored["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    kept = [o for c in page["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert kept == pictures, "every stored figure is on the page, unchanged"
    for cell in page["cells"]:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 5
    folded = [cell for cell in page["cells"] if cell["metadata"].get("tags") == ["hide-input"]]
    assert len(folded) == 1, "the set-up is one fold"
    assert not re.search(r"!\[[^\]]*\]\(http", json.dumps(page)), "a page shows no picture of another server"


def cell(kind: str, source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {}, "source": source} | (
        {"outputs": list(outputs)} if kind == "code" else {}
    )


def test_alt_texts_say_what_the_cell_prints_else_where_it_stands() -> None:
    said = {"output_type": "stream", "text": ["Three of four\n", "were right.\n"]}
    badge = "# 1 · T\n\n[![Open](https://x.org/b.svg)](https://x.org)\n\nWords, and a [link](a.md)."
    cells = [cell("markdown", badge), cell("code", "a"), cell("code", "b"), cell("markdown", "## Result")]
    cells += [cell("code", "c", said), cell("code", "d"), cell("markdown", "```python\n# no heading\n```")]
    page = sources.for_reading({"cells": [*cells, cell("code", "e")], "metadata": {}})["cells"]
    assert "x.org" not in page[0]["source"] and "[link](a.md)" in page[0]["source"]
    assert page[1]["source"] == "a\n\n\nb" and page[1]["metadata"]["tags"] == ["hide-input"]
    alts = [c["metadata"]["mystnb"]["image"]["alt"] for c in page[3:] if c["cell_type"] == "code"]
    assert alts == ["Three of four were right.", "Figure: Result", "Figure: Result"]
    assert "tags" not in page[3]["metadata"]


def test_a_section_becomes_a_page() -> None:
    text = "# A\n\n## B\n\nwords\n\n### C\n\nmore\n\n## D\n"
    assert sources.section(text, "B") == "# B\n\nwords\n\n## C\n\nmore\n\n"
    with pytest.raises(
        ValueError, match=r"^README.md has no section 'X': name the one that docs/sources.py shall take.$"
    ):
        sources.section(text, "X")


def test_constants_without_words_get_a_line(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""A module."""\n\n__all__ = ["A", "B", "C", "D", "E"]\nA = 1\n#: said\nB = 2\nC = 3\n"""said"""\n'
        "D: int = 4  #: said\nE: int = 5\nF = 6\n"
    )
    assert list(sources.constants(path)) == ["A", "E"]
    page = sources.module_page("hpslib.x", path)
    assert ".. automodule:: hpslib.x" in page and ".. autodata:: hpslib.x.A" in page
    assert ":no-members:" in sources.module_page("hpslib.x", path, face=True)
    path.write_text("A = 1\n")
    with pytest.raises(ValueError, match=r"module\.py has no docstring: say in its first line what it holds\."):
        sources.summary(path)


def test_make_docs_treats_a_warning_as_an_error() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"docs/sources\.py build/docs/source\n.*sphinx .*-n -W .*build/docs/html", done.stdout)


PAGE = r"""# A page

Inline $a^2$, and

$$\hat v = \frac{1}{n}\sum_{i=1}^{n} \lVert v_i \rVert$$

```{toctree}
a_module
a_lesson
```
"""
MODULE = """a module
========

.. automodule:: hpslib.metrics.positions
"""


@pytest.mark.slow
def test_a_small_site_builds_offline(tmp_path: Path) -> None:
    pytest.importorskip("myst_nb")
    source, out = tmp_path / "source", tmp_path / "html"
    source.mkdir()
    (source / "index.md").write_text(PAGE)
    (source / "a_module.rst").write_text(MODULE)
    lesson = json.loads(sources.lessons()[0].read_text(encoding="utf-8"))
    page = sources.for_reading(lesson)
    page["cells"] = [c for c in page["cells"] if "](0" not in "".join(c["source"])][:20]  # no links to other lessons
    (source / "a_lesson.ipynb").write_text(json.dumps(page))
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs"), str(source)]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    html = {name: (out / f"{name}.html").read_text(encoding="utf-8") for name in ("index", "a_module", "a_lesson")}
    assert html["index"].count('stretchy="false">‖<') == 2, "bars of a norm must be of one height"
    assert html["index"].count("<math") == 2 and "<msup>" in html["index"] and "<munderover>" in html["index"]
    assert 'id="hpslib.metrics.positions' in html["a_module"]
    pictures = re.findall(r"<img [^>]*>", html["a_lesson"])
    assert pictures and all(re.search(r'alt="[^"]{6,}"', picture) for picture in pictures)
    for text in html.values():
        assert not re.search(r'(?:src|rel="stylesheet" href)="(?:https?:)?//', text), "a page must not ask a server"

    (source / "index.md").write_text(PAGE + "\n[gone](nowhere.md)\n")
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode and "nowhere.md" in done.stderr
