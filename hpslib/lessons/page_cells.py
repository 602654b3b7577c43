"""The cells of a lesson as HTML that anybody can read: every figure has its words, every table its heads."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bs4 import BeautifulSoup
from bs4.element import PreformattedString
from nbconvert.filters import strip_ansi
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from hpslib.lessons.figures import alternative
from hpslib.lessons.page_text import LessonText
from hpslib.lessons.running import headings

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["failed_cells", "lesson_html", "tidy"]

_ACTIVE = (
    *("script", "style", "iframe", "object", "embed", "link", "meta", "base"),
    *("form", "input", "button", "svg", "video", "audio", "source", "template"),
)
_FETCHING = ("srcset", "poster", "formaction", "action", "background", "ping", "xlink:href", "srcdoc", "data")
_IMAGES = ("image/png", "image/jpeg")
_MARK = '<p class="fault"><strong>This cell failed.</strong> The cells of this lesson that follow did not run.</p>'
_FRAME = {"class": "wide", "tabindex": "0", "role": "group", "aria-label": "Table"}  # moved by keys on a narrow page


def failed_cells(stem: str, notebook: NotebookNode, faults: Collection[str]) -> list[int]:
    """Numbers (from 0) of the cells that ended in an error, or that a sentence among ``faults`` names as failed."""
    named = (re.match(rf"{re.escape(stem)}\.ipynb, cell (\d+) ", fault) for fault in faults)
    numbers = {int(fault[1]) for fault in named if fault}
    return [
        number
        for number, cell in enumerate(notebook.cells)
        if number in numbers or any(output.output_type == "error" for output in cell.get("outputs", []))
    ]


def lesson_html(stem: str, notebook: NotebookNode, others: Collection[str], faults: Collection[str] = ()) -> str:
    """One lesson as HTML: words, code, outputs; the first cell that failed has the id ``<stem>--fault``."""
    text, failed, parts = LessonText(stem, others), failed_cells(stem, notebook, faults), []
    for number, (cell, heading) in enumerate(zip(notebook.cells, headings(notebook))):
        if cell.cell_type == "markdown":
            parts.append(tidy(text.write(cell.source, cell.get("attachments"))))
        elif cell.cell_type == "code":
            words = alternative(notebook.cells, number, heading)
            body = _source(cell) + "".join(_output(output, text, words) for output in cell.outputs)
            if number in failed:
                anchor = f' id="{html.escape(stem)}--fault"' if number == failed[0] else ""
                body = f'<div class="failed"{anchor}>{_MARK}{body}</div>'
            parts.append(f'<div class="cell">{body}</div>')
    return "\n".join(parts)


def _source(cell: NotebookNode) -> str:
    if not cell.source.strip():
        return ""
    # The lexer ipython3 would leave cells that begin with a magic without colours.
    code = highlight(cell.source, get_lexer_by_name("python", stripnl=False), HtmlFormatter(nowrap=True))
    prompt = f"In [{cell.execution_count or ' '}]"
    return f'<div class="prompt">{prompt}</div><pre class="source"><code>{code.rstrip()}</code></pre>'


def _output(output: NotebookNode, text: LessonText, words: str) -> str:
    """One output of a cell; ``words`` describe it where it is a figure."""
    if output.output_type == "stream":
        return _plain(output.text, "stderr" if output.name == "stderr" else "output")
    if output.output_type == "error":
        return _plain("\n".join(output.traceback) or f"{output.ename}: {output.evalue}", "stderr")
    data: Mapping[str, Any] = output.data
    for kind in _IMAGES:
        if kind in data:
            return _figure(f"data:{kind};base64,{''.join(data[kind].split())}", words)
    if "text/html" in data:
        return f'<div class="output">{tidy(data["text/html"], plain=True)}</div>'
    for kind in ("text/markdown", "text/latex"):
        if kind in data:
            return f'<div class="output">{tidy(text.write(data[kind]))}</div>'
    return _plain(data.get("text/plain", ""), "output")


def _plain(text: str, kind: str) -> str:
    return f'<pre class="{kind}">{html.escape(strip_ansi(text).rstrip())}</pre>'


def _figure(address: str, words: str) -> str:
    return f'<figure><img src="{html.escape(address)}" alt="{html.escape(words)}"></figure>'


def tidy(fragment: str, plain: bool = False) -> str:
    """HTML without what acts or asks a server, and with tables whose heads say what they head.

    ``plain`` also drops styles: what a library wrote for a white page is hard to read on a dark one.
    """
    soup = BeautifulSoup(fragment, "html.parser")
    for text in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        text.extract()  # comments and their like, whose end browsers see elsewhere than this parser
    for tag in soup.find_all(_ACTIVE):
        tag.decompose()
    for tag in soup.find_all(True):
        for name, value in list(tag.attrs.items()):
            if _acts(name, str(value)) or (plain and name in ("style", "border")):
                del tag[name]
    for image in soup.find_all("img"):
        if not str(image.get("src", "")).startswith("data:"):
            image.replace_with(str(image.get("alt", "")))
        elif not image.get("alt"):
            image["alt"] = "Figure"
    for table in soup.find_all("table"):
        _head(table)
        table.wrap(soup.new_tag("div", attrs=_FRAME))
    return str(soup)


def _acts(name: str, value: str) -> bool:
    """Whether an attribute runs something, leads to what is no page, or asks a server (an image's ``src`` aside)."""
    said = re.sub(r"[\x00-\x20]", "", value).lower()  # browsers skip these, too
    if name == "href":
        scheme = re.match(r"[a-z][a-z0-9+.-]*(?=:)", said)
        return scheme is not None and scheme[0] not in ("http", "https", "mailto")
    if name == "style":
        return any(word in said for word in ("url", "import", "\\"))
    return name.startswith("on") or name in _FETCHING


def _head(table: Any) -> None:
    head = table.find("thead")
    if head and not head.get_text(strip=True) and not head.find("img"):
        head.decompose()  # Markdown knows no table without a first line; its rows are named in the first column
        for row in table.find_all("tr"):
            first = row.find(["td", "th"])
            if first:
                first.name = "th"
    for cell in table.find_all("th"):
        if not cell.get_text(strip=True) and not cell.find("img"):
            cell.name = "td"  # the corner above the names of rows heads nothing
            cell.attrs.pop("scope", None)
        elif cell.find_parent("thead"):
            cell["scope"] = "colgroup" if cell.get("colspan") else "col"
        else:
            cell["scope"] = "rowgroup" if cell.get("rowspan") else "row"
