"""hpslib demo and hpslib --version: what is written, said, and opened."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hpslib
import hpslib.lessons.demo as page
from hpslib.cli.app import app

runner = CliRunner()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not addresses.append(address))
    monkeypatch.setattr(page, "demo_groups", lambda: [])
    monkeypatch.chdir(tmp_path)
    return addresses


def test_it_says_where_the_page_lies_and_opens_it(opened: list[str], tmp_path: Path) -> None:
    done = runner.invoke(app, ["demo"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"wrote {tmp_path / 'hpslib-demo.html'}\n", "")
    assert opened == [(tmp_path / "hpslib-demo.html").as_uri()]


def test_no_open_and_another_place(opened: list[str], tmp_path: Path) -> None:
    assert runner.invoke(app, ["demo", "there/a.html", "--no-open"]).exit_code == 0
    assert (tmp_path / "there" / "a.html").is_file() and opened == []


def test_without_a_browser_it_says_so(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    done = runner.invoke(app, ["demo"])
    assert (done.exit_code, done.stderr) == (0, "no browser could be opened: open the file yourself.\n")


def test_a_place_that_cannot_be_written_is_one_sentence(opened: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = runner.invoke(app, ["demo", "file/a.html"])
    assert done.exit_code in (2, 3) and len(done.stderr.splitlines()) == 1 and opened == []


def test_the_version() -> None:
    done = runner.invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"hpslib {hpslib.__version__}\n")
