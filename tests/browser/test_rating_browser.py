"""The whole way in a real browser: JupyterLab, the widget, votes by key and by click, undo, reload, export.

It runs where a Chromium is found; ``make browser-test`` installs playwright's own where the machine has none.
Screenshots go to ``$HPSLIB_SCREENSHOTS``.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
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
from nbformat.v4 import new_code_cell, new_notebook

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("HPSLIB_BROWSER_TEST") != "1",
    reason="no Chromium on this machine: make browser-test installs one",
)

PROMPT = '<script>window.pwned = 1</script> "quoted" 🦄 שלום'
SETUP = f"""
import io
import numpy as np
from PIL import Image
from hpslib.rating import rate
from hpslib.votes import export_table, open_votes

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
        server.wait(20)
        log.close()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def wait(done: Callable[[], Any], seconds: float, told: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(told)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("HPSLIB_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(lab: str, shots: Path) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started ({str(error).splitlines()[0]})")
        view = browser.new_page(viewport={"width": 1280, "height": 1000})
        view.set_default_timeout(60_000)
        view.goto(lab)
        view.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
        wait(lambda: view.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count(), 60, "no kernel starts")
        yield view
        view.screenshot(path=shots / "last.png")  # of a failure: what was there instead
        browser.close()


def run_cell(page: Any, number: int) -> None:
    """Press Control+Enter until the cell has run: JupyterLab drops what it hears before its kernel is connected."""
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    prompt = cell.locator(".jp-InputPrompt")
    before, end = prompt.inner_text(), time.monotonic() + 90
    while time.monotonic() < end:
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
    page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
    wait(lambda: page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count(), 60, "no kernel")
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
    page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
    wait(lambda: page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count(), 60, "no kernel")
    run_all_but_two()
    wait(lambda: root.locator(".progress").inner_text() == "10 of 60", 60, "it does not go on where it stopped")
    vote(3, by_key)
    run_cell(page, cells - 2)
    page.locator(".jp-OutputArea-output", has_text="12 of 60 answered.").wait_for()
    run_cell(page, cells - 1)
    page.locator(".jp-OutputArea-output", has_text="preference_train.json: 12 groups").wait_for()
    page.screenshot(path=shots / "6_lesson_five_exported.png")
