"""What is put right on the pages that Sphinx and its theme have written, so that everybody can read them."""

from __future__ import annotations

import re
from pathlib import Path

#: What stands on a page, and what stands there in its place.
REPLACED = {
    # the titles in the side bar are headings without a level
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    # two columns of a page may be hidden, and then have to be told apart
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
    # the name would hide the words inside, "Show the set-up"
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<div id="search-results">': '<h1>Search</h1>\n<div id="search-results">',
}
EMPTY_HEAD = re.compile(r"<th([^>]*)>\s*(?:<p>\s*</p>)?\s*</th>")
SIGNATURE = re.compile(r"<dl>\n(?:<dd>.*</dd>\n)+</dl>")  # the lines of a long signature: a list without terms
TABLE = re.compile(r'<div class="(table-wrapper[^"]*)">')


def finish(page: str) -> str:
    """A page of the site, readable without eyes or mouse."""
    for before, after in REPLACED.items():
        page = page.replace(before, after)
    page = TABLE.sub(r'<div class="\1" tabindex="0" role="group" aria-label="Table">', page)
    page = EMPTY_HEAD.sub(r"<td\1></td>", page)
    page = re.sub(r"<thead.*?</thead>", lambda head: scoped(head[0], "col"), page, flags=re.S)
    page = scoped(page, "row")
    return SIGNATURE.sub(lambda lines: as_lines(lines[0]), page)


def scoped(text: str, scope: str) -> str:
    """Heads of tables that say what they head; those that do already stay."""
    return re.sub(r"<th(?=[ >])(?![^>]* scope=)", f'<th scope="{scope}"', text)


def as_lines(parameters: str) -> str:
    """The parameters of a signature, one a line by the site's style sheet."""
    return re.sub(r"<(/?)d[ld]>", lambda tag: "</span>" if tag[1] else '<span class="sig-line">', parameters)


def finish_site(folder: Path) -> None:
    """Every page below the folder, in place."""
    for path in folder.rglob("*.html"):
        path.write_text(finish(path.read_text(encoding="utf-8")), encoding="utf-8")
