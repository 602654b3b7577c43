"""The whole way in a real browser: JupyterLab, the widget, votes by key and by click, undo, reload, export.

What goes wrong between page and kernel is tested on a bench: a page with the widget alone, whose kernel is the test.

It runs where a Chromium is found; ``make browser-test`` installs playwright's own where the machine has none.
Screenshots go to ``$HPSLIB_SCREENSHOTS``.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from chromium import needs_chromium
from nbformat.v4 import new_code_cell, new_notebook
from waiting import wait

from hpslib.votes import rating
from hpslib.votes.votes import Votes, open_votes

pytestmark = needs_chromium

PROMPT = '<script>window.pwned = 1</script> "quoted" 🦄 שלום'
SETUP = f"""
import io
import numpy as np
from PIL import Image
from hpslib.votes.rating import rate
from hpslib.votes.files import export_table
from hpslib.votes.votes import open_votes

def picture(seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((512, 512), Image.Resampling.BILINEAR).save(file, "JPEG")
    return {{"bytes": file.getvalue(), "path": None}}

groups = [{{"id": f"g{{k}}", "prompt": {PROMPT!r} + f" {{k}}", "images": [picture(4 * k + j) for j in range(4)]}}
          for k in range(30)]
votes = open_votes("votes.sqlite", "browser", groups)
widget = rate(groups, votes, "somebody", size=256)
widget
"""
EXPORT = 'print(export_table(votes, "votes.csv").name, len(votes.choices("somebody")))'


def lesson_five() -> list[str]:
    """The cells of lesson 5 up to the vote, what reads the votes, and the export; somebody votes, not a simulation."""
    notebook = nbformat.read(Path(__file__).parents[2] / "notebooks" / "05_your_own_preferences.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    place = {name: next(k for k, s in enumerate(sources) if name in s) for name in ("vote_by(", "said =", "export_hpd")}
    kept = [*sources[: place["vote_by("] + 1], sources[place["said ="]], sources[place["export_hpd"]]]
    return [source.replace("ME, WHO = None,", 'ME, WHO = "somebody",') for source in kept]


def lesson_five_to_its_answer() -> list[str]:
    """The cells of lesson 5 up to what it says of somebody's own votes."""
    notebook = nbformat.read(Path(__file__).parents[2] / "notebooks" / "05_your_own_preferences.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    last = next(k for k, source in enumerate(sources) if "your own votes, each left out once" in source)
    return [source.replace("ME, WHO = None,", 'ME, WHO = "somebody",') for source in sources[: last + 1]]


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A JupyterLab server with the notebook of the test's parameter; its address."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in request.param()])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "vote.ipynb")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
         "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None",
         "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
        stdout=log, stderr=subprocess.STDOUT,
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")},
    )  # fmt: skip
    try:
        wait(lambda: answers(f"{address}/api?token=secret"), 60, "JupyterLab does not answer")
        yield f"{address}/lab/tree/vote.ipynb?token=secret&reset"
    finally:
        server.terminate()
        try:
            server.wait(90)  # it ends its kernels first
        finally:
            server.kill()
            log.close()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def page(browser: Any, lab: str, shots: Path) -> Iterator[Any]:
    view = browser.new_page(viewport={"width": 1280, "height": 1000})
    view.set_default_timeout(60_000)
    view.goto(lab)
    ready(view)
    yield view
    view.screenshot(path=shots / "last.png")  # of a failure: what was there instead
    view.close()


def ready(view: Any) -> None:
    view.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
    wait(lambda: view.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count(), 60, "no kernel starts")


def run_cell(page: Any, number: int) -> None:
    """Press Control+Enter until the cell has run.

    Before its kernel is connected, JupyterLab drops what it hears, or asks which kernel to take: that of the notebook.
    """
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    prompt = cell.locator(".jp-InputPrompt")
    before, end = prompt.inner_text(), time.monotonic() + 90
    asked = page.locator(".jp-Dialog", has_text="Select Kernel").locator(".jp-mod-accept")
    while time.monotonic() < end:
        if asked.count():
            asked.click()
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        time.sleep(1)
        wait(lambda: "*" not in prompt.inner_text(), 60, f"cell {number} does not end")
        if re.search(r"[0-9]", prompt.inner_text()) and prompt.inner_text() != before:
            return
    raise AssertionError(f"cell {number} does not run")


def rows(folder: Path) -> list[tuple[Any, ...]]:
    (file,) = folder.glob("*votes.sqlite")
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        query = "SELECT id, choice, shown_order, withdrawn FROM votes ORDER BY number"
        return db.execute(query).fetchall()


@pytest.mark.parametrize("lab", [lambda: [SETUP.strip(), EXPORT]], indirect=True, ids=["small"])
def test_votes_by_key_and_click_undo_reload_and_export(page: Any, tmp_path: Path, shots: Path) -> None:
    root = page.locator(".hpslib-rating")

    def shown() -> str:
        return root.locator(".prompt").inner_text()

    def counted(count: int) -> None:
        wait(lambda: len(rows(tmp_path)) == count, 10, f"there are {len(rows(tmp_path))} rows, not {count}")

    run_cell(page, 0)
    root.locator(".choice img").first.wait_for()
    assert shown() == f"{PROMPT} 0" and page.evaluate("window.pwned") is None, "a prompt is text"
    assert root.locator(".progress").inner_text() == "1 of 30"
    assert root.locator(".choice img").first.get_attribute("alt") == f"image 1 of 4 for: {PROMPT} 0"
    assert root.locator(".choice img").first.get_attribute("src").startswith("blob:")
    page.screenshot(path=shots / "1_first_group.png")

    root.locator(".choice").nth(1).click()
    counted(1)
    assert shown() == f"{PROMPT} 1"
    root.focus()
    page.keyboard.press("3")
    counted(2)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.querySelector('.key')?.textContent") == "2", "arrows move the focus"
    page.screenshot(path=shots / "2_focus.png")
    page.keyboard.press("Enter")
    counted(3)
    assert shown() == f"{PROMPT} 3"
    page.keyboard.press("u")
    wait(lambda: shown() == f"{PROMPT} 2", 10, "the last group does not come back")
    wait(lambda: rows(tmp_path)[-1][3] is not None, 10, "the last vote is not taken back")
    assert [row[3] is not None for row in rows(tmp_path)] == [False, False, True], "taken back, not deleted"
    page.keyboard.press("s")
    counted(4)
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2, "no key reached the notebook and made a cell"

    waits = []
    for k in range(20):
        before = shown()
        root.evaluate("element => delete element.dataset.swapMs")
        page.keyboard.press(str(1 + k % 4))
        wait(lambda: root.get_attribute("data-swap-ms"), 10, "the next group does not appear")
        assert shown() != before
        waits.append(float(root.get_attribute("data-swap-ms")))
        wait(lambda n=5 + k: len(rows(tmp_path)) >= n, 10, "a vote does not arrive")
    print(f"\nkey press to next group on screen, 4 images of 512 px: median {np.median(waits):.0f} ms, "
          f"largest {max(waits):.0f} ms")  # fmt: skip
    counted(24)

    page.reload()
    ready(page)
    run_cell(page, 0)
    root.locator(".choice img").first.wait_for()
    wait(lambda: root.locator(".progress").inner_text() == "24 of 30", 20, "it does not go on where it stopped")
    root.focus()
    page.keyboard.press("2")
    counted(25)
    page.screenshot(path=shots / "3_after_reload.png")

    run_cell(page, 1)
    page.locator(".jp-OutputArea-output", has_text="votes.csv 23").wait_for()
    for _ in range(6):
        root.focus()
        before = len(rows(tmp_path))
        page.keyboard.press("1")
        wait(lambda n=before: len(rows(tmp_path)) == n + 1, 10, "a vote does not arrive")
    wait(lambda: root.locator(".progress").inner_text() == "30 of 30, done", 10, "the end is not said")
    page.screenshot(path=shots / "4_done.png")
    exported = list(csv.DictReader((tmp_path / "votes.csv").open(encoding="utf-8")))
    assert sum(row["withdrawn"] == "" and row["skipped"] in ("False", "false", "0") for row in exported) == 23
    keys = [(row[0], row[3]) for row in rows(tmp_path)]
    counting = [group for group, withdrawn in keys if withdrawn is None]
    assert sorted(counting) == sorted(f"g{k}" for k in range(30)), "every group once"


@pytest.mark.parametrize("lab", [lesson_five], indirect=True, ids=["lesson 5"])
def test_lesson_five_is_voted_on_left_and_taken_up_again(page: Any, tmp_path: Path, shots: Path) -> None:
    root, cells = page.locator(".hpslib-rating"), len(lesson_five())

    def run_all_but_two() -> None:
        run_cell(page, 0)
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        for _ in range(cells - 2):
            page.keyboard.press("Shift+Enter")
        root.locator(".choice img").first.wait_for()

    def vote(count: int, way: Callable[[int], None]) -> None:
        for k in range(count):
            before = len(rows(tmp_path))
            way(k)
            wait(lambda n=before: len(rows(tmp_path)) == n + 1, 10, "a vote does not arrive")

    def by_key(k: int) -> None:
        root.focus()
        page.keyboard.press(str(1 + k % 4))

    run_all_but_two()
    assert root.locator(".progress").inner_text() == "1 of 60"
    root.scroll_into_view_if_needed()
    page.screenshot(path=shots / "5_lesson_five.png")
    vote(6, by_key)
    vote(4, lambda k: root.locator(".choice").nth(k).click())
    root.focus()
    page.keyboard.press("u")
    wait(lambda: rows(tmp_path)[-1][3] is not None, 10, "the last vote is not taken back")
    page.reload()
    ready(page)
    run_all_but_two()
    wait(lambda: root.locator(".progress").inner_text() == "10 of 60", 60, "it does not go on where it stopped")
    vote(3, by_key)
    run_cell(page, cells - 2)
    page.locator(".jp-OutputArea-output", has_text="12 of 60 answered.").wait_for()
    run_cell(page, cells - 1)
    page.locator(".jp-OutputArea-output", has_text="preference_train.json: 12 groups").wait_for()
    page.screenshot(path=shots / "6_lesson_five_exported.png")


@pytest.mark.parametrize("lab", [lesson_five_to_its_answer], indirect=True, ids=["lesson 5, own taste"])
def test_what_lesson_five_says_of_a_person_is_computed_from_that_persons_votes(page: Any, tmp_path: Path) -> None:
    """The scripted person takes what simulated-monsters would, not what the lesson's own simulated rater would."""
    from hpslib.critters import eyes, tastes
    from hpslib.critters.assets import asset
    from hpslib.data.groups import read_groups
    from hpslib.data.releases.hpd_v1 import read_hpd
    from hpslib.metrics.agreement import top1_accuracy
    from hpslib.scores.clip import load_clip
    from hpslib.votes import personal
    from hpslib.votes.left_out import left_out_scores
    from hpslib.votes.rating import shuffled_order

    whole = read_hpd(asset("hpd_mini/train.parquet")).select(range(600))
    data = read_groups(whole)
    taste = next(taste for taste in tastes.TASTES if taste.name == "simulated-monsters")
    seen = eyes.look(eyes.load_eye(asset("eyes/eye_a.safetensors")), data.images)
    likes = tastes.taste_probabilities(taste, seen, data.image_prompts, data.sizes)
    wanted = {row["prompt"]: (row["id"], int(p.argmax())) for row, p in zip(whole, likes)}

    root, cells = page.locator(".hpslib-rating"), len(lesson_five_to_its_answer())
    widget = next(k for k, source in enumerate(lesson_five_to_its_answer()) if "vote_by(" in source)
    for cell in range(widget + 1):
        run_cell(page, cell)
    root.locator(".choice img").first.wait_for()
    for count in range(60):
        wait(lambda n=count: root.locator(".progress").inner_text() == f"{n + 1} of 60", 20, "no next group")
        name, choice = wanted[root.locator(".choice img").first.get_attribute("alt").split(" for: ", 1)[1]]
        root.focus()
        page.keyboard.press(str(1 + shuffled_order(0, "somebody", name, 4).index(choice)))
        wait(lambda n=count: len(rows(tmp_path)) == n + 1, 10, "a vote does not arrive")
    for cell in range(widget + 1, cells):
        run_cell(page, cell)
    page.locator(".jp-OutputArea-output", has_text="Your score minus HPS").wait_for()
    printed = page.locator(".jp-OutputArea-output", has_text="Your score minus HPS").inner_text()

    voted = {name: choice for name, choice, *_ in rows(tmp_path)}
    assert voted == {name: choice for name, choice in wanted.values() if name in voted} and len(voted) == 60
    kept = [k for k, row in enumerate(whole) if row["id"] in voted]
    clip, population = load_clip(asset("clip")), load_clip(asset("hps"))
    shown = personal.show(clip, population, data.images, data.prompts, data.sizes)
    hps = top1_accuracy(
        personal.personal_scores(
            personal.train_personal(shown.subset([]), [], personal.taste_axes(shown)), shown.subset(kept)
        ),
        [voted[whole[k]["id"]] for k in kept],
    )
    asked = np.random.default_rng(0).choice([k for k, n in enumerate(data.sizes) if n == 4], 60, replace=False).tolist()
    choices = [voted[whole[k]["id"]] for k in asked]
    own = left_out_scores(shown.subset(asked), np.array(choices), personal.taste_axes(shown), seed=0)
    mine = top1_accuracy(own, choices, [data.prompts[k] for k in asked])
    assert f"HPS {100 * hps.value:.0f} %" in printed and f"your score {mine.percent(0)}" in printed
    assert "simulated" not in printed and mine.value > hps.value + 0.2


# --- the widget in JupyterLab, treated badly --------------------------------------------------------------------------


def answers_of(rows_of_file: list[tuple[Any, ...]]) -> list[tuple[str, int | None]]:
    """Group and place on the page of what counts in the votes file; no place for a skip."""
    return [
        (group, None if choice is None else json.loads(order).index(choice))
        for group, choice, order, withdrawn in rows_of_file
        if withdrawn is None
    ]


@pytest.mark.parametrize("lab", [lambda: [SETUP.strip(), "widget"]], indirect=True, ids=["badly"])
def test_two_views_held_keys_double_clicks_and_a_reload_amid_unsaved_answers(page: Any, tmp_path: Path) -> None:
    one, two = page.locator(".hpslib-rating").first, page.locator(".hpslib-rating").last
    pressed: list[tuple[str, int | None]] = []

    def asked(view: Any) -> str:
        view.locator(".choice img").first.wait_for()
        return "g" + view.locator(".prompt").inner_text().rsplit(" ", 1)[1]

    def vote(view: Any, place: int, way: Callable[[], None]) -> None:
        pressed.append((asked(view), place))
        way()

    def hold(key: str) -> None:
        for _ in range(6):
            page.keyboard.down(key)
        page.keyboard.up(key)

    def settled() -> None:
        wait(lambda: answers_of(rows(tmp_path)) == pressed, 20, f"{answers_of(rows(tmp_path))} is not {pressed}")

    run_cell(page, 0)
    run_cell(page, 1)
    asked(two)
    vote(one, 2, one.locator(".choice").nth(2).dblclick)
    settled()
    vote(one, 0, lambda: hold("1"))  # the click left the focus in the widget
    settled()
    vote(two, 3, two.locator(".choice").nth(3).dblclick)
    for place in (1, 2, 0):
        settled()
        vote(two, place, lambda k=place: hold(str(k + 1)))
    settled()
    for _ in range(3):
        page.keyboard.press("u")
        pressed.pop()
    settled()
    assert asked(one) == asked(two) == "g3"
    two.locator(".skip").focus()
    pressed.append(("g3", None))
    hold("Enter")
    settled()

    with closing(sqlite3.connect(tmp_path / "votes.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the kernel waits, for it hears the page also while a cell runs
        before = len(rows(tmp_path))
        one.focus()
        vote(one, 1, lambda: hold("2"))
        vote(one, 0, one.locator(".choice").first.dblclick)
        page.keyboard.press("u")  # of an answer that is not saved
        pressed.pop()
        vote(one, 3, lambda: hold("4"))
        assert two.locator(".progress").inner_text() == "7 of 30" and len(rows(tmp_path)) == before
        page.reload()
        other.execute("ROLLBACK")
    ready(page)
    run_cell(page, 0)
    settled()
    assert asked(one) == "g6" and one.locator(".progress").inner_text() == "7 of 30"
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2, "no key reached the notebook and made or cut a cell"
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('hpslib'))") == []


# --- the widget on the bench: its kernel can be busy, dead, or lose what it hears or says -----------------------------

BENCH = """
<!doctype html><body><div id="one"></div><div id="two"></div><script type="module">
  import made from "/rating.js";
  const state = {}, handlers = new Map(), views = [], held = [], urls = new Set(), log = [];
  const fire = (name, ...told) => [...(handlers.get(name) ?? [])].forEach((handler) => handler(...told));
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  function hear(fresh) {
    for (const name of ["current", "upcoming"])
      if (fresh[name].images) fresh[name].images = fresh[name].images.map(bytes);
    const differs = Object.keys(fresh).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(fresh[name]));
    Object.assign(state, fresh);
    differs.forEach((name) => fire("change:" + name));
  }
  async function process(message) {
    const [fresh, answer] = await kernel(message);
    if (bench.mode === "mute") return;
    hear(fresh);
    fire("msg:custom", answer);
  }
  const model = {
    get: (name) => state[name],
    on: (name, handler) => handlers.set(name, (handlers.get(name) ?? new Set()).add(handler)),
    off: (name, handler) => handlers.get(name)?.delete(handler),
    send(message) {
      bench.sent += 1;
      if (bench.mode === "dead") throw new Error("no kernel");
      if (bench.mode === "busy") held.push(message);
      else if (bench.mode !== "deaf") process(structuredClone(message));
    },
  };
  const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
  URL.createObjectURL = (blob) => { const url = create(blob); urls.add(url); return url; };
  URL.revokeObjectURL = (url) => { urls.delete(url); revoke(url); };
  window.bench = {
    mode: "well", sent: 0, urls, log,
    async set(mode) { bench.mode = mode; if (mode === "well") while (held.length) await process(held.shift()); },
    remove: (k) => views[k](),
    listeners: () => [...handlers.values()].reduce((sum, set) => sum + set.size, 0),
    watch(place) {
      const text = document.querySelector(place);
      new MutationObserver(() => log.push(text.textContent)).observe(text, { childList: true, characterData: true });
    },
  };
  hear((await kernel(null))[0]);
  const widget = typeof made === "function" ? await made() : made;
  await widget.initialize?.({ model });
  for (const el of document.querySelectorAll("body > div")) views.push(await widget.render({ model, el }));
  bench.on = true;
</script>
"""


@pytest.fixture
def study(tmp_path: Path) -> tuple[list[dict[str, Any]], Votes]:
    names: dict[str, Any] = {}
    exec(SETUP.split("groups =")[0], names)
    groups = [{"id": f"g{k}", "prompt": str(k), "images": [names["picture"](j) for j in range(3)]} for k in range(6)]
    return groups, open_votes(tmp_path / "votes.sqlite", "bench", groups)


@pytest.fixture
def bench(browser: Any, study: tuple[list[dict[str, Any]], Votes]) -> Iterator[Callable[..., Any]]:
    """Opens a page with two views of one widget; all pages have one storage."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    source = (Path(rating.__file__).with_name("rating.js")).read_text(encoding="utf-8")
    assert "RESEND_MS = 4000" in source

    def serve(route: Any) -> None:
        quick = source.replace("RESEND_MS = 4000", "RESEND_MS = 300")
        script = route.request.url.endswith(".js")
        route.fulfill(body=quick if script else BENCH, content_type="text/javascript" if script else "text/html")

    def start(rater: str = "me", votes: Votes | None = None, seed: int = 0, page: Any = None) -> Any:
        """A fresh page, or the page given loaded again, on a fresh kernel."""
        kernels[page := page or new_page()] = rating.rate(study[0], votes or study[1], rater, seed=seed)
        page.goto("http://study.test/")
        page.wait_for_function("window.bench?.on")
        return page

    def new_page() -> Any:
        page = context.new_page()
        page.expose_function("kernel", lambda message: ask(kernels[page], message))
        return page

    kernels: dict[Any, rating.Rating] = {}
    context.route("**/*", serve)
    yield start
    context.close()


def ask(widget: rating.Rating, message: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the traits are and what is answered, after a message."""
    answer = widget.handle(message) if message else None
    names = ("current", "upcoming", "done", "total", "last", "recent", "size", "store", "most")
    state = {name: getattr(widget, name) for name in names if hasattr(widget, name)}
    for name in ("current", "upcoming"):
        if state[name]:
            pictures = [base64.b64encode(data).decode() for data in state[name]["images"]]
            state[name] = {**state[name], "images": pictures}
    return state, answer


def view(page: Any, number: str = "one") -> Any:
    return page.locator(f"#{number} .hpslib-rating")


def shows(page: Any, text: str, part: str = "progress", number: str = "one") -> None:
    place = view(page, number).locator(f".{part}")
    wait(lambda: page.evaluate("1") and text in place.inner_text(), 8, f"{text!r} is not in {place.inner_text()!r}")


def press(page: Any, *keys: str, number: str = "one") -> None:
    view(page, number).focus()
    for key in keys:
        if key in "123":
            view(page, number).locator(".choice").first.wait_for()
        page.keyboard.press(key)


def keeps(page: Any) -> int:
    return page.evaluate("localStorage.length")


def counting(votes: Votes, rater: str = "me") -> list[tuple[str, int | None]]:
    return [(row["id"], row["position"]) for row in votes.rows(rater, withdrawn=False)]


def test_a_double_click_and_a_held_key_count_once(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    page.evaluate("addEventListener('keydown', (event) => bench.log.push(event.key))")
    view(page).locator(".choice").nth(1).dblclick()
    shows(page, "2 of 6")
    for focus, key in ((view(page), "3"), (view(page).locator(".skip"), "Enter"), (view(page), "s"), (view(page), "u")):
        focus.focus()
        before = len(votes.rows())
        for _ in range(6):
            page.keyboard.down(key)
            page.wait_for_timeout(20)
        page.keyboard.up(key)
        assert len(votes.rows()) == before + (key != "u")
    view(page).locator(".skip").dblclick()
    shows(page, "5 of 6")
    assert counting(votes) == [("g0", 1), ("g1", 2), ("g2", None), ("g3", None)]
    assert page.evaluate("document.activeElement.closest('#one .hpslib-rating') !== null")
    assert set(page.evaluate("bench.log")) <= {"Enter"}, "the page around must not take the keys"
    view(page).dispatch_event("keydown", {"key": "é", "code": "Digit2", "bubbles": True})  # a French keyboard
    shows(page, "6 of 6")
    page.keyboard.press("U")  # Caps Lock
    shows(page, "5 of 6")


def test_undo_before_the_kernel_has_heard(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    press(page, "1", "2", "3")
    shows(page, "4 of 6")
    page.evaluate("bench.set('busy')")
    press(page, "1", "u")
    shows(page, "3", "prompt")  # at once: the page has its pictures still
    press(page, "2", "1", "u", "u")
    shows(page, "3", "prompt")
    press(page, "3")
    shows(page, "5 of 6")
    press(page, "u", "u", "u", "u")  # of which the last three are of answers that the kernel has
    shows(page, "1 of 6")
    shows(page, "One moment", "hint")
    page.keyboard.press("1")  # there is nothing to answer
    page.evaluate("bench.set('well')")
    shows(page, "0", "prompt")
    assert votes.rows(withdrawn=False) == [] and len(votes.rows()) == 7 and keeps(page) == 0
    assert view(page).locator(".undo").is_disabled()
    press(page, "u", "2")
    shows(page, "2 of 6")
    page.evaluate("bench.set('busy')")
    press(page, "1", "u")
    page.evaluate("bench.watch('#one .prompt')")
    page.evaluate("bench.set('well')")
    wait(lambda: page.evaluate("localStorage.length") == 0, 8, "they are not saved")
    assert page.evaluate("bench.log") == [], "the group stays while its vote and then the undo are confirmed"
    assert counting(votes) == [("g0", 1)]


def test_an_undo_does_not_overtake_a_vote_that_fails(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    page.evaluate("bench.set('busy')")
    press(page, "1")
    hidden = votes.path.rename(votes.path.with_name("hidden"))
    page.evaluate("bench.set('well')")
    shows(page, "is not there", "live")
    press(page, "u")
    hidden.rename(votes.path)
    wait(lambda: page.evaluate("localStorage.length") == 0, 8, "the vote is not saved")
    shows(page, "1 of 6")
    assert [row["withdrawn"] is None for row in votes.rows()] == [False]


def test_a_refused_vote_is_told_and_nothing_else_is_lost(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    page.evaluate("bench.set('busy')")
    press(page, "1", "u", "2", "3")
    votes.record("me", "g0", 0)  # from elsewhere
    choice = votes.choices("me")
    page.evaluate("bench.set('well')")
    shows(page, "already answered the group 'g0'", "live")
    shows(page, "3 of 6")
    assert votes.choices("me").keys() == {"g0", "g1"} and votes.choices("me")["g0"] == choice["g0"]
    assert keeps(page) == 0 and len(votes.rows()) == 2


def test_answers_outlive_the_page_but_go_to_their_own_rater_file_and_order(bench: Any, study: Any) -> None:
    groups, votes = study
    elsewhere = open_votes(votes.path.with_name("other.sqlite"), "bench", groups)
    page = bench()
    page.evaluate("bench.set('dead')")
    press(page, "1", "3")
    shows(page, "3 of 6")
    shows(page, "Not saved yet: 2 answer(s)", "live")
    for others in ({"rater": "m"}, {"rater": "me:"}, {"rater": "me-too"}, {"votes": elsewhere}):
        bench(**others, page=page)
        shows(page, "1 of 6")
    assert votes.rows() == elsewhere.rows() == [] and keeps(page) == 2
    order = [rating.shuffled_order(0, "me", group, 3) for group in ("g0", "g1")]
    assert order != [rating.shuffled_order(4, "me", group, 3) for group in ("g0", "g1")]
    bench(seed=4, page=page)  # what was on the first place then, was chosen
    shows(page, "3 of 6")
    wait(lambda: page.evaluate("localStorage.length") == 0, 8, "they are not saved")
    assert votes.choices("me") == {"g0": order[0][0], "g1": order[1][2]}


def test_a_damaged_answer_holds_back_no_other_and_is_counted(bench: Any, study: Any) -> None:
    votes = study[1]
    page = bench()
    page.evaluate("bench.set('dead')")
    press(page, "1", "3")
    shows(page, "3 of 6")
    store = page.evaluate("Object.keys(localStorage)[0].replace(/:[^:]*$/, ':')")
    for number, text in enumerate(["{", "null", "3", '{"type": "vote"}', '{"type": "dance", "key": "k5", "at": 1}']):
        page.evaluate("([name, text]) => localStorage.setItem(name, text)", [f"{store}k{number}", text])
    bench(page=page)
    shows(page, "5 answer(s) kept in this browser are damaged and left out: please answer again.", "live")
    shows(page, "3 of 6")
    wait(lambda: len(votes.choices("me")) == 2, 8, "the sound answers are not saved")
    assert keeps(page) == 5, "nothing is thrown away"


def test_two_pages_and_two_views_lose_and_revive_nothing(bench: Any, study: Any) -> None:
    votes = study[1]
    here, there = bench(), bench()
    for page in (here, there):
        page.evaluate("bench.set('deaf')")
    press(here, "1")
    press(there, "2", "3")
    press(here, "2", number="two")
    shows(here, "3 of 6")
    shows(there, "3 of 6")
    assert keeps(here) == 4, "each page keeps its two answers"
    here.evaluate("bench.set('well')")
    wait(lambda: here.evaluate("localStorage.length") == 2, 8, "the first page's answers are not saved")
    press(here, "u")
    shows(here, "2 of 6")
    there.close()
    late = bench()  # what the closed page kept: a second answer to g0, and one to g1, which is open again
    shows(late, "3 of 6", number="two")
    shows(late, "already answered the group 'g0'", "live")
    wait(lambda: late.evaluate("localStorage.length") == 0, 8, "they are not done with")
    assert counting(votes) == [("g0", 0), ("g1", 2)]
    assert [row["position"] for row in votes.rows("me")] == [0, 1, 2]


def test_a_removed_view_leaves_nothing_behind(bench: Any) -> None:
    page = bench()
    press(page, "1")
    shows(page, "2 of 6", number="two")
    page.evaluate("bench.set('busy')")
    press(page, "2")
    before = page.evaluate("[bench.urls.size, bench.listeners()]")
    page.evaluate("bench.remove(0)")
    assert page.evaluate("bench.urls.size") == before[0] / 2
    page.evaluate("bench.remove(1)")
    assert page.evaluate("bench.urls.size") == 0
    page.evaluate("bench.set('well')")  # the answer comes, and new pictures
    wait(lambda: page.evaluate("localStorage.length") == 0, 8, "an answer needs no view to be saved")
    assert page.evaluate("bench.urls.size") == 0 and page.evaluate("bench.listeners()") <= before[1]


def test_seconds_are_those_in_sight(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    press(page, "1")
    shows(page, "2 of 6")
    page.evaluate("document.body.style.paddingTop = '5000px'")
    page.wait_for_timeout(1000)
    page.evaluate("document.body.style.paddingTop = '0'")
    page.wait_for_timeout(400)
    press(page, "1")
    shows(page, "3 of 6")
    page.evaluate("""() => { Object.defineProperty(document, "hidden", { value: true, configurable: true });
                  document.dispatchEvent(new Event("visibilitychange")); }""")
    page.wait_for_timeout(1000)
    page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    press(page, "1")
    shows(page, "4 of 6")
    seconds = [row["seconds"] for row in votes.rows()]
    assert 0.4 <= seconds[1] < 0.9 and seconds[2] < 0.7


def test_the_count_never_jumps_the_end_is_not_early_and_nothing_is_said_twice(bench: Any, study: Any) -> None:
    page, votes = bench(), study[1]
    page.evaluate("bench.watch('#one .progress')")
    for k in range(4):
        press(page, "1")
        shows(page, f"{k + 2} of 6")
    page.evaluate("bench.set('dead')")
    press(page, "1", "1")
    shows(page, "6 of 6")
    assert page.evaluate("bench.log") == [f"{k} of 6" for k in (2, 3, 4, 5, 6)]
    page.evaluate("bench.watch('#one .live')")
    sent = page.evaluate("bench.sent")
    page.wait_for_timeout(3000)
    assert "Thank you" not in view(page).inner_text() and "done" not in view(page).inner_text()
    assert page.evaluate("bench.log").count(view(page).locator(".live").inner_text()) == 1, "said once"
    assert page.evaluate("bench.sent") - sent <= 4, "and a busy kernel is not flooded"
    page.evaluate("bench.set('well')")
    shows(page, "6 of 6, done")
    shows(page, "Thank you", "hint")
    shows(page, "Saved.", "live")
    assert len(counting(votes)) == 6


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_pressed_and_lost_the_file_says_what_was_pressed(bench: Any, study: Any, seed: int) -> None:
    page, votes, dice = bench(), study[1], random.Random(seed)
    pressed: list[tuple[str, int | None]] = []
    for _ in range(60):
        number, place = dice.choice(("one", "two")), dice.randrange(3)
        deed = dice.choice(("click", "key", "skip", "undo", "mode", "load"))
        root = view(page, number)
        group = "g" + root.locator(".prompt").inner_text()
        if deed == "mode":
            page.evaluate("(mode) => bench.set(mode)", dice.choice(("well", "well", "busy", "deaf", "mute", "dead")))
        elif deed == "load" and dice.random() < 0.3:
            bench(page=page)
        elif deed == "undo" and not root.locator(".undo").is_disabled():
            press(page, "u", number=number)
            pressed.pop()
        elif deed in ("click", "key", "skip") and group != "g":
            pressed.append((group, None if deed == "skip" else place))
            if deed == "skip":
                root.locator(".skip").dblclick()
            elif deed == "click":
                root.locator(".choice").nth(place).dblclick()
            else:
                press(page, str(place + 1), number=number)
    bench(page=page)
    wait(lambda: page.evaluate("localStorage.length") == 0, 8, "they are not saved")
    assert counting(votes) == pressed
    shows(page, f"{min(6, len(pressed) + 1)} of 6", number="two")
