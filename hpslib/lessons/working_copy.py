"""A learner's own copy of the lessons, so that answers and outputs never dirty the course.

``python -m hpslib.lessons.working_copy notebooks work`` copies what is new, and renews a lesson that the course has
changed unless the learner has, too: code or text that somebody wrote is never written over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpslib.lessons.execution import read_notebook
from hpslib.runs.files import digest, written_whole

__all__ = ["main", "refresh"]

_RECORD = ".copied.json"  # name -> what the lesson said when it was copied


def _said(path: Path) -> str:
    """A hash of the cells' texts: running a cell changes its output, not what the learner wrote.

    Raises ``ValueError`` when the file is no notebook.
    """
    return digest(*(text for cell in read_notebook(path).cells for text in (cell.cell_type, cell.source)))


def refresh(course: str | Path, copy: str | Path) -> list[str]:
    """Bring the folder ``copy`` up to date with the notebooks of ``course``; what was not done, one sentence each.

    Raises ``FileNotFoundError`` when ``course`` holds no notebook, ``ValueError`` when a file in it is none.
    """
    course, copy = Path(course), Path(copy)
    lessons = sorted(course.glob("*.ipynb"))
    if not lessons:
        raise FileNotFoundError(f"there is no notebook in {course}: run this in the project's folder.")
    copy.mkdir(parents=True, exist_ok=True)
    record = copy / _RECORD
    copied = _recorded(record)
    kept = []
    for lesson in lessons:
        own, now = copy / lesson.name, _said(lesson)
        if own.exists() and copied.get(lesson.name) == now:
            continue
        same = own.exists() and _says(own, now)  # by whatever way it came there
        if own.exists() and not same and not _says(own, copied.get(lesson.name)):
            kept.append(f"{lesson.name} is new in the course, and yours has your work: rename yours to get it.")
            continue
        if not same:
            with written_whole(own) as partial:
                partial.write_bytes(lesson.read_bytes())
        copied[lesson.name] = now
        with written_whole(record) as partial:
            partial.write_text(json.dumps(copied, indent=1) + "\n", encoding="utf-8")
    return kept


def _recorded(record: Path) -> dict[str, str]:
    """What was copied, as far as the file tells: where nothing is known, what differs is somebody's work."""
    try:
        copied = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return copied if isinstance(copied, dict) else {}


def _says(own: Path, said: str | None) -> bool:
    try:
        return _said(own) == said
    except ValueError:  # damaged, but somebody's
        return False


def main(
    course: Annotated[Path, typer.Argument(help="Folder with the lessons.")] = Path("notebooks"),
    copy: Annotated[Path, typer.Argument(help="Folder of your own.")] = Path("work"),
) -> None:
    """Copy the lessons into a folder of your own, or renew those that you have not changed."""
    try:
        kept = refresh(course, copy)
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    for sentence in kept:
        typer.echo(sentence)


if __name__ == "__main__":
    typer.run(main)
