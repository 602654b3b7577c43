"""Preference groups as rows and as a data set, for tests."""

from __future__ import annotations

import io
from typing import Any

from datasets import Dataset
from PIL import Image

from hpslib.data.preferences import features


def png(colour: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    """A small image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def group(number: int, *, n: int = 3, choice: int = 0, **changes: Any) -> dict[str, Any]:
    """A sound row of ``n`` images that are files of their own, with ``changes``."""
    row = {
        "id": str(number),
        "prompt": f"critter {number}",
        "images": [{"bytes": None, "path": f"images/{number}_{k}.png"} for k in range(n)],
        "human_preference": choice,
        "user_hash": f"rater {number % 3}",
        "contain_name": False,
        "source": "votes",
    }
    return {**row, **changes}


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    """These rows as a preference data set."""
    return Dataset.from_list(rows, features=features())
