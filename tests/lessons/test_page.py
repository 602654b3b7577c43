"""The course as one page, as a parser sees it: headings, tables, formulas, words for figures, marks of a failure."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hpslib.lessons.execution import read_notebook
from hpslib.lessons.figures import alternative
from hpslib.lessons.page import report

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("0*.ipynb"))
PNG = {"image/png": "iVBORw0KGgo="}


def printed(text: str) -> Any:
    return new_output("stream", name="stdout", text=text)


def shown(data: dict[str, str]) -> Any:
    return new_output("display_data", data=data)


def page(*cells: Any, faults: tuple[str, ...] = (), **others: Any) -> BeautifulSoup:
    notebooks = {"01_a": new_notebook(cells=list(cells)), **others}
    return BeautifulSoup(report(notebooks, {}, faults), "html.parser")


@cache
def course() -> str:
    return report({path.stem: read_notebook(path) for path in LESSONS}, {"03 HPS, top-1": "45 % [42, 48]"})


def test_the_course_asks_no_server_and_runs_no_script() -> None:
    text = course()
    soup = BeautifulSoup(text, "html.parser")
    assert soup.find_all(["script", "iframe", "link", "object"]) == [] and "@import" not in text and "url(" not in text
    assert all(image["src"].startswith("data:image/") for image in soup.find_all("img"))
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
    assert (
        policy
        and policy["content"]
        == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert not [tag for tag in soup.find_all(True) for name in tag.attrs if name.startswith("on")]


def test_the_course_has_a_title_a_language_and_headings_in_order() -> None:
    soup = BeautifulSoup(course(), "html.parser")
    assert soup.html and soup.html["lang"] == "en" and soup.title and soup.title.text == "hpslib: the course"
    levels = [int(tag.name[1]) for tag in soup.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1 and levels.count(2) == len(LESSONS)
    assert all(below <= above + 1 for above, below in pairwise(levels))
    names = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(names) == len(set(names))
    dead = [a["href"] for a in soup.find_all("a", href=re.compile("^#")) if a["href"][1:] not in names]
    assert dead == [] and len(soup.find_all("a", href=re.compile("^#"))) >= 2 * len(LESSONS) - 1


def test_every_figure_of_the_course_has_its_sentence() -> None:
    soup = BeautifulSoup(course(), "html.parser")
    stored = sum(
        "image/png" in o.get("data", {}) for p in LESSONS for c in read_notebook(p).cells for o in c.get("outputs", [])
    )
    words = [image["alt"] for image in soup.find_all("img")]
    assert len(words) == stored > 25 and all(len(text) > 20 and "\n" not in text for text in words)
    assert not any(text.startswith("Figure") for text in words), "each prints a sentence"
    assert any(text.startswith("CLIP score 28 %") for text in words)


def test_every_table_of_the_course_says_what_its_heads_head() -> None:
    soup = BeautifulSoup(course(), "html.parser")
    heads = soup.find_all("th")
    assert len(heads) > 60 and all(head.get_text(strip=True) and head["scope"] in ("col", "row") for head in heads)
    assert all(table.find("th") for table in soup.find_all("table"))


def test_every_formula_of_the_course_is_mathml() -> None:
    soup = BeautifulSoup(course(), "html.parser")
    assert len(soup.find_all("math")) > 35 and len(soup.find_all("div", class_="formula")) == 7
    for tag in soup.find_all(["pre", "code", "math"]):
        tag.decompose()
    assert re.findall(r"\$[^$]{1,80}\$|\\frac|\\lVert", soup.get_text()) == []


def test_a_formula_that_cannot_be_read_stays_as_it_was_written() -> None:
    soup = page(new_markdown_cell(r"# A" + "\n\n" + r"$\nonsense{x<y}$ and $$\lVert v \rVert$$"))
    assert soup.section and [code.text for code in soup.section.find_all("code")] == [r"\nonsense{x<y}"]
    assert str(soup.math).count('stretchy="false">‖<') == 2, "bars of a norm must be of one height"


def test_headings_never_skip_a_level_and_links_between_lessons_stay() -> None:
    links = "[1](02_b.ipynb) [2](02_b.ipynb#c-d) [3](#far-below) [4](https://x.org/#c) [5](z.ipynb)"
    text = f"# A *b*\n\n### Far below\n\n{links}"
    soup = page(new_markdown_cell(text), **{"02_b": new_notebook(cells=[new_markdown_cell("# B\n\n## C, d")])})
    assert [(tag.name, tag.get("id")) for tag in soup.find_all(re.compile("^h[2-6]$"))] == [
        ("h2", "01_a--a-b"), ("h3", "01_a--far-below"), ("h2", "02_b--b"), ("h3", "02_b--c-d"),
    ]  # fmt: skip
    assert soup.section and [a["href"] for a in soup.section.find_all("a")] == [
        "#02_b", "#02_b--c-d", "#01_a--far-below", "https://x.org/#c", "z.ipynb",
    ]  # fmt: skip
    assert soup.nav and [a.text for a in soup.nav.find_all("a")] == ["A b", "B"]


def test_the_words_of_a_figure_are_what_is_printed_beside_it_then_below_it_then_its_heading() -> None:
    drawn, last = (new_code_cell("draw", outputs=[shown(PNG)]) for _ in range(2))
    told, after = (new_code_cell("say", outputs=[printed("Below\nit.")]) for _ in range(2))
    both = new_code_cell("both", outputs=[shown(PNG), printed('"Beside" <it>.\n')])
    cells = [new_markdown_cell("# A\n\n## Under"), both, drawn, told, last, new_markdown_cell("words"), after]
    words = [image["alt"] for image in page(*cells).find_all("img")]
    assert words == ['"Beside" <it>.', "Below it.", "Figure: Under"]
    long = new_code_cell("long", outputs=[printed("word " * 300)])
    assert len(alternative([long], 0, "")) <= 500 and alternative([long], 0, "").endswith("word …")
    assert alternative([drawn], 0, "") == "Figure"


def test_a_pandas_table_has_scopes_and_no_empty_head() -> None:
    pandas = (
        '<div><style scoped>th {color: red}</style><table border="1" class="dataframe"><thead>'
        '<tr style="text-align: right;"><th></th><th>one</th><th colspan="2">two</th></tr></thead>'
        '<tbody><tr><th rowspan="2">a</th><td>1</td></tr><tr><th>b</th><td>2</td></tr></tbody></table></div>'
    )
    soup = page(new_code_cell("t", outputs=[shown({"text/html": pandas, "text/plain": "t"})]))
    assert soup.section
    table = soup.section.find("table")
    assert table and table.parent and table.parent["tabindex"] == "0" and table.get("border") is None
    assert [(cell.name, cell.get("scope")) for cell in table.find_all(["td", "th"])] == [
        ("td", None), ("th", "col"), ("th", "colgroup"), ("th", "rowgroup"), ("td", None), ("th", "row"), ("td", None),
    ]  # fmt: skip
    assert soup.section.find("style") is None and not table.find(style=True)


def test_a_table_of_words_without_heads_is_named_by_its_first_column() -> None:
    soup = page(new_markdown_cell("# A\n\n| | |\n|---|---|\n| **Needs** | *time* |\n"))
    assert soup.section and soup.section.thead is None
    assert [(cell.name, cell.get("scope"), cell.text) for cell in soup.section.find_all(["td", "th"])] == [
        ("th", "row", "Needs"), ("td", None, "time"),
    ]  # fmt: skip


def test_nothing_acts_and_nothing_is_fetched_whatever_a_cell_holds() -> None:
    evil = "<script>x</script><img src='https://x.org/a.png' alt='far'><p onclick='x'>kept</p><iframe></iframe>"
    badge = "# A\n\n[![Open](https://x.org/b.svg)](https://x.org)\n\n![far too](https://x.org/c.png) {{lessons}}"
    soup = page(
        new_markdown_cell(badge),
        new_code_cell("h", outputs=[shown({"text/html": evil}), printed("<b>1</b> \x1b[31mred\x1b[0m")]),
    )
    assert soup.section
    assert soup.section.find_all(["script", "img", "iframe", "b"]) == [] and "x.org" not in str(soup)
    assert all(text in soup.section.text for text in ("kept", "far too", "<b>1</b> red", "{{lessons}}"))
    assert not soup.section.find(onclick=True)


@pytest.mark.parametrize(
    "evil",
    [
        '<!--><img src=x onerror=alert(1)><meta http-equiv="refresh" content="0;url=https://x.org">-->',
        '<a href="java\nscript:alert(1)">a</a>',
        "<a href='data:text/html,x.org'>a</a>",
        '<svg><image href="https://x.org/a.png"/></svg><video poster="https://x.org/b.png" src="https://x.org/c"></video>',
        '<img src="data:image/png;base64,AA==" srcset="https://x.org/a.png 2x" alt="kept">',
        '<p style="background: u\\72l(https://x.org/a.png)">p</p><p style="background:url( https://x.org/b )">p</p>',
        '<form action="https://x.org"><input type=image src="https://x.org/a.png" formaction="https://x.org"></form>',
    ],
)
def test_what_acts_or_fetches_is_gone_however_it_is_written(evil: str) -> None:
    soup = page(new_code_cell("h", outputs=[shown({"text/html": evil})]), new_markdown_cell(f"b\n\n{evil}\n\nb"))
    assert soup.section
    assert not re.search(r"x\.org|alert|script:|refresh", str(soup.section).replace("&lt;", "<").split("<pre")[0])
    for tag in soup.section.find_all(True):
        assert not {"onerror", "srcset", "poster", "formaction", "action"} & set(tag.attrs)
        assert "x.org" not in "".join(str(value) for value in tag.attrs.values())


def test_links_to_pages_and_colours_stay() -> None:
    soup = page(new_markdown_cell('[a](https://x.org) [b](#c) [d](e.md) <span style="color: red">f</span>'))
    assert soup.section
    assert [a["href"] for a in soup.section.find_all("a")] == ["https://x.org", "#01_a--c", "e.md"]
    assert soup.section.find(style="color: red")


@pytest.mark.parametrize("formula", ["^", "&", "_", r"\end{matrix}", r"\limits"])
def test_what_is_no_formula_stays_as_it_was_typed(formula: str) -> None:
    from hpslib.lessons.formulas import mathml

    assert BeautifulSoup(mathml(formula), "html.parser").text.strip() == formula
    assert f"costs {mathml(formula)}" in str(page(new_markdown_cell(f"costs ${formula}$ and")).section)


def test_a_row_without_cells_and_a_warning_spoil_nothing() -> None:
    table = "<table><thead><tr><th></th></tr></thead><tbody><tr></tr><tr><td>a</td></tr></tbody></table>"
    warning = new_output("stream", name="stderr", text="UserWarning: bad")
    picture = shown({"image/png": "AA=="})
    soup = page(
        new_markdown_cell("# Title"), new_code_cell("t", outputs=[shown({"text/html": table}), picture, warning])
    )
    assert soup.section and soup.section.find("th", string="a")
    assert "UserWarning" not in str(soup.section.img)


def test_a_failure_is_said_on_top_and_marked_at_its_cell() -> None:
    error = new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad <b>"])
    cells = [new_markdown_cell("# A"), new_code_cell("1"), new_code_cell("2", outputs=[error]), new_code_cell("3")]
    dead = new_notebook(cells=[new_markdown_cell("# B"), new_code_cell("gone"), new_code_cell("after")])
    faults = (
        "01_a.ipynb, cell 2 (from 0): ValueError: bad",
        "02_b.ipynb, cell 1 (from 0): Kernel died",
        "03_c.ipynb is no notebook",
    )
    soup = page(*cells, faults=faults, **{"02_b": dead})
    banner, title = soup.find(role="alert"), soup.h1
    assert banner and title and banner in title.find_all_previous(), "above all else"
    assert [a["href"] for a in banner.find_all("a")] == ["#01_a--fault", "#02_b--fault"]
    assert [line.text.partition(" Go to")[0] for line in banner.find_all("li")] == list(faults)
    marks = soup.find_all(class_="failed")
    assert [mark["id"] for mark in marks] == ["01_a--fault", "02_b--fault"]
    assert [mark.code.text for mark in marks] == ["2", "gone"] and "ValueError: bad <b>" in marks[0].text
    assert all("This cell failed." in mark.text for mark in marks)
    sound = page(*cells[:2])
    assert sound.find(role="alert") is None and sound.find(class_="failed") is None


def _light(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours, from 1 to 21."""
    dark, bright = sorted((_light(one), _light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_can_be_read_in_light_and_in_dark(place: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", re.findall(r":root \{(.*?)\}", report({}, {}), re.S)[place]))
    backgrounds = ["page", "card", "bad-page"]
    assert {"text", "soft", "accent", "bad", "keyword", "string", "number", "comment", "name"} == {
        name for name in colours if name not in (*backgrounds, "line")
    }
    for name in colours.keys() - {*backgrounds, "line"}:
        for background in backgrounds:
            assert contrast(colours[name], colours[background]) >= 4.5, (name, background)


def test_an_attached_picture_is_on_the_page() -> None:
    cell = new_markdown_cell("# A\n\n![a cat](attachment:cat.png)", attachments={"cat.png": PNG})
    image = page(nbformat.from_dict(cell)).img
    assert image and image["alt"] == "a cat" and image["src"] == "data:image/png;base64,iVBORw0KGgo="
