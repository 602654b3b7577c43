"""The page of the executed course: contents, headline results and all lessons, and on its top what failed.

It is one file that asks no server and runs no script: formulas are MathML, pictures lie inside, colours follow the
reader's choice of light or dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["fill", "report"]

_TEMPLATE = Path(__file__).with_name("page.html")
_BANNER = (
    '<div class="banner" role="alert"><p><strong>This run failed.</strong> What follows is not the whole course: cells '
    "after a failing one did not run.</p><ul>{sentences}</ul></div>"
)
_HEADLINES = (
    "<table><caption>Headline results</caption>"
    '<thead><tr><th scope="col">What</th><th scope="col">Result</th></tr></thead><tbody>{rows}</tbody></table>'
)


def report(notebooks: Mapping[str, NotebookNode], headlines: Mapping[str, str], faults: Sequence[str] = ()) -> str:
    """One HTML page: contents, headline table, then the notebooks one after another (stem -> executed notebook).

    ``faults`` are sentences about what failed; a page that has any says so at its very top, and the cells are marked.
    """
    from hpslib.lessons.page_cells import failed_cells, lesson_html

    marked = {stem for stem, notebook in notebooks.items() if failed_cells(stem, notebook, faults)}
    lessons = "\n".join(
        f'<section id="{html.escape(stem)}" aria-label="{html.escape(_title(stem, notebook))}">\n'
        f"{lesson_html(stem, notebook, notebooks, faults)}\n</section>"
        for stem, notebook in notebooks.items()
    )
    contents = "".join(
        f'<li><a href="#{html.escape(stem)}">{html.escape(_title(stem, notebook))}</a></li>'
        for stem, notebook in notebooks.items()
    )
    parts = {
        "banner": _banner(faults, marked) if faults else "",
        "contents": contents,
        "headlines": _headlines(headlines) if headlines else "",
        "lessons": lessons,
    }
    return fill(_TEMPLATE, parts)


def fill(template: Path, parts: Mapping[str, str]) -> str:
    """A template's text with ``parts`` at its places, ``{{name}}``.

    In one pass, so that no part is taken for a place itself. Raises ``KeyError`` for a place without a part.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template.read_text(encoding="utf-8"))


def _title(stem: str, notebook: NotebookNode) -> str:
    """What a lesson calls itself, else the name of its file."""
    for cell in notebook.cells:
        found = re.match(r"# (.+)", cell.source) if cell.cell_type == "markdown" else None
        if found:
            return re.sub(r"[*_`]", "", found[1])
    return stem


def _banner(faults: Sequence[str], marked: set[str]) -> str:
    lines = []
    for fault in faults:
        stem, sentence = html.escape(fault.partition(".ipynb")[0]), html.escape(" ".join(fault.split()))
        way = f' <a href="#{stem}--fault">Go to the cell of {stem}</a>' if html.unescape(stem) in marked else ""
        lines.append(f"<li>{sentence}{way}</li>")
    return _BANNER.format(sentences="".join(lines))


def _headlines(headlines: Mapping[str, str]) -> str:
    lines = [[html.escape(" ".join(part.split())) for part in line] for line in headlines.items()]
    rows = [f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in lines]
    return _HEADLINES.format(rows="".join(rows))
