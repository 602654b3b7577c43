"""What is said of a figure to those who do not see it: the sentence that the lesson prints beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["alternative"]

_LONGEST = 500  # letters: the whole of it stands on the page as well


def alternative(cells: Sequence[Mapping[str, Any]], number: int, heading: str) -> str:
    """The alternative text for the figures of a notebook's cell, on one line.

    It is what the cell prints, as a rule the ``say_x`` beside the ``plot_x``. Where the cell prints nothing it is what
    the next cells print, up to the first words between them; and where these are silent, too, "Figure" and the
    ``heading`` that the cell stands under.

    >>> silent = {"cell_type": "code", "outputs": []}
    >>> loud = silent | {"outputs": [{"output_type": "stream", "text": "Two of four.\\n"}]}
    >>> alternative([silent, loud], 0, "Result"), alternative([silent], 0, "Result")
    ('Two of four.', 'Figure: Result')
    """
    for cell in cells[number:]:
        if cell["cell_type"] == "markdown":
            break
        text = _printed(cell.get("outputs", []))
        if text:
            return textwrap.shorten(text, _LONGEST, placeholder=" …")
    return f"Figure: {heading}" if heading else "Figure"


def _printed(outputs: Sequence[Mapping[str, Any]]) -> str:
    said = [output for output in outputs if output["output_type"] == "stream" and output.get("name") != "stderr"]
    texts = ["".join(output["text"]) for output in said]
    return " ".join(" ".join(texts).split())
