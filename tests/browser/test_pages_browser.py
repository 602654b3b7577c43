"""What a browser makes of the pages and the voting widget: axe-core's findings, and how pictures lie at three widths.

It runs where a Chromium is found; axe-core comes with the package ``axe-playwright-python``. Screenshots go to
``$HPSLIB_SCREENSHOTS``.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import needs_chromium
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from hpslib.lessons.execution import read_notebook
from hpslib.lessons.page import report
from hpslib.lessons.widgets import score_slider
from hpslib.votes import rating
from hpslib.votes.votes import open_votes

pytestmark = needs_chromium
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def axe() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core is not here: install axe-playwright-python")
    return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def findings(page: Any, axe: str) -> list[str]:
    """What axe-core calls serious or critical on the page as it is, each with the first place."""
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    return [
        f"{one['id']} ({one['impact']}): {len(one['nodes'])}, first {one['nodes'][0]['target']}"
        for one in found
        if one["impact"] in ("serious", "critical") or one["id"] == "empty-table-header"
    ]


def opened(browser: Any, path: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """A page in a window of its own, and the addresses that it has asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    return page, [url for url in asked if not url.startswith(("file:", "data:"))]


def small_course() -> dict[str, Any]:
    """One cell of each kind; the whole course takes axe a minute."""
    table = (
        "<table border='1' class='dataframe'><thead><tr><th></th><th>a</th></tr></thead><tbody><tr><th>b</th><td>1</td>"
    )
    pixel = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(pixel, "PNG")
    outputs = [
        new_output("stream", name="stdout", text="It is red."),
        new_output("display_data", data={"text/html": f"{table}</tr></tbody></table>", "text/plain": "t"}),
        new_output("display_data", data={"image/png": base64.b64encode(pixel.getvalue()).decode()}),
        new_output("error", ename="ValueError", evalue="bad", traceback=["ValueError: bad"]),
    ]
    code = "%%time\n@cache  # a comment\ndef f(x: int = 3) -> str:\n    return f'{x!r} {len([1.5])}' if None else 'a'"
    table_of_words = "| | |\n|---|---|\n| **b** | [c](https://example.org) |"
    text = f"# 1 · A\n\n{table_of_words}\n\n$$\\frac{{a}}{{b}}$$\n\n<details><summary>S</summary>`d`"
    cells = [new_markdown_cell(text), new_code_cell(code, outputs=outputs, execution_count=1)]
    return {"01_a": new_notebook(cells=cells), "02_b": new_notebook(cells=[new_markdown_cell("# 2 · B\n\n## C")])}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious_on_the_page_of_a_course(
    browser: Any, axe: str, tmp_path: Path, shots: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report(small_course(), {"a": "1"}, ["01_a.ipynb, cell 1 (from 0): bad"]), encoding="utf-8")
    page, asked = opened(browser, path, width, scheme)
    page.screenshot(path=shots / f"report_{width}_{scheme}.png", full_page=True)
    assert findings(page, axe) == [] and asked == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing stands out to the right"
    page.close()


@pytest.mark.slow
def test_axe_finds_nothing_serious_on_the_page_of_the_five_lessons(browser: Any, axe: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    lessons = sorted((ROOT / "notebooks").glob("0*.ipynb"))
    path.write_text(report({lesson.stem: read_notebook(lesson) for lesson in lessons}, {"a": "1"}), encoding="utf-8")
    page, asked = opened(browser, path, 1280, "dark")
    page.set_default_timeout(300_000)
    assert findings(page, axe) == [] and asked == []
    page.close()


# --- the voting widget ------------------------------------------------------------------------------------------------

BENCH = """
<!doctype html><html lang="en"><head><title>bench</title><style>{css}</style></head><body><main><h1>A bench</h1>
<div id="here"></div></main><script type="module">
  {script}
  const state = {state};
  for (const name of ["current", "upcoming"])
    state[name].images = (state[name].images ?? []).map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const model = {{ get: (name) => state[name], on() {{}}, off() {{}}, send() {{}} }};
  const widget = made();
  widget.initialize({{ model }});
  widget.render({{ model, el: document.querySelector("#here") }});
</script></body></html>
"""


def jpeg(number: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (60 * number, 120, 200 - 40 * number)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def bench(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page with the widget, at a width, on the first group of a study of groups of these sizes."""
    pages = []

    def start(sizes: list[int], width: int, picture: tuple[int, int] = (512, 512), scheme: str = "light") -> Any:
        groups = [
            {"id": f"g{k}", "prompt": f"a critter {k}", "images": [{"bytes": jpeg(j, picture)} for j in range(n)]}
            for k, n in enumerate(sizes)
        ]
        votes = open_votes(tmp_path / f"{len(pages)}.sqlite", "bench", groups)
        widget = rating.rate(groups, votes, "me")
        state = {name: getattr(widget, name) for name in ("done", "total", "last", "recent", "size", "store", "most")}
        for name in ("current", "upcoming"):
            group = getattr(widget, name)
            state[name] = {**group, "images": [base64.b64encode(image).decode() for image in group.get("images", [])]}
        folder = Path(rating.__file__).parent
        script = (folder / "rating.js").read_text(encoding="utf-8").replace("export default", "const made =")
        css = (folder / "rating.css").read_text(encoding="utf-8")
        path = tmp_path / f"bench{len(pages)}.html"
        path.write_text(BENCH.format(css=css, script=script, state=json.dumps(state)), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        pages.append(page)
        page.goto(path.as_uri())
        page.locator(".choice img").first.wait_for()
        return page

    yield start
    for page in pages:
        page.close()


def places(page: Any) -> tuple[list[int], set[tuple[int, int]]]:
    """How many pictures lie in each row, and the sizes of the choices."""
    boxes = page.evaluate(
        """[...document.querySelectorAll('.choice')].map((choice) => choice.getBoundingClientRect())
        .map((r) => [r.y, r.width, r.height])"""
    )
    tops = [round(top) for top, _, _ in boxes]
    return [tops.count(top) for top in sorted(set(tops))], {(round(width), round(height)) for _, width, height in boxes}


@pytest.mark.parametrize(("width", "columns"), [(1280, 4), (800, 2), (390, 2)])
def test_groups_of_two_three_and_four_lie_in_the_same_cells(
    bench: Callable[..., Any], shots: Path, width: int, columns: int
) -> None:
    cells = set()
    for first in (2, 3, 4):
        page = bench([first, 4, 3, 2], width)
        rows, sizes = places(page)
        assert rows == [columns] * (first // columns) + [first % columns] * (first % columns > 0)
        cells |= sizes
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=shots / f"widget_{width}_{first}.png")
    assert len(cells) == 1, "one size for all groups of a study"


@pytest.mark.parametrize(("most", "rows"), [(2, [2]), (3, [3]), (4, [4]), (5, [3, 2]), (7, [4, 3]), (9, [3, 3, 3])])
def test_a_wide_page_shows_few_even_rows(bench: Callable[..., Any], most: int, rows: list[int]) -> None:
    assert places(bench([most, 2], 1280))[0] == rows


def test_pictures_of_any_shape_lie_in_the_same_cells_and_the_layout_follows_the_window(
    bench: Callable[..., Any],
) -> None:
    tall, wide = (places(bench([4], 1280, picture))[1] for picture in ((256, 512), (512, 256)))
    assert tall == wide and len(tall) == 1
    page = bench([4], 1280)
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function(
        "getComputedStyle(document.querySelector('.images')).gridTemplateColumns.split(' ').length == 2"
    )
    assert places(page)[0] == [2, 2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_voting_widget(bench: Callable[..., Any], axe: str, scheme: str) -> None:
    assert findings(bench([4, 3], 800, scheme=scheme), axe) == []


# --- names of sliders -------------------------------------------------------------------------------------------------

SLIDERS = """
<!doctype html><html lang="en"><title>bench</title><body><main><h1>A bench</h1><div class="widget-box"><div id="here">
</div></div></main><script type="module">
  {script}
  const slider = (name, handle) => `<div class="widget-slider"><label class="widget-label">${{name}}</label>
    <div class="${{handle}}" tabindex="0" role="slider" aria-valuenow="3">-</div>
    <div class="widget-readout" contenteditable="true">3</div></div>`;
  made.render({{ el: document.querySelector("#here") }});
  setTimeout(() => document.querySelector(".widget-box").insertAdjacentHTML("afterbegin",
    slider("group", "noUi-handle") + slider("margin", "ui-slider-handle")), 50);
</script></body></html>
"""


def test_sliders_bear_their_labels_as_names(browser: Any, axe: str, tmp_path: Path) -> None:
    """The markup is that of ipywidgets 8 and 7, drawn after the widget that names it."""
    names = score_slider(str, 0, 10, 3, step=1, name="margin").children[-1]
    script = str(names._esm).replace("export default", "const made =")
    path = tmp_path / "sliders.html"
    path.write_text(SLIDERS.format(script=script), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.get_by_role("slider", name="group", exact=True).wait_for()
    page.get_by_role("slider", name="margin", exact=True).wait_for()
    assert page.get_by_role("textbox", name="margin, as a number").inner_text() == "3"
    marked = page.locator("[data-lm-suppress-shortcuts]")
    assert marked.count() == 4, "JupyterLab leaves their keys to them"
    assert findings(page, axe) == []
    page.close()
