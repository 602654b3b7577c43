"""What the lessons say and print, as they are stored: by lesson and heading, for tests of the pages that quote them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def words(notebook: str) -> str:
    """All Markdown of a lesson."""
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def printed(notebook: str) -> dict[str, str]:
    """{anchor of a heading: the text that the cells below it print, down to the next heading of its level or above}."""
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    texts: dict[str, str] = {}
    open_headings: list[tuple[int, str]] = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            source = re.sub(r"^```.*?^```", "", "".join(cell["source"]), flags=re.M | re.S)
            for marks, heading in re.findall(r"^(#+) (.+)$", source, re.M):
                open_headings = [(level, name) for level, name in open_headings if level < len(marks)]
                open_headings.append((len(marks), slug(heading)))
                texts.setdefault(slug(heading), "")
            continue
        for output in cell["outputs"]:
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            for _, name in open_headings:
                texts[name] += text + "\n"
    return texts
