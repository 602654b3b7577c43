"""The page of the executed course: contents, headline results and all lessons, and on its top what failed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["report"]

_BANNER = (
    '<div role="alert" style="border: 2px solid #b00020; background: #fdecea; color: #000; padding: 0.5em 1em">'
    "<strong>This run failed.</strong> What follows is not the whole course: cells after a failing one did not run."
    "<ul>{sentences}</ul></div>"
)


def report(notebooks: Mapping[str, NotebookNode], headlines: Mapping[str, str], faults: Sequence[str] = ()) -> str:
    """One HTML page: contents, headline table, then the notebooks one after another (stem -> executed notebook).

    ``faults`` are sentences about what failed; a page that has any says so at its very top.
    """
    import nbformat
    from nbconvert import HTMLExporter

    lines = [
        [html.escape(" ".join(part.split())) for part in line] for line in headlines.items()
    ]  # one line: no Markdown
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in lines)
    contents = "".join(f'<li><a href="#{html.escape(s)}">{html.escape(s)}</a></li>' for s in notebooks)
    page = nbformat.v4.new_notebook()
    if faults:
        sentences = "".join(f"<li>{html.escape(' '.join(fault.split()))}</li>" for fault in faults)
        page.cells.append(nbformat.v4.new_markdown_cell(_BANNER.format(sentences=sentences)))
    page.cells.append(nbformat.v4.new_markdown_cell(f"<ol>{contents}</ol>\n\n<table>{rows}</table>"))
    for stem, notebook in notebooks.items():
        page.cells.append(nbformat.v4.new_markdown_cell(f'<hr id="{html.escape(stem)}">'))
        for cell in notebook.cells:
            copy = nbformat.from_dict({**cell, "id": f"c{len(page.cells)}"})  # ids of two notebooks may be the same
            if cell.cell_type == "markdown":
                for other in notebooks:  # links between lessons stay on the page
                    copy.source = copy.source.replace(f"({other}.ipynb", f"(#{other}")
            page.cells.append(copy)
    return HTMLExporter(embed_images=True).from_notebook_node(page, {"metadata": {"name": "hpslib: the course"}})[0]
