"""What the tests of several readers write and ask: small images, annotation files, and refusals in one sentence."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from PIL import Image

from hpslib.data.preferences import features


def image_file(colour: int = 7, kind: str = "PNG") -> bytes:
    """The bytes of an image of 5 x 4 pixels, (colour, 2, 3) each."""
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (colour % 256, 2, 3)).save(file, kind)
    return file.getvalue()


def random_image(rng: np.random.Generator, kind: str = "PNG") -> bytes:
    """The bytes of an image of 5 x 6 random pixels."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def put(folder: Path, *names: str) -> None:
    """Image files of these names; the k-th has the colour k."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_file(k))


def put_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Files of these names and contents."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(path: Path, *names: str) -> None:
    """The same as :func:`put`, in a zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for k, name in enumerate(names):
            file.writestr(name, image_file(k))


def annotate(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def paths(row: dict[str, Any]) -> list[str]:
    return [item["path"] for item in row["images"]]


def refusal(action: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    """The text of the error: one line, what is wrong, a colon, the remedy, a full stop.

    The one about absent image files stands in a lesson's stored outputs in its old form.
    """
    with pytest.raises(kind) as error:
        action()
    text = str(error.value)
    sentence = re.sub(r"\(.*\)", "", text)  # in brackets another library's own words
    assert type(error.value) is kind and "\n" not in text and ". " not in sentence
    assert text.endswith("images='optional'") or (text.endswith(".") and ": " in text)
    return text


# --- rows of releases -------------------------------------------------------------------------------------------------


def pair(number: int, marks: Any = (1, 0), **changes: Any) -> dict[str, Any]:
    """A row of HPD v2's train.json."""
    row = {
        "human_preference": list(marks),
        "prompt": f"critter {number}",
        "file_path": [f"{number}a.jpg", f"{number}b.jpg"],
    }
    return {**row, **changes}


def ranking(number: int, rank: Any, raters: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A row of HPD v2's test.json."""
    row = {"prompt": f"critter {number}", "image_path": [f"{number}_{k}.jpg" for k in range(3)], "rank": rank}
    if raters is not None:
        row["raw_annotations"] = [{"rank": one, "user_hash": f"u{k}"} for k, one in enumerate(raters)]
    return {**row, **changes}


def reward(number: int, order: Any, **changes: Any) -> dict[str, Any]:
    """A row of ImageReward's test.json."""
    names = [f"part-1/images/{number:04d}/{k}.webp" for k in range(3)]
    return {"id": f"1-{number:04d}", "prompt": f"critter {number}", "generations": names, "ranking": order, **changes}


def packed_rows(rng: np.random.Generator, n: int = 4) -> Dataset:
    """Groups whose images are embedded, with a further column."""
    rows = [
        {
            "id": f"mini-{k}",
            "prompt": f"a red critter {k}",
            "images": [{"bytes": random_image(rng, "WEBP"), "path": None} for _ in range(2 + k % 3)],
            "human_preference": k % 2,
            "user_hash": f"u{k % 2}",
            "contain_name": False,
            "source": "hpd_mini",
            "second_preference": 1,
        }
        for k in range(n)
    ]
    return Dataset.from_list(rows, features=Features({**features(), "second_preference": Value("int64")}))
