from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpslib.lazy import LazyImages, open_all
from hpslib.scores import flatten_groups
from hpslib.sources import read_hpd, write_hpd, write_packed


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for k in range(5):
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def lazily(folder: Path) -> LazyImages:
    return LazyImages(
        [{"bytes": None, "path": f"{k}.png"} for k in range(5)], [f"picture {k}" for k in range(5)], folder
    )


def test_pictures_are_opened_when_they_are_asked_for(folder: Path) -> None:
    images = lazily(folder)
    (folder / "3.png").unlink()
    assert len(images) == 5 and images[2].size == (6, 4)
    expected = [Image.open(folder / f"{k}.png").tobytes() for k in (1, 2)]
    assert [image.tobytes() for image in images[1:3]] == expected
    assert [image.tobytes() for image in open_all(images, [2, 1])] == expected[::-1]
    with pytest.raises(FileNotFoundError, match=r"^picture 3: the image file .*3\.png is absent"):
        images[2:]
    with pytest.raises(IndexError):
        images[5]


def test_one_name_for_each_picture(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^1 pictures but 0 names for them"):
        LazyImages([{"bytes": None, "path": "0.png"}], [], folder)


def test_files_stay_closed_and_embedded_pictures_are_opened(folder: Path, tmp_path_factory, rng) -> None:
    import datasets

    from hpslib.preferences import features

    rows = [
        {"id": str(k), "prompt": f"p{k}", "images": [{"bytes": None, "path": f"{j}.png"} for j in (k, 4)],
         "human_preference": 0, "user_hash": "u", "contain_name": False, "source": "hpd_v1"}
        for k in range(3)
    ]  # fmt: skip
    dataset = datasets.Dataset.from_list(rows, features=features())
    out = tmp_path_factory.mktemp("hpd")
    write_hpd(dataset, out, "test", root=folder)
    write_packed(dataset, out / "packed.parquet", root=folder)
    files, prompts, sizes = flatten_groups(read_hpd(out, split="test"), out)
    packed, *same = flatten_groups(read_hpd(out / "packed.parquet"))
    assert isinstance(files, LazyImages) and isinstance(packed, list) and same == [prompts, sizes]
    assert prompts == ["p0", "p0", "p1", "p1", "p2", "p2"] and sizes == [2, 2, 2]
    assert [a.tobytes() for a in files] == [b.tobytes() for b in packed]
