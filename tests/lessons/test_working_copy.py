"""hpslib.lessons.working_copy: a copy to work in, renewed where nobody wrote, never written over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from hpslib.lessons.working_copy import refresh


def write(path: Path, *sources: str, output: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    cells = [new_code_cell(source) for source in sources]
    if output:
        cells[0].outputs = [new_output("stream", text=output)]
    nbformat.write(new_notebook(cells=cells), path)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


@pytest.fixture
def course(tmp_path: Path) -> Path:
    write(tmp_path / "notebooks" / "1.ipynb", "answer = ...")
    write(tmp_path / "notebooks" / "2.ipynb", "other")
    return tmp_path / "notebooks"


def test_lessons_are_copied_and_new_ones_added(course: Path, tmp_path: Path) -> None:
    assert refresh(course, tmp_path / "work") == []
    write(course / "3.ipynb", "third")
    assert refresh(course, tmp_path / "work") == []
    assert sorted(path.name for path in (tmp_path / "work").glob("*.ipynb")) == ["1.ipynb", "2.ipynb", "3.ipynb"]
    assert (tmp_path / "work" / "1.ipynb").read_bytes() == (course / "1.ipynb").read_bytes()


def test_an_answer_stays_while_the_course_does(course: Path, tmp_path: Path) -> None:
    own = tmp_path / "work" / "1.ipynb"
    refresh(course, own.parent)
    write(own, "answer = 42")
    assert refresh(course, own.parent) == [] and sources(own) == ["answer = 42"]


@pytest.mark.parametrize("record", [None, "", "[1]", '{"1.ipynb": 3}'])
def test_without_a_sound_record_the_same_is_known_and_the_rest_is_kept(
    course: Path, tmp_path: Path, record: str | None
) -> None:
    own = tmp_path / "work" / "1.ipynb"
    refresh(course, own.parent)
    place = own.with_name(".copied.json")
    place.unlink() if record is None else place.write_text(record)
    write(own.with_name("2.ipynb"), "mine")
    (said,) = refresh(course, own.parent)
    assert said.startswith("2.ipynb is new in the course") and sources(own.with_name("2.ipynb")) == ["mine"]
    write(course / "1.ipynb", "answer = ...", "more")
    assert len(refresh(course, own.parent)) == 1 and sources(own) == ["answer = ...", "more"]


def test_an_answer_stays_when_the_course_changes_and_that_is_said_each_time(course: Path, tmp_path: Path) -> None:
    own = tmp_path / "work" / "1.ipynb"
    refresh(course, own.parent)
    write(own, "answer = 42")
    write(course / "1.ipynb", "answer = ...", "more")
    for _ in range(2):
        (said,) = refresh(course, own.parent)
        assert said == "1.ipynb is new in the course, and yours has your work: rename yours to get it."
        assert sources(own) == ["answer = 42"]
    own.rename(own.with_name("mine.ipynb"))
    assert refresh(course, own.parent) == [] and sources(own) == ["answer = ...", "more"]


def test_what_was_only_run_is_renewed_when_the_course_changes(course: Path, tmp_path: Path) -> None:
    own = tmp_path / "work" / "1.ipynb"
    refresh(course, own.parent)
    write(own, "answer = ...", output="42")
    refresh(course, own.parent)
    assert nbformat.read(own, as_version=4).cells[0].outputs, "as long as it does not, outputs stay"
    write(course / "1.ipynb", "answer = ...", "more")
    assert refresh(course, own.parent) == [] and sources(own) == ["answer = ...", "more"]


@pytest.mark.parametrize("content", ["", "{}", "no notebook"])
def test_a_damaged_or_foreign_file_of_the_same_name_stays(course: Path, tmp_path: Path, content: str) -> None:
    own = tmp_path / "work" / "1.ipynb"
    own.parent.mkdir()
    own.write_text(content)
    assert refresh(course, own.parent) == [
        "1.ipynb is new in the course, and yours has your work: rename yours to get it."
    ]
    assert own.read_text() == content and (own.parent / "2.ipynb").is_file()


def test_a_folder_without_lessons_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hpslib.lessons.working_copy", str(tmp_path), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"there is no notebook in {tmp_path}: run this in the project's folder.\n"
    assert not (tmp_path / "work").exists()
