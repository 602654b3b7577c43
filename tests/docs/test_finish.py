"""docs/finish.py: what Sphinx and its theme leave out for those who read without eyes or mouse."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("docs_finish", Path(__file__).parents[2] / "docs" / "finish.py")
assert spec and spec.loader
finish = importlib.util.module_from_spec(spec)
spec.loader.exec_module(finish)


def test_a_page_gets_names_levels_and_a_title() -> None:
    page = finish.finish(
        '<aside class="sidebar-drawer"></aside><aside class="toc-drawer"></aside>'
        '<p class="caption" role="heading">A</p>'
        '<summary aria-label="Toggle hidden content"><span>Show</span></summary><div id="search-results"></div>'
    )
    assert page == (
        '<aside class="sidebar-drawer" aria-label="All pages"></aside>'
        '<aside class="toc-drawer" aria-label="On this page"></aside>'
        '<p class="caption" role="heading" aria-level="2">A</p><summary><span>Show</span></summary>'
        '<h1>Search</h1>\n<div id="search-results"></div>'
    )


def test_heads_of_tables_say_what_they_head_and_empty_ones_are_none() -> None:
    page = finish.finish(
        '<div class="table-wrapper colwidths-auto"><table><thead><tr><th class="head"><p></p></th>'
        '<th class="head">a</th><th scope="colgroup">b</th></tr></thead><tbody><tr><th>c</th><td>1</td></tr></tbody>'
        "</table></div>"
    )
    assert page.startswith('<div class="table-wrapper colwidths-auto" tabindex="0" role="group" aria-label="Table">')
    assert re.findall("<t[hd](?: [^>]*)?>", page) == [
        '<td class="head">',
        '<th scope="col" class="head">',
        '<th scope="colgroup">',
        '<th scope="row">',
        "<td>",
    ]
    assert finish.finish(page) == page, "a second time changes nothing"


def test_the_lines_of_a_signature_are_no_list_of_terms() -> None:
    terms = '<dl class="field-list">\n<dt>Args</dt>\n<dd>words</dd>\n</dl>'
    page = finish.finish(f"<dt><dl>\n<dd><em>a</em></dd>\n<dd><em>b</em></dd>\n</dl>\n</dt>{terms}")
    line = '<span class="sig-line"><em>{}</em></span>\n'
    assert page == f'<dt><span class="sig-line">\n{line.format("a")}{line.format("b")}</span>\n</dt>{terms}'


def test_a_whole_site_is_finished_in_place(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    for place in ("a.html", "api/b.html", "c.js"):
        (tmp_path / place).write_text("<table><tr><th>é</th></tr></table>", encoding="utf-8")
    finish.finish_site(tmp_path)
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*")}
    assert {name: "scope" in text for name, text in texts.items()} == {"a.html": True, "b.html": True, "c.js": False}


@pytest.mark.parametrize("text", ["", "<p>no table</p>", "<thead></thead>"])
def test_what_needs_nothing_stays(text: str) -> None:
    assert finish.finish(text) == text
